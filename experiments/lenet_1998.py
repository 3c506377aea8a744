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
import csv
import fnmatch
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lenet_jax import config as configs
from lenet_jax import machine
from lenet_jax.statistics import summarise
from lenet_jax.storage.files import write_atomically, write_json

QUESTION = "What are the error rates of the networks of 1998, over many seeds?"
CONFIG = "configs/lenet_1998.py"
TRAININGS, IMAGES = ("then", "now"), ("plain", "distorted")
BOOSTED, IMAGES_OF_LATER = "boosted_lenet4", 60_000  # for its second network, and for its third


class Network(NamedTuple):
    """A row of the paper's table.

    Attributes:
      title: its name there.
      plain, distorted: its error there in percent, without and with distorted images; None: the
        paper gives none.
    """

    title: str
    plain: float | None
    distorted: float | None = None


NETWORKS = {
    "linear": Network("linear classifier", 12.0),
    "mlp_300": Network("28×28-300-10", 4.7, 3.6),
    "mlp_300_100": Network("28×28-300-100-10", 3.05, 2.5),
    "lenet1": Network("LeNet-1", 1.7),
    "lenet4": Network("LeNet-4", 1.1),
    BOOSTED: Network("boosted LeNet-4", None, 0.7),
    "lenet5": Network("LeNet-5", 0.95, 0.8),
}
# Beside what a config has: planar affine transformations, which the paper does not quantify.
DISTORTED = {
    "augment.shift": 2.0,
    "augment.rotate": 10.0,
    "augment.scale": 0.1,
    "augment.shear": 10.0,
}
# A step for each image, as in the paper, to see what batches of 8 change.
ONE_BY_ONE = {"train.batch_size": 1, "train.micro_batch_size": 1, "optimizer.learning_rate": 5e-4}
WORDS = {"single": "then, one by one"}


class Cell(NamedTuple):
    """A network, a way to train it, and its images."""

    network: str
    training: str
    images: str

    def __str__(self) -> str:
        """`lenet5_then_plain`."""
        return "_".join(self)

    @property
    def published(self) -> float | None:
        """The paper's error in percent."""
        row = NETWORKS[self.network]
        return row.distorted if self.images == "distorted" else row.plain

    @property
    def config(self) -> str:
        """The argument of `configs/lenet_1998.py`."""
        return self.network + ",then" * (self.training != "now")

    @property
    def changes(self) -> dict[str, float]:
        """Beside what the config has."""
        single = ONE_BY_ONE if self.training == "single" else {}
        return single | (DISTORTED if self.images == "distorted" else {})

    def command(self, seeds: range, folder: Path) -> list[str]:
        """The sweep over seeds."""
        changes = [f"--config.{key}={value}" for key, value in self.changes.items()]
        return [
            *(sys.executable, "-m", "lenet_jax.sweep", f"--config={CONFIG}:{self.config}"),
            *(f"--sweep=configs/sweeps/seeds.py:{seeds.start}-{seeds[-1]}", f"--workdir={folder}"),
            *("--save=none", *changes),
        ]


CELLS = [
    cell
    for cell in map(Cell._make, itertools.product(NETWORKS, TRAININGS, IMAGES))
    # The second and third network learn distorted images, whatever the first does.
    if cell.network != BOOSTED or cell.images == "distorted"
]
CELLS.insert(CELLS.index(Cell("lenet1", "then", "distorted")), Cell("lenet1", "single", "plain"))


