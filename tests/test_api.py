"""`lenet_jax.train` where the process is somebody else's: a thread, an event loop, a notebook."""

import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import load_file

import lenet_jax
from lenet_jax import inspect, machine
from lenet_jax.data.idx import read_idx
from lenet_jax.errors import UserError
from lenet_jax.storage.run_dir import RunDir
from lenet_jax.sweeps.file import sweep
from tests.support import tiny
from tests.support.runs import Run, assert_same_end, make_config

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Leaves the tests' own number of devices, and their cache."""
    monkeypatch.setattr(machine, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(machine, "use_cores", lambda: None)


def status(folder):
    record = json.loads((folder / "run.json").read_text())
    return record["status"], record["exit_reason"]


def test_in_a_thread(folder, tmp_path):
    with ThreadPoolExecutor(1) as pool:
        network = pool.submit(lenet_jax.train, make_config(folder), tmp_path / "run").result()
    assert network.predict(np.zeros((1, 16, 16), np.uint8)).shape == (1,)
    assert status(tmp_path / "run")[0] == "done"


def test_on_an_event_loop(folder, tmp_path):
    async def train():
        return lenet_jax.train(make_config(folder), tmp_path / "run")

    asyncio.run(train())
    assert status(tmp_path / "run")[0] == "done"


def test_an_interrupted_cell_of_a_notebook_resumes_to_the_same_result(
    folder, finished, tmp_path, monkeypatch
):
    monkeypatch.setattr(sys, "ps1", "In : ", raising=False)
    log = RunDir.log

    def interrupt(self, row):
        log(self, row)
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    path, config = tmp_path / "run", make_config(folder)
    with monkeypatch.context() as patched:
        patched.setattr(RunDir, "log", interrupt)
        with pytest.raises(KeyboardInterrupt):
            lenet_jax.train(config, path)
    assert status(path) == ("interrupted", "stopped by SIGINT")
    lenet_jax.train(config, path)
    assert_same_end(Run(path, config, 0, ""), finished)


def test_a_user_error_is_short_in_a_notebook(tmp_path):
    with pytest.raises(UserError) as caught:
        lenet_jax.load(tmp_path / "nothing")
    assert caught.value._render_traceback_() == [str(caught.value)]


@pytest.mark.parametrize("config", [None, 3, ["configs/notes.py"]])
def test_what_is_no_config_is_refused(config, tmp_path):
    with pytest.raises(UserError, match="config must be a config, or the name of a file or a run"):
        lenet_jax.train(config, tmp_path / "run")


def read_arrays(folder):
    names = (f"{split}-{kind}" for split in ("train", "t10k") for kind in ("images", "labels"))
    return [read_idx(next(folder.glob(f"{name}*"))) for name in names]


def test_a_folder_whose_name_is_too_long_is_refused():
    with pytest.raises(UserError, match="cannot be read: File name too long"):
        lenet_jax.train("configs/notes.py:smoke", "x" * 300)


def test_arrays_train_as_their_files_do_and_the_run_says_that_they_are_not_stored(
    folder, finished, tmp_path, run_command
):
    arrays = read_arrays(folder)
    config, path = make_config(folder), tmp_path / "run"
    network = lenet_jax.train(config, path, data=(arrays[0] / 255, *arrays[1:]))
    weights, expected = (load_file(run / "model.safetensors") for run in (path, finished.path))
    for name, values in expected.items():
        np.testing.assert_array_equal(weights[name], values)
    assert "data given in Python" in repr(network)
    lenet_jax.train(config, path, data=arrays)  # which is finished
    with pytest.raises(UserError, match="the data 'given in Python' changed since"):
        lenet_jax.train(config, path, data=arrays[:2])
    with pytest.raises(UserError, match="in Python, and are not stored"):
        lenet_jax.train(path, tmp_path / "other")
    code, _, error = run_command(inspect.main, f"--workdir={path}")
    assert code == 2 and "were given in Python, and are not stored" in error


@pytest.mark.slow
def test_a_sweep_on_arrays_is_resumed_with_the_same_ones_only(folder, finished, tmp_path):
    arrays, config, path = read_arrays(folder), make_config(folder), tmp_path / "sweep"
    seeds = sweep("seed", [0, 1])
    rows = lenet_jax.train_sweep(config, seeds, path, data=arrays, save="all").rows
    assert [(row["member"], row["seed"], row["status"]) for row in rows] == [
        (0, 0, "done"),
        (1, 1, "done"),
    ]
    assert rows[0]["best_epoch"] == finished.read("summary.json")["best_epoch"]
    network = lenet_jax.load(path, member=0)
    for name, values in load_file(finished.path / "model.safetensors").items():
        np.testing.assert_array_equal(network.state_dict[name], values)
    again = lenet_jax.train_sweep(config, seeds, path, data=tuple(arrays), save="all")
    assert again.rows == rows
    with pytest.raises(UserError, match="holds another sweep: its data_fingerprints differ"):
        lenet_jax.train_sweep(config, seeds, path, data=arrays[:2], save="all")


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        (sweep("data.name", ["mnist"]), {}, "data.name cannot vary in a sweep whose data are"),
        (sweep("data.valid_examples", [3, 4]), {}, "data.valid_examples cannot vary in a sweep wh"),
        ({"seed": 1}, {}, "sweep: it is dict, not a list of overrides"),
        ([{"seed": 1}, 3], {}, "sweep: it is a list with 3, not a list of overrides"),
        ([], {}, "sweep: the sweep is empty"),
        (sweep("lr", [1]), {}, "sweep: unknown key lr; did you mean optimizer.learning_rate"),
        (sweep("seed", [1]), {"save": "bset"}, "save=bset: must be one of best, all, none"),
        (sweep("seed", [1]), {"chunk_size": 0}, "chunk_size=0: must be an integer of at least 1"),
    ],
)
def test_a_sweep_that_is_mistaken_writes_nothing(tmp_path, changes, options, message):
    data = tiny.dataset()
    with pytest.raises(UserError, match=message):
        lenet_jax.train_sweep(tiny.config(), changes, tmp_path / "x", data=data, **options)
    assert not (tmp_path / "x").exists()
