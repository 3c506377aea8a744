"""What a run prints: colour and a progress bar on a terminal, plain lines to grep elsewhere."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lenet_jax.errors import discard_stdout

REFRESH_PER_SECOND = 4  # of spinner and bar; their thread takes its time from training
DIM_WORDS = ("train", "valid", "loss", "acc", "lr", "img/s")
ASCII = str.maketrans({"★": "*", "×": "x", "…": "..."})


class Console:
    """Prints a run, from its header to its result.

    Whether the stream is a terminal is rich's judgement, which heeds `FORCE_COLOR`, `NO_COLOR` and
    `TERM`. Elsewhere nothing is coloured, overwritten, wrapped or cut.
    """

    def __init__(self, stream: Any = None):
        """Prints to `stream`, a text stream; None: standard output."""
        from rich.console import Console as RichConsole

        self._rich = RichConsole(file=stream)
        self._rich.on_broken_pipe = discard_stdout  # it would exit; `Interrupt` sees the SIGPIPE

    def header(
        self,
        *,
        device: str,
        dataset: str,
        workdir: Path | str,
        layers: Sequence[tuple[str, Sequence[int], int]],
        num_params: int,
    ) -> None:
        """Says what runs, on what and where.

        Args:
            device: the device, in words.
            dataset: the data, in words.
            workdir: the run directory.
            layers: of each layer the name, the output's shape without batch, and its parameters.
            num_params: parameters of the network.
        """
        self._pairs({"device": device, "dataset": dataset, "workdir": workdir})
        rows = [("layer", "output", "parameters")]
        rows += [(name, "×".join(map(str, shape)), f"{count:,}") for name, shape, count in layers]
        rows += [("total", "", f"{num_params:,}")]
        wide = max(len(shape) for _, shape, _ in rows)
        self._print()
        for index, (name, shape, count) in enumerate(rows):
            line = f"{name:<14} {shape:<{wide}} {count:>12}"
            self._print((line, "" if index else "dim"))
        self._print()

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Says that the run's program is being compiled; a terminal learns how long it took."""
        if not self._rich.is_interactive:
            self._print(("compiling…", ""))
            yield
            return
        start = time.perf_counter()
        spinner = "line" if self._rich.options.ascii_only else "dots"
        with self._rich.status(
            self._legible("compiling…"), spinner=spinner, refresh_per_second=REFRESH_PER_SECOND
        ):
            yield
        self._print((f"compiled in {time.perf_counter() - start:.1f} s", "dim"))

    @contextmanager
    def epochs(self, num_epochs: int, first_epoch: int = 1) -> "Iterator[Epochs]":
        """Shows the progress of the epochs `first_epoch` to `num_epochs`, counted from 1."""
        if not self._rich.is_interactive:
            yield Epochs(self, num_epochs, None)
            return
        with _make_bar(self._rich, num_epochs, first_epoch) as bar:
            yield Epochs(self, num_epochs, bar)

    @contextmanager
    def member_epochs(self, total: int) -> "Iterator[MemberEpochs]":
        """Shows the progress of a sweep over `total` epochs of its members."""
        if not self._rich.is_interactive:
            yield MemberEpochs(self, total, None)
            return
        with _make_member_bar(self._rich, total) as bar:
            yield MemberEpochs(self, total, bar)

    def result(self, summary: Mapping[str, Any], files: Sequence[Path | str]) -> None:
        """Prints the test result, what it took, and the run's files.

        Args:
            summary: what summary.json holds; lines whose keys are missing or None are left out.
            files: paths, printed one a line.
        """
        known = {key: value for key, value in summary.items() if value is not None}
        if {"test_accuracy", "test_examples"} <= known.keys():
            known["percent"] = 100 * known["test_accuracy"]
            known["wrong"] = round(known["test_examples"] * (1 - known["test_accuracy"]))
        lines = {
            "status": "{status}",
            "test accuracy": "{percent:.2f} %  ({wrong:,} wrong of {test_examples:,})",
            "test loss": "{test_loss:.4f}",
            "parameters": "{num_params:,}",
            "training": "{train_seconds:.1f} s  ({epochs:,} epochs, {steps:,} steps)",
            "speed": "{images_per_second:,.0f} img/s",
            "first step": "after {seconds_to_first_step:.1f} s",
        }
        pairs = {}
        for name, line in lines.items():
            try:
                pairs[name] = line.format_map(known)
            except KeyError:
                continue
        self._print()
        self._pairs(pairs)
        for index, file in enumerate(files):
            self._pairs({"" if index else "files": file})

    def lines(self, lines: Sequence[str]) -> None:
        """Prints lines as they are."""
        for line in lines:
            self._print((line, ""))

    def note(self, message: str) -> None:
        """Prints a remark as one line."""
        self._print((" ".join(message.splitlines()), ""))

    def warn(self, message: str) -> None:
        """Prints a warning as one line."""
        self._print(("warning: " + " ".join(message.splitlines()), "yellow"))

    def release(self) -> None:
        """Gives the terminal back, where a process ends in the middle of its progress."""
        if self._rich.is_interactive:
            self._rich.show_cursor()
            self._print()

    def _pairs(self, pairs: Mapping[str, object]) -> None:
        for name, value in pairs.items():
            style = "bold" if name in ("test accuracy", "workdir") else ""
            self._print((f"{name:<14} ", "dim"), (str(value), style))

    def _print(self, *parts: tuple[str, str]) -> None:
        """Prints one line of texts with their styles."""
        from rich.text import Text

        line = Text.assemble(*((self._legible(text), style) for text, style in parts))
        self._rich.print(line, soft_wrap=True)

    def _print_epoch(self, variants: Sequence[str], star: str) -> None:
        """Prints the first variant that fits into the terminal's width; without one, the first."""
        from rich.text import Text

        width = self._rich.width if self._rich.is_terminal else math.inf
        fits = (line for line in variants if len(line) + len(star) <= width)
        text = Text(self._legible(next(fits, variants[-1])))
        text.highlight_words(DIM_WORDS, "dim")
        text.append(self._legible(star), "bold yellow")
        self._rich.print(text, soft_wrap=True)

    def _legible(self, text: str) -> str:
        """Spells out what the stream's encoding lacks."""
        if not self._rich.options.ascii_only:
            return text
        return text.translate(ASCII).encode("ascii", "backslashreplace").decode()


