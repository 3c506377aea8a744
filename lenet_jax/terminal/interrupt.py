"""Ctrl-C, SIGTERM and a closed pipe: requests to stop, which a run must follow within seconds."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType

GRACE = 4.0  # seconds to notice a signal; a run is documented to end within 5
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)


def _nothing() -> None:
    pass


class Interrupt:
    """While entered, remembers the first signal; a second one ends the process.

    If the first one is not noticed in time, the process ends too. A thread does both: compiled code
    may occupy the main thread, where Python's handlers run, for any length of time.

    Attributes:
      signal: the first signal received, or None.
      before_exit: called before a signal that was not noticed ends the process.
    """

    def __init__(self, release: Callable[[], None] = _nothing, grace: float | None = None):
        """Handles nothing until it is entered.

        Args:
          release: restores the terminal before the process ends.
          grace: seconds until a signal must be noticed; None: `GRACE`.
        """
        self.signal: signal.Signals | None = None
        self.before_exit: Callable[[], None] = _nothing
        self._release, self._grace = release, GRACE if grace is None else grace
        self._noticed, self._ending = False, threading.Lock()

    def __enter__(self) -> "Interrupt":
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._watcher = threading.Thread(target=self._watch, name="interrupt", daemon=True)
        self._watcher.start()
        self._previous_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_fd)
        self._writer.close()
        self._watcher.join()
        self._reader.close()

    def notice(self) -> bool:
        """Whether a signal was received; if so, the caller must end the run itself."""
        with self._ending:
            self._noticed = self._noticed or self.signal is not None
        return self._noticed

    @property
    def exit_code(self) -> int:
        """The shell's code for a process that the signal ended: 130, 141 or 143."""
        assert self.signal is not None
        return 128 + self.signal

    @property
    def reason(self) -> str:
        """The reason why the run ends, for messages."""
        assert self.signal is not None
        return f"stopped by {self.signal.name}"

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or signal.Signals(number)

    def _watch(self) -> None:
        """Waits for signals, whose numbers Python writes to the socket as they arrive."""
        number = self._receive(SIGNALS)
        if number is None:
            return
        self.signal = signal.Signals(number)
        self._reader.settimeout(self._grace)
        again = (signal.SIGINT, signal.SIGTERM)  # each write to a closed pipe is a SIGPIPE
        try:
            number = self._receive(again)
        except TimeoutError:
            with self._ending:
                if not self._noticed:
                    self._end(self.exit_code, self.before_exit)
            self._reader.settimeout(None)
            number = self._receive(again)
        if number is not None:
            self._end(128 + number, _nothing)

    def _receive(self, signals: Sequence[int]) -> int | None:
        """The next of these signals; None once the socket is closed."""
        while received := self._reader.recv(1):
            if received[0] in signals:
                return received[0]
        return None

    def _end(self, code: int, before_exit: Callable[[], None]) -> None:
        try:
            with contextlib.suppress(OSError):
                before_exit()
            self._release()
        finally:
            os._exit(code)
