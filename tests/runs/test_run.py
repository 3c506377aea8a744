import contextlib
import csv
import errno
import functools
import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import lenet_jax
from lenet_jax import config as configs
from lenet_jax import data
from lenet_jax.errors import IF_DIVERGED, UserError, WriteError
from lenet_jax.inference.state_dict import to_state_dict
from lenet_jax.nn import native, ops
from lenet_jax.plots import curves, filters, results
from lenet_jax.runs import figures as report
from lenet_jax.runs import run as runs
from lenet_jax.storage import checkpoint
from lenet_jax.storage.run_dir import RunDir
from lenet_jax.training import parallel
from lenet_jax.training.batches import DeviceSplit, epoch_order, make_batch
from lenet_jax.training.environment import remark_on_device
from lenet_jax.training.evaluation import evaluate
from lenet_jax.training.hyperparameters import hyperparameters, seeds
from lenet_jax.training.loop import Trainer
from lenet_jax.training.spec import make_spec
from lenet_jax.training.step import init_state, train_step
from tests.support import tiny
from tests.support.datasets import digits, write_images
from tests.support.runs import (
    COMMAND,
    EPOCHS,
    STEPS,
    TEST,
    TRAIN,
    assert_same_end,
    bits,
    make_config,
    restore,
    send_in_epoch,
    start,
)

pytestmark = pytest.mark.usefixtures("patient")

FIGURES = {
    "curves.png",
    "confusion_matrix.png",
    "filters.png",
    "feature_maps.png",
    "mistakes.png",
}
FILES = FIGURES | {
    "checkpoints",
    "config.json",
    "metrics.csv",
    "metrics.jsonl",
    "model.safetensors",
    "run.json",
    "SHA256SUMS",
    "summary.json",
    "tensorboard",
}
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_run_writes_every_documented_file(finished):
    assert finished.code == 0
    assert {file.name for file in finished.path.iterdir()} == FILES | {".lock"}
    for name in FIGURES:
        with Image.open(finished.path / name) as image:
            image.load()
            assert min(image.size) > 200
    (events,) = (finished.path / "tensorboard").iterdir()
    assert b"valid/accuracy" in events.read_bytes()
    assert configs.load_json(finished.path / "config.json") == finished.config


def test_the_summary_covers_every_test_image_at_the_best_epoch(finished):
    summary, rows = finished.read("summary.json"), finished.rows()
    best = max(rows, key=lambda row: (row["valid/accuracy"], -row["epoch"]))
    arrays = restore(finished)
    dataset = data.load_section(finished.config.data)
    spec = make_spec(finished.config, dataset)
    valid, metrics = (
        jax.jit(functools.partial(evaluate, spec))(arrays.best_params, DeviceSplit.of(split))[0]
        for split in (dataset.valid, dataset.test)
    )
    assert float(valid.mean_loss) == pytest.approx(best["valid/loss"], rel=1e-5)
    weights = load_file(finished.path / "model.safetensors")
    for name, expected in to_state_dict(arrays.best_params).items():
        np.testing.assert_array_equal(weights[name], expected)
    seconds = summary.pop("train_seconds")
    assert seconds > 0
    assert summary.pop("images_per_second") == pytest.approx(EPOCHS * TRAIN / seconds)
    assert summary.pop("seconds_to_first_step") > 0
    assert summary == {
        "status": "done",
        "test_accuracy": pytest.approx(float(metrics.accuracy)),
        "test_loss": pytest.approx(float(metrics.mean_loss), rel=1e-5),
        "test_examples": TEST,
        "test_mistakes": TEST - int(metrics.correct),
        "best_epoch": best["epoch"],
        "valid_accuracy": best["valid/accuracy"],
        "num_params": sum(leaf.size for leaf in weights.values()),
        "epochs": EPOCHS,
        "steps": EPOCHS * STEPS,
    }


def test_the_record_has_the_command_environment_and_outcome(finished):
    record = finished.read("run.json")
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    assert record["git_revision"] == (head.stdout.strip() or None)
    assert record["command"] == "python -m lenet_jax.main '--workdir=a folder'"
    assert record["jax_backend"] == "cpu"
    assert record["devices"] == ["cpu"] * jax.device_count()
    assert record["versions"]["jax"] == jax.__version__
    assert record["seed"] == 0
    assert record["data_fingerprint"] == data.load_section(finished.config.data).fingerprint
    assert record["status"] == "done"
    assert record["exit_reason"] == "all epochs are trained"


def test_the_record_says_where_the_time_went(finished):
    spans = {span["name"]: span for span in finished.read("run.json")["timeline"]}
    names = "network", "tracing: _take_steps", "XLA: _take_steps", "training", "evaluation", "files"
    assert {*names, "figures"} <= spans.keys()
    assert all(0 <= span["start"] <= span["end"] for span in spans.values())
    ends = [spans[name]["end"] for name in (*names, "figures")]
    assert ends == sorted(ends)