class Epochs:
    """The progress over the epochs: a bar on a terminal, and one lasting line an epoch."""

    def __init__(self, console: Console, num_epochs: int, bar: Any):
        self._console, self._num_epochs, self._bar = console, num_epochs, bar

    def advance(self, epochs: float) -> None:
        """Shows how many epochs are done, the one under way by its share."""
        if self._bar is not None:
            self._bar.update(self._bar.tasks[0].id, completed=epochs)

    def finish(self, row: Mapping[str, float | int], *, best: bool = False) -> None:
        """Reports a finished epoch.

        Args:
            row: the epoch's metrics, named as in metrics.jsonl; `valid/…` may be missing.
            best: whether it is the best one so far.
        """
        self._console._print_epoch(epoch_lines(row, self._num_epochs), " ★" if best else "")
        if self._bar is not None:
            self._bar.finish(row)


class MemberEpochs:
    """The progress of a sweep: a bar on a terminal, and one lasting line a chunk."""

    def __init__(self, console: Console, total: int, bar: Any):
        self._console, self._total, self._bar = console, total, bar
        self._start = time.perf_counter()
        self._done = self._images = 0

    def advance(self, member_epochs: int, images: int) -> None:
        """Counts epochs of members that are done, and the images that they went through."""
        self._done += member_epochs
        self._images += images
        if self._bar is not None:
            speed, left = self.speed_and_time()
            fields = {"speed": speed, "left": left}
            self._bar.update(self._bar.tasks[0].id, completed=self._done, **fields)

    def finish(self, line: str) -> None:
        """Says of a chunk that it is done; where no bar says it, how far and how fast it is too."""
        if self._bar is None:
            speed, left = self.speed_and_time()
            line += f"; {self._done:,}/{self._total:,} member-epochs, {speed}, {left}"
        self._console._print((line, ""))

    def speed_and_time(self) -> tuple[str, str]:
        """Images a second, of all members together, and the time left, in words."""
        elapsed = time.perf_counter() - self._start
        left = elapsed / max(self._done, 1) * (self._total - self._done)
        return f"{self._images / elapsed:,.0f} img/s", f"{clock(left)} left"


