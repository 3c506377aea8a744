import contextlib
import csv
import errno
import functools
import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny
from PIL import Image
from safetensors.numpy import load_file

from lenet_jax import batches, data, interrupt, parallel, recipe, report, torch_bridge, train
from lenet_jax import config as configs
from lenet_jax import run as runs
from lenet_jax.checkpoint import Checkpoints, manifest
from lenet_jax.errors import UserError, WriteError
from lenet_jax.programs import Programs
from lenet_jax.workdir import Workdir

EPOCHS, STEPS, TRAIN, TEST = 3, 5, 70, 33
COMMAND = ["python", "-m", "lenet_jax.main", "--workdir=a folder"]
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
    "summary.json",
    "tensorboard",
}


class Run(NamedTuple):
    """A run that has ended: where it is, how it ended, and what it printed."""

    path: Path
    config: configs.Config
    code: int
    output: str

    def read(self, name):
        return json.loads((self.path / name).read_text())

    def rows(self):
        return [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_idx_folder(tmp_path_factory.mktemp("data") / "bars")


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A machine that is busy may take its time: what is tested here is no promise on time."""
    monkeypatch.setattr(interrupt, "GRACE", 600.0)


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(report, "draw_figures", lambda *_: [])


def make_config(folder, **sections):
    """A schedule that does not depend on the number of epochs, and a program that compiles fast.

    Nearly all runs here differ in numbers alone, so that one compiled program does for them.
    """
    defaults = {
        "data": {"name": str(folder)},
        "model": {"lowering": "plain"},
        "train": {"num_epochs": EPOCHS},
        "schedule": {"name": "step", "step_epochs": 1, "step_scale": 0.5},
    }
    sections = {
        name: defaults.get(name, {}) | sections.get(name, {}) for name in defaults | sections
    }
    return tiny.config(**sections)


def start(path, config):
    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = runs.run(config, str(path), COMMAND, time.perf_counter())
    return Run(path, config, code, output.getvalue())


@pytest.fixture(scope="module")
def finished(tmp_path_factory, folder):
    return start(tmp_path_factory.mktemp("runs") / "finished", make_config(folder))


def send_in_epoch(monkeypatch, epoch, number):
    """Has this process receive a signal when the epoch's metrics are written."""
    log = Workdir.log

    def log_and_send(self, row):
        log(self, row)
        if row["epoch"] == epoch:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Workdir, "log", log_and_send)


def restore(run):
    """The arrays of a run's last checkpoint."""
    made = recipe.make_recipe(run.config, data.load(**run.config.data))
    seeds, numbers = recipe.seeds(run.config), recipe.hyperparameters(run.config)
    state = jax.jit(functools.partial(train.init_state, made))(seeds, numbers)
    with Checkpoints(run.path / "checkpoints", keep=2) as checkpoints:
        restored = checkpoints.restore(runs.Arrays(state, state.params), pytest.fail)
        assert restored is not None
        return restored[0]


def assert_same_end(one, other):
    """The same rows but for the speed, and the same state and weights to the bit."""
    for a, b in zip(one.rows(), other.rows(), strict=True):
        assert a | {"images_per_second": 0} == b | {"images_per_second": 0}
    a, b = (jax.tree.map(bits, restore(run)) for run in (one, other))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    a, b = (load_file(run.path / "model.safetensors") for run in (one, other))
    jax.tree.map(np.testing.assert_array_equal, a, b)


