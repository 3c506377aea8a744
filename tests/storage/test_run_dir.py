import csv
import errno
import json
import math
import struct
import subprocess
import sys
import time

import pytest
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

from lenet_jax.errors import UserError, show, write_error
from lenet_jax.storage.checkpoint import Checkpoints
from lenet_jax.storage.files import table
from lenet_jax.storage.run_dir import RunDir


def row(epoch, loss=0.5):
    return {"epoch": epoch, "step": 5 * epoch, "train/loss": loss, "learning_rate": 0.1 + 0.2}


def read_events(folder):
    """The events of TensorBoard's files, whose checksums must be right."""
    events = []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            body, rest = data[12 : 12 + size], data[12 + size :]
            for section, stored in ((data[:8], data[8:12]), (body, rest[:4])):
                crc = crc32c(section)
                masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
                assert stored == struct.pack("<I", masked)
            events.append(Event.FromString(body))
            data = rest[4:]
    return events


def test_the_directory_is_created_with_its_parents(tmp_path):
    with RunDir(tmp_path / "a" / "b") as directory:
        assert directory.path.is_dir()
        assert directory.checkpoints == directory.path / "checkpoints"
        assert directory.files() == []
        assert directory.rows == []


def test_a_relative_path_and_a_home_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for given, path in (("first", "first"), ("~/second", "home/second")):
        with RunDir(given) as directory:
            assert directory.path == tmp_path / path


@pytest.mark.parametrize("path", ["file", "file/below", "file/far/below"])
def test_a_file_in_the_way_is_reported(path, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError) as caught:
        RunDir(tmp_path / path)
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"--workdir={tmp_path / path} cannot be written: ")
    assert second == "Choose a folder that you may write to."
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_without_write_permission_is_reported(tmp_path, monkeypatch):
    def refuse(path, *_):  # root, who runs many a test, may write everywhere
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("lenet_jax.storage.lock.open_lock", refuse)
    with pytest.raises(UserError) as caught:
        RunDir(tmp_path)
    assert str(caught.value).splitlines()[0] == (
        f"--workdir={tmp_path} cannot be written: Permission denied ({tmp_path / '.lock'})"
    )


def test_an_unknown_home_is_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--workdir=~no-such-user/x: "):
        RunDir("~no-such-user/x")
    assert list(tmp_path.iterdir()) == []


def test_one_process_at_a_time(tmp_path):
    with RunDir(tmp_path) as directory:
        with pytest.raises(UserError) as caught:
            RunDir(tmp_path)
        assert len(str(caught.value).splitlines()) == 1
        assert str(caught.value).startswith(f"another process is running in {tmp_path}")
        directory.write_json("run.json", {})  # the lock is still there, and the directory usable
        with pytest.raises(UserError):
            RunDir(tmp_path)
    with RunDir(tmp_path):
        pass


def test_json_is_replaced_in_one_step(tmp_path):
    with RunDir(tmp_path) as directory:
        assert directory.read_json("run.json", dict) is None
        directory.write_json("run.json", {"status": "running", "loss": 0.1 + 0.2})
        assert directory.read_json("run.json", dict) == {"status": "running", "loss": 0.1 + 0.2}
        with pytest.raises(TypeError):
            directory.write_json("run.json", {"status": object()})
        assert directory.read_json("run.json", dict) == {"status": "running", "loss": 0.1 + 0.2}
        assert [file.name for file in directory.files()] == ["run.json"]
    assert sorted(file.name for file in tmp_path.iterdir()) == [".lock", "run.json"]


def test_a_full_disk_is_not_a_user_error(tmp_path, monkeypatch):
    def fail(path, *_):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("lenet_jax.storage.lock.open_lock", fail)
    with pytest.raises(OSError, match="No space"):
        RunDir(tmp_path)


def test_a_broken_json_file_asks_for_another_directory(tmp_path):
    (tmp_path / "run.json").write_text("[1]")
    with RunDir(tmp_path) as directory, pytest.raises(UserError) as caught:
        directory.read_json("run.json", dict)
    first, second = str(caught.value).splitlines()
    assert first == f"{show(tmp_path / 'run.json')}: expected `object`, got `array`"
    assert second == "Choose another --workdir to start over."


