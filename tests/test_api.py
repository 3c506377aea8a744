"""`lenet_jax.train` where the process is somebody else's: a thread, an event loop, a notebook."""

import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import lenet_jax
from lenet_jax import machine
from lenet_jax.errors import UserError
from lenet_jax.storage.run_dir import RunDir
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
