import json
import os
import shutil
import signal

import pytest

from lenet_jax.errors import UserError
from lenet_jax.machine import what_changed
from lenet_jax.runs import figures as report
from lenet_jax.storage.checkpoint import Checkpoints
from lenet_jax.storage.run_dir import RunDir
from lenet_jax.storage.sums import MANIFEST, manifest
from lenet_jax.terminal.progress import Epochs
from lenet_jax.training import loop
from tests.support.runs import (
    EPOCHS,
    STEPS,
    TRAIN,
    assert_same_end,
    contents,
    make_config,
    send_in_epoch,
    start,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("patient")]


def test_a_finished_run_reports_it_and_is_unchanged(finished):
    before = contents(finished.path)
    again = start(finished.path, finished.config)
    assert again.code == 0
    assert "this run is already finished" in again.output.splitlines()
    assert "test accuracy" in again.output
    assert not any(line.startswith("epoch ") for line in again.output.splitlines())
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
    message = str(caught.value)
    assert f"{finished.path} holds a run of another config: " in message
    assert all(difference in message for difference in differences)
    assert len(message.splitlines()) <= 3
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


def test_an_interrupted_run_resumes_to_the_same_result(
    finished, folder, tmp_path, monkeypatch, no_figures
):
    config = make_config(folder, checkpoint={"every_epochs": 100})
    for epoch, number, code in ((1, signal.SIGTERM, 143), (2, signal.SIGINT, 130)):
        with monkeypatch.context() as patch:
            send_in_epoch(patch, epoch, number)
            stopped = start(tmp_path, config)
        assert stopped.code == code
        assert ("resumed after epoch 1" in stopped.output.splitlines()) == (epoch == 2)
        reason = f"stopped by {number.name}"
        warning = f"warning: {reason}; to resume: python -m lenet_jax.main '--workdir=a folder'"
        assert stopped.output.splitlines()[-1] == warning
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


def test_a_run_interrupted_within_an_epoch_resumes_to_the_same_result(
    finished, folder, tmp_path, monkeypatch, no_figures
):
    def send(progress, epochs):
        if round(epochs * STEPS) == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "FIRST_IMAGES", 1)
    monkeypatch.setattr(loop, "SECONDS", 0.0)  # a step is a segment
    with monkeypatch.context() as patch:
        patch.setattr(Epochs, "advance", send)
        stopped = start(tmp_path, make_config(folder, checkpoint={"every_epochs": 100}))
    assert stopped.code == 143
    assert [row["epoch"] for row in stopped.rows()] == [1]
    assert [file.name for file in (tmp_path / "checkpoints").iterdir()] == ["7"]
    resumed = start(tmp_path, stopped.config)
    assert "resumed after step 7, in epoch 2" in resumed.output.splitlines()
    summary = resumed.read("summary.json")
    seconds = sum(TRAIN / row["images_per_second"] for row in resumed.rows())
    assert summary["train_seconds"] == pytest.approx(seconds)
    assert_same_end(resumed, finished)


def test_a_signal_in_the_last_epoch_does_not_stop_the_run(
    finished, tmp_path, monkeypatch, no_figures
):
    send_in_epoch(monkeypatch, EPOCHS, signal.SIGTERM)
    assert start(tmp_path, finished.config).code == 0


def test_epochs_after_the_last_checkpoint_are_trained_again(
    finished, folder, tmp_path, monkeypatch, no_figures
):
    def die(self, step, *_):
        assert step == 2 * STEPS
        raise KeyboardInterrupt

    config = make_config(folder, checkpoint={"every_epochs": 2})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "save", die)
        start(tmp_path, config)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    assert_same_end(start(tmp_path, config), finished)


@pytest.mark.parametrize("with_initial_weights", [False, True])
def test_a_run_that_dies_before_its_first_checkpoint_starts_again(
    finished, folder, tmp_path, monkeypatch, no_figures, with_initial_weights
):
    """Two epochs are logged, but no checkpoint is on the disk yet."""
    weights = str(finished.path / "model.safetensors") if with_initial_weights else None
    config = make_config(folder, train={"initial_weights": weights})
    expected = start(tmp_path / "whole", config) if with_initial_weights else finished
    log = RunDir.log

    def log_and_die(self, row):
        log(self, row)
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunDir, "log", log_and_die)
        patch.setattr(Checkpoints, "_write", lambda *_: None)
        start(tmp_path / "run", config)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert_same_end(start(tmp_path / "run", config), expected)


