"""Measures the accuracy of a config over n seeds.

    python -m experiments.accuracy --config=configs/notes.py --seeds=100

Trains the seeds as a sweep in `runs/accuracy_NAME`, which resumes if it is stopped; further
arguments are passed on to it. Writes each seed's results, their mean, standard deviation and 95 %
interval of the mean to `results/accuracy_NAME.json`, and a figure to `.png`.
"""

import argparse
import csv
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lenet_jax.machine import environment
from lenet_jax.statistics import Summary, summarise
from lenet_jax.storage.files import write_json
from lenet_jax.sweeps.run import PACKAGES

QUESTION = "How accurate is a config over n seeds?"


def main() -> None:
    """Trains the seeds, and writes the results."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--config", default="configs/notes.py", help="FILE.py[:ARG]")
    parser.add_argument("--seeds", type=int, default=20, help="number of seeds, starting at 0")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder to write to")
    parser.add_argument("--workdir", type=Path, help="folder of the sweep; by default in runs/")
    arguments, overrides = parser.parse_known_args()
    name = Path(arguments.config.removesuffix(".py").replace(".py:", "_")).name
    workdir = arguments.workdir or Path("runs", f"accuracy_{name}")

    command = [
        *(sys.executable, "-m", "lenet_jax.sweep", f"--config={arguments.config}", "--save=none"),
        *(f"--sweep=configs/sweeps/seeds.py:{arguments.seeds}", f"--workdir={workdir}"),
    ]
    subprocess.run([*command, *overrides], check=True)
    with (workdir / "results.csv").open(newline="") as file:
        runs = [
            {
                "seed": int(row["seed"]),
                "test_accuracy": float(row["test_accuracy"]),
                "test_loss": float(row["test_loss"]),
                "valid_accuracy": float(row["valid_accuracy"]),
                "best_epoch": int(row["best_epoch"]),
            }
            for row in csv.DictReader(file)
        ]
    with np.load(workdir / "history.npz", allow_pickle=False) as curves:
        history = np.asarray(curves["valid_accuracy"], np.float64)

    test = summarise([run["test_accuracy"] for run in runs], upper=1.0)
    answer = {
        "question": QUESTION,
        "config": arguments.config,
        "overrides": overrides,
        "epoch": "of each seed, the one with the best validation accuracy",
        "seeds": test.n,
        "test_accuracy": test.to_json(),
        "runs": runs,
        "environment": environment(PACKAGES),
    }
    arguments.results.mkdir(exist_ok=True)
    file = arguments.results / f"accuracy_{name}.json"
    write_json(file, answer)
    draw(history, runs, test, arguments.config, file.with_suffix(".png"))
    spread = "" if test.sd is None else f" ± {100 * test.sd:.3f}"
    print(f"test accuracy {100 * (test.mean or 0):.3f}{spread} % (mean ± sd, {test.n} seeds)")
    print(f"written to {file}")


def draw(
    history: np.ndarray, runs: Sequence[dict[str, Any]], test: Summary, config: str, path: Path
) -> None:
    """Draws the seeds' validation error over the epochs, and their test errors beside it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    curves, dots = figure.subplots(1, 2, width_ratios=(3, 1), sharey=True)
    epochs, errors = np.arange(1, history.shape[1] + 1), 100 * (1 - history)
    lower, median, upper = np.quantile(errors, (0.25, 0.5, 0.75), axis=0)
    curves.fill_between(epochs, errors.min(0), errors.max(0), color="#0072b2", alpha=0.15, lw=0)
    curves.fill_between(epochs, lower, upper, color="#0072b2", alpha=0.35, lw=0)
    curves.plot(epochs, median, color="#0072b2")
    curves.set(xlabel="epoch", ylabel="error (%, log scale)", yscale="log")
    curves.set_title(f"{config}: validation, {test.n} seeds\nmedian, quartiles, and all", size=10)
    ticks = [0.5, 1, 2, 5, 10]
    curves.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    curves.minorticks_off()
    curves.grid(alpha=0.3)
    # Spread over the width, in the order of the seeds: many of them have the same error.
    points = [100 * (1 - run["test_accuracy"]) for run in runs]
    dots.plot(np.linspace(-0.7, 0.7, test.n), points, "o", color="#d55e00", alpha=0.5, ms=4, mew=0)
    dots.axhline(100 * (1 - (test.mean or 0)), color="black", linewidth=1)
    title = f"test, best epoch\nmean accuracy {100 * (test.mean or 0):.2f} %"
    dots.set(xticks=[], xlim=(-1, 1))
    dots.set_title(title, size=10)
    dots.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
