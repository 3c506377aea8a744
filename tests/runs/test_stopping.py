"""A run that ends early, and one that averages its weights, resumed to the same bits."""

import hashlib
import signal

import numpy as np
import pytest
from safetensors.numpy import load_file

import lenet_jax
from lenet_jax.errors import UserError
from tests.support import tiny
from tests.support.runs import assert_same_end, make_config, send_in_epoch, start

pytestmark = pytest.mark.usefixtures("no_figures")


FUNCTIONS = """
def twice(logits, labels):
    return 2 * (logits**2).sum(axis=1)
def peak(logits, labels):
    return logits.max(axis=1)
"""


class Failing:
    """Fails in the second epoch."""

    def on_epoch(self, row, network):
        if row["epoch"] == 2:
            raise ValueError


def test_patience_ends_a_run_and_its_resumption(folder, finished, tmp_path):
    rows = finished.rows()
    assert rows[1]["valid/accuracy"] <= rows[0]["valid/accuracy"]  # so that it ends after 2
    config = make_config(folder, train={"patience": 1})
    with pytest.raises(UserError):
        start(tmp_path, config, hooks=[Failing()])
    run = start(tmp_path, config)
    assert run.code == 0
    assert "stopped early: no better validation accuracy since epoch 1; train.patience=1" in (
        run.output
    )
    for ours, theirs in zip(run.rows(), rows[:2], strict=True):
        assert ours | {"images_per_second": 0} == theirs | {"images_per_second": 0}
    summary = run.read("summary.json")
    assert (summary["epochs"], summary["best_epoch"], summary["stopped_early"]) == (2, 1, True)
    assert run.read("run.json")["exit_reason"] == "no better validation accuracy since epoch 1"
    assert "already finished" in start(tmp_path, config).output
    again = start(tmp_path, make_config(folder, train={"patience": 1, "num_epochs": 9}))
    assert again.code == 0 and again.read("summary.json")["epochs"] == 2


def test_own_functions_and_the_average_of_the_weights_are_resumed_exactly(
    folder, tmp_path, monkeypatch
):
    source = tmp_path / "own.py"
    source.write_text(FUNCTIONS)
    train = {"ema_decay": 0.9, "loss": f"{source}:twice", "measurements": (f"{source}:peak",)}
    config = make_config(folder, train=train)
    whole = start(tmp_path / "whole", config)
    with monkeypatch.context() as patch:
        send_in_epoch(patch, 1, signal.SIGTERM)
        assert start(tmp_path / "run", config).code == 143
    run = start(tmp_path / "run", config)
    assert_same_end(run, whole)
    last = run.rows()[-1]
    assert {"train/objective", "valid/ema_loss", "valid/ema_accuracy"} <= last.keys()
    assert last["train/objective"] != last["train/loss"]
    assert {"valid/peak", "valid/ema_peak"} <= last.keys()
    assert f"peak {last['valid/peak']:.4g}  lr" in run.output
    averages = [load_file(each.path / "model_ema.safetensors") for each in (run, whole)]
    assert all((averages[0][name] == averages[1][name]).all() for name in averages[1])
    network = lenet_jax.load(run.path / "model_ema.safetensors")
    summary = run.read("summary.json")
    assert summary["test_ema_accuracy"] == whole.read("summary.json")["test_ema_accuracy"]
    test = tiny.dataset().test
    accuracy = np.mean(network.predict(test.images) == test.labels)
    assert accuracy == pytest.approx(summary["test_ema_accuracy"], abs=1e-6)
    peaks = network.logits(test.images).max(axis=1)
    assert summary["test_ema_peak"] == pytest.approx(peaks.mean(), rel=1e-5)
    best = lenet_jax.load(run.path)
    peaks = best.logits(test.images).max(axis=1)
    assert summary["test_peak"] == pytest.approx(peaks.mean(), rel=1e-5)
    assert best.plot("curves").axes[3].get_title("left") == "peak"
    text = hashlib.sha256(source.read_bytes()).hexdigest()
    record = run.read("run.json")
    assert record["loss_sha256"] == record["measurement_sha256"] == text
    source.write_text(FUNCTIONS + "\n")
    changed = start(run.path, config).output
    assert "own.py changed since" in changed and "test peak" in changed


def test_without_validation_the_last_epoch_is_tested(folder, tmp_path, monkeypatch):
    """By `diagonal_lm`, whose curvatures are part of what is resumed."""
    config = make_config(
        folder,
        data={"valid_examples": 0},
        train={"ema_decay": 0.5, "normalize": "lenet_1998"},
        optimizer={"name": "diagonal_lm", "learning_rate": 2e-3, "samples": 7},
    )
    whole = start(tmp_path / "whole", config)
    with monkeypatch.context() as patch:
        send_in_epoch(patch, 1, signal.SIGTERM)
        assert start(tmp_path / "stopped", config).code == 143
    assert_same_end(start(tmp_path / "stopped", config), whole)
    assert not [name for row in whole.rows() for name in row if name.startswith("valid")]
    assert "of the last epoch: there are no validation images" in whole.output
    summary = whole.read("summary.json")
    assert summary["best_epoch"] == 3 and "valid_accuracy" not in summary
    network = lenet_jax.load(whole.path)
    pixels = np.array([[0.0, 255.0]]).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(
        (pixels - network.mean[0]) / network.std[0], [[[[-0.1], [1.175]]]], rtol=1e-6
    )
