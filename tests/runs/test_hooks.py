"""Hooks: what they are given, and what happens when one fails."""

import json
import re

import numpy as np
import pytest

import lenet_jax
from lenet_jax import config as configs
from lenet_jax.errors import UserError
from tests.support.runs import assert_same_end, make_config, start

pytestmark = pytest.mark.usefixtures("no_figures")


class Listener:
    """Keeps what it is given; fails in one epoch, if one is named."""

    def __init__(self, images, fails=None):
        self.images, self.fails, self.calls, self.answers = images, fails, [], []

    def on_start(self, workdir, config, epoch):
        self.calls.append(("start", workdir, config["train"]["batch_size"], epoch))

    def on_epoch(self, row, network):
        if row["epoch"] == self.fails:
            raise ValueError("no more")
        self.calls.append(dict(row))
        self.answers.append(network().predict(self.images))
        with pytest.raises(TypeError):
            row["epoch"] = 0

    def on_end(self, status, summary):
        self.calls.append((status, dict(summary)))


class Late:
    """Has but one of the methods."""

    def on_end(self, status, summary):
        self.status = status


def test_hooks_are_given_what_the_run_writes_and_a_failing_one_ends_it(
    folder, finished, tmp_path, monkeypatch
):
    monkeypatch.setattr("lenet_jax.machine.use_compilation_cache", lambda: None)
    monkeypatch.setattr("lenet_jax.machine.use_cores", lambda: None)
    path, late = tmp_path / "run", Late()
    images = np.random.default_rng(0).integers(0, 256, (9, 16, 16), np.uint8)
    config = make_config(folder, checkpoint={"every_epochs": 3})
    first, second = Listener(images, fails=2), Listener(images)
    with pytest.raises(UserError) as caught:
        lenet_jax.train(config, path, hooks=[first, late])
    message = r"the hook Listener\.on_epoch failed \(test_hooks\.py:\d+\): ValueError: no more"
    assert re.fullmatch(f"{message}\nThe same call resumes the run\\.", str(caught.value))
    assert first.calls[0] == ("start", path, 16, 0)
    assert len(first.calls) == 2 and not hasattr(late, "status")
    record = json.loads((path / "run.json").read_text())
    assert (record["status"], record["has_checkpoint"]) == ("failed", True)
    assert [step.name for step in (path / "checkpoints").iterdir()] == ["10"]

    lenet_jax.train(config, path, hooks=[second, late])
    run = finished._replace(path=path, config=config)
    assert_same_end(run, finished)
    assert second.calls[0] == ("start", path, 16, 2)
    assert first.calls[1:] + second.calls[1:-1] == [run.rows()[0], run.rows()[2]]
    assert second.calls[-1] == (late.status, run.read("summary.json")) and late.status == "done"
    if run.read("summary.json")["best_epoch"] == 3:
        network = lenet_jax.load(path)
        np.testing.assert_array_equal(second.answers[-1], network.predict(images))


class Failing:
    """Fails at the end of a run."""

    def on_end(self, status, summary):
        raise ValueError("no more")


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({}, "The run is finished: the same call loads it, and calls no hook."),
        ({"optimizer.learning_rate": 1e30}, "The run diverged: lower optimizer.learning_rate or"),
    ],
)
def test_a_hook_that_fails_at_the_end_says_what_became_of_the_run(
    folder, tmp_path, changes, advice
):
    config = configs.replace(make_config(folder, train={"num_epochs": 1}), changes)
    with pytest.raises(UserError, match=r"Failing\.on_end failed") as caught:
        start(tmp_path / "run", config, hooks=[Failing()])
    assert str(caught.value).splitlines()[1].startswith(advice)


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        (Late(), "hooks must be a list of objects, not Late"),
        ([Late], r"the hook Late is a class; give an object of it: Late\(…\)"),
        ([print], "has none of on_start, on_epoch, on_end"),
        ([type("Odd", (), {"on_end": 3})()], "the hook Odd.on_end is no method, but 3"),
    ],
)
def test_what_is_no_hook_is_refused_at_once(hooks, message, folder, tmp_path):
    with pytest.raises(UserError, match=message):
        start(tmp_path / "run", make_config(folder), hooks=hooks)
    assert not (tmp_path / "run").exists()