def bits(leaf):
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def contents(path):
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    return {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def test_a_run_leaves_every_file_of_the_contract(finished):
    assert finished.code == 0
    assert {file.name for file in finished.path.iterdir()} == FILES | {".lock"}
    for name in FIGURES:
        with Image.open(finished.path / name) as image:
            image.load()
            assert min(image.size) > 200
    (events,) = (finished.path / "tensorboard").iterdir()
    assert b"valid/accuracy" in events.read_bytes()
    assert configs.load_json(finished.path / "config.json") == finished.config


def test_the_summary_is_of_every_test_image_and_the_best_epoch(finished):
    summary, rows = finished.read("summary.json"), finished.rows()
    best = max(rows, key=lambda row: (row["valid/accuracy"], -row["epoch"]))
    arrays = restore(finished)
    dataset = data.load(**finished.config.data)
    made = recipe.make_recipe(finished.config, dataset)
    evaluate = jax.jit(functools.partial(train.evaluate, made))
    valid, metrics = (
        evaluate(arrays.best_params, jnp.asarray(split.images), jnp.asarray(split.labels))[0]
        for split in (dataset.valid, dataset.test)
    )
    assert float(valid.mean_loss) == pytest.approx(best["valid/loss"], rel=1e-5)
    weights = load_file(finished.path / "model.safetensors")
    for name, expected in torch_bridge.to_state_dict(arrays.best_params).items():
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


def test_the_record_says_what_ran_where_and_how_it_ended(finished):
    record = finished.read("run.json")
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    assert record["git_revision"] == (head.stdout.strip() or None)
    assert record["command"] == "python -m lenet_jax.main '--workdir=a folder'"
    assert record["backend"] == "cpu"
    assert record["devices"] == ["cpu"] * jax.device_count()
    assert record["versions"]["jax"] == jax.__version__
    assert record["seed"] == 0
    assert record["data_fingerprint"] == data.load(**finished.config.data).fingerprint
    assert record["status"] == "done"
    assert record["exit_reason"] == "all epochs are trained"


def test_the_metrics_have_a_row_an_epoch_under_the_names_of_the_contract(finished):
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


def test_the_terminal_is_told_what_a_person_wants_to_know(finished):
    lines = finished.output.splitlines()
    assert any("70 train, 20 validation, 33 test images of 16×16×1, 6 classes" in x for x in lines)
    assert sum(line.startswith("epoch ") for line in lines) == EPOCHS
    assert any(line.startswith("test accuracy") for line in lines)
    for name in FILES:
        assert any(line.endswith(str(finished.path / name)) for line in lines), name
    assert "\x1b" not in finished.output


def test_a_finished_run_says_so_and_is_left_as_it_is(finished):
    before = contents(finished.path)
    again = start(finished.path, finished.config)
    assert again.code == 0
    assert "this run is finished" in again.output.splitlines()
    assert "test accuracy" in again.output
    assert "epoch " not in again.output
    assert contents(finished.path) == before


@pytest.mark.parametrize(
    ("sections", "differences"),
    [
        ({"optimizer": {"learning_rate": 0.1}}, ["optimizer.learning_rate: 0.05 → 0.1"]),
        ({"train": {"num_epochs": 2}}, ["train.num_epochs: 3 → 2"]),
        (
            {"train": {"num_epochs": 4}, "model": {"channels": (2, 4)}},
            ["model.channels: (2, 3) → (2, 4)", "train.num_epochs: 3 → 4"],
        ),
    ],
)
def test_another_config_is_refused(finished, folder, sections, differences):
    before = contents(finished.path)
    with pytest.raises(UserError) as caught:
        start(finished.path, make_config(folder, **sections))
    told = str(caught.value)
    assert f"{finished.path} holds a run of another config: " in told
    assert all(difference in told for difference in differences)
    assert len(told.splitlines()) <= 3
    assert contents(finished.path) == before


def test_changed_data_are_refused(finished, folder):
    labels = folder / "t10k-labels-idx1-ubyte"
    text, before = labels.read_bytes(), contents(finished.path)
    labels.write_bytes(text[:-1] + bytes([(text[-1] + 1) % 6]))
    try:
        with pytest.raises(UserError, match="changed since"):
            start(finished.path, finished.config)
    finally:
        labels.write_bytes(text)
    assert contents(finished.path) == before


def test_data_that_is_not_there_leaves_no_directory(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        start(tmp_path / "run", make_config(tmp_path / "nothing"))
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_run_goes_on_to_the_same_end(finished, folder, tmp_path, monkeypatch, no_figures):
    config = make_config(folder, checkpoint={"every_epochs": 100})
    for epoch, number, code in ((1, signal.SIGTERM, 143), (2, signal.SIGINT, 130)):
        with monkeypatch.context() as patch:
            send_in_epoch(patch, epoch, number)
            stopped = start(tmp_path, config)
        assert stopped.code == code
        assert ("resumed after epoch 1" in stopped.output.splitlines()) == (epoch == 2)
        reason = f"stopped by {number.name}"
        told = f"warning: {reason}; go on with: python -m lenet_jax.main '--workdir=a folder'"
        assert stopped.output.splitlines()[-1] == told
        record = stopped.read("run.json")
        assert (record["status"], record["exit_reason"]) == ("interrupted", reason)
        assert len(stopped.rows()) == epoch
        assert not (tmp_path / "summary.json").exists()

    resumed = start(tmp_path, config)
    assert resumed.code == 0
    assert "resumed after epoch 2" in resumed.output.splitlines()
    assert sum(line.startswith("epoch ") for line in resumed.output.splitlines()) == 1
    assert resumed.read("run.json")["status"] == "done"
    summary = resumed.read("summary.json")
    assert summary.keys() == finished.read("summary.json").keys()
    seconds = sum(TRAIN / row["images_per_second"] for row in resumed.rows())
    assert summary["train_seconds"] == pytest.approx(seconds)
    assert_same_end(resumed, finished)


def test_a_signal_in_the_last_epoch_stops_nothing(finished, tmp_path, monkeypatch, no_figures):
    send_in_epoch(monkeypatch, EPOCHS, signal.SIGTERM)
    assert start(tmp_path, finished.config).code == 0


def test_what_was_trained_behind_the_last_checkpoint_is_trained_again(
    finished, folder, tmp_path, monkeypatch, no_figures
):
    def die(self, epoch, *_):
        assert epoch == 2
        raise KeyboardInterrupt

    config = make_config(folder, checkpoint={"every_epochs": 2})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "save", die)
        start(tmp_path, config)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    assert_same_end(start(tmp_path, config), finished)


def test_more_epochs_extend_a_finished_run(finished, folder, tmp_path, monkeypatch, no_figures):
    short = start(tmp_path, make_config(folder, train={"num_epochs": 2}))
    assert short.read("summary.json")["epochs"] == 2
    written = []
    write_json = Workdir.write_json

    def write_and_look(self, name, value):
        write_json(self, name, value)
        epochs = self.read_json("config.json")["train"]["num_epochs"]
        written.append((self.read_json("run.json")["status"], epochs))

    monkeypatch.setattr(Workdir, "write_json", write_and_look)
    longer = start(tmp_path, finished.config)
    assert longer.code == 0
    assert "this run is extended: train.num_epochs: 2 → 3" in longer.output.splitlines()
    # Whenever the process dies, the directory never says that the longer run is done.
    assert written == [("running", 2), ("running", 3), ("running", 3), ("done", 3)]
    assert longer.read("summary.json")["epochs"] == EPOCHS
    assert_same_end(longer, finished)


def test_a_lost_summary_is_made_again(finished, tmp_path, no_figures):
    shutil.copytree(finished.path, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    again = start(tmp_path / "run", finished.config)
    assert again.code == 0
    assert "this run is finished" not in again.output
    timing = {"seconds_to_first_step": 0}
    assert again.read("summary.json") | timing == finished.read("summary.json") | timing


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("name", "make", "told"),
    [
        ("checkpoints", remove, "logged 3 epochs, but its checkpoints are gone"),
        ("checkpoints/*", remove, "logged 3 epochs, but its checkpoints are gone"),
        ("checkpoints/*/state", remove, "has no sound checkpoint: checkpoint 3 is damaged"),
        ("checkpoints/*/SHA256SUMS", remove, "checkpoint 3 is damaged (it has no SHA256SUMS)"),
        ("config.json", remove, "has checkpoints, but no config.json that tells what they are of"),
        ("run.json", remove, "has checkpoints, but no run.json that tells what they are of"),
        ("config.json", lambda file: file.write_text("{}"), "config.json: missing keys: "),
        ("config.json", lambda file: file.write_text("import os"), "config.json is not JSON: "),
        ("run.json", lambda file: file.write_text("{}"), "run.json is not what a run wrote"),
        ("run.json", lambda file: file.write_text("[]"), "run.json holds no JSON object"),
    ],
)
def test_a_run_is_never_begun_anew_over_what_is_damaged(
    finished, folder, tmp_path, name, make, told
):
    shutil.copytree(finished.path, tmp_path / "run")
    for file in list((tmp_path / "run").glob(name)):
        make(file)
    (tmp_path / "run" / "checkpoints").mkdir(exist_ok=True)  # which a start makes
    before = contents(tmp_path / "run")
    with pytest.raises(UserError) as caught:
        start(tmp_path / "run", make_config(folder, train={"num_epochs": 4}))
    assert told in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2
    assert contents(tmp_path / "run") == before


def test_a_checkpoint_of_another_version_is_refused(finished, folder, tmp_path):
    shutil.copytree(finished.path, tmp_path / "run")
    for step in (tmp_path / "run" / "checkpoints").iterdir():
        words = json.loads((step / "notes.json").read_text())
        words["run"]["phase"] = words["run"].pop("epoch")
        (step / "notes.json").write_text(json.dumps(words))
        (step / "SHA256SUMS").write_text(manifest(step))
    with pytest.raises(UserError, match="is of another version of lenet-jax"):
        start(tmp_path / "run", make_config(folder, train={"num_epochs": 4}))


def test_a_damaged_checkpoint_is_passed_over_in_one_line(
    finished, folder, tmp_path, monkeypatch, no_figures
):
    send_in_epoch(monkeypatch, 2, signal.SIGTERM)
    config = make_config(folder)
    assert start(tmp_path, config).code == 143
    monkeypatch.undo()
    monkeypatch.setattr(report, "draw_figures", lambda *_: [])
    file = next(file for file in (tmp_path / "checkpoints" / "2" / "state").glob("ocdbt*/d/*"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    (tmp_path / "metrics.jsonl").unlink()  # the checkpoint remembers the rows before it
    resumed = start(tmp_path, config)
    warnings = [x for x in resumed.output.splitlines() if x.startswith("warning")]
    name = file.relative_to(tmp_path / "checkpoints" / "2")
    assert warnings == [
        f"warning: checkpoint 2 is damaged ({name} is not as SHA256SUMS has it);"
        " going back to checkpoint 1"
    ]
    assert "resumed after epoch 1" in resumed.output.splitlines()
    assert_same_end(resumed, finished)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("target", ["log", "save", "save_weights"])
def test_a_full_disk_fails_the_run_and_leaves_the_checkpoint_before(
    finished, folder, tmp_path, monkeypatch, target
):
    def fail(*_, **__):
        raise FULL

    with monkeypatch.context() as patch:
        send_in_epoch(patch, 1, signal.SIGTERM)
        assert start(tmp_path, make_config(folder)).code == 143
    holders = {"log": Workdir, "save": ocp.Checkpointer, "save_weights": report}
    with monkeypatch.context() as patch, pytest.raises(WriteError) as caught:
        patch.setattr(holders[target], target, fail)
        start(tmp_path, make_config(folder))
    assert "cannot be written: No space left on device; make room, and" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["status"] == "failed"
    assert "No space left on device" in record["exit_reason"]
    monkeypatch.setattr(report, "draw_figures", lambda *_: [])
    resumed = start(tmp_path, make_config(folder))
    assert "resumed after epoch " in resumed.output
    assert_same_end(resumed, finished)


def first_step_that_is_not_finite(config):
    """Of the first epoch, counted from 1; by plain steps one after the other."""
    dataset = data.load(**config.data)
    made, numbers = recipe.make_recipe(config, dataset), recipe.hyperparameters(config)
    state = train.init_state(made, recipe.seeds(config), numbers)
    images, labels = jnp.asarray(dataset.train.images), jnp.asarray(dataset.train.labels)
    for step, indices in enumerate(batches.epoch_order(made, state.order_key, jnp.int32(0)), 1):
        batch = batches.make_batch(made, images, labels, indices, state.augment_key, numbers)
        state, metrics = jax.jit(functools.partial(train.train_step, made))(state, batch, numbers)
        if not all(map(np.isfinite, (metrics.loss, *map(np.sum, jax.tree.leaves(state.params))))):
            return step
    return None


@pytest.mark.parametrize(
    "sections",
    [
        {"optimizer": {"learning_rate": 1e6}},
        # All in one step: the loss it meets is finite, and so are the weights that it leaves; but
        # no loss of theirs is.
        {
            "train": {"batch_size": 128, "micro_batch_size": 128},
            "optimizer": {"learning_rate": 1e30},
        },
    ],
)
def test_a_diverged_run_says_so_and_saves_nothing(folder, tmp_path, sections):
    run = start(tmp_path, make_config(folder, **sections))
    assert run.code == 3
    step = 1 if "train" in sections else first_step_that_is_not_finite(run.config)
    reason = f"the loss or the weights stopped being finite at step {step}, in epoch 1"
    record = run.read("run.json")
    assert (record["status"], record["exit_reason"]) == ("diverged", reason)
    assert f"warning: {reason}; latest checkpoint: none" in run.output.splitlines()
    assert run.rows() == []
    assert list((tmp_path / "checkpoints").iterdir()) == []
    assert not (tmp_path / "summary.json").exists()


def test_a_repeated_run_ends_in_the_same_bits(finished, tmp_path, no_figures):
    again = start(tmp_path, finished.config)
    files = [run.path / "model.safetensors" for run in (again, finished)]
    one, other = (hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    assert one == other
    assert_same_end(again, finished)


def test_weights_and_order_do_not_depend_on_the_number_of_devices(finished, monkeypatch):
    dataset = data.load(**finished.config.data)
    made = recipe.make_recipe(finished.config, dataset)
    states, orders = [], []
    for num_devices in (1, 2):
        monkeypatch.setattr(parallel, "count_sharing", lambda *_, n=num_devices: n)
        state = Programs(finished.config, made, dataset).init()
        order = parallel.compile_shared(functools.partial(batches.epoch_order, made), num_devices)
        states.append(jax.tree.map(bits, state))
        orders.append(np.asarray(order(state.order_key, np.int32(3))))
        assert len(orders[-1].shape) == 2
    jax.tree.map(np.testing.assert_array_equal, *states)
    np.testing.assert_array_equal(*orders)


def test_a_run_that_goes_on_with_other_devices_says_so(
    finished, folder, tmp_path, monkeypatch, no_figures
):
    with monkeypatch.context() as patch:
        send_in_epoch(patch, 1, signal.SIGTERM)
        start(tmp_path, make_config(folder))
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["devices_sharing_a_batch"] == 1
    (tmp_path / "run.json").write_text(json.dumps(record | {"devices_sharing_a_batch": 3}))
    output = start(tmp_path, make_config(folder)).output
    told = "warning: before, 3 devices shared a batch; with 1 bits differ"
    assert told in output.splitlines()


def test_a_figure_that_cannot_be_drawn_is_a_warning(finished, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ValueError

    for name in FIGURES:
        plot = f"plot_{name.removesuffix('.png')}"
        holder = report.figures if hasattr(report.figures, plot) else report.filter_figures
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
