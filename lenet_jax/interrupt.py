"""Ctrl-C and SIGTERM as a wish to stop, which a run grants between two epochs."""

import signal
from types import FrameType, TracebackType


class Interrupt:
    """While it is entered, the first signal is remembered and the second ends the process.

    Attributes:
      signal: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __enter__(self) -> "Interrupt":
        self._previous = {
            number: signal.signal(number, self._remember)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

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
        if self.signal is not None:
            raise SystemExit(128 + number)
        self.signal = signal.Signals(number)
