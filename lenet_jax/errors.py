"""Errors meant for the user, the exit codes of commands, and short text for messages."""

import enum
import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Error numbers of writes that fail because of the disk, not because of the path.
DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


class ExitCode(enum.IntEnum):
    """How a command ended; the last three are a shell's codes for SIGINT, SIGPIPE and SIGTERM."""

    DONE = 0
    USAGE = 2  # wrong usage or input: at most three lines on stderr, nothing written
    DIVERGED = 3
    DISK = 4
    INTERRUPTED = 130
    CLOSED_PIPE = 141
    TERMINATED = 143


class UserError(Exception):
    """An error that the user can fix: what is wrong, where, and what to do.

    The message is printed as it is, without a traceback, so it has at most three lines.
    """


class WriteError(UserError):
    """A file cannot be written because the disk is full or has failed."""

    def __init__(self, error: OSError, path: str | os.PathLike[str]):
        """Describes `error` in one line, for `path` unless the error names a file itself."""
        super().__init__(
            f"{error.filename or path} cannot be written: {error.strerror or error};"
            " free disk space, then run the same command again"
        )


def write_error(error: OSError, path: str | os.PathLike[str]) -> UserError:
    """The exception for a failed write to `path`: a `WriteError` if the disk is at fault."""
    if error.errno in DISK_FAULTS:
        return WriteError(error, path)
    return UserError(f"{path} cannot be written: {error.strerror or error}")


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
        try:
            return main(*arguments)
        finally:
            if sys.stdout is not None:  # it is closed from the start
                sys.stdout.flush()  # a full disk or a closed pipe raises here, not at exit
    except UserError as error:
        print(error, file=sys.stderr)
        return ExitCode.DISK if isinstance(error, WriteError) else ExitCode.USAGE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        discard_stdout()
        return ExitCode.CLOSED_PIPE
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            if error.filename is None:
                raise
            print(f"{show(error.filename)}: {printable(error.strerror)}", file=sys.stderr)
            return ExitCode.USAGE
        if error.filename is None:
            discard_stdout()
        print(WriteError(error, "the output"), file=sys.stderr)
        return ExitCode.DISK


def expand(path: str | os.PathLike[str], flag: str = "") -> Path:
    """The path with its leading `~` or `~name` replaced.

    Args:
      path: from the user.
      flag: how it was given, `--workdir=`, for the message.

    Raises:
      UserError: there is no user of that name.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{flag}{show(path)}: {error}") from error


def discard_stdout() -> None:
    """Redirects standard output, including what is still buffered, to the null device."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


def printable(text: object, limit: int = 160) -> str:
    """Formats text, such as an exception's, in one line: unprintable text escaped, the end cut."""
    if isinstance(text, SyntaxError):
        text = text.msg  # without the file and the line
    line = " ".join(str(text).split())
    shown = line if line.isprintable() else repr(line)[1:-1]
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def show(value: object) -> str:
    """Formats a value, such as a path or a key, in one line; unprintable text is escaped.

    A long path keeps its end, anything else its beginning.
    """
    text = str(value)
    if not text or not text.isprintable() or text != text.strip():
        text = repr(text)
    if len(text) <= 80:
        return text
    return f"…{text[-79:]}" if isinstance(value, Path) else f"{text[:79]}…"
