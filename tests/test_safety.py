"""Nothing that is read can run as code, and nothing is fetched that was not asked for by name.

That a `.pt` file's program is not run is tested in `test_torch_bridge.py`, that the main job needs
no network in `test_end_to_end.py`, that checksums are enforced in `test_idx_builders.py`.
"""

import ast
from pathlib import Path

import pytest

from lenet_jax import config
from lenet_jax.errors import UserError
from tests.support.root import ROOT

PROGRAMS = [file for name in ("lenet_jax", "experiments") for file in (ROOT / name).rglob("*.py")]
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield (
                ast.unparse(node.func),
                {word.arg: ast.unparse(word.value) for word in node.keywords},
            )


@pytest.mark.parametrize("file", PROGRAMS, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_pickle_is_read_or_written(file: Path):
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert UNPICKLERS.isdisjoint(name.name for name in node.names)
        if isinstance(node, ast.ImportFrom) and node.module in UNPICKLERS:
            assert [name.name for name in node.names] == ["UnpicklingError"]  # an error is data
    for function, words in calls(tree):
        if function.endswith("np.load"):
            assert words.get("allow_pickle", "False") == "False"
        if function == "torch.load":
            assert words["weights_only"] == "True"
        if function == "np.save":
            assert words["allow_pickle"] == "False"


@pytest.mark.parametrize("file", PROGRAMS, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_archive_is_extracted_by_the_names_in_it(file: Path):
    names = {function.rpartition(".")[2] for function, _ in calls(ast.parse(file.read_text()))}
    assert names.isdisjoint({"extractall", "unpack_archive", "eval"})


def test_only_config_files_and_sweep_files_run_as_code():
    running = {
        str(file.relative_to(ROOT))
        for file in PROGRAMS
        for function, _ in calls(ast.parse(file.read_text()))
        if function in ("exec", "runpy.run_path", "spec.loader.exec_module")
    }
    # The export runs what it has just written itself.
    assert running == {
        "lenet_jax/config/source.py",
        "lenet_jax/export.py",
    }


def test_a_finished_run_is_read_without_running_what_lies_beside_it(tmp_path):
    proof = tmp_path / "it_ran"
    program = f"open({str(proof)!r}, 'w')"
    for name in ("config.py", "config.json"):
        (tmp_path / name).write_text(program)
    with pytest.raises(UserError, match="is not JSON"):
        config.load_json(tmp_path / "config.json")
    assert not proof.exists()
