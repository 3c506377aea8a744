"""SHA-256 sums of the files of a folder, in a manifest that `sha256sum --check` can read."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lenet_jax.errors import UserError, printable
from lenet_jax.reading import open_file, read_bytes
from lenet_jax.storage.files import write_atomically

MANIFEST = "SHA256SUMS"


def write_manifest(folder: Path) -> None:
    """Writes the manifest of a folder that is complete but for it.

    Raises:
      OSError: it cannot be written.
    """
    (folder / MANIFEST).write_text(manifest(folder))


def manifest(folder: Path, known: Mapping[str, str] | None = None) -> str:
    """One line per file of a folder, except its manifest: the SHA-256 in hex, and the name.

    Args:
      folder: the folder.
      known: lines by name, of files that are not read.
    """
    lines, known = [], known or {}
    # Many times as fast as `rglob`, which matters to a sweep of thousands of chunks.
    names = (Path(base, name) for base, _, own in os.walk(folder) for name in own)
    for path in sorted(names):
        name = path.relative_to(folder).as_posix()
        if name != MANIFEST and path.is_file():
            lines.append(known.get(name) or _line(path, name))
    return "".join(lines)


def find_damage(folder: Path, is_deferred: Callable[[str], bool] = lambda _: False) -> str | None:
    """A short description of the damage to a folder's files; None if they are intact.

    Args:
      folder: the folder.
      is_deferred: whether a file of this name has to be there, but is not read; see `is_intact`.
    """
    try:
        stored = read_bytes(folder / MANIFEST).decode("ascii", "replace")
        names = {line.rstrip("\n").partition("  ")[2]: line for line in stored.splitlines(True)}
        known = {name: line for name, line in names.items() if is_deferred(name)}
        actual = manifest(folder, known)
    except (FileNotFoundError, NotADirectoryError):
        return f"it has no {MANIFEST}"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    if stored == actual and actual:
        return None
    listed, present = set(stored.splitlines()), set(actual.splitlines())
    for line in sorted(present - listed, key=_name):
        return f"{_name(line)} differs from {MANIFEST}"
    for line in sorted(listed - present, key=_name):
        return f"{_name(line)} is missing"
    return f"{MANIFEST} was changed"


def is_intact(folder: Path, name: str) -> bool:
    """Whether a file of a folder is as its manifest has it.

    Raises:
      OSError: it, or the manifest, cannot be read.
    """
    stored = read_bytes(folder / MANIFEST).decode("ascii", "replace")
    return _line(folder / name, name) in stored.splitlines(keepends=True)


def stored_line(folder: Path, name: str) -> str:
    """What the manifest of a folder says of a file: its sum and its name.

    Raises:
      OSError: the manifest cannot be read.
      LookupError: it does not list the file.
    """
    for line in read_bytes(folder / MANIFEST).decode("ascii", "replace").splitlines():
        if line.partition("  ")[2] == name:
            return line
    raise LookupError(f"{MANIFEST} does not list {name}")


def write_sums(folder: Path, names: Sequence[str]) -> None:
    """Writes the manifest of some files of a folder.

    Raises:
      OSError: it cannot be written, or a file cannot be read.
    """
    write_atomically(folder / MANIFEST, "".join(_line(folder / name, name) for name in names))


def find_damaged(folder: Path, names: Sequence[str] = ()) -> str | None:
    """The first file of a folder's manifest that is not as it was; None if all are.

    Args:
      folder: the folder; without a manifest, none of its files is damaged.
      names: files that the manifest must list; if it has others, they must be intact too.

    Raises:
      UserError: the manifest cannot be read.
    """
    try:
        lines = read_bytes(folder / MANIFEST).decode("ascii", "replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{folder / MANIFEST} cannot be read: {error.strerror}") from error
    listed = {line.partition("  ")[2] for line in lines}
    if not (listed and listed.issuperset(names)):
        return MANIFEST
    for line in lines:
        name = line.partition("  ")[2]
        try:
            if not name or "/" in name or line + "\n" != _line(folder / name, name):
                return printable(name, 60)
        except OSError:
            return printable(name, 60)
    return None


def _line(path: Path, name: str) -> str:
    with open_file(path) as file:
        return f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n"


def _name(line: str) -> str:
    return printable(line.partition("  ")[2], 60)
