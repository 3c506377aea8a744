"""Errors meant for the user, how commands end, and short text for messages."""

import atexit
import contextlib
import enum
import errno
import io
import itertools
import os
import re
import shutil
import signal
import stat
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

LINES, WIDTH = 3, 200  # of a message, at most
PATH_END = 40  # characters that a path keeps in a line that is too long

# What to do about a run that diverged, which the same command repeats.
LESS_MEMORY = (
    "Use less at once: --chunk_size=N members of a sweep, smaller train.micro_batch_size and"
    " train.eval_batch_size."
)
IF_DIVERGED = "lower optimizer.learning_rate or clip with train.max_grad_norm, in another workdir"
# What to do about writes that fail because of the disk, by error number.
DISK_FAULTS = {
    errno.ENOSPC: "free disk space",
    errno.EDQUOT: "free disk space, or have your quota raised",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EROFS: "make the file system writable",
    errno.EIO: "the disk may be failing: check it",
    errno.ENODEV: "the disk is gone: reconnect it",
    errno.ENXIO: "the disk is gone: reconnect it",
    errno.ESTALE: "the network file system is gone: mount it again",
}
# Likewise because of the path.
WRONG_PATHS = {
    errno.EACCES: "Choose a folder that you may write to.",
    errno.EPERM: "Choose a folder that you may write to.",
    errno.EEXIST: "A file is where a folder belongs: move it, or choose another name.",
    errno.ENOTDIR: "A file is where a folder belongs: move it, or choose another name.",
    errno.EISDIR: "A folder is where a file belongs: move it, or choose another name.",
    errno.ENOTEMPTY: "A folder is where a file belongs: move it, or choose another name.",
    errno.ENOENT: "Its folder does not exist: create it, then run the same command again.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ELOOP: "A symbolic link is in its place: remove it, or choose another name.",
    errno.EMFILE: "Too many files are open: raise the limit (ulimit -n).",
}


# Signals that ask a command to end; Windows has no SIGHUP.
STOPPING = tuple(
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


_exit_code: int | None = None  # of the process, once its command has ended


class ExitCode(enum.IntEnum):
    """How a command ended; the last four are a shell's codes for signals."""

    DONE = 0
    USAGE = 2  # wrong usage or input: at most three lines on stderr, nothing written
    DIVERGED = 3
    DISK = 4
    LOST = 5  # another process of the same run is gone
    HANGUP = 129  # the terminal is closed
    INTERRUPTED = 130
    CLOSED_PIPE = 141
    TERMINATED = 143


class UserError(Exception):
    """An error that the user can fix: what is wrong, where, and what to do.

    The message is printed as it is, without a traceback, so it has at most three lines.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython and notebooks show instead of a traceback."""
        return [fit(self)]


class WriteError(UserError):
    """A file cannot be written because the disk is full or has failed."""

    def __init__(self, error: OSError, path: str | os.PathLike[str]):
        """Describes `error` in one line, for `path` unless the error names a file itself."""
        super().__init__(
            f"{show(error.filename or path, 120)} cannot be written: {error.strerror or error};"
            f" {DISK_FAULTS.get(error.errno or 0, 'check the disk')},"
            " then run the same command again"
        )


class UnreachableError(WriteError):
    """What lies at a URL cannot be written."""

    def __init__(self, message: str):
        UserError.__init__(self, message)


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end.

    Attributes:
      code: the command's exit code, 128 and the signal's number.
    """

    def __init__(self, number: int):
        super().__init__()
        self.code = 128 + number


def write_error(error: OSError, path: str | os.PathLike[str]) -> UserError:
    """The exception for a failed write to `path`: a `WriteError` if the disk is at fault."""
    if error.errno in DISK_FAULTS:
        return WriteError(error, path)
    path = error.filename or path
    reason = f"{show(path, 120)} cannot be written: {printable(error.strerror or error)}"
    return UserError("\n".join(filter(None, (reason, WRONG_PATHS.get(error.errno or 0)))))


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what fails in writing `path`, or files below it, into an error for the user.

    Raises:
      UserError: the file cannot be written; a `WriteError` if the disk is full or has failed.
    """
    try:
        yield
    except OSError as error:
        raise write_error(error, path) from error


def run_command(main: Callable[..., int], *arguments: Any) -> int:
    """Runs a command and maps what it raises to an exit code.

    Args:
      main: the command; returns its exit code.
      *arguments: its arguments.
    """
    for stream in (sys.stdout, sys.stderr):  # names of files may be in no encoding
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _stopped_by_signals():
            try:
                return main(*arguments)
            finally:
                if sys.stdout is not None:  # it is closed from the start
                    sys.stdout.flush()  # a full disk or a closed pipe raises here, not at exit
    except UserError as error:
        print_error(error)
        return ExitCode.DISK if isinstance(error, WriteError) else ExitCode.USAGE
    except KeyboardInterrupt as error:
        return error.code if isinstance(error, Stopped) else ExitCode.INTERRUPTED
    except RuntimeError as error:  # of JAX, which has no class for it
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print_error(f"the device's memory is exhausted: {printable(error)}\n{LESS_MEMORY}")
        return ExitCode.USAGE
    except OSError as error:
        if is_gone(sys.stdout, error):
            discard(sys.stdout)
            return ExitCode.CLOSED_PIPE
        if error.errno not in DISK_FAULTS:
            if error.filename is None:
                raise
            print_error(f"{show(error.filename)}: {printable(error.strerror)}")
            return ExitCode.USAGE
        if error.filename is None:
            discard(sys.stdout)
        print_error(WriteError(error, "the output"))
        return ExitCode.DISK


def run_program(main: Callable[..., int], *arguments: Any) -> NoReturn:
    """Runs a command as `run_command` does, and ends the process with its exit code."""
    global _exit_code
    _exit_code = run_command(main, *arguments)
    sys.exit(_exit_code)


def begin_program() -> None:
    """Prepares a process whose command `run_program` runs, before anything else is imported.

    Signals end it quietly. Once the command has ended, and all is done that was registered for the
    end from now on, so does the process: Python would go on to take each module apart, and JAX's
    take a fifth of a second.
    """
    end_at_once_on_signals()
    atexit.register(_leave)  # what is registered first is called last


def _leave() -> None:
    if _exit_code is None:
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the command's own output is written
            if stream is not None:
                stream.flush()
    os._exit(_exit_code)


def end_at_once_on_signals() -> None:
    """Has signals end the process quietly, for its start, when there is nothing to clean up."""
    for number in STOPPING:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end_at_once)


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Has signals raise `Stopped`, unless they are ignored (`nohup`) or handled already."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    defaults = signal.SIG_DFL, signal.default_int_handler, _end_at_once
    previous = {number: signal.getsignal(number) for number in STOPPING}
    previous = {number: handler for number, handler in previous.items() if handler in defaults}
    try:
        for number in previous:
            signal.signal(number, _stop)
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    """Raises `Stopped`; during an import, which may swallow it, ends the process instead."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _end_at_once(number, frame)
        frame = frame.f_back
    raise Stopped(number)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


def print_error(message: object) -> None:
    """Prints to standard error, unless that is closed; on a terminal broken between words."""
    if sys.stderr is not None:
        try:
            width = shutil.get_terminal_size().columns if sys.stderr.isatty() else None
            lines = itertools.chain(*(wrap(line, width) for line in fit(message).splitlines()))
            print("\n".join(lines), file=sys.stderr, flush=True)
        except OSError:
            discard(sys.stderr)


def print_remarks(remarks: Iterable[str]) -> None:
    """Prints remarks, some of which are tables, to standard error."""
    for line in itertools.chain.from_iterable(remark.splitlines() for remark in remarks):
        print_error(line)


def is_gone(stream: Any, error: OSError) -> bool:
    """Whether a write to a text stream failed because its pipe or its terminal is closed."""
    if isinstance(error, ConnectionError) or stream is None:
        return isinstance(error, ConnectionError)
    if sys.platform == "win32":  # where a closed pipe is an invalid argument
        return error.errno == errno.EINVAL and error.filename is None
    try:
        is_terminal = stat.S_ISCHR(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):  # a stream in memory has no descriptor
        return False
    return is_terminal and error.errno == errno.EIO and error.filename is None


def expand(path: str | os.PathLike[str], flag: str = "") -> Path:
    """The path with its leading `~` or `~name` replaced.

    Args:
      path: from the user.
      flag: how it was given, `--workdir=`, for the message.

    Raises:
      UserError: there is no user of that name, none can have it, or it is a URL.
    """
    if "\0" in str(path):
        raise UserError(f"{flag}{show(path)}: its name has a null character")
    if is_url(path):
        raise UserError(
            f"{flag}{show(path)}: here it must be a file or a folder, not a URL\n"
            "A sweep can be at a URL, and be read from there: see docs/many_machines.md."
        )
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{flag}{show(path)}: {error}") from error


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL, such as `s3://bucket/folder`."""
    return re.match(r"[a-z][a-z0-9+.-]+://", str(path)) is not None


