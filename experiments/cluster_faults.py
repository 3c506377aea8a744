"""Kills nodes, jobs and drivers of sweeps at random, and compares the tables with a local sweep's.

    python -m experiments.cluster_faults --engine=ray --trials=10
    python -m experiments.cluster_faults --engine=slurm --trials=10

Ray is a cluster of a head and two nodes of one core, all on this machine; Slurm has its own
daemons, with two nodes. A trial draws faults of each kind and when they happen: after so many
finished chunks. Whatever happens, `results.csv` must be that of an undisturbed sweep, but for its
last column, the seconds. Writes results/cluster_faults.json.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import slurm_cluster
from lenet_jax import machine

ROOT = Path(__file__).parents[1]
OUT = ROOT / "results" / "cluster_faults.json"
CHUNKS, PATIENCE = 8, 300  # seconds for a sweep
# Of MNIST; a chunk takes about two seconds on a core.
FLAGS = (
    *("--config=configs/notes.py:smoke", "--config.model.name=mlp", "--config.model.features=32"),
    *("--sweep=configs/sweeps/seeds.py:16", "--chunk_size=2", "--config.train.num_epochs=48"),
)


# What happens to the driver, of every engine, which is then started again.
DRIVER = {"driver killed": signal.SIGKILL, "driver interrupted": signal.SIGINT}

# After which Slurm waits before a job begins again.
SLOW = "job requeued", "job warned"


class Engine(NamedTuple):
    """A cluster: the flags of a driver that uses it, and what can happen to it, by name."""

    flags: Sequence[str]
    environment: Mapping[str, str]
    faults: Mapping[str, Callable[[random.Random], object]]


@contextlib.contextmanager
def ray_cluster() -> Iterator[Engine]:
    """A cluster of Ray: a head, on which no task runs, and two nodes of a core each."""
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 100 * 2**20}
    head = {"num_cpus": 0, "include_dashboard": False, **small}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]

    def kill_node(rng: random.Random) -> None:
        node = nodes.pop(rng.randrange(len(nodes)))
        cluster.remove_node(node, allow_graceful=False)  # SIGKILL to all its processes
        nodes.append(cluster.add_node(num_cpus=1, **small))

    def add_node(rng: random.Random) -> None:
        if len(nodes) < 3:
            nodes.append(cluster.add_node(num_cpus=1, **small))

    try:
        flags = [f"--executor=ray:{cluster.address}"]
        yield Engine(flags, os.environ, {"node killed": kill_node, "node added": add_node})
    finally:
        cluster.shutdown()


@contextlib.contextmanager
def slurm() -> Iterator[Engine]:
    """A Slurm of two nodes of a core each."""
    with tempfile.TemporaryDirectory() as name, slurm_cluster.cluster(Path(name)) as config:
        environment = os.environ | {"SLURM_CONF": str(config)}

        def ask(*command: str) -> str:
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            return done.stdout

        def to_a_job(*command: str) -> Callable[[random.Random], None]:
            def tell(rng: random.Random) -> None:
                jobs = ask("squeue", "--noheader", "--array", "--states=RUNNING", "-o%i").split()
                if jobs:
                    ask(*command, rng.choice(jobs))

            return tell

        def set_node_down(rng: random.Random) -> None:
            node = f"NodeName={rng.choice(slurm_cluster.NODES)}"
            ask("scontrol", "update", node, "State=DOWN", "Reason=test")
            ask("scontrol", "update", node, "State=RESUME")

        flags = ["--executor=slurm", "--slurm.jobs=3", "--slurm.time=10", "--slurm.cpus_per_task=1"]
        faults = {
            "job cancelled": to_a_job("scancel"),
            "job requeued": to_a_job("scontrol", "requeue"),
            # What a job is sent some time before it is preempted, or out of time.
            "job warned": to_a_job("scancel", "--signal=USR2"),
            "node set down": set_node_down,
        }
        yield Engine(flags, environment, faults)


ENGINES = {"ray": ray_cluster, "slurm": slurm}


def start(flags: Sequence[str], workdir: Path, environment: Mapping[str, str] = os.environ) -> Any:
    """Starts the driver of a sweep, whose output goes to a file beside its folder."""
    command = [sys.executable, "-m", "lenet_jax.sweep", *flags, f"--workdir={workdir}"]
    own = {key: value for key, value in environment.items() if key != "JAX_NUM_CPU_DEVICES"}
    with workdir.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command, cwd=ROOT, env=own, stdout=log, stderr=log)


def disturb(engine: Engine, flags: Sequence[str], workdir: Path, faults: Mapping[str, int]) -> None:
    """Runs a sweep to its end while faults happen.

    Args:
      engine: where it runs.
      flags: of the sweep.
      workdir: its folder.
      faults: after how many finished chunks each happens.

    Raises:
      RuntimeError: the driver failed, or took too long.
    """
    rng, waiting = random.Random(0), sorted(faults.items(), key=lambda item: item[1])
    process = start([*flags, *engine.flags], workdir, engine.environment)
    deadline, log = time.monotonic() + PATIENCE, workdir.with_suffix(".log")
    while process.poll() is None:
        done = len(list(workdir.glob("chunks/[0-9]*")))
        if waiting and done >= waiting[0][1]:
            name, _ = waiting.pop(0)
            if name in DRIVER:
                process.send_signal(DRIVER[name])
                ended = process.wait()
                # Before Python has begun nobody handles an interruption, and nothing is printed.
                unborn = ended == -signal.SIGINT and not log.stat().st_size
                if not unborn and ended not in (-signal.SIGKILL, 128 + signal.SIGINT):
                    break
                process = start([*flags, *engine.flags], workdir, engine.environment)
            else:
                engine.faults[name](rng)
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
        time.sleep(0.1)
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}; {log.read_text()[-2000:]}")


def table(workdir: Path) -> list[str]:
    """The lines of results.csv without the seconds."""
    lines = (workdir / "results.csv").read_text().splitlines()
    return [line.rpartition(",")[0] for line in lines]


def draw(engine: Engine, seed: int, chunks: int = CHUNKS) -> dict[str, int]:
    """When each kind of fault happens: after so many finished chunks."""
    rng = random.Random(seed)
    return {name: rng.randrange(chunks - 1) for name in (*engine.faults, *DRIVER)}


def main() -> None:
    """Runs the trials of one engine."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--engine", choices=ENGINES, required=True)
    parser.add_argument("--trials", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if start(FLAGS, folder / "local").wait():
            raise SystemExit((folder / "local.log").read_text())
        expected, seconds, equal = table(folder / "local"), [], 0
        count = Counter[str]()
        with ENGINES[arguments.engine]() as engine:
            for seed in range(arguments.trials):
                began, faults = time.monotonic(), draw(engine, seed)
                disturb(engine, FLAGS, folder / str(seed), faults)
                seconds.append(round(time.monotonic() - began, 1))
                equal += table(folder / str(seed)) == expected
                count += Counter(faults.keys())
                print(f"trial {seed}: {faults}, {seconds[-1]} s, {equal} of {seed + 1} equal")
    results = json.loads(OUT.read_text()) if OUT.exists() else {}
    results[arguments.engine] = {
        "trials": arguments.trials,
        "tables_equal": equal,
        "faults": dict(count),
        "chunks": CHUNKS,
        "seconds": seconds,
        "environment": machine.environment(),
    }
    OUT.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