def test_rows_go_to_all_three_files(tmp_path):
    rows = [row(1), row(2, 0.25)]
    with RunDir(tmp_path) as directory:
        for each in rows:
            directory.log(each)
            assert directory.rows[-1] == each
            lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
            assert json.loads(lines[-1]) == each  # there at once, for who looks on
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows
    with (tmp_path / "metrics.csv").open() as file:
        cells = list(csv.DictReader(file))
    assert [{name: float(value) for name, value in each.items()} for each in cells] == rows
    scalars = [
        (event.step, value.tag, value.simple_value)
        for event in read_events(tmp_path / "tensorboard")
        for value in event.summary.value
    ]
    assert scalars == [
        (each["epoch"], name, pytest.approx(value))
        for each in rows
        for name, value in each.items()
        if name != "epoch"
    ]


def test_a_row_of_other_columns_widens_the_table(tmp_path):
    with RunDir(tmp_path) as directory:
        directory.log({"epoch": 1, "train/loss": 0.5})
        directory.log({"epoch": 2, "train/loss": 0.4, "valid/loss": 0.6})
    text = (tmp_path / "metrics.csv").read_text()
    assert text == "epoch,train/loss,valid/loss\n1,0.5,\n2,0.4,0.6\n"


def test_a_resumed_run_appends_to_the_given_rows(tmp_path):
    with RunDir(tmp_path) as directory:
        assert directory.num_logged() == 0
        for epoch in (1, 2, 3):
            directory.log(row(epoch))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "st')  # the process died here
    with RunDir(tmp_path) as directory:
        assert directory.num_logged() == 4
        directory.restart_rows([row(1), row(2)])
        directory.log(row(3, 0.125))
        assert directory.rows == [row(1), row(2), row(3, 0.125)]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [row(1), row(2), row(3, 0.125)]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 4
    starts = [
        event.step
        for event in read_events(tmp_path / "tensorboard")
        if event.HasField("session_log")
    ]
    assert starts == [1, 3]  # TensorBoard hides what the first process logged of epoch 3


def test_events_are_on_the_disk_at_once(tmp_path, caplog):
    with RunDir(tmp_path) as directory:
        directory.log(row(1, math.nan))
        assert not caplog.records
        tags = {v.tag for e in read_events(tmp_path / "tensorboard") for v in e.summary.value}
        assert tags == row(1).keys() - {"epoch"}


def test_two_starts_within_a_second_write_two_event_files(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1e9)
    for _ in range(2):
        with RunDir(tmp_path) as directory:
            directory.log(row(1))
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_event_files_do_not_import_pytorch(tmp_path):
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from lenet_jax.storage.tensorboard import EventFile\n"
        "events = EventFile(Path(sys.argv[1]), 1)\n"
        "events.add(1, {'train/loss': 0.5}); events.close()\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert len(list(tmp_path.glob("events*"))) == 1


def test_links_in_a_folder_are_not_followed_for_writing(tmp_path):
    outside, run = tmp_path / "outside", tmp_path / "run"
    outside.mkdir()
    run.mkdir()
    secret = outside / "secret"
    secret.write_text("mine\n")
    for name in ("metrics.jsonl", "metrics.csv", "summary.json"):
        (run / name).symlink_to(secret)
    (tmp_path / "link").symlink_to(run)  # the folder itself may be one
    with RunDir(tmp_path / "link") as directory:
        directory.restart_rows([])
        directory.write_json("summary.json", {})
        (run / "tensorboard").symlink_to(outside)
        with pytest.raises(OSError, match="tensorboard") as caught:
            directory.log(row(1))
        assert "symbolic link" in str(write_error(caught.value, run))
        (run / "checkpoints").symlink_to(outside)
        with pytest.raises(OSError, match="checkpoints"):
            Checkpoints(directory.checkpoints, keep=1)
    (run / ".lock").unlink()
    (run / ".lock").symlink_to(outside / "new")
    with pytest.raises(UserError, match="symbolic link"):
        RunDir(run)
    assert [file.name for file in outside.iterdir()] == ["secret"]
    assert secret.read_text() == "mine\n"


def test_a_formula_is_quoted_in_a_table():
    rows = [["=1+1", "+a", "-b", "@c", "\td", "e", ""], [-1.5, 2, None, "-0.5", "a=b", "'", "é"]]
    first, second = table(rows).splitlines()
    assert first == "'=1+1,'+a,'-b,'@c,'\td,e,"
    assert second == "-1.5,2,,'-0.5,a=b,',é"


def test_a_run_replaces_no_file_in_a_folder_without_a_run(tmp_path):
    with RunDir(tmp_path) as directory:
        directory.refuse_others()
        (tmp_path / "notes.txt").touch()
        directory.refuse_others()
        (tmp_path / "summary.json").write_text("{}")
        with pytest.raises(UserError, match=r"holds summary.json, but no run.json"):
            directory.refuse_others()
