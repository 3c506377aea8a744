"""A study's results: an answer as JSON, its tables and its figure beside it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lenet_jax.plots.output import render
from lenet_jax.plots.style import Figure
from lenet_jax.storage.files import write_atomically, write_json

Answer = dict[str, Any]


def write(
    file: Path,
    answer: Answer,
    plot: Callable[[Answer], Figure] | None,
    to_markdown: Callable[[Answer], str] | None = None,
) -> None:
    """Writes the answer, its figure and its tables, and prints the tables.

    Args:
      file: of the answer, in a folder that is created; the others end in `.png` and `.md`.
      answer: what was measured.
      plot: draws the figure; None: there is nothing to draw.
      to_markdown: gives the tables; None: there are none.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, answer)
    if to_markdown is not None:
        write_atomically(file.with_suffix(".md"), text := to_markdown(answer))
        print(text, end="")
    if plot is not None:
        save(file, plot(answer))
    print(f"written to {file}")


def save(file: Path, figure: Figure, suffixes: Sequence[str] = (".png",)) -> list[Path]:
    """Writes a figure beside the file of an answer, as one file for each suffix: their paths."""
    paths = [file.with_suffix(suffix) for suffix in suffixes]
    for path in paths:
        write_atomically(path, render(figure, path.suffix))
    return paths
