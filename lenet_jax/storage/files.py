"""Files and folders that are written, replaced and deleted as a whole."""

import contextlib
import csv
import errno
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lenet_jax.drafts import name_draft, sync, write_atomically
from lenet_jax.errors import DISK_FAULTS, UserError, show
from lenet_jax.reading import open_file

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a formula begins in a table's cell


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON, atomically; raises OSError if it cannot be written."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def check_replaceable(
    path: Path, content: str | bytes | None = None, *, force: bool, mark: bytes = b""
) -> None:
    """Checks that writing `content` to `path` destroys nothing that somebody else wrote there.

    Args:
      path: where to write.
      content: what is to be written, if it is known; a file that has it may be written again.
      force: whether anything may be replaced.
      mark: what files have that the same command wrote, which may be replaced too; empty: none.

    Raises:
      UserError: there is another file.
      OSError: it cannot be read, or is a folder.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if force or not path.is_file():
        return
    with open_file(path) as file:
        present = file.read()
    content = content.encode() if isinstance(content, str) else content
    if present != content and not (mark and mark in present):
        raise UserError(
            f"{show(path, 120)} already exists, and is not what this command would write\n"
            "Choose another name, or add --force to replace it."
        )


def make_folder(path: Path) -> Path:
    """Creates a folder inside one that may come from somebody else, unless it exists.

    Raises:
      OSError: it cannot be created, or is a symbolic link, behind which anything may be.
    """
    refuse_link(path)
    path.mkdir(exist_ok=True)
    return path


@contextlib.contextmanager
def preparing(workdir: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what fails in preparing a --workdir into an error for the user.

    Raises:
      UserError: the folder cannot be written.
      OSError: the disk is full or has failed.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FAULTS:
            raise
        raise UserError(
            f"--workdir={workdir} cannot be written: {error.strerror} ({error.filename})\n"
            "Choose a folder that you may write to."
        ) from error


def refuse_others(folder: Path, names: Iterable[str], record: str, kind: str) -> None:
    """Checks that a new run or sweep replaces no file, in a folder without a record of one.

    Raises:
      UserError: it would.
    """
    present = [name for name in names if (folder / name).exists()]
    if present:
        raise UserError(
            f"{show(folder, 120)} holds {', '.join(present[:3])}, but no {record}:"
            f" a {kind} would replace what it did not write\n"
            "Choose another --workdir."
        )


def refuse_link(path: Path) -> None:
    """Raises OSError if `path` is a symbolic link."""
    if path.is_symlink():
        reason = "it is a symbolic link, which is not followed"
        raise OSError(errno.ELOOP, reason, os.fspath(path))


def remove(path: Path) -> None:
    """Deletes a file, a folder with what is in it, or a symbolic link, which is not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def table(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV; see `write_rows`."""
    text = io.StringIO()
    write_rows(text, rows)
    return text.getvalue()


def write_rows(stream: io.TextIOBase, rows: Iterable[Iterable[object]]) -> None:
    """Writes rows as CSV; text that a spreadsheet would run is quoted by an apostrophe."""
    writer = csv.writer(stream, lineterminator="\n")
    for row in rows:
        writer.writerow(
            f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell
            for cell in row
        )


def publish(draft: Path, path: Path) -> None:
    """Renames a draft, a file or a folder of files, to `path` once it is on the disk.

    Whatever is at `path` is replaced. Both must be in the same folder.
    """
    replaced = None
    if draft.is_dir():
        for file in draft.iterdir():
            sync(file)
    sync(draft)
    if draft.is_dir() and path.exists():  # a folder can be renamed over an empty folder only
        replaced = set_aside(path)
    draft.replace(path)
    sync(path.parent)
    if replaced is not None:
        remove(replaced)


def publish_once(draft: Path, path: Path) -> bool:
    """Renames a draft folder to `path` once it is on the disk, unless there is one already.

    Of several processes that publish the same, one does; whether it was this one. The draft is gone
    either way. Both must be in the same folder.
    """
    for file in draft.iterdir():
        sync(file)
    sync(draft)
    try:
        draft.rename(path)  # which fails over a folder that is not empty
    except OSError:
        if not path.is_dir():
            raise
        remove(draft)
        return False
    sync(path.parent)
    return True


def remove_drafts(folder: Path) -> None:
    """Deletes what killed processes left half-written; no process may be writing."""
    for draft in folder.glob(".*.draft"):
        remove(draft)


def set_aside(folder: Path) -> Path:
    """Renames a folder to be deleted, so that a partly deleted one is not taken for whole."""
    return folder.rename(name_draft(folder))
