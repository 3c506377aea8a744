"""Measures the accuracy of a config over n seeds, and its training speed.

    python -m experiments.accuracy --config=configs/notes.py --seeds=5

Runs `lenet_jax.main` once per seed, each in its own process, one after the other; further
arguments are passed on to it. Writes the mean and standard deviation to
`results/accuracy_NAME.json`, and a figure to `.png`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lenet_jax.machine import environment
from lenet_jax.runs.record import PACKAGES
from lenet_jax.storage.files import write_json

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

QUESTION = "How accurate is a config over n seeds, and how fast does it train?"


def main() -> None:
    """Runs the seeds, prints one line per seed, and writes the results."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--config", default="configs/notes.py", help="FILE.py[:ARG]")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, starting at 0")
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
            runs.append(json.loads(Path(folder, "summary.json").read_text()) | {"seed": seed})
            lines = Path(folder, "metrics.jsonl").read_text().splitlines()
            histories.append([json.loads(line) for line in lines])
        print(
            f"seed {seed}: test accuracy {100 * runs[-1]['test_accuracy']:.2f} %,"
            f" {runs[-1]['train_seconds']:.1f} s, {runs[-1]['images_per_second']:,.0f} images/s",
            flush=True,
        )

    name = Path(arguments.config.removesuffix(".py").replace(".py:", "_")).name
    accuracy = [run["test_accuracy"] for run in runs]
    answer = {
        "question": QUESTION,
        "config": arguments.config,
        "overrides": overrides,
        "seeds": len(runs),
        "test_accuracy_mean": statistics.mean(accuracy),
        "test_accuracy_sd": statistics.stdev(accuracy) if len(accuracy) > 1 else None,
        "train_seconds_mean": statistics.mean(run["train_seconds"] for run in runs),
        "images_per_second_median": statistics.median(run["images_per_second"] for run in runs),
        "runs": runs,
        "environment": environment(PACKAGES),
    }
    arguments.results.mkdir(exist_ok=True)
    file = arguments.results / f"accuracy_{name}.json"
    write_json(file, answer)
    title = f"{arguments.config}: validation, {len(runs)} seeds"
    draw(histories, accuracy, file.with_suffix(".png"), title)
    spread = "" if len(accuracy) == 1 else f" ± {100 * statistics.stdev(accuracy):.2f}"
    mean = 100 * statistics.mean(accuracy)
    print(f"test accuracy {mean:.2f}{spread} % (mean ± sd, {len(runs)} seeds); written to {file}")


def draw(
    histories: list[list[dict[str, Any]]], accuracy: list[float], path: Path, title: str
) -> None:
    """Draws each seed's validation error over the epochs, with its test error beside."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    curves, dots = figure.subplots(1, 2, width_ratios=(4, 1), sharey=True)
    for seed, history in enumerate(histories):
        colour = COLOURS[seed % len(COLOURS)]
        errors = [100 * (1 - row["valid/accuracy"]) for row in history]
        curves.plot([row["epoch"] for row in history], errors, color=colour, label=f"seed {seed}")
        dots.plot([0], [100 * (1 - accuracy[seed])], "o", color=colour, alpha=0.8)
    curves.set(xlabel="epoch", ylabel="error (%, log scale)", yscale="log", title=title)
    ticks = [0.5, 1, 2, 5, 10]
    curves.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    curves.minorticks_off()
    curves.grid(alpha=0.3)
    curves.legend(frameon=False)
    mean = 100 * (1 - statistics.mean(accuracy))
    dots.axhline(mean, color="black", linewidth=1)
    dots.set(title=f"test\nmean accuracy {100 - mean:.2f} %", xticks=[], xlim=(-1, 1))
    dots.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
