import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from lenet_jax.terminal.interrupt import Interrupt
from tests.support.root import ROOT

SIGNALS = [
    (number, 128 + number, number.name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
    if (number := getattr(signal, name, None))
]

# A main thread that does not handle signals, as during a compilation.
BLIND = """
import sys, threading
from lenet_jax.terminal.interrupt import Interrupt

with Interrupt(lambda: print("released", flush=True), grace=float(sys.argv[1])) as interrupt:
    interrupt.before_exit = lambda: print("before exit:", interrupt.reason, flush=True)
    print("ready", flush=True)
    while interrupt.signal is None:
        pass
    if sys.argv[2:] == ["notice"]:
        interrupt.notice()
    print("signalled", flush=True)
    lock = threading.Lock()
    lock.acquire()
    while True:
        lock.acquire()
"""


@contextlib.contextmanager
def blind(*arguments, program=BLIND):
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process, process.stdout
        finally:
            process.kill()


def test_a_request_after_the_end_of_a_run_is_late():
    with Interrupt() as interrupt:
        pass
    interrupt.request(signal.SIGTERM)
    Interrupt().request(signal.SIGTERM)


@pytest.mark.parametrize(("number", "code", "name"), SIGNALS)
def test_the_first_signal_is_remembered(number, code, name):
    with Interrupt() as interrupt:
        assert interrupt.signal is None
        assert not interrupt.notice()
        os.kill(os.getpid(), number)
        assert interrupt.signal == number
        assert interrupt.notice()
    assert interrupt.exit_code == code
    assert interrupt.reason == f"stopped by {name}"


@pytest.mark.parametrize(("number", "code", "name"), SIGNALS)
def test_an_unnoticed_signal_ends_the_process_in_time(number, code, name):
    with blind("0.2") as (process, output):
        process.send_signal(number)
        assert output.read() == f"signalled\nbefore exit: stopped by {name}\nreleased\n"
        assert process.wait() == code


@pytest.mark.parametrize(("number", "code", "_"), SIGNALS)
@pytest.mark.parametrize("noticed", [True, False])
def test_the_second_signal_ends_the_process_at_once(number, code, _, noticed):
    arguments = ["0.2", "notice"] if noticed else ["1000"]
    with blind(*arguments) as (process, output):
        process.send_signal(signal.SIGINT)
        assert output.readline() == "signalled\n"  # two at once would be one
        if noticed:  # such a process has all the time it needs
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.4)
        process.send_signal(number)
        assert output.read() == "released\n"
        assert process.wait() == code


def test_a_closed_output_is_a_request_to_stop():
    closed = []
    with Interrupt(is_closed=lambda: bool(closed)) as interrupt:
        assert not interrupt.notice()
        closed.append(True)
        assert interrupt.notice()
    assert (interrupt.exit_code, interrupt.reason) == (141, "stopped by SIGPIPE")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP")
def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupt.notice()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def enter_and_leave():
    handlers = [signal.getsignal(number) for number, *_ in SIGNALS]
    with Interrupt() as interrupt:
        unchanged = handlers == [signal.getsignal(number) for number, *_ in SIGNALS]
        return unchanged and not interrupt.notice()


async def enter_in_a_loop():
    return enter_and_leave()


def test_signals_are_left_alone_where_the_process_is_somebody_elses(monkeypatch):
    assert not enter_and_leave()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(enter_and_leave).result()
    assert asyncio.run(enter_in_a_loop())
    monkeypatch.setattr(sys, "ps1", "In : ", raising=False)  # IPython, a notebook
    assert enter_and_leave()


def test_a_failing_before_exit_does_not_keep_the_process_alive():
    failing = BLIND.replace('print("before exit:", interrupt.reason, flush=True)', "open('/')")
    with blind("0.01", program=failing) as (process, output):
        process.terminate()
        assert output.read() == "signalled\nreleased\n"
        assert process.wait() == 143


def test_other_signals_are_not_handled():
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with Interrupt(grace=0.0) as interrupt:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert not interrupt.notice()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_the_previous_handlers_are_restored():
    before = [signal.getsignal(number) for number, *_ in SIGNALS]
    with pytest.raises(ZeroDivisionError), Interrupt():
        assert [signal.getsignal(number) for number, *_ in SIGNALS] != before
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number, *_ in SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1
