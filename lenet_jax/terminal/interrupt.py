"""Ctrl-C and SIGTERM as a wish to stop, which a run grants as soon as it can, and soon it must."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

GRACE = 4.0  # seconds to notice a signal in; the promise is to be gone within 5
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _nothing() -> None:
    pass


class Interrupt:
    """While it is entered, the first signal is remembered and the second ends the process.

    If the first one is not noticed in time, the process ends too. A thread sees to both: compiled
    code may keep the main one, where Python's handlers run, for as long as it likes.

    Attributes:
      signal: the signal that came, or None.
      last_words: what to write and say before a signal that nobody noticed ends the process.
    """

    def __init__(self, release: Callable[[], None] = _nothing, grace: float | None = None):
        """Sets the rules.

        Args:
          release: puts the terminal in order before the process ends.
          grace: seconds until a signal must be noticed; None: `GRACE`.
        """
        self.signal: signal.Signals | None = None
        self.last_words: Callable[[], None] = _nothing
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
        """Whether a signal came; if so, the run now ends by itself, in its own time."""
        with self._ending:
            self._noticed = self._noticed or self.signal is not None
        return self._noticed

    @property
    def exit_code(self) -> int:
        """The shell's code for a process that the signal ended: 130 or 143."""
        assert self.signal is not None
        return 128 + self.signal

    @property
    def reason(self) -> str:
        """What happened, in words."""
        assert self.signal is not None
        return f"stopped by {self.signal.name}"

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or signal.Signals(number)

    def _watch(self) -> None:
        """Waits for signals, whose numbers Python writes to the socket the moment they come."""
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
                    self._end(self.exit_code, self.last_words)
            self._reader.settimeout(None)
            number = self._receive()
        if number is not None:
            self._end(128 + number, _nothing)

    def _receive(self) -> int | None:
        """The next signal; None if there will be none."""
        while received := self._reader.recv(1):
            if received[0] in SIGNALS:
                return received[0]
        return None

    def _end(self, code: int, last_words: Callable[[], None]) -> None:
        try:
            with contextlib.suppress(OSError):
                last_words()
            self._release()
        finally:
            os._exit(code)