def train(
    cell: Cell, before: dict[str, Any], count: int, at_once: int, workdir: Path
) -> Iterator[dict[str, Any]]:
    """Yields a cell's results, as soon as it has those of more seeds, until they are all there.

    Args:
      cell: the cell.
      before: its results so far; those of another config are given up.
      count: of seeds, from 0.
      at_once: how many of them are trained together.
      workdir: has what is trained.
    """
    name = cell.config.replace(BOOSTED, "lenet4")
    config = configs.load(f"{CONFIG}:{name}", cell.changes.items())
    parts = before["parts"] if before and has_config(config, before["config"]) else {}
    while True:
        known = {seed for part in parts for seed in seeds_of(part)}
        if parts:
            yield {
                "network": cell.network,
                "training": cell.training,
                "images": cell.images,
                "published": cell.published,
                **describe(errors_of(parts), cell.published),
                "diverged": sum(part["diverged"] for part in parts.values()),
                "seconds": sum(part["seconds"] for part in parts.values()),
                "config": configs.to_dict(config),
                "parts": parts,
            }
        first = next((seed for seed in range(count) if seed not in known), None)
        if first is None:
            return
        end = min(first + at_once, count, *(seed for seed in known if seed > first))
        seeds = range(first, end)
        label = f"{first}-{end - 1}"
        folder = workdir / f"{cell}_{label}"
        if cell.network == BOOSTED:
            part = boost(config, seeds, folder)
        else:
            part = sweep(cell.command(seeds, folder), folder)
        parts = parts | {label: part}


def has_config(config: configs.Config, recorded: dict[str, Any]) -> bool:
    """Whether a config is what was recorded, but for keys that did not exist then."""
    return flat(recorded).items() <= flat(configs.to_dict(config)).items()


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by path, such as `train.loss`."""
    paths: dict[str, Any] = {}
    for name, value in values.items():
        path = prefix + name
        paths |= flat(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return paths


def seeds_of(part: str) -> range:
    """The seeds of a part, such as `20-39`."""
    first, last = map(int, part.split("-"))
    return range(first, last + 1)


def sweep(command: list[str], folder: Path) -> dict[str, Any]:
    """The error of each seed in percent, from the folder of a sweep, trained if need be."""
    if not (folder / "summary.json").exists():
        subprocess.run(command, check=True)
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    done = [row for row in rows if row["status"] == "done"]
    environment = json.loads((folder / "environment.json").read_text())
    for key in ("command", "working_directory"):
        del environment[key]
    return {
        "errors": {row["seed"]: round(100 - 100 * float(row["test_accuracy"]), 4) for row in done},
        "diverged": len(rows) - len(done),
        "seconds": round(sum(float(row["seconds"]) for row in rows)),
        "environment": environment,
    }


def boost(config: configs.Config, seeds: range, folder: Path) -> dict[str, Any]:
    """The error of each seed in percent, from `experiments.boosted`, one on each core."""
    os.environ["JAX_NUM_CPU_DEVICES"] = "1"
    # Of the three runs, each has the seed after.
    jobs = [(configs.replace(config, {"seed": 3 * n}), folder / f"{n}") for n in seeds]
    started = time.monotonic()
    # A process that has started JAX cannot fork.
    with multiprocessing.get_context("spawn").Pool(machine.cores()) as pool:
        errors = pool.map(boosted_error, jobs, chunksize=1)
    return {
        "errors": {f"{seed}": error for seed, error in zip(seeds, errors, strict=True)},
        "diverged": 0,
        "seconds": round(time.monotonic() - started),
        "environment": machine.environment(),
    }


def boosted_error(job: tuple[configs.Config, Path]) -> float:
    """The error in percent of a boosted network, which is trained unless its folder has it."""
    import lenet_jax  # late: so that the process which asks need not wait for JAX
    from experiments import boosted
    from lenet_jax import data

    config, folder = job
    dataset, file = data.load_section(config.data), folder / boosted.FILE
    if file.exists():
        network = lenet_jax.load(file)
    else:
        network = boosted.boost(config, dataset, folder, IMAGES_OF_LATER)
    return round(100 - 100 * network.evaluate(dataset)["accuracy"], 4)


def errors_of(parts: dict[str, Any]) -> list[float]:
    """The errors of all seeds of a cell, in percent."""
    return [error for part in parts.values() for error in part["errors"].values()]


def describe(errors: list[float], published: float | None) -> dict[str, Any]:
    """Mean, deviation, median, best, and the share of seeds at or below the paper's error."""
    summary = summarise(errors, upper=100.0)
    at_or_below = [error <= published for error in errors] if published is not None else []
    return {
        "seeds": summary.n,
        **summary.to_json(),
        "best": min(errors, default=None),
        "share_at_or_below_published": float(np.mean(at_or_below)) if at_or_below else None,
    }