def discard(stream: Any) -> None:
    """Redirects a standard stream, including what is still buffered, to the null device."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)


def printable(text: object, limit: int = 160) -> str:
    """Formats text, such as an exception's, in one line: unprintable text escaped, the end cut."""
    if isinstance(text, SyntaxError):
        text = text.msg  # without the file and the line
    line = " ".join(_as_text(text).split())
    shown = line if line.isprintable() else repr(line)[1:-1]
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def fit(message: object) -> str:
    """At most three lines of 200 characters, unprintable text escaped; paths are cut first."""
    lines = []
    for line in str(message).splitlines()[:LINES]:
        shown = _shorten_paths(line if line.isprintable() else repr(line)[1:-1])
        lines.append(shown if len(shown) <= WIDTH else f"{shown[: WIDTH - 43]} … {shown[-40:]}")
    return "\n".join(lines)


def wrap(text: str, width: int | None) -> list[str]:
    """A text in lines of at most `width` columns, broken between words; None: one line."""
    if width is None or len(text) <= width:
        return [text]
    return textwrap.wrap(text, max(width, 20), break_long_words=False, break_on_hyphens=False)


def _shorten_paths(line: str) -> str:
    """A line that is too long with the ends of its longest paths, until it fits."""
    paths = {path for path in re.findall(r"[^\s'\"=]*/[^\s'\":;,]*", line) if len(path) > PATH_END}
    for path in sorted(paths, key=len, reverse=True):
        if len(line) > WIDTH:
            line = line.replace(path, f"…{path[1 - PATH_END :]}")
    return line


def show(value: object, limit: int = 80) -> str:
    """Formats a value, such as a path or a key, in one line; unprintable text is escaped.

    What is longer than `limit` keeps its beginning; a path, also as text, its end.
    """
    text = _as_text(value)
    if not text or not text.isprintable() or text != text.strip():
        text = repr(text)
    if len(text) <= limit:
        return text
    is_path = isinstance(value, Path) or "/" in text
    return f"…{text[1 - limit :]}" if is_path else f"{text[: limit - 1]}…"


def counted(number: int, noun: str) -> str:
    """`1 filter`, `6 filters`, `1,024 filters`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _as_text(value: object) -> str:
    """A value as text; of one that has none, such as a number of 5000 digits, its type."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001  # a `__str__` of a user's file may raise anything
        return f"<{type(value).__name__} that cannot be shown>"
