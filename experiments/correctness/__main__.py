"""Compares what the package computes with independent oracles, on this machine or GPU.

    python -m experiments.correctness

Prints one line per comparison, and writes `results/correctness_DEVICE.json` and, on a CPU,
`docs/correctness.md`; with `--results`, only the former. Exits with 1 if anything is out of bounds.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.correctness import document
from experiments.correctness.comparison import Comparison
from lenet_jax import machine
from lenet_jax.errors import run_command
from lenet_jax.storage.files import write_atomically, write_json

QUESTION = "Is what the package computes right, and how far?"
RESULTS, PAGE = Path("results"), Path("docs", "correctness.md")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs every comparison; the exit code says whether all hold."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    arguments = parser.parse_args(argv)
    machine.use_compilation_cache()
    machine.use_cores()

    from experiments.correctness import layers, pytorch
    from lenet_jax.machine import PACKAGES

    start, comparisons = time.perf_counter(), []
    for comparison in compare():
        comparisons.append(dataclasses.asdict(comparison) | {"holds": comparison.holds})
        print(
            f"{'ok  ' if comparison.holds else 'FAIL'} {comparison.error:8.1e} (at most"
            f" {comparison.bound:5.0e}), {comparison.cases:4} cases: {comparison.subject};"
            f" {comparison.oracle}",
            flush=True,
        )
    device = machine.devices()[0]
    peers = ["torch"] if pytorch.is_installed() else []
    kind = "cpu" if device.platform == "cpu" else device.device_kind.lower().replace(" ", "_")
    record = {
        "question": QUESTION,
        "seconds": time.perf_counter() - start,
        "device": kind,
        "sizes": layers.describe_sizes(),
        "comparisons": comparisons,
        "environment": machine.environment([*PACKAGES, "scipy", *peers]),
    }
    arguments.results.mkdir(parents=True, exist_ok=True)
    name = f"correctness_{kind}.json"
    write_json(arguments.results / name, record)
    print(f"written to {arguments.results / name}")
    if kind == "cpu" and arguments.results == RESULTS:
        write_atomically(PAGE, document.write(record, name))
        print(f"written to {PAGE}")
    failed = [row for row in comparisons if not row["holds"]]
    print(f"{len(comparisons)} comparisons, {len(failed)} out of bounds")
    return 1 if failed else 0


def compare() -> Iterator[Comparison]:
    """Every comparison, one after the other."""
    from experiments.correctness import derivatives, images, layers, pytorch, statistics, training
    from lenet_jax.nn import ops

    fast = ops.choose_backend("auto")
    backends: tuple[ops.Backend, ...] = tuple(dict.fromkeys((fast, "phase", "plain")))
    yield from layers.compare(backends)
    yield from derivatives.compare(backends)
    yield from training.compare()
    yield from images.compare()
    yield from statistics.compare()
    if pytorch.is_installed():
        yield from pytorch.compare()


if __name__ == "__main__":
    sys.exit(run_command(main))
