"""Progress in the cells of a notebook, which cannot overwrite lines as a terminal does."""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from lenet_jax.terminal.progress import clock


def is_output() -> bool:
    """Whether standard output goes to a cell: of its kernel, or of what it starts (`!python …`)."""
    started_by_kernel = "JPY_PARENT_PID" in os.environ
    return started_by_kernel or "inline" in os.environ.get("MPLBACKEND", "")


def is_kernel() -> bool:
    """Whether this process runs the cells of a notebook."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def show_bar(unit: str, total: int, completed: float | int = 0) -> Callable[..., None]:
    """Displays a progress bar below the cell.

    Args:
      unit: what is counted, in the plural.
      total: how many there are.
      completed: how many are done.

    Returns:
      The function that updates its `completed` and `text`.
    """
    bar = Bar(unit, total, completed)
    handle: Any = sys.modules["IPython"].display.display(bar, display_id=True)

    def update(**changes: Any) -> None:
        bar.update(**changes)
        handle.update(bar)

    return update


class Bar:
    """A progress bar: in HTML, or as text where that is not shown."""

    def __init__(self, unit: str, total: int, completed: float | int):
        self._unit, self._total, self._first = unit, total, completed
        self._completed, self._text = completed, ""
        self._start = time.perf_counter()

    def update(
        self,
        *,
        completed: float | int | None = None,
        text: str | None = None,
        restart: bool = False,
    ) -> None:
        """Changes how many are done, or what else is said; `restart` measures from then on."""
        self._completed = self._completed if completed is None else completed
        self._text = self._text if text is None else " ".join(text.split())
        if restart:
            self._first, self._start = self._completed, time.perf_counter()

    def __repr__(self) -> str:
        done, elapsed = self._completed - self._first, time.perf_counter() - self._start
        texts = [f"{self._unit} {int(self._completed):,}/{self._total:,}"]
        texts += [self._text] if self._text else []
        if self._completed >= self._total:
            texts.append(clock(elapsed))
        elif done > 0:
            texts.append(f"{clock(elapsed / done * (self._total - self._completed))} left")
        return ", ".join(texts)

    def _repr_html_(self) -> str:
        return (
            f'<progress value="{self._completed:.3f}" max="{max(self._total, 1)}"'
            f' style="width: 40%; vertical-align: middle"></progress> <code>{self!r}</code>'
        )
