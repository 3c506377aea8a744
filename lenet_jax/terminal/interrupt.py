"""Ctrl-C, SIGTERM, SIGHUP and a closed output: requests to stop, followed within seconds."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

from lenet_jax.errors import STOPPING, ExitCode

GRACE = 4.0  # seconds to notice a signal; a run is documented to end within 5


def _nothing() -> None:
    pass


def _never() -> bool:
    return False


class Interrupt:
    """While entered, remembers the first signal; a second one ends the process.

    If the first one is not noticed in time, the process ends too. A thread does both: compiled code
    may occupy the main thread, where Python's handlers run, for any length of time.

    In a process that belongs to somebody else, see `owns_process`, signals are left alone.

    Attributes:
      signal: the first signal received, or None.
      before_exit: called before a signal that was not noticed ends the process.
    """

    def __init__(
        self,
        release: Callable[[], None] = _nothing,
        is_closed: Callable[[], bool] = _never,
        grace: float | None = None,
    ):
        """Handles nothing until it is entered.

        Args:
          release: restores the terminal before the process ends.
          is_closed: whether nobody reads the output any more, which is a request to stop too.
          grace: seconds until a signal must be noticed; None: `GRACE`.
        """
        self.signal: signal.Signals | None = None
        self.before_exit: Callable[[], None] = _nothing
        self._release, self._is_closed = release, is_closed
        self._grace = GRACE if grace is None else grace
        self._entered = False
        self._noticed, self._ending = False, threading.Lock()

    def __enter__(self) -> "Interrupt":
        if not owns_process():
            return self
        self._entered = True
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._watcher = threading.Thread(target=self._watch, name="interrupt", daemon=True)
        self._watcher.start()
        self._previous_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        ignored = getattr(signal, "SIGHUP", None)  # by nohup
        self._previous = {
            number: signal.signal(number, self._remember)
            for number in STOPPING
            if number != ignored or signal.getsignal(number) is not signal.SIG_IGN
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._entered:
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_fd)
        self._writer.close()
        self._watcher.join()
        self._reader.close()

    def request(self, number: int) -> None:
        """Acts as if a signal had arrived, unless one has; may be called by any thread."""
        if self._entered and self.signal is None:
            self._remember(number, None)
            with contextlib.suppress(OSError):  # it has been left
                self._writer.send(bytes([number]))

    def notice(self) -> bool:
        """Whether a request to stop was received; if so, the caller must end the run itself."""
        with self._ending:
            self._noticed = self._noticed or self.signal is not None or self._is_closed()
        return self._noticed

    @property
    def exit_code(self) -> int:
        """The shell's code for a process that the signal ended: 129, 130, 141 or 143."""
        return ExitCode.CLOSED_PIPE if self.signal is None else 128 + self.signal

    @property
    def reason(self) -> str:
        """The reason why the run ends, for messages."""
        return f"stopped by {'SIGPIPE' if self.signal is None else self.signal.name}"

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or signal.Signals(number)

    def _watch(self) -> None:
        """Waits for signals, whose numbers Python writes to the socket as they arrive."""
        number = self._receive()
        if number is None:
            return
        self.signal = signal.Signals(number)
        self._reader.settimeout(self._grace)
        try:
            number = self._receive()
        except TimeoutError:
            with self._ending:
                if not self._noticed:
                    self._end(self.exit_code, self.before_exit)
            self._reader.settimeout(None)
            number = self._receive()
        if number is not None:
            self._end(128 + number, _nothing)

    def _receive(self) -> int | None:
        """The next of the signals that are handled here; None once the socket is closed."""
        while received := self._reader.recv(1):
            if received[0] in self._previous:
                return received[0]
        return None

    def _end(self, code: int, before_exit: Callable[[], None]) -> None:
        try:
            with contextlib.suppress(OSError):
                before_exit()
            self._release()
        finally:
            os._exit(code)


def owns_process() -> bool:
    """Whether signals to the process are meant for this code.

    That is so in the main thread, where alone they can be handled, unless somebody types into the
    interpreter (a notebook, IPython), or code runs on an event loop, which has its own handlers.
    """
    if threading.current_thread() is not threading.main_thread() or hasattr(sys, "ps1"):
        return False
    if "asyncio" not in sys.modules:
        return True
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False
