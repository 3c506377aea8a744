import contextlib
import os
import signal
import subprocess
import sys

import pytest

from lenet_jax.terminal.interrupt import Interrupt
from tests.support.root import ROOT

SIGNALS = [(signal.SIGINT, 130, "SIGINT"), (signal.SIGTERM, 143, "SIGTERM")]
PIPE = (signal.SIGPIPE, 141, "SIGPIPE")

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


@pytest.mark.parametrize(("number", "code", "name"), [*SIGNALS, PIPE])
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


def test_a_second_write_to_a_closed_pipe_does_not_end_the_process():
    with blind("0.2", "notice") as (process, output):
        process.send_signal(signal.SIGPIPE)
        assert output.readline() == "signalled\n"
        process.send_signal(signal.SIGPIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.4)
        process.send_signal(signal.SIGTERM)
        assert output.read() == "released\n"
        assert process.wait() == 143


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
    before = [signal.getsignal(number) for number, *_ in [*SIGNALS, PIPE]]
    with pytest.raises(ZeroDivisionError), Interrupt():
        assert [signal.getsignal(number) for number, *_ in [*SIGNALS, PIPE]] != before
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number, *_ in [*SIGNALS, PIPE]] == before
    assert signal.set_wakeup_fd(-1) == -1
