"""Where the wall time of a process goes: spans with a name, which may overlap."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

LONGEST_WAIT = 5.0  # seconds that the start of Python may wait, such as for a disk


class Span(NamedTuple):
    """A named part of the process's time, on `time.perf_counter`'s clock."""

    name: str
    start: float
    end: float


def process_start() -> float:
    """When this process began, on `time.perf_counter`'s clock.

    On Linux it is known to a hundredth of a second; elsewhere it counts from the call. A process
    that took the place of another, by `exec`, has the other's start: if it has done nothing for
    more than `LONGEST_WAIT`, it began as many seconds ago as it has been at work.
    """
    now, stat = time.perf_counter(), Path("/proc/self/stat")
    if not stat.exists() or not hasattr(time, "CLOCK_BOOTTIME"):
        return now
    # After the name in brackets, the 20th value is the start in ticks since the machine's.
    ticks = int(stat.read_text().rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    worked = time.process_time()
    return now - (age if 0 <= age < worked + LONGEST_WAIT else worked)


@contextlib.contextmanager
def span(name: str) -> Iterator[None]:
    """Records how long a block takes, on any thread."""
    start = time.perf_counter()
    try:
        yield
    finally:
        record(name, start)


def record(name: str, start: float) -> None:
    """Records a span that ends here."""
    _spans.append(Span(name, start, time.perf_counter()))


def since(start: float) -> list[dict[str, Any]]:
    """The spans that began at or after `start`, by their beginning, in seconds from it."""
    chosen = sorted((span for span in _spans if span.start >= start), key=lambda span: span.start)
    return [
        {"name": name, "start": round(first - start, 3), "end": round(end - start, 3)}
        for name, first, end in chosen
    ]


_spans: list[Span] = []
