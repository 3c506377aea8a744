"""The documentation is accurate: its Python runs, and what it cites and names exists."""

import ast
import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

from docs.from_pytorch import DOCUMENT, NOTEBOOK, blocks, cells, run

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted((ROOT / "docs").glob("*.md"))
TEXT = DOCUMENT.read_text()
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(block, marks=pytest.mark.torch if block.torch else ()) for block in blocks(TEXT)
]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"line_{block.line}")
def test_every_block_prints_what_stands_below_it(block):
    if block.torch:
        pytest.importorskip("torch", reason="torch is not installed: its blocks are skipped")
    assert run(block) == block.printed


def test_every_python_block_is_followed_by_what_it_prints():
    kinds = [block[1] for block in BLOCK.finditer(TEXT)]
    assert set(kinds) == {"python", "python torch", "text"}
    assert len(BLOCKS) == sum(kind != "text" for kind in kinds) > 20


def test_the_notebook_is_the_document_executed():
    notebook = nbformat.read(NOTEBOOK, 4)
    shown = [(cell.cell_type, cell.source) for cell in notebook.cells]
    assert shown == cells(TEXT)
    _, *code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell, block in zip(code, blocks(TEXT), strict=True):
        assert "".join(output.text for output in cell.outputs) == block.printed


@pytest.mark.parametrize("name", ["from_pytorch.md", "reliability.md"])
def test_the_cited_tests_exist(name):
    cited = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (DOCUMENT.parent / name).read_text())
    assert cited
    for file, name in cited:
        tree = ast.parse((ROOT / file).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, file


def anchors(document):
    headings = re.findall(r"^##+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", [ROOT / "README.md", *DOCUMENTS], ids=lambda path: path.name)
def test_links_resolve(document):
    for target in re.findall(r"\]\(([^)\s]*)\)", document.read_text()):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        linked = document.parent / file if file else document
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("name", ["README.md", *(f"docs/{path.name}" for path in DOCUMENTS)])
def test_named_files_and_modules_exist(name):
    text = (ROOT / name).read_text()
    folders = "lenet_jax|configs|experiments|examples|tests|results|docs"
    for path in re.findall(rf"(?<![\w/])(?:{folders})/[\w/.]*\w", text):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"(?:python|python3) -m\s+([\w.]+\w)", text):
        assert importlib.util.find_spec(module), module


def test_the_printed_graph_is_what_the_command_prints(capsys):
    from lenet_jax import graph

    assert graph.main(["--backend", "plain"]) == 0
    shown = next(
        block[2] for block in BLOCK.finditer(TEXT) if "operation" in block[2].split("\n")[0]
    )
    assert capsys.readouterr().out.startswith(shown)


def test_the_readmes_python_runs(tmp_path, monkeypatch):
    from lenet_jax import data

    readme = (ROOT / "README.md").read_text()
    (block,) = [block for block in BLOCK.finditer(readme) if "lenet_jax.load(" in block[2]]
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    test = data.load("mnist", image_size=28).test
    namespace = {}
    exec(block[2], namespace)
    assert (namespace["classes"] == test.labels[:200]).mean() > 0.8
    assert namespace["features"].shape == (200, 84)
    assert (tmp_path / "runs" / "api" / "summary.json").exists()


def test_the_documents_sweep_files_run(tmp_path):
    from lenet_jax.config import base
    from lenet_jax.sweeps import file

    text = (ROOT / "docs" / "sweeps.md").read_text()
    snippets = [block[2] for block in BLOCK.finditer(text) if "def get_sweep" in block[2]]
    sizes = []
    for snippet in snippets:
        (tmp_path / "a.py").write_text(snippet)
        sizes.append(len(file.load(str(tmp_path / "a.py"), base.get_config())))
    assert sizes == [32, 10]
