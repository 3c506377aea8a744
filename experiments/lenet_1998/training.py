"""Training the cells: each seed's error, from sweeps or from boosting."""

import csv
import json
import multiprocessing
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.lenet_1998.cells import BOOSTED, CONFIG, Cell
from experiments.lenet_1998.table import describe, errors_of
from lenet_jax import config as configs
from lenet_jax import machine

IMAGES_OF_LATER = 60_000  # for the second network of a boosted one, and for its third


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
    known = before and not configs.differing_keys(configs.from_dict(before["config"]), config)
    parts = before["parts"] if known else {}
    while True:
        trained = {seed for part in parts for seed in seeds_of(part)}
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
        first = next((seed for seed in range(count) if seed not in trained), None)
        if first is None:
            return
        end = min(first + at_once, count, *(seed for seed in trained if seed > first))
        seeds = range(first, end)
        label = f"{first}-{end - 1}"
        folder = workdir / f"{cell}_{label}"
        if cell.network == BOOSTED:
            part = boost(config, seeds, folder)
        else:
            part = sweep(cell.command(seeds, folder), folder)
        parts = parts | {label: part}


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
    os.environ["JAX_NUM_CPU_DEVICES"] = "1"  # before JAX is imported
    import lenet_jax
    from experiments import boosted
    from lenet_jax import data

    config, folder = job
    dataset, file = data.load_section(config.data), folder / boosted.FILE
    if file.exists():
        network = lenet_jax.load(file)
    else:
        network = boosted.boost(config, dataset, folder, IMAGES_OF_LATER)
    return round(100 - 100 * network.evaluate(dataset)["accuracy"], 4)
