"""The error table of the LeNet paper with error bars: every network over many seeds.

    python -m experiments.lenet_1998

Trains each network of `configs/lenet_1998.py` in four ways: as then (the paper's optimiser, rates,
loss, range of pixels, all 60,000 images, last weights) and as now (the config itself, best weights
on 5,000 validation images), on the images as they are (`plain`) and on distorted ones, many times.
`results/lenet_1998.json` has each seed's error, as soon as 20 of them are trained in a sweep in
`--workdir`, and is not trained again what is in there: more `--seeds` add to it, here or on another
machine. LeNet-1 is also trained as then with a step for each image (`single`), to see what batches
change. `--cells` chooses cells. Beside it the results are a table, `.md`, and a figure, `.png`.

Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition",
1998, section III.C, whose errors of one network each are beside ours.
"""

import argparse
import fnmatch
import json
from pathlib import Path

from experiments import study
from experiments.lenet_1998.cells import CELLS
from experiments.lenet_1998.table import overview, plot, table
from experiments.lenet_1998.training import train
from lenet_jax.storage.files import write_atomically, write_json

QUESTION = "What are the error rates of the networks of 1998, over many seeds?"


def main() -> None:
    """Trains the cells, and writes the results after each."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument(
        "--cells", default="*", help="a pattern such as lenet5_* or *_then_plain; all by default"
    )
    parser.add_argument("--seeds", type=int, default=100, help="of each network, on plain images")
    parser.add_argument("--distorted_seeds", type=int, default=20, help="on distorted ones")
    parser.add_argument("--at_once", type=int, default=20, help="seeds of one sweep")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder to write to")
    parser.add_argument("--workdir", type=Path, default=Path("runs/lenet_1998"))
    arguments = parser.parse_args()
    chosen = [cell for cell in CELLS if fnmatch.fnmatch(str(cell), arguments.cells)]
    if not chosen:
        parser.error(f"no cell is named {arguments.cells}; one is lenet5_then_plain")
    arguments.results.mkdir(parents=True, exist_ok=True)
    file = arguments.results / "lenet_1998.json"
    answer = json.loads(file.read_text()) if file.exists() else {"question": QUESTION, "cells": {}}
    cells = answer["cells"]
    for cell in chosen:
        few = cell.images == "distorted" or cell.training == "single"
        count = arguments.distorted_seeds if few else arguments.seeds
        before = cells.get(str(cell), {})
        for result in train(cell, before, count, arguments.at_once, arguments.workdir):
            cells[str(cell)] = result
            write_json(file, answer)
        print(table({str(cell): cells[str(cell)]}), flush=True)
    text = f"{overview(cells)}\n{table(cells)}"
    write_atomically(file.with_suffix(".md"), text.encode())
    study.save(file, plot(answer))
    print(f"written to {file}")


if __name__ == "__main__":
    main()
