"""Compares what the package computes with independent oracles, on this machine or GPU.

    python -m experiments.correctness

Prints one line per comparison, and writes `results/correctness_DEVICE.json` and, on a CPU,
`docs/correctness.md`. Exits with 1 if anything is out of bounds.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from experiments.correctness import document
from experiments.correctness.comparison import Comparison
from lenet_jax import machine
from lenet_jax.storage.files import write_atomically, write_json


def main() -> int:
    """Runs every comparison; the exit code says whether all hold."""
    parser = argparse.ArgumentParser(description="Is what the package computes right, and how far?")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder to write to")
    arguments = parser.parse_args()
    machine.use_compilation_cache()
    machine.use_cores()

    import jax  # only now: it reads the environment

    from experiments.correctness import layers
    from lenet_jax.runs.record import PACKAGES

    start, comparisons = time.perf_counter(), []
    for comparison in compare():
        comparisons.append(dataclasses.asdict(comparison) | {"holds": comparison.holds})
        print(
            f"{'ok  ' if comparison.holds else 'FAIL'} {comparison.error:8.1e} (at most"
            f" {comparison.bound:5.0e}), {comparison.cases:4} cases: {comparison.subject};"
            f" {comparison.oracle}",
            flush=True,
        )
    device = jax.devices()[0]
    kind = "cpu" if device.platform == "cpu" else device.device_kind.lower().replace(" ", "_")
    record = {
        "question": "Is what the package computes right, and how far?",
        "seconds": time.perf_counter() - start,
        "device": kind,
        "sizes": layers.describe_sizes(),
        "comparisons": comparisons,
        "environment": machine.environment(PACKAGES),
    }
    arguments.results.mkdir(parents=True, exist_ok=True)
    name = f"correctness_{kind}.json"
    write_json(arguments.results / name, record)
    if kind == "cpu":
        page = arguments.results.parent / "docs" / "correctness.md"
        page.parent.mkdir(exist_ok=True)
        write_atomically(page, document.write(record, name))
        print(f"written to {arguments.results / name} and {page}")
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
    sys.exit(main())
