"""What a run prints: colour and a progress bar on a terminal, plain lines to grep elsewhere.

In a notebook the lines are plain too, and the bar is one that its pages can show.
"""

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lenet_jax.errors import counted, discard, is_gone, print_error, wrap, write_error
from lenet_jax.terminal import notebook
from lenet_jax.terminal.progress import (
    REFRESH_PER_SECOND,
    Epochs,
    MemberEpochs,
    Update,
    progress_bar,
)

DIMMED = ("train", "valid", "loss", "acc", "lr", "img/s")
DUMB = ("dumb", "unknown")  # values of TERM, as for rich
ASCII = str.maketrans({"★": "*", "×": "x", "…": "..."})


class Output:
    """A text stream whose reader may go away; what is written after that is dropped.

    Where it cannot be written for another reason, such as a full disk, that is a `UserError`.

    Attributes:
      closed_by_reader: whether it has gone.
    """

    def __init__(self, stream: Any):
        self._stream = stream
        self.closed_by_reader = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes to the stream."""
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Flushes the stream."""
        self._attempt(self._stream.flush)

    def _attempt(self, operation: Callable[..., object], *arguments: Any) -> None:
        if self.closed_by_reader:
            return
        try:
            operation(*arguments)
        except OSError as error:
            if not is_gone(self._stream, error):
                raise write_error(error, "the output") from error
            self.closed_by_reader = True
            if self._stream is sys.stdout:
                discard(self._stream)


@contextmanager
def starting() -> Iterator[None]:
    """Shows at once, on a terminal, that a command has started, while what takes longer begins."""
    stream, is_dumb = sys.stdout, os.environ.get("TERM") in DUMB or notebook.is_output()
    if stream is None or not stream.isatty() or is_dumb:
        yield
        return
    with contextlib.suppress(OSError):
        stream.write("starting\r")  # what ends the process at once leaves a line to write over
        stream.flush()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            stream.write("\x1b[K")  # clears the line
            stream.flush()


