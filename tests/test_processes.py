"""Several processes that train one network: how they meet and end, and the bits they train."""

import contextlib
import errno
import json
import os
import queue
import re
import signal
import socket
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lenet_jax.errors import ExitCode, UserError, WriteError
from lenet_jax.processes import group
from lenet_jax.processes.meeting import GREETING, join
from tests.support import tiny
from tests.support.root import ROOT


@pytest.fixture
def address():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"localhost:{server.getsockname()[1]}"


def each(*functions) -> list[Any]:
    """What functions that run at the same time return or raise."""
    with ThreadPoolExecutor(len(functions)) as pool:
        futures = [pool.submit(function) for function in functions]
        return [future.exception() or future.result() for future in futures]


def joining(address, *numbers, timeout=20.0):
    return [lambda n=n: join(address, n[0], n[1], timeout) for n in numbers]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([(2, 0), (3, 1)], "process 1 has --num_processes=3, process 0 2\nStart each process once"),
        ([(3, 0), (3, 1), (3, 1)], "two processes have --process_id=1\nStart each process once"),
    ],
)
def test_numbers_that_do_not_fit_end_every_process(address, numbers, message):
    for error in each(*joining(address, *numbers)):
        assert isinstance(error, UserError) and str(error).startswith(message)


def test_processes_that_do_not_come_are_named_in_time(address):
    (alone,) = each(*joining(address, (3, 0), timeout=0.3))
    assert str(alone).startswith("of 3 processes, number 1, 2 did not come within 0.3 s\n")
    (alone,) = each(*joining(address, (3, 1), timeout=0.3))
    assert f"--coordinator={address}: process 0 cannot be reached within 0.3 s: " in str(alone)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("node1", 2, 0), "--coordinator=node1: must be HOST:PORT of process 0"),
        (("node1:70000", 2, 0), "must be HOST:PORT of process 0"),
        (("node..1:7000", 2, 1), "must be HOST:PORT of process 0"),
        (("::1:7000", 2, 1), "must be HOST:PORT of process 0"),
        (("localhost:1", None, None), "--coordinator needs --num_processes and --process_id too"),
        (("localhost:1", 2, 2), "numbered from 0 to 1"),
        (("localhost:1", 1, 0), "there must be at least 2 processes"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(UserError, match=re.escape(message)):
        join(arguments[0], arguments[1], arguments[2], 1.0)


def greeting(payload=0, **changes):
    """What a process 1 of 2 sends first, or something like it."""
    text = json.dumps({"greeting": GREETING, "index": 1, "count": 2} | changes).encode()
    return struct.pack(">IQ", len(text), payload) + text


STRANGERS = [
    b"GET / HTTP/1.1\r\n\r\n",
    greeting(greeting="lenet_jax 0"),
    greeting(payload=1 << 62),
    greeting(index=0),
    greeting(index=2),
    greeting(index="1"),
    struct.pack(">IQ", 100_000, 0) + b"[" * 100_000,
]


def test_a_launcher_tells_the_numbers_and_strangers_are_ignored(address, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "2")

    host, port = address.split(":")
    with ThreadPoolExecutor(1) as pool:
        led = pool.submit(join, address, 2, 0, 20.0)
        for content in STRANGERS:
            stranger = None
            while stranger is None and not led.done():
                with contextlib.suppress(ConnectionRefusedError):
                    stranger = socket.create_connection((host, int(port)), 3.0)
            assert stranger is not None
            with stranger:
                stranger.sendall(content)
                with contextlib.suppress(ConnectionResetError):
                    assert not stranger.recv(1), content  # it is hung up
        other = join(address, None, None, 20.0)
        leader = led.result()
    with other, leader:
        assert (leader.index, other.index, other.count) == (0, 1, 2)
        leader.end(0)


@pytest.fixture
def pair(address):
    """Two processes, in threads."""
    leader, other = each(*joining(address, (2, 0), (2, 1)))
    with other, leader:
        yield leader, other
        leader.end(0)


def test_facts_that_differ_end_both(pair):
    leader, other = pair
    same = {"config.seed": 0, "data": "f00"}
    assert each(lambda: leader.agree(same), lambda: other.agree(same)) == [None, None]
    changed = same | {"config.seed": 5}
    for error in each(lambda: leader.agree(same), lambda: other.agree(changed)):
        text = "process 1 differs from process 0: config.seed: 0 → 5\nAll processes must have"
        assert isinstance(error, UserError) and str(error).startswith(text)


def test_the_others_receive_what_process_0_sends_and_pass_signals_on(pair):
    leader, other = pair
    leader.send({"kind": "steps", "first": 3}, b"bits")
    assert other.receive() == ({"kind": "steps", "first": 3}, b"bits")
    received = queue.SimpleQueue()
    leader.on_stop = received.put
    other.received_signal = lambda: signal.SIGTERM
    assert received.get(timeout=60) == signal.SIGTERM


def test_an_error_of_one_ends_the_others_with_its_text_and_code(pair, monkeypatch, capsys):
    _, other = pair
    codes = queue.SimpleQueue()
    monkeypatch.setattr(group.os, "_exit", codes.put)
    full = WriteError(OSError(errno.ENOSPC, "No space left on device"), "runs/a")
    other.__exit__(WriteError, full, None)
    assert codes.get(timeout=60) == ExitCode.DISK
    assert capsys.readouterr().err.startswith("process 1: runs/a cannot be written: No space left")


def test_the_end_of_process_0_ends_one_that_computes(pair, monkeypatch):
    """Its computation takes process 0 too, and would fail or wait for ever."""
    monkeypatch.setattr(group, "INTERVAL", 0.1)
    codes = queue.SimpleQueue()
    monkeypatch.setattr(group.os, "_exit", codes.put)
    leader, _ = pair
    leader.end(ExitCode.TERMINATED)
    leader.__exit__(None, None, None)
    assert codes.get(timeout=60) == ExitCode.TERMINATED


EPOCHS = 20


def test_a_peer_that_hangs_is_lost_in_time(address, monkeypatch, capsys):
    codes = queue.SimpleQueue()
    monkeypatch.setattr(group.os, "_exit", codes.put)
    leader, hung = each(*joining(address, (2, 0), (2, 1), timeout=1.0))
    reasons = []
    leader.before_exit = reasons.append
    with leader:  # the other gives no sign of life until it is entered
        assert codes.get(timeout=60) == ExitCode.LOST
    text = "process 1 has given no sign of life for 1 s; the other processes of the run end, too"
    assert (reasons, capsys.readouterr().err.splitlines()[0]) == ([text], text)
    with hung:
        assert codes.get(timeout=60) == ExitCode.LOST


def start(count, index, address, workdir, data, devices):
    values = tiny.CONFIG | {"data.name": data, "model.backend": "plain"}
    values |= {"train.micro_batch_size": 4, "train.num_epochs": EPOCHS}
    command = [sys.executable, "-m", "lenet_jax.main", "--config=configs/notes.py"]
    command += [f"--config.{key}={value}" for key, value in values.items()]
    if count > 1:
        command += [f"--coordinator={address}", f"--num_processes={count}"]
        command += [f"--process_id={index}"]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}"],
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def started(count, *arguments):
    running = [start(count, index, *arguments) for index in range(count)]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def check_ends(running, code, text=""):
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert (process.returncode, errors.partition(";")[0]) == (code, text), errors


def wait_for_epoch(epoch, process):
    if not any(line.startswith(f"epoch {epoch:>2}/") for line in process.stdout):
        pytest.fail(process.stderr.read())


@pytest.mark.slow
def test_several_processes_train_the_bits_of_one(folder, address, tmp_path):
    """Of four processes the first is killed; two with two devices each resume its run."""
    several, one = tmp_path / "several", tmp_path / "one"
    with started(4, address, several, folder, 1) as running:
        wait_for_epoch(2, running[0])
        running[0].kill()
        check_ends(running[1:], ExitCode.LOST, "process 0 has ended or was killed")
    for count, workdir, devices in ((2, several, 2), (1, one, 4)):
        with started(count, address, workdir, folder, devices) as running:
            check_ends(running, ExitCode.DONE)
    assert json.loads((several / "summary.json").read_text())["epochs"] == EPOCHS
    weights = [(workdir / "model.safetensors").read_bytes() for workdir in (several, one)]
    assert weights[0] == weights[1]
    assert {path.name for path in tmp_path.iterdir()} == {"several", "one"}
