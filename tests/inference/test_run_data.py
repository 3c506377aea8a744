"""A run's data are located from any folder, and a warning says if they changed."""

import json
import shutil

import pytest

import lenet_jax
from lenet_jax import torch_bridge
from tests.support.runs import renew_sums


@pytest.fixture
def run(finished, folder, tmp_path):
    """A run whose config names its data by a relative path."""
    shutil.copytree(folder, tmp_path / "home" / "data" / "bars")
    run = tmp_path / "run"
    shutil.copytree(finished.path, run, ignore=shutil.ignore_patterns("checkpoints"))
    for name, changes in (
        ("config.json", {"data": finished.config.data.to_dict() | {"name": "data/bars"}}),
        ("run.json", {"working_directory": str(tmp_path / "home")}),
    ):
        values = json.loads((run / name).read_text()) | changes
        (run / name).write_text(json.dumps(values))
    renew_sums(run)
    return run


def test_a_run_says_where_it_was_started(finished):
    assert finished.read("run.json")["working_directory"] == str(finished.path.cwd())


def test_relative_data_are_found_from_another_folder(run, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    remarks = []
    dataset = lenet_jax.load(run).load_data(remarks.append)
    assert dataset.name == str(tmp_path / "home" / "data" / "bars")
    assert remarks == []


def test_data_that_changed_are_remarked_on(run, tmp_path, monkeypatch, run_command):
    file = tmp_path / "home" / "data" / "bars" / "train-images-idx3-ubyte"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    remarks = []
    lenet_jax.load(run).load_data(remarks.append)
    (remark,) = remarks
    assert remark.startswith("the data ") and "are not those that" in remark
    monkeypatch.chdir(tmp_path / "home")
    code, _, error = run_command(torch_bridge.main, "evaluate", run, "--data=data/bars")
    assert code == 0 and "are not those that" in error
