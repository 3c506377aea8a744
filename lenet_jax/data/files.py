"""Files and folders as people name them: opened and listed, or refused in one line."""

import difflib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from lenet_jax import reading
from lenet_jax.errors import UserError, show
from lenet_jax.machine import free_memory

DEPTH = 3  # folders below the one that is given
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
MOST_UNPACKED = 256_000_000  # bytes, whatever the file's size
PACKED = 100  # times smaller, at most; drawings of few strokes pack to a fiftieth
DEFLATE_RATIO = 1032  # deflate encodes at most 258 bytes in two bits
MAX_FOLDERS = 3000  # that are listed in a search


def kind(path: Path) -> str | None:
    """`file` or `folder`; None if nothing has this name.

    Raises:
      UserError: it is something else, such as a pipe or a device, or cannot be looked at.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null character
        return None
    except OSError as error:
        raise UserError(f"cannot read {show(path)}: {error.strerror or error}") from error
    if stat.S_ISDIR(mode):
        return "folder"
    if stat.S_ISREG(mode):
        return "file"
    raise UserError(f"{show(path)} is neither a file nor a folder, but a pipe, socket or device")


def open_file(path: Path) -> io.BufferedReader:
    """Opens a regular file for reading; a pipe or a device is refused rather than waited for.

    Raises:
      UserError: as `kind`; or it is a folder or cannot be opened.
    """
    found = kind(path)
    if found == "folder":
        raise UserError(f"{show(path)} is a folder, not a file")
    try:
        return reading.open_file(path)
    except OSError as error:
        raise UserError(f"cannot read {show(path)}: {error.strerror or error}") from error


def check_size(claimed: int, packed: int, where: str) -> None:
    """Checks, before memory is taken, what the header of a file says that it holds.

    Args:
      claimed: bytes of the array.
      packed: bytes of the file, or of its entry in an archive.
      where: the file, for messages.

    Raises:
      UserError: it is more than images unpack to, or than there is memory.
    """
    if claimed > max(MOST_UNPACKED, PACKED * packed):
        raise UserError(
            f"{where} claims to unpack from {packed / 1e6:,.1f} MB to {claimed / 1e6:,.0f} MB,"
            " as no images do: it is damaged, or made to fill the memory"
        )
    if claimed > (free := free_memory()):
        raise UserError(
            f"{where} has {claimed / 1e9:,.1f} GB, which do not fit into memory:"
            f" {free / 1e9:,.1f} GB are free"
        )


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder by name, without those that systems hide or add.

    Raises:
      UserError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as scan:
            found = [entry for entry in scan if not is_hidden(entry.name)]
    except OSError as error:
        raise UserError(f"cannot read {show(folder)}: {error.strerror or error}") from error
    return sorted(found, key=lambda entry: entry.name)


def is_hidden(name: str) -> bool:
    """Whether a name is hidden, or what a system adds when it unpacks or shows a folder."""
    return name.startswith((".", "__MACOSX")) or name in ("Thumbs.db", "desktop.ini", "@eaDir")


def sibling(path: Path, *, similar: bool = False) -> Path | None:
    """What is called as a path that does not exist, but for its case or a dataset's suffix.

    Args:
      path: of which nothing has the name.
      similar: whether a similar name is enough.
    """
    if kind(path.parent) != "folder":
        return None
    names = [entry.name for entry in entries(path.parent)]
    if similar:
        near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.8)
    else:
        suffixes = ("", ".npz", *ARCHIVES, ".tar.gz", ".tar.bz2", ".tar.xz")
        wanted = {path.name.lower() + suffix for suffix in suffixes}
        near = [name for name in names if name.lower() in wanted]
    return path.parent / near[0] if near else None


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def identity(path: Path) -> tuple[int, int]:
    """What a file or folder has for itself, whatever links lead to it; may raise OSError."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _leads_up(entry: os.DirEntry[str]) -> bool:
    """Whether a folder is a link to one that it is in."""
    if not entry.is_symlink():
        return False
    own = Path(entry.path)
    return own.parent.resolve().is_relative_to(own.resolve())


def walk(folder: Path, depth: int | None = DEPTH) -> Iterator[tuple[Path, list[os.DirEntry[str]]]]:
    """Lists a folder and those below it, the nearer first and each once.

    Args:
      folder: the first.
      depth: of the last ones below it, of which a search lists `MAX_FOLDERS` at most; None: all.

    Raises:
      UserError: a folder cannot be read.
    """
    level, seen = [folder], set()
    while level:
        below = []
        for inside in level:
            if depth is not None and len(seen) >= MAX_FOLDERS:
                return
            found = entries(inside)
            if (own := identity(inside)) in seen:  # by another link, perhaps in a circle
                continue
            seen.add(own)
            yield inside, found
            below += [Path(e.path) for e in found if is_folder(e) and not _leads_up(e)]
        if depth is not None and (depth := depth - 1) < 0:
            return
        level = below
