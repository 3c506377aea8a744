"""Reads what is on disk: opens regular files only, and decodes JSON by type.

Whatever a run, a sweep or a user left in a file passes here before anything else sees it, so that
wrong content is one error, which says what is wrong in which file and where in it.
"""

import errno
import io
import json
import os
import stat
from collections import Counter
from pathlib import Path
from types import GenericAlias
from typing import Any, TypeVar, cast

from lenet_jax.errors import UserError, printable, show

Kind = TypeVar("Kind")

LARGEST = 1 << 30  # bytes of JSON or Python; the plan of a million members has some 30 MB


def open_file(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Opens a file for reading; anything else is refused rather than waited for.

    Raises:
      OSError: it cannot be opened; or it is a folder, a pipe, a socket or a device, which might
        be read for ever.
    """
    return io.BufferedReader(_open(path, "r"))


def open_lock(path: str | os.PathLike[str]) -> io.FileIO:
    """Opens a file that is locked, and creates it if there is none; follows no symbolic link.

    Raises:
      OSError: as `open_file`; or it is a symbolic link.
    """
    return _open(path, "a", getattr(os, "O_NOFOLLOW", 0))


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a file of text.

    Raises:
      OSError: as `open_file`; or it has more than `LARGEST` bytes.
    """
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > LARGEST:
            raise OSError(errno.EINVAL, f"it has more than {LARGEST:,} bytes", os.fspath(path))
        return file.read()


def read_json(path: Path, kind: type[Kind] | GenericAlias) -> Kind | None:
    """The content of a JSON file, or None if there is no such file.

    Args:
      path: the file.
      kind: as for `decode`.

    Raises:
      UserError: the file cannot be read, or holds something else.
    """
    try:
        content = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{show(path)} cannot be read: {error.strerror}") from error
    return decode(content, kind, show(path))


def decode(content: bytes | str, kind: type[Kind] | GenericAlias, where: str) -> Kind:
    """Decodes JSON of a known form; NaN and infinities are numbers, as Python writes them.

    Args:
      content: the text.
      kind: what it must be; values are converted to it. A `TypedDict` keeps the keys that it does
        not name, which other versions may write.
      where: what the text is, for messages.

    Raises:
      UserError: it is no JSON, or is of another form.
    """
    try:
        value = json.loads(content, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON: {printable(error)}") from error
    return convert(value, kind, where)


def convert(value: Any, kind: type[Kind] | GenericAlias, where: str) -> Kind:
    """Converts what was decoded, as `decode` does; raises UserError likewise."""
    import msgspec  # late: training and `experiments.accelerator` do without it

    try:
        converted = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        reason = printable(error)
        raise UserError(f"{where}: {reason[0].lower()}{reason[1:]}") from error
    return cast(Kind, value) if isinstance(converted, dict) else converted


def to_float(text: str) -> float:
    """The number that a text of a file is; unlike `float`, takes no `1_0`, and no other digits.

    Raises:
      ValueError: it is none.
    """
    if "_" in text or not text.isascii():
        raise ValueError(f"{show(text)} is no number")
    return float(text)


def _open(path: str | os.PathLike[str], mode: str, more_flags: int = 0) -> io.FileIO:
    more_flags |= getattr(os, "O_NONBLOCK", 0)  # a pipe would be waited for
    try:
        file = io.FileIO(path, mode, opener=lambda p, flags: os.open(p, flags | more_flags, 0o666))
    except ValueError as error:
        reason = "its name has a null character"
        raise OSError(errno.EINVAL, reason, os.fspath(path)) from error
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        reason = "it is a pipe or a socket, not a file"
        raise OSError(errno.EINVAL, reason, os.fspath(path)) from error
    kind = os.fstat(file.fileno()).st_mode
    if not stat.S_ISREG(kind):
        file.close()
        reason = f"it is a {'pipe' if stat.S_ISFIFO(kind) else 'device'}, not a file"
        raise OSError(errno.EINVAL, reason, os.fspath(path))
    return file


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs, whose names must differ."""
    value = dict(pairs)
    if len(value) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{show(name)} occurs twice in an object")
    return value
