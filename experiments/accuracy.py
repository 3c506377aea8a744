"""Measures the accuracy of a config over n seeds.

    python -m experiments.accuracy --config=configs/notes.py --seeds=100

Trains the seeds as a sweep in `runs/accuracy_NAME`, which resumes if it is stopped; further
arguments are passed on to it. Writes each seed's results, their mean, standard deviation and 95 %
interval of the mean to `results/accuracy_NAME.json`, and a figure of them to `.png`.
"""

import argparse
import csv
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from experiments import study
from lenet_jax import config as configs
from lenet_jax.machine import environment
from lenet_jax.plots.style import BLUE, VERMILION, WIDTH, Figure, chart, styled
from lenet_jax.statistics import summarise
from lenet_jax.sweeps.config_text import describe_config

QUESTION = "How accurate is a config over n seeds?"


@styled
def plot(answer: dict[str, Any]) -> Figure:
    """Draws each seed's error as a dot, equal ones above each other, and their mean."""
    from matplotlib.ticker import MaxNLocator

    errors = [round(100 * (1 - run["test_accuracy"]), 4) for run in answer["runs"]]
    summary, equal = summarise(errors, 100.0), Counter()
    about = describe_config(configs.load(answer["config"]), ())
    text = f"test images; each network at its best epoch on validation; mean {summary.mean:.3f} %"
    if summary.sd is not None and summary.ci95 is not None:
        low, high = summary.ci95
        text += f", sd {summary.sd:.3f}, 95 % interval of the mean {low:.3f} to {high:.3f}"
    title = " ".join([answer["config"], *answer["overrides"]])
    figure = chart(WIDTH, 300, f"Errors of {title}: {about}, n = {len(errors)} seeds", text)
    axes = figure.subplots()
    for error in errors:
        equal[error] += 1
        axes.plot(error, equal[error], "o", color=BLUE, markersize=5)
    axes.axvline(summary.mean or 0.0, color=VERMILION)
    ends = summary.ci95 or (summary.mean or 0.0,) * 2
    axes.axvspan(*ends, color=VERMILION, alpha=0.2, linewidth=0)
    left = sum(ends) > sum(axes.get_xlim())  # beside the band, on the side with more room
    axes.annotate(
        "mean, 95 % interval" if summary.ci95 else "mean",
        (ends[0] if left else ends[1], 1),
        xycoords=("data", "axes fraction"),
        xytext=(-6 if left else 6, -3),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
        color=VERMILION,
    )
    axes.set(xlabel="test error, %", ylabel="seeds, a dot each")
    axes.set_ylim(0, max(equal.values()) + 1.8)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


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
        rows = list(csv.DictReader(file))
    runs = [
        {
            "seed": int(row["seed"]),
            "test_accuracy": float(row["test_accuracy"]),
            "test_loss": float(row["test_loss"]),
            "valid_accuracy": float(row["valid_accuracy"]),
            "best_epoch": int(row["best_epoch"]),
        }
        for row in rows
        if row["status"] == "done"
    ]

    test = summarise([run["test_accuracy"] for run in runs], upper=1.0)
    answer = {
        "question": QUESTION,
        "config": arguments.config,
        "overrides": overrides,
        "epoch": "of each seed, the one with the best validation accuracy",
        "seeds": test.n,
        "diverged": len(rows) - test.n,
        "test_accuracy": test.to_json(),
        "runs": runs,
        "environment": environment(),
    }
    spread = "" if test.sd is None else f" ± {100 * test.sd:.3f}"
    print(f"test accuracy {100 * (test.mean or 0):.3f}{spread} % (mean ± sd, {test.n} seeds)")
    study.write(arguments.results / f"accuracy_{name}.json", answer, plot)


if __name__ == "__main__":
    main()