def overview(cells: dict[str, dict[str, Any]]) -> str:
    """The networks' errors in Markdown, a row each; "–" is what is not trained or not published."""
    lines = [
        "| network | 1998 | as then | as now | 1998, distorted | as then | as now |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, network in NETWORKS.items():
        values = [network.title]
        for images in IMAGES:
            published = Cell(name, "then", images).published
            values.append("–" if published is None else f"{published:g}")
            values += [_spread(cells.get(str(Cell(name, how, images)))) for how in TRAININGS]
        lines.append(f"| {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def _spread(row: dict[str, Any] | None) -> str:
    if row is None or row["mean"] is None:
        return "–"
    return f"{row['mean']:.2f}" + ("" if row["sd"] is None else f" ± {row['sd']:.2f}")


def table(cells: dict[str, dict[str, Any]]) -> str:
    """All results in Markdown, a row for each cell."""
    lines = [
        "| network | trained as | images | 1998, % | mean ± sd, % | median | best | seeds"
        " | at or below 1998 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in CELLS:
        if (row := cells.get(str(cell))) is None or row["mean"] is None:
            continue
        share = row["share_at_or_below_published"]
        values = (
            NETWORKS[cell.network].title,
            WORDS.get(cell.training, cell.training),
            cell.images,
            "" if cell.published is None else f"{cell.published:g}",
            _spread(row),
            f"{row['median']:.2f}",
            f"{row['best']:.2f}",
            str(row["seeds"]),
            "" if share is None else f"{100 * share:.0f} %",
        )
        lines.append(f"| {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def plot(cells: dict[str, dict[str, Any]], file: Path) -> None:
    """Draws each seed's error as a dot, their means, and the paper's errors as marks."""
    from lenet_jax.plots.output import png
    from lenet_jax.plots.style import BLUE, INK, VERMILION, chart, house_style

    rng = np.random.default_rng(0)
    colours = dict(zip(TRAININGS, (VERMILION, BLUE), strict=True))
    with house_style():
        figure = chart(1000, 620, "Error rates of the networks of 1998 on MNIST's test images")
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        for axes, images in zip(panels, IMAGES, strict=True):
            for row, name in enumerate(NETWORKS):
                for training, offset in zip(TRAININGS, (-0.17, 0.17), strict=True):
                    result = cells.get(str(Cell(name, training, images)))
                    if result is None or result["mean"] is None:
                        continue
                    errors = np.asarray(errors_of(result["parts"]))
                    heights = row + offset + rng.uniform(-0.1, 0.1, len(errors))
                    colour = colours[training]
                    axes.plot(errors, heights, ".", color=colour, alpha=0.35, markersize=4)
                    right = training == "then"  # the worse of the two, as a rule
                    axes.annotate(
                        f"{result['mean']:.2f}",
                        (errors.max() if right else errors.min(), row + offset),
                        xytext=(9 if right else -9, 0),
                        textcoords="offset points",
                        ha="left" if right else "right",
                        va="center",
                        color=colour,
                    )
                published = Cell(name, "then", images).published
                if published is not None:
                    axes.plot([published] * 2, [row - 0.38, row + 0.38], color=INK, linewidth=2)
            axes.set_xscale("log")
            axes.set_title(f"{images} training images")
            axes.set_xlabel("error, % (log scale)")
        panels[0].set_yticks(range(len(NETWORKS)), [row.title for row in NETWORKS.values()])
        panels[0].invert_yaxis()
        panels[0].set_xlim(0.3, 20)
        panels[0].set_xticks(ticks := (0.5, 1, 2, 5, 10), [f"{tick:g}" for tick in ticks])
        panels[0].minorticks_off()
        for label, colour, marker in (
            *((f"each seed, trained as {name}", colours[name], ".") for name in TRAININGS),
            ("published in 1998", INK, "|"),
        ):
            panels[1].plot([], [], marker, color=colour, label=label, markersize=9)
        panels[1].legend(loc="lower right")
    write_atomically(file, png(figure))


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
    plot(cells, file.with_suffix(".png"))
    print(f"written to {file}")


if __name__ == "__main__":
    main()