def epoch_lines(row: Mapping[str, float | int], num_epochs: int) -> list[str]:
    """Writes an epoch's metrics as one line: at length, and in two shorter variants.

    The second has at most 80 columns with a star behind it, up to 999 epochs.
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
    long += f"  lr {row['learning_rate']:<7.3g}  {rate:>7,.0f} img/s"
    short += f"  lr {row['learning_rate']:<7.2g}"
    return [long, f"{short}  {rate / 1000:>4.3g}k/s", short]


def seconds_left(elapsed: float, elapsed_then: float, done: int, remaining: int) -> float:
    """Estimates the time to the end.

    Args:
        elapsed: seconds since the first epoch began.
        elapsed_then: the same when the last epoch was finished.
        done: epochs finished since then, at least 1.
        remaining: epochs to go, with the one in progress.
    """
    mean = elapsed_then / done
    return max(mean * remaining - (elapsed - elapsed_then), mean * (remaining - 1), 0.0)


def clock(seconds: float) -> str:
    """Writes a time as 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def counted(number: int, noun: str) -> str:
    """`1 filter`, `6 filters`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _significant(loss: float) -> str:
    return f"{loss:6.4f}" if loss < 10 else f"{loss:6.4g}"


def _make_bar(console: Any, num_epochs: int, first_epoch: int) -> Any:
    """Makes rich's progress bar; rich is imported late, so its classes are extended here."""
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class TimeLeft(ProgressColumn):
        def render(self, task: Task) -> Text:
            done = int(task.completed) - first_epoch + 1
            if not done:
                return Text("  -:-- left")
            remaining = num_epochs - int(task.completed)
            seconds = seconds_left(task.elapsed or 0.0, task.fields["then"], done, remaining)
            minutes, seconds = divmod(round(seconds), 60)
            return Text(f"{minutes:>3}:{seconds:02d} left")

    class Bar(Progress):
        def finish(self, row: Mapping[str, float | int]) -> None:
            split = "valid" if "valid/loss" in row else "train"
            percent = 100 * row[f"{split}/accuracy"]
            then = self.tasks[0].elapsed or 0.0
            metrics = f"loss {_significant(row[f'{split}/loss'])} acc {percent:6.2f} %"
            speed = f"{row['images_per_second'] / 1000:>4.3g}k img/s"
            epoch = min(int(row["epoch"]) + 1, num_epochs)
            fields = {"epoch": epoch, "metrics": metrics, "speed": speed, "then": then}
            self.update(self.tasks[0].id, completed=int(row["epoch"]), **fields)

    bar = Bar(
        TextColumn(f"epoch {{task.fields[epoch]:>{len(str(num_epochs))}}}/{num_epochs}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[metrics]}"),
        TextColumn("{task.fields[speed]}"),
        TimeLeft(),
        console=console,
        refresh_per_second=REFRESH_PER_SECOND,
        transient=True,
        expand=True,
    )
    fields = {"epoch": min(first_epoch, num_epochs), "metrics": "", "speed": "", "then": 0.0}
    bar.add_task("", total=num_epochs, completed=first_epoch - 1, **fields)
    return bar


def _make_member_bar(console: Any, total: int) -> Any:
    from rich.progress import BarColumn, Progress, TextColumn

    bar = Progress(
        TextColumn("member-epochs {task.completed:,}/{task.total:,}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[left]}"),
        console=console,
        refresh_per_second=REFRESH_PER_SECOND,
        transient=True,
        expand=True,
    )
    bar.add_task("", total=total, speed="", left="")
    return bar
