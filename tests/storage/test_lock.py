"""The system's lock, and the lock file that stands in where there is none."""

import contextlib
import errno
import os
import socket
import subprocess
import sys

import filelock
import pytest

from lenet_jax.errors import UserError
from lenet_jax.storage.lock import Lock
from lenet_jax.storage.run_dir import RunDir
from lenet_jax.storage.sweep_dir import SweepDir
from tests.support.root import ROOT

HOLD = """
import sys
from pathlib import Path
import filelock
from lenet_jax.storage.lock import Lock

if sys.argv[2] == "granted twice":
    filelock.lock_descriptor = lambda *_, **__: True
lock = Lock(Path(sys.argv[1]))
print(lock.acquire(), flush=True)
sys.stdin.read()
"""


def refuse(number):
    def lock_descriptor(descriptor, *, blocking):
        raise OSError(number, "Function not implemented")

    return lock_descriptor


@pytest.fixture(params=["system", "granted twice", errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def kind(request, monkeypatch):
    """The locks of the file system: of the system, granted to everybody, or none."""
    if request.param == "granted twice":
        monkeypatch.setattr(filelock, "lock_descriptor", lambda *_, **__: True)
    elif request.param != "system":
        monkeypatch.setattr(filelock, "lock_descriptor", refuse(request.param))
    return request.param


def test_one_at_a_time(kind, tmp_path):
    first, second = (Lock(tmp_path / ".lock") for _ in range(2))
    assert first.acquire()
    assert not second.acquire()
    second.release()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()
    assert (first.note is None) == (kind == "system")
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("kind", ["system", "granted twice"])
def test_a_killed_process_leaves_no_lock(kind, tmp_path, monkeypatch):
    path = tmp_path / ".lock"
    if kind == "granted twice":
        monkeypatch.setattr(filelock, "lock_descriptor", lambda *_, **__: True)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path, kind],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        lock = Lock(path)
        assert not lock.acquire()
        holder = lock.holder()
        assert (holder is None) == (kind == "system")
        assert holder is None or f"process {process.pid} on " in holder
        process.kill()
        process.wait()
        assert lock.acquire()
        lock.release()


def test_a_lock_file_of_another_host_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(filelock, "lock_descriptor", refuse(errno.ENOSYS))
    with RunDir(tmp_path) as directory:
        assert directory.lock_note == (
            f"the file system of {tmp_path} has no locks: .lock.owner stands in"
        )
    (tmp_path / ".lock.owner").write_text("123\nelsewhere\n")
    with pytest.raises(UserError) as caught:
        RunDir(tmp_path)
    first, second = str(caught.value).splitlines()
    assert first == f"another process is running in {tmp_path}; wait, or choose another --workdir"
    assert second == (
        f"It is process 123 on elsewhere; if that has ended, delete {tmp_path / '.lock.owner'}"
    )


def test_other_errors_name_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(filelock, "lock_descriptor", refuse(errno.EACCES))
    with pytest.raises(UserError, match=r"cannot be written: .*\(.*\.lock\)"):
        RunDir(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
@pytest.mark.parametrize("kind", ["pipe", "pipe with a reader", "socket"])
def test_what_is_no_file_is_refused_at_once(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's name is short
    with contextlib.ExitStack() as opened:
        if kind == "socket":
            opened.enter_context(socket.socket(socket.AF_UNIX)).bind(".lock")
        else:
            os.mkfifo(".lock")
            if kind == "pipe with a reader":
                descriptor = os.open(".lock", os.O_RDONLY | os.O_NONBLOCK)
                opened.callback(os.close, descriptor)
        with pytest.raises(UserError, match=r"cannot be written: it is a .*, not a file \("):
            RunDir(tmp_path)


def test_a_sweep_is_driven_by_one_process_without_locks_too(kind, tmp_path):
    plan = {"settings": {}, "data_fingerprints": [], "members": [], "chunks": []}
    config = {"train": {"num_epochs": 1}}
    with SweepDir(tmp_path) as one:
        one.open(plan, config)
        one.open(plan, config)
        assert (one.lock_note is None) == (kind == "system")
        with SweepDir(tmp_path) as other, pytest.raises(UserError, match="another process trains"):
            other.open(plan, config)
    with SweepDir(tmp_path) as other:
        other.open(plan, config)
