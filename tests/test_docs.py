"""The documentation is accurate: its Python runs, and what it cites and names exists."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "from_pytorch.md"
DOCUMENTS = sorted((ROOT / "docs").glob("*.md"))
TEXT = DOCUMENT.read_text()
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run_blocks(kinds):
    namespace = {}
    for block in BLOCK.finditer(TEXT):
        if block[1] in kinds:
            lines_before = TEXT[: block.start(2)].count("\n")
            code = compile("\n" * lines_before + block[2], str(DOCUMENT), "exec")
            exec(code, namespace)
    return namespace


def test_python_blocks_run():
    assert "first_max" in run_blocks({"python"})


@pytest.mark.torch
def test_python_blocks_run_beside_live_pytorch():
    pytest.importorskip("torch", reason="torch is not installed: its blocks are skipped")
    assert {"torch_out", "first_max"} <= run_blocks({"python", "python torch"}).keys()


def test_every_block_is_of_a_known_kind():
    assert {block[1] for block in BLOCK.finditer(TEXT)} == {"python", "python torch", "text"}


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
    shown = next(block[2] for block in BLOCK.finditer(TEXT) if block[1] == "text")
    assert capsys.readouterr().out.startswith(shown)


def test_the_readmes_python_runs(tmp_path, monkeypatch):
    from lenet_jax import data

    readme = (ROOT / "README.md").read_text()
    (block,) = [block for block in BLOCK.finditer(readme) if "lenet_jax.load(" in block[2]]
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    test = data.load("mnist", image_size=28).test
    namespace = {"images": test.images[:200, ..., 0]}
    exec(block[2], namespace)
    assert (namespace["classes"] == test.labels[:200]).mean() > 0.8
    assert namespace["features"].shape == (200, 84)
    assert (tmp_path / "runs" / "api" / "summary.json").exists()


def test_the_documents_sweep_files_run(tmp_path):
    from lenet_jax.config import base
    from lenet_jax.sweeps import file

    text = (ROOT / "docs" / "sweeps.md").read_text()
    snippets = [block[2] for block in BLOCK.finditer(text) if "def get_sweep" in block[2]]
    assert snippets
    for snippet in snippets:
        (tmp_path / "a.py").write_text(snippet)
        assert len(file.load(str(tmp_path / "a.py"), base.get_config())) == 32