def test_more_epochs_extend_a_finished_run(finished, folder, tmp_path, monkeypatch, no_figures):
    short = start(tmp_path, make_config(folder, train={"num_epochs": 2}))
    assert short.read("summary.json")["epochs"] == 2
    written = []
    write_json = RunDir.write_json

    def write_and_record(self, name, value):
        write_json(self, name, value)
        epochs = self.read_json("config.json", dict)["train"]["num_epochs"]
        written.append((self.read_json("run.json", dict)["status"], epochs))

    monkeypatch.setattr(RunDir, "write_json", write_and_record)
    longer = start(tmp_path, finished.config)
    assert longer.code == 0
    extended = "this run is extended: train.num_epochs: 2 → 3; its schedule goes on"
    assert extended in longer.output.splitlines()
    (part,) = longer.read("run.json")["extensions"]
    assert (part["from_epochs"], part["to_epochs"]) == (2, 3)
    # Wherever the process dies, the directory never claims that the longer run is done.
    assert written == [("running", 2), ("running", 3), ("running", 3), ("done", 3)]
    assert longer.read("summary.json")["epochs"] == EPOCHS
    assert_same_end(longer, finished)


@pytest.mark.parametrize("name", ["one_cycle", "cosine", "linear"])
def test_an_extension_keeps_the_last_learning_rate_or_is_refused(
    folder, tmp_path, no_figures, name
):
    schedule = {"name": name, "step_epochs": 1, "step_scale": 0.5, "final_div_factor": 10.0}

    def config(epochs):
        return make_config(folder, train={"num_epochs": epochs}, schedule=schedule)

    with pytest.raises(UserError, match="--extend=continue: there is no run in"):
        start(tmp_path / "run", config(3), extend=True)
    assert not (tmp_path / "run").exists()
    short = start(tmp_path / "run", config(2))
    before = contents(short.path)
    rate = short.rows()[-1]["learning_rate"]
    with pytest.raises(UserError) as caught:
        start(short.path, config(4))
    assert f"trains 2 epochs on the schedule {name}" in str(caught.value)
    assert f"Add --extend=continue to keep its last learning rate, {rate:.3g}" in str(caught.value)
    assert contents(short.path) == before

    first = [row["learning_rate"] for row in short.rows()]
    longer = start(short.path, config(4), extend=True)
    assert longer.code == 0
    kept = f"; the last learning rate of its 2 epochs, {first[1]:.3g}, stays"
    assert f"this run is extended: train.num_epochs: 2 → 4{kept}" in longer.output.splitlines()
    assert ("hardly changes the network" in longer.output) == (first[1] < 0.01 * 0.05)
    rates = [row["learning_rate"] for row in longer.rows()]
    assert first == rates[:2]
    assert rates[1] == rates[2] == rates[3] > 0
    before = contents(longer.path)
    for epochs, extend in ((4, True), (4, False), (2, True), (2, False)):
        again = start(short.path, config(epochs), extend=extend)
        extended = ", and extended to 4 epochs" if epochs == 2 else ""
        assert f"this run is already finished{extended}" in again.output.splitlines()
    assert contents(longer.path) == before
    with pytest.raises(UserError, match=r"train\.num_epochs: 4 → 3"):
        start(short.path, config(3))


def test_a_missing_summary_is_written_again(finished, tmp_path, no_figures):
    shutil.copytree(finished.path, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    again = start(tmp_path / "run", finished.config)
    assert again.code == 0
    assert "this run is already finished" not in again.output
    timing = {"seconds_to_first_step": 0}
    assert again.read("summary.json") | timing == finished.read("summary.json") | timing


@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl", "config.json", MANIFEST])
def test_a_finished_run_is_checked_before_it_is_shown(finished, tmp_path, name):
    shutil.copytree(finished.path, tmp_path / "run")
    file = tmp_path / "run" / name
    file.write_text("" if name == MANIFEST else file.read_text().replace("0.05", "0.0500"))
    if name == "summary.json":
        file.write_text(json.dumps(finished.read(name) | {"test_accuracy": 0.5}))
    fault = "is missing or incomplete" if name == MANIFEST else "is not as its run wrote it"
    with pytest.raises(UserError, match=f"run is damaged: {name} {fault}"):
        start(tmp_path / "run", finished.config)
    file.unlink()
    if name == MANIFEST:
        with pytest.raises(UserError, match=f"run is damaged: {name}"):
            start(tmp_path / "run", finished.config)
        record = finished.read("run.json") | {"has_sums": False}  # as an older version left it
        (tmp_path / "run" / "run.json").write_text(json.dumps(record))
        output = start(tmp_path / "run", finished.config).output
        assert "has no SHA256SUMS: its files cannot be checked" in output
        assert "this run is already finished" in output


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("checkpoints", remove, "logged 3 epochs, but its checkpoints are gone"),
        ("checkpoints/*", remove, "logged 3 epochs, but its checkpoints are gone"),
        (
            "checkpoints/*/state.safetensors",
            remove,
            "has no intact checkpoint: checkpoint 15 is damaged",
        ),
        ("checkpoints/*/SHA256SUMS", remove, "checkpoint 15 is damaged (it has no SHA256SUMS)"),
        (
            "config.json",
            remove,
            "has checkpoints, but no config.json that says what they belong to",
        ),
        ("run.json", remove, "has checkpoints, but no run.json that says what they belong to"),
        ("config.json", lambda file: file.write_text("{}"), "config.json: missing keys: "),
        ("config.json", lambda file: file.write_text("import os"), "config.json is not JSON: "),
        (
            "run.json",
            lambda file: file.write_text("{}"),
            "run.json: object missing",
        ),
        (
            "run.json",
            lambda file: file.write_text("[]"),
            "run.json: expected `object`",
        ),
    ],
)
def test_a_damaged_run_is_never_overwritten(finished, folder, tmp_path, name, damage, message):
    shutil.copytree(finished.path, tmp_path / "run")
    for file in list((tmp_path / "run").glob(name)):
        damage(file)
    (tmp_path / "run" / "checkpoints").mkdir(exist_ok=True)  # which starting creates
    before = contents(tmp_path / "run")
    with pytest.raises(UserError) as caught:
        start(tmp_path / "run", make_config(folder, train={"num_epochs": 4}))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2
    assert contents(tmp_path / "run") == before


