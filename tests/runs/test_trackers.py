"""Trackers: the real libraries offline, and what happens when one is missing or fails."""

import os
import signal
import socket
import sys

import pytest

from lenet_jax.errors import UserError
from lenet_jax.runs import trackers
from lenet_jax.runs.trackers import Tracker
from tests.support.runs import assert_same_end, make_config, send_in_epoch, start

pytestmark = pytest.mark.usefixtures("no_figures", "no_network")


@pytest.fixture
def no_network(monkeypatch):
    """Fails what connects to another machine, and lets no setting of this one choose a server."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "WANDB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("NETRC", os.devnull)
    connect = socket.socket.connect

    def connect_here(self, address):
        assert self.family == socket.AF_UNIX, f"connects to {address}"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)


class Recorder(Tracker):
    """Fails when it is given the row of an epoch."""

    name = "recorder"

    def __init__(self, warn, fails):
        super().__init__(warn)
        self.fails, self.calls = fails, []

    def _start(self, workdir, config, run):
        self.calls.append(run)
        if self.fails == 0:
            raise ConnectionError("no server")
        return "abc"

    def _log(self, row):
        self.calls.append(row["epoch"])
        if row["epoch"] == self.fails:
            raise OSError("No space left on device")

    def _end(self, status, summary):
        self.calls.append((status, summary["test_examples"]))


def test_a_tracker_that_fails_costs_no_result(folder, finished, tmp_path, monkeypatch):
    made = []

    def make_trackers(names, warn):
        made.append(Recorder(warn, fails))
        return [made[-1]]

    monkeypatch.setattr("lenet_jax.runs.run.make_trackers", make_trackers)
    config = make_config(folder)
    fails = 0  # at the start
    with pytest.raises(UserError) as caught:
        start(tmp_path, config)
    first, second = str(caught.value).splitlines()
    assert first.startswith("the hook Recorder.on_start failed (")
    assert first.endswith("): ConnectionError: no server") and "resumes the run" in second
    assert not list((tmp_path / "checkpoints").iterdir())
    fails = 2
    run = start(tmp_path, config)
    assert run.code == 0 and made[-1].calls == [None, 1, 2]
    reason = "OSError: No space left on device"
    warning = f"warning: recorder failed and is left out from now on: {reason}"
    assert run.output.splitlines().count(warning) == 1
    assert_same_end(run, finished)
    assert run.read("trackers.json") == {"recorder": "abc"}


@pytest.mark.parametrize("name", trackers.TYPES)
def test_a_library_that_is_missing_is_named_before_anything_is_written(
    folder, tmp_path, monkeypatch, name
):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError) as caught:
        start(tmp_path / "run", make_config(folder, log={"trackers": (name,)}))
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"log.trackers={name} needs {name}")
    assert second == f"Install it and its dependencies: pip install '.[{name}]'"
    assert not (tmp_path / "run").exists()


@pytest.fixture
def installed():
    """The trackers whose libraries are here: all, where none may be missing."""
    here = [name for name in trackers.TYPES if _is_here(name)]
    if os.environ.get("LENET_JAX_REQUIRE_TRACKERS"):
        assert here == list(trackers.TYPES)
    if not here:
        pytest.skip("mlflow and wandb are extras")
    return here


def _is_here(name):
    try:
        trackers.TYPES[name](pytest.fail)
    except ImportError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the libraries' own doing
def test_the_real_libraries_record_a_resumed_run(
    installed, folder, finished, tmp_path, monkeypatch
):
    config = make_config(folder, log={"trackers": tuple(installed)})
    with monkeypatch.context() as patch:
        send_in_epoch(patch, 1, signal.SIGTERM)
        first = start(tmp_path / "run", config)
    assert first.code == 143
    ids = first.read("trackers.json")
    run = start(first.path, config)
    assert run.code == 0 and "left out" not in first.output + run.output
    assert run.read("trackers.json") == ids and ids.keys() == set(installed)
    assert_same_end(run, finished)
    if "mlflow" in installed:
        check_mlflow(run, ids["mlflow"])
    if "wandb" in installed:
        files = sorted((run.path / "wandb").glob(f"offline-run-*-{ids['wandb']}/*.wandb"))
        assert len(files) == 2
        last = files[1].read_bytes()
        for text in (b"valid/accuracy", b"test_accuracy", b"step_scale"):
            assert text in last


def check_mlflow(run, number):
    from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

    client = MlflowClient(tracking_uri=f"sqlite:///{run.path / 'mlflow.db'}")
    recorded = client.get_run(number)
    assert recorded.info.status == "FINISHED"
    assert recorded.data.tags["workdir"] == str(run.path)
    assert recorded.data.params["optimizer.name"] == "sgd" and recorded.data.params["seed"] == "0"
    history = client.get_metric_history(number, "valid/loss")
    rows = {row["epoch"]: row["valid/loss"] for row in run.rows()}
    assert {point.step: point.value for point in history} == rows
    summary = run.read("summary.json")
    assert recorded.data.metrics["test_accuracy"] == summary["test_accuracy"]
