"""Measures the accuracy of a config over n seeds.

    python -m experiments.accuracy --config=configs/notes.py --seeds=100

Runs `lenet_jax.main` once per seed, each in its own process, one after the other; further
arguments are passed on to it. Writes each seed's results, their mean, standard deviation and 95 %
interval of the mean to `results/accuracy_NAME.json`, and a figure to `.png`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lenet_jax.machine import environment
from lenet_jax.runs.record import PACKAGES
from lenet_jax.statistics import Summary, summarise
from lenet_jax.storage.files import write_json

QUESTION = "How accurate is a config over n seeds?"
KEPT = ("test_accuracy", "test_loss", "best_epoch", "valid_accuracy")  # of each run's summary


def main() -> None:
    """Runs the seeds, prints one line per seed, and writes the results."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--config", default="configs/notes.py", help="FILE.py[:ARG]")
    parser.add_argument("--seeds", type=int, default=20, help="number of seeds, starting at 0")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder to write to")
    arguments, overrides = parser.parse_known_args()

    runs, histories = [], []
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            command = [f"--config={arguments.config}", f"--config.seed={seed}", *overrides]
            subprocess.run(
                [sys.executable, "-m", "lenet_jax.main", *command, f"--workdir={folder}"],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            summary = json.loads(Path(folder, "summary.json").read_text())
            lines = Path(folder, "metrics.jsonl").read_text().splitlines()
        runs.append({"seed": seed} | {key: summary[key] for key in KEPT})
        histories.append([json.loads(line)["valid/accuracy"] for line in lines])
        print(f"seed {seed}: test accuracy {100 * summary['test_accuracy']:.2f} %", flush=True)

    name = Path(arguments.config.removesuffix(".py").replace(".py:", "_")).name
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
    draw(np.array(histories), runs, test, arguments.config, file.with_suffix(".png"))
    spread = "" if test.sd is None else f" ± {100 * test.sd:.3f}"
    print(f"test accuracy {100 * (test.mean or 0):.3f}{spread} % (mean ± sd, {test.n} seeds)")
    print(f"written to {file}")


def draw(
    histories: np.ndarray, runs: Sequence[dict[str, Any]], test: Summary, config: str, path: Path
) -> None:
    """Draws the seeds' validation error over the epochs, and their test errors beside it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    curves, dots = figure.subplots(1, 2, width_ratios=(3, 1), sharey=True)
    epochs, errors = np.arange(1, histories.shape[1] + 1), 100 * (1 - histories)
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
