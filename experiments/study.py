"""A study's results: an answer as JSON, its tables and its figure beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lenet_jax.storage.files import write_atomically, write_json

Answer = dict[str, Any]


def write(
    file: Path,
    answer: Answer,
    to_markdown: Callable[[Answer], str],
    plot: Callable[[Answer, Path], None],
) -> None:
    """Writes the answer, the tables and the figure, and prints the tables.

    Args:
      file: of the answer, in a folder that is created; the others end in `.md` and `.png`.
      answer: what was measured.
      to_markdown: gives the tables.
      plot: draws the figure to a file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, answer)
    text = to_markdown(answer)
    write_atomically(file.with_suffix(".md"), text)
    plot(answer, file.with_suffix(".png"))
    print(f"{text}written to {file}")
