"""Times the job that a person waits for: one command, from Enter to the prompt.

    python -m experiments.whole_job
    python -m experiments.whole_job --turns=1 --epochs=1

The README's command in a new process, with empty caches (cold) and with those of an earlier run
(warm), takes turns with `whole_job_torch.py`, a plain PyTorch script of the same training, as it is
and with denormal numbers flushed to zero: towards the end of a run tiny gradients slow it down. The
faster of the two counts. Writes `results/whole_job.json`, with the phases of each job, and `.png`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from experiments import study
from lenet_jax import config as configs
from lenet_jax import data
from lenet_jax.machine import PACKAGES, environment
from lenet_jax.plots.style import BLUE, FAINT, WIDTH, Figure, chart, styled
from lenet_jax.storage.files import write_json

QUESTION = "How long does a person wait for a trained network, compared with PyTorch?"
CONFIG = "configs/notes.py"
COLD, WARM = "cold", "warm"
TORCH = {"torch": [], "torch, denormals flushed": ["--flush_denormal"]}
SCRIPT = Path(__file__).with_name("whole_job_torch.py")


def run_ours(folder: Path, cache: Path, epochs: int) -> dict[str, Any]:
    """Runs the README's command with a cache folder; its wall seconds and its phases."""
    folder.mkdir()
    unset = {"JAX_COMPILATION_CACHE_DIR"}
    variables = {key: value for key, value in os.environ.items() if key not in unset}
    command = [sys.executable, "-m", "lenet_jax.main", f"--config={CONFIG}"]
    command += [f"--workdir={folder / 'run'}", f"--config.train.num_epochs={epochs}"]
    seconds = _time(command, variables | {"XDG_CACHE_HOME": str(cache)})
    record = json.loads((folder / "run" / "run.json").read_text())
    summary = json.loads((folder / "run" / "summary.json").read_text())
    phases = record["timeline"]
    trained = next(phase["end"] for phase in phases if phase["name"] == "training")
    phases.append({"name": "exit", "start": max(p["end"] for p in phases), "end": seconds})
    return {
        "seconds": seconds,
        "seconds_to_first_step": summary["seconds_to_first_step"],
        "seconds_after_last_step": seconds - trained,
        "test_accuracy": summary["test_accuracy"],
        "phases": phases,
    }


def run_torch(folder: Path, arrays: Path, epochs: int, flags: Sequence[str]) -> dict[str, Any]:
    """Runs the PyTorch script; its wall seconds and its accuracy."""
    folder.mkdir()
    command = [sys.executable, str(SCRIPT), str(arrays), str(folder), f"--epochs={epochs}", *flags]
    seconds = _time(command, os.environ)
    return {"seconds": seconds, **json.loads((folder / "result.json").read_text())}


def measure(turns: int, epochs: int) -> dict[str, Any]:
    """Runs all jobs in turns."""
    jobs: dict[str, list[dict[str, Any]]] = {name: [] for name in (COLD, WARM, *TORCH)}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        arrays = root / "data.npz"
        _save(data.load_section(configs.load(CONFIG).data), arrays)
        for turn in range(turns):
            cache = root / f"cache{turn}"
            for name in (COLD, WARM):  # the second finds what the first has cached
                jobs[name].append(run_ours(root / f"{name}{turn}", cache, epochs))
            for name, flags in TORCH.items():
                jobs[name].append(run_torch(root / f"{name}{turn}", arrays, epochs, flags))
            seconds = {name: f"{runs[-1]['seconds']:.1f} s" for name, runs in jobs.items()}
            print(f"turn {turn + 1}:", ", ".join(map(" ".join, seconds.items())), flush=True)
    return summarise(jobs)