class Console:
    """Prints a run, from its header to its result.

    rich decides whether the stream is a terminal, and respects `FORCE_COLOR`, `NO_COLOR` and
    `TERM`. Elsewhere nothing is coloured, overwritten, wrapped or cut.
    """

    def __init__(self, stream: Any = None):
        """Prints to `stream`, a text stream; None: standard output."""
        from rich.console import Console as RichConsole

        self._in_notebook = stream is None and notebook.is_output()
        stream = sys.stdout if stream is None else stream
        self._output = None if stream is None else Output(stream)
        # A notebook sets FORCE_COLOR, and gives its cells' commands a terminal, but is none. In its
        # kernel, rich would make a page element of each line.
        self._rich = RichConsole(
            file=self._output,  # pyright: ignore[reportArgumentType]
            force_terminal=False if self._in_notebook else None,
            force_jupyter=False,
        )
        self._begun: tuple[Mapping[str, str], Path | str] | None = None  # of the header

    def is_closed(self) -> bool:
        """Whether nobody reads the output any more."""
        return self._output is not None and self._output.closed_by_reader

    def begin(self, pairs: Mapping[str, str], workdir: Path | str) -> None:
        """Begins the header with pairs and the run directory, before the rest of it is known.

        On a terminal they appear at once; elsewhere with the rest, so that a run which does not
        start prints nothing.
        """
        self._begun = pairs, workdir
        if self._rich.is_interactive:
            self._place(*self._begun)
            self._begun = None

    def header(
        self,
        *,
        device: str,
        dataset: str,
        layers: Sequence[tuple[str, Sequence[int], int]],
        num_params: int,
    ) -> None:
        """Prints what `begin` has not, the device, the data and the layers.

        Args:
            device: a description of the device.
            dataset: a description of the data.
            layers: each layer's name, output shape without batch, and number of parameters.
            num_params: number of parameters of the network.
        """
        if self._begun is not None:
            self._place(*self._begun)
            self._begun = None
        self._pairs({"device": device, "dataset": dataset})
        rows = [("layer", "output", "parameters")]
        rows += [(name, "×".join(map(str, shape)), f"{count:,}") for name, shape, count in layers]
        rows += [("total", "", f"{num_params:,}")]
        names, shapes = (max(len(row[column]) for row in rows) for column in (0, 1))
        are_known = any(shape for _, shape, _ in layers)
        self._print()
        for index, (name, shape, count) in enumerate(rows):
            output = f" {shape:<{shapes}}" if are_known else ""
            line = f"{name:<{max(names, 14)}}{output} {count:>12}"
            self._print((line, "" if index else "dim"))
        self._print()

    def sweep_header(
        self, *, device: str, datasets: Sequence[str], workdir: Path | str, plan: str
    ) -> None:
        """Prints the device, the data, the sweep's directory and its plan, in short."""
        self._place({"device": device, "dataset": "; ".join(datasets)}, workdir)
        self._pairs({"plan": plan})
        self._print()

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Reports that the run is being compiled; on a terminal, also how long it took."""
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
    def epochs(
        self, num_epochs: int, first_epoch: int = 1, measured: Sequence[str] = ()
    ) -> Iterator[Epochs]:
        """Shows the progress of the epochs `first_epoch` to `num_epochs`, counted from 1.

        Args:
            num_epochs: the last of them.
            first_epoch: the first of them.
            measured: the names of extra measurements.
        """
        with self._bar("epochs", num_epochs, first_epoch - 1) as update:
            yield Epochs(self._print_epoch, num_epochs, update, measured)

    @contextmanager
    def member_epochs(self, total: int) -> Iterator[MemberEpochs]:
        """Shows the progress of a sweep over `total` epochs of its members."""
        with self._bar("member-epochs", total) as update:
            yield MemberEpochs(self.note, total, update, self._legible("compiling…"))

    def result(
        self, summary: Mapping[str, Any], commands: Sequence[str], measured: Sequence[str] = ()
    ) -> None:
        """Prints the test result, the cost of the run, and what to do with it.

        Args:
            summary: as in summary.json; lines whose keys are missing or None are left out.
            commands: see `next`.
            measured: the names of extra measurements.
        """
        known = {key: value for key, value in summary.items() if value is not None}
        if {"test_accuracy", "test_examples"} <= known.keys():
            known["percent"] = 100 * known["test_accuracy"]
            known["wrong"] = round(known["test_examples"] * (1 - known["test_accuracy"]))
        if "test_ema_accuracy" in known:
            known["ema_percent"] = 100 * known["test_ema_accuracy"]
        if {"best_epoch", "epochs"} <= known.keys():
            at = f"of epoch {known['best_epoch']:,} of {known['epochs']:,}"
            known.setdefault("tested_weights", f"{at}, the best on validation")
        if "epochs" in known:
            known["trained"] = counted(known["epochs"], "epoch")
        lines = {
            "status": "{status}",
            "test accuracy": "{percent:.2f} %  ({wrong:,} wrong of {test_examples:,})",
            "test loss": "{test_loss:.4f}",
            **{f"test {name}": f"{{test_{name}:.4g}}" for name in measured},
            "averaged": "{ema_percent:.2f} %  (of the moving average of the weights)",
            "weights": "{tested_weights}",
            "parameters": "{num_params:,}",
            "training": "{train_seconds:.1f} s  ({trained}, {steps:,} steps)",
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
        self.next(commands)

    def next(self, commands: Sequence[str]) -> None:
        """Prints the commands that come next, each to paste; not in a notebook, which is shared."""
        if commands and not self._in_notebook:
            self._print()
            for command in commands:
                self._print(("next: ", "dim"), (command, ""))

    @property
    def width(self) -> int | None:
        """The columns of the terminal; None if the output is none."""
        return self._rich.width if self._rich.is_terminal else None

    def lines(self, lines: Sequence[str]) -> None:
        """Prints lines as they are."""
        for line in lines:
            self._print((line, ""))

    def note(self, message: str) -> None:
        """Prints a message; as one line, unless that breaks at the edge of a terminal."""
        for line in wrap(" ".join(message.splitlines()), self.width):
            self._print((line, ""))

    def warn(self, message: str) -> None:
        """Prints a warning as one line; to standard error if nobody reads the output any more."""
        line = "warning: " + " ".join(message.splitlines())
        self._print((line, "yellow"))
        if self.is_closed():
            print_error(line)

    def release(self) -> None:
        """Restores the cursor if the process ends while progress is shown."""
        if self._rich.is_interactive:
            self._rich.show_cursor()
            self._print()

    @contextmanager
    def _bar(self, unit: str, total: int, completed: int = 0) -> Iterator[Update | None]:
        """Shows a progress bar that suits the output, as `progress_bar`."""
        if self._in_notebook and notebook.is_kernel() and completed < total:
            yield notebook.show_bar(unit, total, completed)
            return
        with progress_bar(self._rich, unit, total, completed) as update:
            yield update

    def _place(self, pairs: Mapping[str, str], workdir: Path | str) -> None:
        """Prints pairs and a directory, in a notebook without one's folders: they are shared."""
        if self._in_notebook and Path(workdir).is_relative_to(Path.cwd()):
            workdir = Path(workdir).relative_to(Path.cwd())
        self._pairs(pairs)
        self._print((f"{'workdir':<14} ", "dim"), (str(workdir), "bold"))  # to be copied as it is

    def _pairs(self, pairs: Mapping[str, object]) -> None:
        for name, value in pairs.items():
            first, *more = wrap(str(value), self.width and self.width - 15)
            self._print((f"{name:<14} ", "dim"), (first, "bold" if name == "test accuracy" else ""))
            for line in more:
                self._print((f"{'':<15}{line}", ""))

    def _print(self, *spans: tuple[str, str]) -> None:
        """Prints one line of texts and their styles."""
        from rich.text import Text

        line = Text.assemble(*((self._legible(text), style) for text, style in spans))
        self._rich.print(line, soft_wrap=True)

    def _print_epoch(self, variants: Sequence[str], best: bool) -> None:
        """Prints the first variant that fits the terminal's width; if none does, the last."""
        from rich.text import Text

        star = " ★" if best else ""
        width = self.width or math.inf
        fits = (line for line in variants if len(line) + len(star) <= width)
        text = Text(self._legible(next(fits, variants[-1])))
        text.highlight_words(DIMMED, "dim")
        text.append(self._legible(star), "bold yellow")
        self._rich.print(text, soft_wrap=True)

    def _legible(self, text: str) -> str:
        """Replaces or escapes what the stream's encoding lacks."""
        if not self._rich.options.ascii_only:
            return text
        return text.translate(ASCII).encode("ascii", "backslashreplace").decode()
