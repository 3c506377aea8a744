"""The progress of a run or a sweep: a bar on a terminal, and permanent lines everywhere."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console
else:  # importing this module does not import rich
    Console = Any

Update: TypeAlias = Callable[..., None]
# Takes an epoch's line in several lengths, and whether the epoch is the best so far.
WriteEpoch: TypeAlias = Callable[[Sequence[str], bool], None]
REFRESH_PER_SECOND = 4  # the drawing thread competes with training


@contextmanager
def progress_bar(
    console: Console, unit: str, total: int, completed: int = 0
) -> Iterator[Update | None]:
    """Shows a progress bar, and yields the function that updates its `completed` and `text`.

    With `restart`, the time left is estimated from then on. Yields None if the output is not a
    terminal.
    """
    if not console.is_interactive:
        yield None
        return
    from rich import progress

    with progress.Progress(
        progress.TextColumn(unit),
        progress.MofNCompleteColumn(),
        progress.BarColumn(bar_width=None),
        progress.TextColumn("{task.fields[text]}"),
        progress.TimeRemainingColumn(compact=True),
        progress.TextColumn("left"),
        console=console,
        refresh_per_second=REFRESH_PER_SECOND,
        speed_estimate_period=3600,
        transient=True,
        expand=True,
    ) as bar:
        task = bar.add_task("", total=total, completed=completed, text="")

        def update(*, restart: bool = False, **changes: Any) -> None:
            bar.update(task, **changes)
            if restart:
                bar.reset(task, completed=int(bar.tasks[0].completed))
                bar.advance(task, 0)  # speed is measured from now on

        update(restart=True)
        yield update


class Epochs:
    """The progress over the epochs: a bar on a terminal, and one permanent line per epoch."""

    def __init__(
        self,
        write: WriteEpoch,
        num_epochs: int,
        update: Update | None,
        measured: Sequence[str] = (),
    ):
        self._write, self._num_epochs, self._update = write, num_epochs, update
        self._measured = measured

    def advance(self, epochs: float) -> None:
        """Shows how many epochs are done, including the fraction of the current one."""
        if self._update is not None:
            self._update(completed=epochs)

    def finish(self, row: Mapping[str, float | int], *, best: bool = False) -> None:
        """Reports a finished epoch.

        Args:
            row: the epoch's metrics, named as in metrics.jsonl; `valid/…` may be missing.
            best: whether it is the best one so far.
        """
        self._write(epoch_lines(row, self._num_epochs, self._measured), best)
        if self._update is not None:
            split = "valid" if "valid/loss" in row else "train"
            text = f"loss {_significant(row[f'{split}/loss'])}"
            text += f" acc {100 * row[f'{split}/accuracy']:6.2f} %"
            text += f" {_thousands(row['images_per_second'])} img/s"
            self._update(completed=int(row["epoch"]), text=text)


class MemberEpochs:
    """The progress of a sweep: a bar on a terminal, and one permanent line per chunk."""

    def __init__(
        self,
        write: Callable[[str], None],
        total: int,
        update: Update | None,
        compiling: str = "compiling…",
    ):
        self._write, self._total, self._update = write, total, update
        self._compiling, self._has_compiled = compiling, False
        self._last = time.perf_counter()
        self._seconds, self._timed = 0.0, 0  # without what compiled
        self._done = self._images = 0

    def compiling(self) -> None:
        """Says that the next epoch is compiled first; to a terminal's bar, or once as a line."""
        if self._update is not None:
            self._update(text=self._compiling)
        elif not self._has_compiled:
            self._write(self._compiling)
        self._has_compiled = True

    def skip(self, member_epochs: int = 0) -> None:
        """Adds finished member-epochs whose time, since the last, does not count for the speed."""
        self._done += member_epochs
        self._last = time.perf_counter()
        if self._update is not None:
            restart = {} if self._timed else {"restart": True}
            text = {"text": ""} if member_epochs else {}
            self._update(completed=self._done, **restart, **text)

    def advance(self, member_epochs: int, images: int) -> None:
        """Adds finished member-epochs, and the images that they processed."""
        now = time.perf_counter()
        self._seconds += now - self._last
        self._last = now
        self._done += member_epochs
        self._timed += member_epochs
        self._images += images
        if self._update is not None:
            self._update(completed=self._done, text=f"{_thousands(self._rate())} img/s")

    def finish(self, line: str) -> None:
        """Reports a finished chunk; without a bar, also the progress and the speed."""
        if self._update is None:
            line += f"; {self._done:,}/{self._total:,} member-epochs"
            if self._timed:
                left = self._seconds / self._timed * (self._total - self._done)
                line += f", {self._rate():,.0f} img/s, {clock(left)} left"
        self._write(line)

    def _rate(self) -> float:
        return self._images / max(self._seconds, 1e-9)


def epoch_lines(
    row: Mapping[str, float | int], num_epochs: int, measured: Sequence[str] = ()
) -> list[str]:
    """Formats an epoch's metrics as one line: in full, and in shorter variants.

    The last but one has at most 80 columns with a star after it, up to 999 epochs. The first alone
    has the extra measurements of these names.
    """
    digits = len(str(num_epochs))
    long = short = f"epoch {row['epoch']:>{digits}}/{num_epochs}"
    for split in ("train", "valid"):
        if f"{split}/loss" in row:
            loss = _significant(row[f"{split}/loss"])
            percent = f"{100 * row[f'{split}/accuracy']:6.2f}"
            long += f"  {split} loss {loss} acc {percent} %"
            short += f"  {split} {loss} {percent}%"
    rate = row["images_per_second"]
    values = [(name, row.get(f"valid/{name}")) for name in measured]
    extra = "".join(f"  {name} {value:.4g}" for name, value in values if value is not None)
    end = f"  lr {row['learning_rate']:<7.3g}  {rate:>7,.0f} img/s"
    short += f"  lr {row['learning_rate']:<7.2g}"
    lines = [f"{long}{extra}{end}", f"{long}{end}", f"{short}  {_thousands(rate)}/s", short]
    return lines if measured else lines[1:]


def clock(seconds: float) -> str:
    """Formats a duration as 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _significant(loss: float) -> str:
    return f"{loss:6.4f}" if loss < 10 else f"{loss:6.4g}"


def _thousands(number: float) -> str:
    return f"{number / 1000:>4.3g}k"
