import errno
import os
import shutil
from pathlib import Path

import pytest

from lenet_jax.errors import UserError
from lenet_jax.reading import read_json
from lenet_jax.storage.files import publish, write_atomically, write_json


@pytest.mark.parametrize("content", ["ä", "ä".encode(), lambda stream: stream.write("ä".encode())])
def test_a_file_is_replaced_by_text_bytes_or_what_a_function_writes(tmp_path, content):
    (tmp_path / "a").write_text("old")
    write_atomically(tmp_path / "a", content)
    assert (tmp_path / "a").read_text(encoding="utf-8") == "ä"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_aborted_write_keeps_the_old_content(tmp_path, monkeypatch):
    write_atomically(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "a", lambda stream: stream.write(b"new") / 0)
    monkeypatch.setattr(os, "fsync", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_write_that_fails_leaves_no_draft_and_names_the_file(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space") as caught:
            write_atomically(tmp_path / "a", "new")
    assert caught.value.filename == str(tmp_path / "a")
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(tmp_path / "nowhere" / "a", "new")
    assert caught.value.filename == str(tmp_path / "nowhere" / "a")
    assert list(tmp_path.iterdir()) == []


def test_processes_that_write_the_same_file_do_not_disturb_each_other(tmp_path):
    def write_and_be_overtaken(stream):
        stream.write(b"first")
        write_atomically(tmp_path / "a", "second")
        assert (tmp_path / "a").read_text() == "second"

    write_atomically(tmp_path / "a", write_and_be_overtaken)
    assert (tmp_path / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_all_is_on_the_disk_before_it_has_its_name_and_its_name_after(tmp_path, monkeypatch):
    fsync, synced = os.fsync, []

    def note(descriptor):
        synced.append(
            (str(Path(f"/proc/self/fd/{descriptor}").readlink()), (tmp_path / "b").exists())
        )
        fsync(descriptor)

    (tmp_path / "draft").mkdir()
    (tmp_path / "draft" / "a").write_text("a")
    monkeypatch.setattr(os, "fsync", note)
    publish(tmp_path / "draft", tmp_path / "b")
    draft = tmp_path / "draft"
    assert synced == [(f"{draft}/a", False), (str(draft), False), (str(tmp_path), True)]


def test_a_published_folder_replaces_another(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    publish(tmp_path / "new", tmp_path / "old")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["old", "old/new"]


def test_a_folder_is_replaced_again_after_a_process_was_killed_in_it(tmp_path, monkeypatch):
    def write(content):
        (tmp_path / "draft").mkdir()
        (tmp_path / "draft" / "a").write_text(content)
        publish(tmp_path / "draft", tmp_path / "a")

    write("first")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write("second")
    write("third")
    assert (tmp_path / "a" / "a").read_text() == "third"


def test_json_round_trip(tmp_path):
    file = tmp_path / "a.json"
    assert read_json(file, dict) is None
    assert read_json(file / "b.json", dict) is None
    write_json(file, {"status": "running", "loss": 0.1 + 0.2})
    assert read_json(file, dict) == {"status": "running", "loss": 0.1 + 0.2}
    assert read_json(file / "b.json", dict) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", " is not JSON: "),
        (b'{"a": 1', " is not JSON: "),
        (b"\xff\xfe", " is not JSON: "),
        (b"[" * 100_000, " is not JSON: "),
        (b"[1]", ": expected `object`, got `array`"),
    ],
)
def test_a_broken_json_file_is_a_short_error(text, reason, tmp_path):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(UserError) as caught:
        read_json(tmp_path / "a.json", dict)
    assert str(caught.value).startswith(f"{tmp_path / 'a.json'}{reason}")
    assert len(str(caught.value).splitlines()) == 1
