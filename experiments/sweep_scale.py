"""Measures what a sweep of many members costs its driver, with the training left out.

    python -m experiments.sweep_scale

Members are seeds of ten learning rates, in chunks of 8, each with ten epochs of made-up results.
For each count of members, one process plans the sweep, one submits its chunks to an executor that
returns results at once, and publishes those, and one collects them: tables, statistics, figures and
page. The time to make results up is left out. Writes `results/sweep_scale.json`, `.md`
and `.png`.
"""

import argparse
import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np

from experiments import study
from lenet_jax import machine
from lenet_jax.plots.style import (
    SERIES,
    WIDTH,
    Figure,
    chart,
    label_ends,
    line_look,
    styled,
)

QUESTION = "What does a sweep of many members cost its driver?"
OUT = Path("results/sweep_scale.json")
COUNTS = 1_000, 10_000, 100_000
RATES = [10 ** (-3 + i / 5) for i in range(10)]
CHUNK, EPOCHS = 8, 10
STAGES = {
    "planning": "plan, written to the disk",
    "submitting": "chunks submitted, returned, checked and published",
    "collecting": "chunks read; tables, statistics, figures and page written",
}


class MadeUp(Executor):
    """Returns results that are made up, at once.

    Attributes:
      seconds: what that took.
      cpu_seconds: of the processor.
    """

    def __init__(self) -> None:
        self.seconds = self.cpu_seconds = 0.0
        self._rng = np.random.default_rng(0)

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Returns a future that is done, with a chunk's files."""
        from lenet_jax.storage.chunk import CURVES, write_chunk
        from lenet_jax.storage.sums import manifest
        from lenet_jax.sweeps.job import TrainedChunk

        job, number = args
        started, cpu = time.perf_counter(), time.process_time()
        rng, future = self._rng, Future[TrainedChunk]()
        members = job.chunks[number].members.tolist()
        curves = {name: rng.random((len(members), EPOCHS), np.float32) for name in CURVES}
        rows = [
            {
                **{"member": member, "status": "done", "valid_loss": 0.5, "test_loss": 0.5},
                **{"valid_accuracy": rng.random(), "test_accuracy": rng.random()},
                **{"best_epoch": EPOCHS, "diverged_step": None, "seconds": 1.0},
            }
            for member in members
        ]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_chunk(folder, rows, curves, 0.1)
            files = {path.name: path.read_bytes() for path in folder.iterdir()}
            future.set_result(TrainedChunk(files, manifest(folder), {}))
        self.seconds += time.perf_counter() - started
        self.cpu_seconds += time.process_time() - cpu
        return future

    def room(self) -> int:
        """As many as two tasks for each of 500 workers."""
        return 1000


