"""The tutorial, which is a notebook: as it is committed, and in a fresh kernel."""

import itertools
import json
import re
import shutil
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "examples" / "tutorial.ipynb"
# What a user may do beside: pyplot would show figures that it holds once more.
PYPLOT = """import matplotlib.pyplot as plt

assert not plt.get_fignums()
network.plot()"""


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """What the outputs of a cell are, in order; a stream in pieces is one."""
    outputs = [(output.output_type, sorted(output.get("data", {}))) for output in cell.outputs]
    return [kind for kind, _ in itertools.groupby(outputs)]


def printed(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def test_it_is_committed_small_and_executed_without_naming_a_machine():
    notebook = nbformat.read(TUTORIAL, 4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert TUTORIAL.stat().st_size < 400_000
    texts = json.dumps(
        [
            {name: content for name, content in output.items() if name != "data"}
            | {name: text for name, text in output.get("data", {}).items() if "image" not in name}
            for cell in cells
            for output in cell.outputs
        ]
    )
    assert not re.search(r"/(home|Users|root|tmp|usr|opt|mnt|work)\b|C:", texts)


@pytest.mark.slow
def test_in_a_fresh_kernel_it_shows_what_is_committed(tmp_path, monkeypatch):
    for folder in ("configs", "examples"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    committed, notebook = (nbformat.read(TUTORIAL, 4) for _ in range(2))
    notebook.cells.append(nbformat.v4.new_code_cell(PYPLOT))
    resources = {"metadata": {"path": str(tmp_path / "examples")}}
    # Raises what a cell raises, but where the notebook says that it does.
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()

    *cells, with_pyplot = code_cells(notebook)
    for cell, before in zip(cells, code_cells(committed), strict=True):
        assert kinds(cell) == kinds(before), cell.source
        assert not {"\r", "\x1b"} & set(printed(cell)), cell.source
    assert kinds(with_pyplot) == [("execute_result", ["image/png", "text/plain"])]
    shown = {cell.source: cell.outputs for cell in cells if cell.outputs}
    (error,) = shown['network.predict("photo.png")']
    assert error.traceback == ["photo.png cannot be read: No such file or directory"]
    bars = [o.data["text/plain"] for outputs in shown.values() for o in outputs if "data" in o]
    bars = [text for text in bars if " img/s" in text]
    assert [text.split(",")[0] for text in bars] == [
        "epochs 3/3",
        "epochs 2/2",
        "member-epochs 12/12",
    ]
    (answer,) = next(outputs for source, outputs in shown.items() if "(digit,)" in source)
    assert answer.data["text/plain"].startswith("'7, with probability")
