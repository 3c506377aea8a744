"""Redraws the figures of results from their files; nothing is trained.

    python -m experiments.redraw
    python -m experiments.redraw results/lottery_ticket.json --format=svg,pdf

Without names, all of `results/`. Each figure lies beside its file and is drawn by the script that
wrote it; that of a sweep, `sweep.png`, by its `summary.json` and `results.csv`, which have no
curves.
"""

import argparse
import ast
import csv
import fnmatch
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import study
from lenet_jax.errors import ExitCode, UserError, print_remarks, printable, run_command
from lenet_jax.plots.output import parse_formats
from lenet_jax.plots.style import Figure
from lenet_jax.plots.sweeps import plot_sweep
from lenet_jax.reading import read_json
from lenet_jax.sweeps import figure_data, results

SUMMARY = "summary.json"
# The module that draws each file.
DRAWN_BY = {
    "accuracy_*.json": "accuracy",
    "benchmark_*.json": "benchmark",
    "influence*.json": "influence",
    "know_together.json": "know_together",
    "lenet_1998.json": "lenet_1998.table",
    "lottery_ticket.json": "lottery_ticket",
    "photographs.json": "photographs",
    "robustness.json": "robustness",
    "scaling.json": "scaling",
    "sweep_scale.json": "sweep_scale",
    "torch_distribution.json": "torch_distribution",
    "torch_parity*.json": "torch_parity",
    "whole_job.json": "whole_job",
}


def redraw(file: Path, suffixes: list[str]) -> list[Path]:
    """Redraws the figure of a file.

    Returns:
      The files of the figure; none, if it has no figure.

    Raises:
      UserError: the file does not exist, or is damaged.
    """
    answer = read_json(file, dict[str, Any])
    if answer is None:
        raise UserError(f"{file} does not exist")
    try:
        if file.name == SUMMARY:
            return study.save(file.with_name("sweep.json"), plot_summary(file, answer), suffixes)
        for pattern, module in DRAWN_BY.items():
            if fnmatch.fnmatch(file.name, pattern):
                plot = importlib.import_module(f"experiments.{module}").plot
                return study.save(file, plot(answer), suffixes)
    except ModuleNotFoundError as error:
        raise UserError(f"{file}: its script needs {error.name}, which is not installed") from error
    except (KeyError, OSError) as error:
        raise UserError(f"{file} is not as its script writes it: {printable(error)}") from error
    return []


def plot_summary(file: Path, summary: dict[str, Any]) -> Figure:
    """Draws the test errors of a sweep, by its `summary.json` and the `results.csv` beside it."""
    with file.with_name("results.csv").open(newline="") as lines:
        rows = [{name: _parse(cell) for name, cell in row.items()} for row in csv.DictReader(lines)]
    swept = list(rows[0])[1 : list(rows[0]).index("status")]
    overrides = {row["member"]: {key: row[key] for key in swept} for row in rows}
    chances = {tuple(s["overrides"].values()): s.get("chance", 0.0) for s in summary["settings"]}
    settings = [
        setting._replace(chance=chances[tuple(setting.overrides.values())])
        for setting in results.by_setting(rows, overrides)
    ]
    title = figure_data.title(file.parent.name, summary)
    return plot_sweep(figure_data.for_plot(settings, {}), title=title)


def _parse(cell: str) -> Any:
    """What a cell of results.csv says: a number, text, or nothing."""
    try:
        return ast.literal_eval(cell) if cell else None
    except (SyntaxError, ValueError):
        return cell


def main(argv: Sequence[str]) -> int:
    """Draws the figures, names their files, and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.json")
    parser.add_argument("--format", default="png", help="png, svg, pdf, or several of them")
    arguments = parser.parse_args(argv)
    suffixes = parse_formats(arguments.format)
    for file in arguments.files or sorted(Path("results").rglob("*.json")):
        try:
            paths = redraw(file, suffixes)
        except UserError as error:  # the others are drawn nonetheless
            if arguments.files:
                raise
            print_remarks([str(error)])
            continue
        if not paths and arguments.files:
            parser.error(f"{file} has no figure")
        for path in paths:
            print(path, flush=True)
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