def measure(stage: str, count: int, folder: Path) -> dict[str, Any]:
    """The seconds of a stage of a sweep of so many members, wall and CPU, and the most memory."""
    machine.use_cores()
    from lenet_jax import config as configs
    from lenet_jax.sweeps.file import load, product, sweep
    from lenet_jax.sweeps.options import Options
    from lenet_jax.sweeps.run import run

    config = configs.load("configs/notes.py", [("train.num_epochs", EPOCHS)])
    seeds = sweep("seed", range(count // len(RATES)))
    options = Options(str(folder / "sweep"), chunk_size=CHUNK)
    made_up = MadeUp()
    started, cpu = time.perf_counter(), time.process_time()
    members = load(product(sweep("optimizer.learning_rate", RATES), seeds), config)
    with contextlib.redirect_stdout(io.StringIO()):
        if stage == "submitting":
            _submit(config, members, options, made_up)
        else:
            changed = options._replace(plan_only=stage == "planning", collect=stage == "collecting")
            assert run(config, members, changed, []) == 0
    scale = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": round(time.perf_counter() - started - made_up.seconds, 3),
        "cpu_seconds": round(time.process_time() - cpu - made_up.cpu_seconds, 3),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale,
    }


def _submit(config: Any, members: Any, options: Any, executor: Executor) -> None:
    """Reads the plan, and has all chunks trained, as `lenet_jax.sweep` does."""
    from lenet_jax.storage.sweep_dir import SweepDir
    from lenet_jax.sweeps.dispatch import train_elsewhere
    from lenet_jax.sweeps.job import make_job
    from lenet_jax.sweeps.run import make_plan
    from lenet_jax.terminal.console import Console
    from lenet_jax.terminal.interrupt import Interrupt

    with SweepDir(options.workdir) as store:
        groups, chunks = make_plan(store, config, members, options, print)
        job = make_job(members, groups, chunks, options, store.plan_sum)
        console = Console()
        assert train_elsewhere(store, chunks, job, executor, options, console, Interrupt()) == []


def growth(cases: dict[str, Any], stage: str) -> float:
    """The exponent of the time's growth between the two largest counts."""
    (fewer, first), (more, second) = list(cases.items())[-2:]
    ratio = second[stage]["seconds"] / first[stage]["seconds"]
    return float(np.log(ratio) / np.log(int(more) / int(fewer)))


def table(result: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    cases, last = result["cases"], list(result["cases"])[-1]
    lines = [
        "# What many members cost the driver",
        "",
        f"`{result['command']}`: chunks of {CHUNK} members, {EPOCHS} epochs, training left out;"
        f" seconds (of the processor), on {result['environment']['processor']}.",
        "",
        "| members | " + " | ".join(STAGES) + " | most memory, GB |",
        "|---" * (len(STAGES) + 2) + "|",
    ]
    for count, case in cases.items():
        own = [case[stage] for stage in STAGES]
        cells = [f"{one['seconds']:,.1f} ({one['cpu_seconds']:,.1f})" for one in own]
        peak = max(one["peak_bytes"] for one in own) / 1e9
        lines.append(f"| {int(count):,} | {' | '.join(cells)} | {peak:.2f} |")
    if len(cases) > 1:
        said = ", ".join(f"{stage} as n^{growth(cases, stage):.2f}" for stage in STAGES)
        million = {
            stage: cases[last][stage]["seconds"] * (1e6 / int(last)) ** growth(cases, stage)
            for stage in ("submitting", "collecting")
        }
        text = ", ".join(f"{stage} {seconds:,.0f} s" for stage, seconds in million.items())
        lines += ["", f"Between the last two, time grows: {said}.", ""]
        lines += [f"Extrapolated so to 1,000,000 members, not measured: {text}."]
        lines += ["Planning as many is measured by `python -m experiments.planning`."]
    return "\n".join(lines) + "\n"


@styled
def plot(result: dict[str, Any]) -> Figure:
    """Draws seconds over members, a line for each stage."""
    counts = [int(count) for count in result["cases"]]
    subtitle = f"chunks of {result['chunk']} members, {result['epochs']} epochs; log scales"
    figure = chart(WIDTH, 420, "What a sweep's driver takes, training left out", subtitle)
    axes, ends = figure.subplots(), []
    for place, stage in enumerate(STAGES):
        seconds = np.array([case[stage]["seconds"] for case in result["cases"].values()])
        (dashes, marker), colour = line_look(place), SERIES[place]
        axes.plot(counts, seconds, dashes, marker=marker, color=colour)
        ends.append((np.array(counts), seconds, f"{stage}: {seconds[-1]:,.1f} s", colour))
    axes.set(xscale="log", yscale="log", xlabel="members", ylabel="seconds")
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    label_ends(axes, ends)
    return figure


def main() -> None:
    """Measures each count of members in a process of its own, and writes the results."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    cases = {}
    for count in arguments.counts:
        case = cases[str(count)] = {}
        with tempfile.TemporaryDirectory() as folder:
            for stage in STAGES:
                own = ["--one", stage, str(count), folder]
                command = [sys.executable, "-m", "experiments.sweep_scale", *own]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                case[stage] = json.loads(done.stdout)
        print(f"{count:,}: {case}", flush=True)
    result = {
        "command": "python -m experiments.sweep_scale",
        "chunk": CHUNK,
        "epochs": EPOCHS,
        "cases": cases,
        "environment": machine.environment(),
    }
    study.write(arguments.out, result, plot, table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))))
    else:
        main()
