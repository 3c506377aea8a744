"""Atomic writes of files and folders."""

import contextlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeAlias

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
    # A name of its own: processes that share a folder may write the same file.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.draft")
    try:
        with draft.open("xb") as stream:
            if callable(content):
                content(stream)
            else:
                stream.write(content.encode() if isinstance(content, str) else content)
        publish(draft, path)
    except OSError as error:
        error.filename = os.fspath(path)
        raise
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()  # fails after `publish`, which has renamed it


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON, atomically; raises OSError if it cannot be written."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def publish(draft: Path, path: Path) -> None:
    """Renames a draft, a file or a folder of files, to `path` once it is on the disk.

    Whatever is at `path` is replaced. Both must be in the same folder.
    """
    replaced = None
    if draft.is_dir():
        for file in draft.iterdir():
            _sync(file)
    _sync(draft)
    if draft.is_dir() and path.exists():  # a folder can be renamed over an empty folder only
        replaced = set_aside(path)
    draft.replace(path)
    _sync(path.parent)
    if replaced is not None:
        shutil.rmtree(replaced)


def remove_drafts(folder: Path) -> None:
    """Deletes what killed processes left half-written; no process may be writing."""
    for draft in folder.glob(".*.draft"):
        if draft.is_dir():
            shutil.rmtree(draft)
        else:
            draft.unlink()


def set_aside(folder: Path) -> Path:
    """Renames a folder to be deleted, so that a partly deleted one is not taken for whole."""
    return folder.rename(folder.with_name(f".{folder.name}.old.draft"))


def _sync(path: Path) -> None:
    """Waits until a file, or a folder's entries, are on the disk."""
    on_windows = sys.platform == "win32"
    if on_windows and path.is_dir():  # which cannot be opened there
        return
    descriptor = os.open(path, os.O_RDWR if on_windows else os.O_RDONLY)  # to write, there
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