def test_a_checkpoint_of_another_version_is_refused(finished, folder, tmp_path):
    shutil.copytree(finished.path, tmp_path / "run")
    for step in (tmp_path / "run" / "checkpoints").iterdir():
        metadata = json.loads((step / "notes.json").read_text())
        metadata["run"]["phase"] = metadata["run"].pop("epoch")
        (step / "notes.json").write_text(json.dumps(metadata))
        (step / "SHA256SUMS").write_text(manifest(step))
    with pytest.raises(UserError, match="is of another version of lenet-jax"):
        start(tmp_path / "run", make_config(folder, train={"num_epochs": 4}))


def test_a_damaged_checkpoint_is_skipped_with_one_warning(
    finished, folder, tmp_path, monkeypatch, no_figures
):
    send_in_epoch(monkeypatch, 2, signal.SIGTERM)
    config = make_config(folder)
    assert start(tmp_path, config).code == 143
    monkeypatch.undo()
    monkeypatch.setattr(report, "draw_figures", lambda *_: [])
    file = tmp_path / "checkpoints" / str(2 * STEPS) / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    (tmp_path / "metrics.jsonl").unlink()  # the checkpoint holds the rows before it
    resumed = start(tmp_path, config)
    warnings = [x for x in resumed.output.splitlines() if x.startswith("warning")]
    assert warnings == [
        f"warning: checkpoint 10 is damaged ({file.name} differs from SHA256SUMS);"
        " going back to checkpoint 5"
    ]
    assert "resumed after epoch 1" in resumed.output.splitlines()
    assert_same_end(resumed, finished)


def test_resuming_on_other_devices_is_a_warning(
    finished, folder, tmp_path, monkeypatch, no_figures
):
    with monkeypatch.context() as patch:
        send_in_epoch(patch, 1, signal.SIGTERM)
        start(tmp_path, make_config(folder))
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["devices_sharing_a_batch"] == 1
    (tmp_path / "run.json").write_text(json.dumps(record | {"devices_sharing_a_batch": 3}))
    output = start(tmp_path, make_config(folder)).output
    warning = "may differ in the last bits from an uninterrupted run: devices_sharing_a_batch 3 → 1"
    assert f"warning: results {warning}" in output.splitlines()


def test_a_run_with_the_former_key_names_resumes(
    finished, folder, tmp_path, monkeypatch, no_figures
):
    with monkeypatch.context() as patch:
        send_in_epoch(patch, 1, signal.SIGTERM)
        start(tmp_path, make_config(folder))
    values = json.loads((tmp_path / "config.json").read_text())
    values["model"]["lowering"] = values["model"].pop("backend")
    (tmp_path / "config.json").write_text(json.dumps(values))
    record = json.loads((tmp_path / "run.json").read_text())
    record["lowering"], record["backend"] = record.pop("backend"), record.pop("jax_backend")
    (tmp_path / "run.json").write_text(json.dumps(record))
    resumed = start(tmp_path, make_config(folder))
    assert resumed.code == 0
    assert "resumed after epoch 1" in resumed.output.splitlines()
    assert "warning" not in resumed.output
    assert resumed.read("config.json")["model"]["backend"] == "plain"
    assert_same_end(resumed, finished)
    record["lowering"], now = "phase", resumed.read("run.json")
    assert what_changed(record, now) == "backend phase → plain"


def test_changes_that_may_affect_bits_are_named(finished):
    record = json.loads((finished.path / "run.json").read_text())
    assert what_changed(record, record) is None
    newer = record["versions"] | {"jax": "9.9"}
    changed = what_changed(record, record | {"versions": newer, "backend": "phase"})
    assert changed == f"jax {record['versions']['jax']} → 9.9; backend plain → phase"
    assert what_changed({}, record) is None