def summarise(jobs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """The medians, and how many times as long PyTorch takes, with its faster variant."""
    seconds = {name: [run["seconds"] for run in runs] for name, runs in jobs.items()}
    fastest = min(TORCH, key=lambda name: statistics.median(seconds[name]))
    ours = {
        name: {
            **{
                key: statistics.median(run[key] for run in jobs[name])
                for key in ("seconds", "seconds_to_first_step", "seconds_after_last_step")
            },
            "ratio_median": statistics.median(map(_divide, seconds[fastest], seconds[name])),
            "ratio_min": min(map(_divide, seconds[fastest], seconds[name])),
            "ratio_max": max(map(_divide, seconds[fastest], seconds[name])),
        }
        for name in (COLD, WARM)
    }
    torch = {name: {"seconds": statistics.median(seconds[name])} for name in TORCH}
    return {"jobs": ours | torch, "compared_with": fastest, "runs": jobs}


@styled
def plot(answer: Mapping[str, Any]) -> Figure:
    """Draws the phases of the median job, cold and warm, against time."""
    runs, machine = answer["runs"], answer["environment"]
    chosen = {name: sorted(runs[name], key=_seconds)[len(runs[name]) // 2] for name in (COLD, WARM)}
    heights = [len(run["phases"]) for run in chosen.values()]
    figure = chart(
        WIDTH,
        140 + 19 * sum(heights),
        f"Where the time of a job goes: {CONFIG} on MNIST, {answer['epochs']} epochs",
        f"{machine['processor']}, {machine['cores']} cores; the median job of n ="
        f" {answer['turns']}; cold: with empty caches",
    )
    all_axes = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    for axes, (name, run) in zip(all_axes, chosen.items(), strict=True):
        phases = run["phases"]
        starts = [phase["start"] for phase in phases]
        lengths = [phase["end"] - phase["start"] for phase in phases]
        colours = [BLUE if p["name"] == "training" else FAINT for p in phases]
        bars = axes.barh(range(len(phases)), lengths, left=starts, color=colours, height=0.8)
        labels = [f"{p['name']}  {t:.2f} s" for p, t in zip(phases, lengths, strict=True)]
        axes.bar_label(bars, labels, padding=3, fontsize=7)
        axes.set(yticks=[])
        axes.set_title(f"{name}: {run['seconds']:.1f} s in all")
        axes.invert_yaxis()
        axes.margins(x=0.25, y=0.02)
    all_axes[1].set_xlim(left=0)
    all_axes[1].set_xlabel("wall time since the command was entered, s")
    return figure


def _time(command: Sequence[str], variables: Mapping[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=variables)
    return time.perf_counter() - started


def _save(dataset: data.Dataset, path: Path) -> None:
    """Writes the splits as they are trained on."""
    splits = {"train": dataset.train, "valid": dataset.valid, "test": dataset.test}
    arrays = {f"{name}_images": split.images[..., 0] for name, split in splits.items()}
    arrays |= {f"{name}_labels": split.labels for name, split in splits.items()}
    np.savez(path, allow_pickle=False, **arrays)


def _divide(theirs: float, ours: float) -> float:
    return theirs / ours


def _seconds(run: Mapping[str, Any]) -> float:
    return run["seconds"]


def main() -> None:
    """Measures, prints and writes the results."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--turns", type=int, default=7, help="rounds to time")
    parser.add_argument("--epochs", type=int, default=12, help="of the training")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder to write to")
    arguments = parser.parse_args()
    if find_spec("torch") is None:
        raise SystemExit("PyTorch is not installed: pip install torch")
    answer = {"question": QUESTION, "turns": arguments.turns, "epochs": arguments.epochs}
    answer |= measure(arguments.turns, arguments.epochs)
    answer["environment"] = environment((*PACKAGES, "torch"))
    for name in (COLD, WARM):
        job = answer["jobs"][name]
        print(
            f"{name}: {job['seconds']:.1f} s, {job['ratio_median']:.1f}× {answer['compared_with']}"
            f" ({job['ratio_min']:.1f}–{job['ratio_max']:.1f}); first step after"
            f" {job['seconds_to_first_step']:.1f} s, {job['seconds_after_last_step']:.1f} s after"
            " the last"
        )
    arguments.results.mkdir(exist_ok=True)
    file = arguments.results / "whole_job.json"
    write_json(file, answer)
    study.save(file, plot(answer))
    print(f"written to {file}")


if __name__ == "__main__":
    main()
