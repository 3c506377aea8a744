"""Measures the accuracy of a config over n seeds.

    python -m experiments.accuracy --config=configs/notes.py --seeds=100

Trains the seeds as a sweep in `runs/accuracy_NAME`, which resumes if it is stopped; further
arguments are passed on to it. Writes each seed's results, their mean, standard deviation and 95 %
interval of the mean to `results/accuracy_NAME.json`, and the sweep's figure to `.png`.
"""

import argparse
import csv
import shutil
import subprocess
import sys
from pathlib import Path

from lenet_jax.machine import environment
from lenet_jax.statistics import summarise
from lenet_jax.storage.files import write_json

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
    arguments.results.mkdir(exist_ok=True)
    file = arguments.results / f"accuracy_{name}.json"
    write_json(file, answer)
    shutil.copy(workdir / "sweep.png", file.with_suffix(".png"))
    spread = "" if test.sd is None else f" ± {100 * test.sd:.3f}"
    print(f"test accuracy {100 * (test.mean or 0):.3f}{spread} % (mean ± sd, {test.n} seeds)")
    print(f"written to {file}")


if __name__ == "__main__":
    main()
