import os
import signal

import pytest

from lenet_jax.interrupt import Interrupt

SIGNALS = [(signal.SIGINT, 130, "SIGINT"), (signal.SIGTERM, 143, "SIGTERM")]


@pytest.mark.parametrize(("number", "code", "name"), SIGNALS)
def test_the_first_signal_is_remembered(number, code, name):
    with Interrupt() as interrupt:
        assert interrupt.signal is None
        os.kill(os.getpid(), number)
        assert interrupt.signal == number
    assert interrupt.exit_code == code
    assert interrupt.reason == f"stopped by {name}"


@pytest.mark.parametrize(("number", "code", "_"), SIGNALS)
def test_the_second_signal_ends_the_process(number, code, _):
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(SystemExit) as caught:
            os.kill(os.getpid(), number)
        assert caught.value.code == code
        assert interrupt.signal == signal.SIGINT


def test_the_handlers_before_are_put_back():
    before = [signal.getsignal(number) for number, *_ in SIGNALS]
    with pytest.raises(ZeroDivisionError), Interrupt():
        assert [signal.getsignal(number) for number, *_ in SIGNALS] != before
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number, *_ in SIGNALS] == before