def test_the_metrics_have_one_row_per_epoch_with_documented_names(finished):
    rows = finished.rows()
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["step"] for row in rows] == [5, 10, 15]
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.05, 0.025, 0.0125])
    assert set(rows[0]) == {
        "epoch",
        "step",
        "train/loss",
        "train/accuracy",
        "valid/loss",
        "valid/accuracy",
        "learning_rate",
        "images_per_second",
    }
    with (finished.path / "metrics.csv").open() as file:
        cells = list(csv.DictReader(file))
    assert [{name: float(cell) for name, cell in row.items()} for row in cells] == rows


def test_the_output_has_data_epochs_accuracy_and_what_to_do_next(finished):
    lines = finished.output.splitlines()
    assert any("70 train, 20 validation, 33 test images of 16×16×1, 6 classes" in x for x in lines)
    assert sum(line.startswith("epoch ") for line in lines) == EPOCHS
    assert any(line.startswith("test accuracy") for line in lines)
    inspect, predict = (line for line in lines if line.startswith("next: "))
    assert inspect.endswith(" -m lenet_jax.inspect '--workdir=a folder'")
    assert predict.endswith(" -m lenet_jax.predict '--workdir=a folder' IMAGE")
    assert "\x1b" not in finished.output


def test_missing_data_creates_no_directory(tmp_path):
    with pytest.raises(UserError, match="there is no file or folder"):
        start(tmp_path / "run", make_config(tmp_path / "nothing"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["log", "encode", "save_weights"])
def test_a_full_disk_fails_the_run_and_keeps_the_last_checkpoint(
    finished, folder, tmp_path, monkeypatch, target
):
    def fail(*_, **__):
        raise FULL

    with monkeypatch.context() as patch:
        send_in_epoch(patch, 1, signal.SIGTERM)
        assert start(tmp_path, make_config(folder)).code == 143
    holders = {"log": RunDir, "encode": checkpoint, "save_weights": report}
    with monkeypatch.context() as patch, pytest.raises(WriteError) as caught:
        patch.setattr(holders[target], target, fail)
        start(tmp_path, make_config(folder))
    assert "cannot be written: No space left on device; free disk space, then run" in str(
        caught.value
    )
    assert len(str(caught.value).splitlines()) == 1
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["status"] == "failed"
    assert "No space left on device" in record["exit_reason"]
    monkeypatch.setattr(report, "draw_figures", lambda *_: [])
    resumed = start(tmp_path, make_config(folder))
    assert "resumed after epoch " in resumed.output
    assert_same_end(resumed, finished)


def first_non_finite_step(config):
    """The first non-finite step of the first epoch, counted from 1, in a plain loop."""
    dataset = data.load_section(config.data)
    spec, settings = make_spec(config, dataset), hyperparameters(config)
    state = init_state(spec, seeds(config), settings)
    split = jax.device_put(DeviceSplit.of(dataset.train))
    for step, indices in enumerate(epoch_order(spec, state.order_key, jnp.int32(0)), 1):
        batch = make_batch(spec, split, indices, state.augment_key, settings)
        state, metrics = jax.jit(functools.partial(train_step, spec))(state, batch, settings)
        if not all(map(np.isfinite, (metrics.loss, *map(np.sum, jax.tree.leaves(state.params))))):
            return step
    return None


@pytest.mark.parametrize(
    "sections",
    [
        {"optimizer": {"learning_rate": 1e7}},
        # One step: its loss and the new weights are finite, but the loss of these weights is not.
        {
            "train": {"batch_size": 128, "micro_batch_size": 128},
            "optimizer": {"learning_rate": 1e30},
        },
    ],
)
def test_a_diverged_run_reports_it_and_saves_nothing(folder, tmp_path, sections):
    run = start(tmp_path, make_config(folder, **sections))
    assert run.code == 3
    step = 1 if "train" in sections else first_non_finite_step(run.config)
    reason = f"the loss or the weights stopped being finite at step {step}, in epoch 1"
    record = run.read("run.json")
    assert (record["status"], record["exit_reason"]) == ("diverged", reason)
    warning = f"warning: {reason}; latest checkpoint: none; {IF_DIVERGED}"
    assert warning in run.output.splitlines()
    with pytest.raises(UserError, match=f"its run diverged: {reason}\nIts command would repeat"):
        lenet_jax.load(tmp_path)
    assert run.rows() == []
    assert list((tmp_path / "checkpoints").iterdir()) == []
    assert not (tmp_path / "summary.json").exists()


def test_a_repeated_run_is_bit_identical(finished, tmp_path, no_figures):
    again = start(tmp_path, finished.config)
    files = [run.path / "model.safetensors" for run in (again, finished)]
    one, other = (hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    assert one == other
    assert_same_end(again, finished)


def test_weights_and_order_do_not_depend_on_the_number_of_devices(finished, monkeypatch):
    dataset = data.load_section(finished.config.data)
    spec = make_spec(finished.config, dataset)
    states, orders = [], []
    for num_devices in (1, 2):
        monkeypatch.setattr(parallel, "count_sharing", lambda *_, n=num_devices: n)
        state = Trainer(finished.config, dataset).init()
        order = parallel.compile_shared(functools.partial(epoch_order, spec), num_devices)
        states.append(jax.tree.map(bits, state))
        orders.append(np.asarray(order(state.order_key, np.int32(3))))
        assert len(orders[-1].shape) == 2
    jax.tree.map(np.testing.assert_array_equal, *states)
    np.testing.assert_array_equal(*orders)


def test_a_failing_figure_is_a_warning(finished, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ValueError

    for name in FIGURES:
        plot = f"plot_{name.removesuffix('.png')}"
        modules = curves, filters, results
        holder = next(module for module in modules if hasattr(module, plot))
        monkeypatch.setattr(holder, plot, fail)
    run = start(tmp_path, finished.config)
    assert run.code == 0
    assert run.read("run.json")["status"] == "done"
    assert {file.name for file in tmp_path.iterdir()} == (FILES - FIGURES) | {".lock"}
    for name in FIGURES:
        assert f"warning: {name} was not drawn: ValueError" in run.output


def test_a_profile_of_the_last_epoch_can_be_opened(tmp_path, folder, no_figures):
    with contextlib.redirect_stdout(io.StringIO()):
        config, command = make_config(folder), COMMAND
        assert runs.run(config, str(tmp_path), command, time.perf_counter(), profile=True) == 0
    (trace,) = (tmp_path / "profile").rglob("*.trace.json.gz")
    with gzip.open(trace) as file:
        assert any("while" in event.get("name", "") for event in json.load(file)["traceEvents"])


def test_a_run_without_a_compiler_warns_that_it_is_slower(
    folder, tmp_path, monkeypatch, no_figures
):
    monkeypatch.setattr(native, "missing", lambda: "there is no C++ compiler here")
    monkeypatch.setattr(ops, "choose_backend", lambda *_: "plain")
    run = start(tmp_path, make_config(folder, model={"backend": "auto"}))
    warning = "training is slower than it could be: there is no C++ compiler here"
    assert warning in run.output.splitlines()
    assert run.read("run.json")["backend"] == "plain"


@pytest.mark.parametrize(
    ("changes", "multiplies", "said"),
    [
        ({"train": {"precision": "bfloat16"}}, True, False),
        ({"train": {"precision": "bfloat16"}}, False, True),
        ({"train": {"precision": "bfloat16"}, "model": {"activation": "tanh"}}, True, True),
        ({"train": {"precision": "tensorfloat32"}}, True, True),
        ({}, False, False),
    ],
)
def test_a_precision_that_changes_nothing_is_said(folder, monkeypatch, changes, multiplies, said):
    monkeypatch.setattr(native, "has_bfloat16", lambda: multiplies)
    changes.setdefault("model", {}).setdefault("backend", "native")
    config = make_config(folder, **changes)
    remark = remark_on_device(config)
    assert (f"{config.train.precision} changes nothing" in (remark or "")) == said


def test_the_smoothed_objective_is_logged_beside_the_loss(folder, tmp_path, no_figures):
    run = start(tmp_path, make_config(folder, train={"label_smoothing": 0.2, "num_epochs": 1}))
    (row,) = run.rows()
    names = list(row)
    assert names.index("train/objective") == names.index("train/loss") + 1
    assert row["train/objective"] != row["train/loss"]
    assert "train/objective" in (tmp_path / "metrics.csv").read_text().splitlines()[0]


def test_a_run_that_has_learned_nothing_says_so(folder, tmp_path, no_figures):
    config = make_config(folder, optimizer={"learning_rate": 1e-9}, train={"num_epochs": 1})
    said = "warning: hardly better than chance: it has learned nothing; try another learning rate"
    assert start(tmp_path, config).output.splitlines()[-1] == said


def test_what_was_done_to_the_data_is_said_and_recorded(capsys, tmp_path, no_figures):
    images, labels = digits(120, classes=3)
    folder = tmp_path / "shapes"
    write_images(folder, np.kron(images, np.ones((2, 2), np.uint8)), labels + 1)
    config = tiny.config(
        data={"name": str(folder), "valid_examples": 5000},
        train={"num_epochs": 1},
        model={"backend": "plain"},
    )
    assert runs.run(config, str(tmp_path / "run"), COMMAND, time.perf_counter()) == 0
    remarks = [
        "there is no test set: a fifth of each class, 24 images, is held out as one, the same in"
        " every run",
        "9 of the 96 training images, a tenth, are held out for validation",
    ]
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line in remarks] == remarks
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data_remarks"] == remarks
    assert runs.run(config, str(tmp_path / "run"), COMMAND, time.perf_counter()) == 0
    network = lenet_jax.load(tmp_path / "run")
    assert network.class_names == ("1", "2", "3")
