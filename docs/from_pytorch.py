"""Writes what docs/from_pytorch.md prints, and its notebook: `python -m docs.from_pytorch`.

Each Python block runs in a namespace of its own, as it would where it is pasted; what it prints is
the block after it. The notebook has the same text and blocks, executed. Both need PyTorch.
"""

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "from_pytorch.md"
NOTEBOOK = ROOT / "examples" / "from_pytorch.ipynb"
SETUP = """import os

os.chdir("..")  # the repository's folder"""
BLOCK = re.compile(r"^```(python|python torch)\n(.*?)^```\n\n```text\n(.*?)^```\n", re.M | re.S)


class Block(NamedTuple):
    """A block of Python: whether it needs PyTorch, and what it prints."""

    code: str
    printed: str
    torch: bool
    line: int  # of the document, where it begins


def blocks(text: str) -> Iterator[Block]:
    """The blocks of the document's text."""
    for found in BLOCK.finditer(text):
        line = text[: found.start(2)].count("\n")
        yield Block(found[2], found[3], found[1].endswith("torch"), line)


def run(block: Block) -> str:
    """What a block prints, run by itself."""
    output = io.StringIO()
    code = compile("\n" * block.line + block.code, str(DOCUMENT), "exec")
    with contextlib.redirect_stdout(output):
        exec(code, {"__name__": "block"})
    return output.getvalue()


def cells(text: str) -> list[tuple[str, str]]:
    """The cells of the notebook, as kinds (`markdown`, `code`) and sources; the first is SETUP."""
    result, end = [("code", SETUP)], 0
    for found in BLOCK.finditer(text):
        result += [("markdown", text[end : found.start()]), ("code", found[2])]
        end = found.end()
    result.append(("markdown", text[end:]))
    stripped = [(kind, source.strip()) for kind, source in result]
    return [(kind, _from_examples(source)) for kind, source in stripped if source]


def _from_examples(source: str) -> str:
    """Markdown with its links as seen from the notebook's folder."""
    return re.sub(r"\]\((?![#.]|https:)", "](../docs/", source)


def main() -> None:
    """Writes both."""
    import nbclient
    import nbformat

    text = DOCUMENT.read_text()
    for block in list(blocks(text)):
        text = text.replace(
            f"{block.code}```\n\n```text\n{block.printed}```",
            f"{block.code}```\n\n```text\n{run(block)}```",
            1,
        )
    DOCUMENT.write_text(text)
    make = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    notebook = nbformat.v4.new_notebook(
        cells=[make[kind](source, id=f"{n}") for n, (kind, source) in enumerate(cells(text))]
    )
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
