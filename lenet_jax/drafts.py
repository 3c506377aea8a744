"""Files that appear as a whole: written as drafts, then renamed."""

import contextlib
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeAlias

# Text, bytes, or a function that writes to a binary stream.
Content: TypeAlias = str | bytes | Callable[[IO[bytes]], object]


def write_atomically(path: Path, content: Content) -> None:
    """Writes a temporary file beside `path` and renames it once it is on the disk.

    If the process or the machine stops at any moment, `path` has either its old or its new content.

    Args:
      path: the file; its folder must exist.
      content: text, encoded as UTF-8, bytes, or a function that writes to a binary stream.

    Raises:
      OSError: the file cannot be written; the error's `filename` is `path`.
    """
    draft = name_draft(path)
    try:
        with draft.open("xb") as stream:
            if callable(content):
                content(stream)
            else:
                stream.write(content.encode() if isinstance(content, str) else content)
        sync(draft)
        draft.replace(path)
        sync(path.parent)
    except OSError as error:
        error.filename = os.fspath(path)
        raise
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()  # fails where it was renamed


def name_draft(path: Path) -> Path:
    """A name of its own for a draft: processes that share a folder may write the same file."""
    return path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.draft")


def sync(path: Path) -> None:
    """Waits until a file, or a folder's entries, are on the disk."""
    on_windows = sys.platform == "win32"
    if on_windows and path.is_dir():  # which cannot be opened there
        return
    descriptor = os.open(path, os.O_RDWR if on_windows else os.O_RDONLY)  # to write, there
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
