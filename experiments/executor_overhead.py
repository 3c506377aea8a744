"""Measures what an executor adds to the time of a sweep, on the same cores.

    python -m experiments.executor_overhead --rounds=5

Trains one sweep in turns: by `local`, by Ray and, where it can be started (as root), by Slurm, with
clusters on this machine that run before the clock starts. Each trains one chunk at a time on all
cores, so what differs is the executor's. A chunk's time is that from one finished chunk to the
next. What comes before the first, such as starting processes and compiling, is in the time of the
sweep. Writes `results/executor_overhead.json` and `.md`.
"""

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from experiments import slurm_cluster
from experiments.cluster_faults import start
from lenet_jax import machine
from lenet_jax.storage.files import write_atomically, write_json

QUESTION = "What does an executor add to the time of a sweep?"
OUT = Path("results/executor_overhead.json")
MEMBERS = 8  # of a chunk
LOCAL = "local"
Environment = Mapping[str, str]


@contextlib.contextmanager
def ray() -> Iterator[tuple[Sequence[str], Environment]]:
    """A cluster of one node; the flags of a driver that uses it, and its environment."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": machine.cores(), "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        flags = [f"--executor=ray:{cluster.address}", f"--ray.num_cpus={machine.cores()}"]
        yield flags, os.environ
    finally:
        cluster.shutdown()


@contextlib.contextmanager
def slurm(chunks_per_job: int) -> Iterator[tuple[Sequence[str], Environment]]:
    """A Slurm that runs one job at a time; the flags of a driver, and its environment."""
    cores = machine.cores()
    with (
        tempfile.TemporaryDirectory() as name,
        slurm_cluster.cluster(Path(name), cores) as config,
    ):
        flags = ["--executor=slurm", "--slurm.jobs=1", f"--slurm.cpus_per_task={cores}"]
        flags += [f"--slurm.chunks_per_job={chunks_per_job}"]
        yield flags, os.environ | {"SLURM_CONF": str(config)}


def train(flags: Sequence[str], environment: Environment, workdir: Path) -> dict[str, Any]:
    """Trains the sweep; the seconds of all of it, and those between finished chunks."""
    began = time.perf_counter()
    if start(flags, workdir, environment).wait():
        raise SystemExit(workdir.with_suffix(".log").read_text())
    seconds = time.perf_counter() - began
    finished = sorted(folder.stat().st_mtime for folder in workdir.glob("chunks/[0-9]*"))
    return {
        "sweep_seconds": round(seconds, 2),
        "chunk_seconds": [round(after - before, 2) for before, after in pairwise(finished)],
    }


def measure(rounds: int, flags: Sequence[str], chunks: int) -> dict[str, list[dict[str, Any]]]:
    """The times of each executor, in turns."""
    times: dict[str, list[dict[str, Any]]] = {}
    with contextlib.ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        engines: dict[str, tuple[Sequence[str], Environment]] = {LOCAL: ((), os.environ)}
        engines["ray"] = running.enter_context(ray())
        if (reason := slurm_cluster.missing()) is None:
            engines["slurm"] = running.enter_context(slurm(chunks))
        else:
            print(f"without Slurm: {reason}")
        train(flags, os.environ, folder / "warm")  # compiles what is cached on the disk
        for turn in range(rounds):
            for name in engines if turn % 2 == 0 else reversed(engines):
                own, environment = engines[name]
                row = train([*flags, *own], environment, folder / f"{name}-{turn}")
                times.setdefault(name, []).append(row)
                print(f"round {turn + 1}: {name} {row}", flush=True)
    return times


def summarise(times: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """The medians of each executor, and their ratios to those of `local`."""
    medians = {
        name: {
            "chunk_seconds": statistics.median(s for row in rows for s in row["chunk_seconds"]),
            "sweep_seconds": statistics.median(row["sweep_seconds"] for row in rows),
        }
        for name, rows in times.items()
    }
    return {
        name: own
        | {
            f"{what}_ratio": round(own[f"{what}_seconds"] / medians[LOCAL][f"{what}_seconds"], 4)
            for what in ("chunk", "sweep")
        }
        for name, own in medians.items()
    }


def table(result: Mapping[str, Any]) -> str:
    """The medians as Markdown."""
    lines = [
        "# What an executor adds",
        "",
        f"`{result['command']}`: sweeps of {result['chunks']} chunks of {MEMBERS} members,"
        f" {result['epochs']} epochs each, on {result['environment']['cores']} cores; medians of"
        f" {result['rounds']} rounds, in turns. The time of a chunk is that from one to the next;"
        " that of the sweep includes starting, compiling and collecting.",
        "",
        "| executor | s a chunk | of local's | s a sweep | of local's |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| `{name}` | {own['chunk_seconds']:.2f} | {100 * own['chunk_ratio']:.1f} %"
        f" | {own['sweep_seconds']:.1f} | {100 * own['sweep_ratio']:.1f} % |"
        for name, own in result["executors"].items()
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures, and writes the results."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chunks", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=5, help="9: about 20 s a chunk on two cores")
    parser.add_argument("--config", default="configs/notes.py")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    count = arguments.chunks * MEMBERS
    flags = [f"--config={arguments.config}", f"--sweep=configs/sweeps/seeds.py:{count}"]
    flags += [f"--config.train.num_epochs={arguments.epochs}", f"--chunk_size={MEMBERS}"]
    times = measure(arguments.rounds, flags, arguments.chunks)
    result = {
        "command": "python -m experiments.executor_overhead"
        f" --rounds={arguments.rounds} --epochs={arguments.epochs}",
        "rounds": arguments.rounds,
        "chunks": arguments.chunks,
        "epochs": arguments.epochs,
        "executors": summarise(times),
        "times": times,
        "environment": machine.environment(),
    }
    write_json(arguments.out, result)
    write_atomically(arguments.out.with_suffix(".md"), table(result))
    print(table(result))


if __name__ == "__main__":
    main()
