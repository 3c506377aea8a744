"""SHA-256 sums of the files of a folder, in a manifest that `sha256sum --check` can read."""

import hashlib
from pathlib import Path

from lenet_jax.errors import printable

MANIFEST = "SHA256SUMS"


def write_manifest(folder: Path) -> None:
    """Writes the manifest of a folder that is complete but for it.

    Raises:
      OSError: it cannot be written.
    """
    (folder / MANIFEST).write_text(manifest(folder))


def manifest(folder: Path) -> str:
    """One line per file of a folder, except its manifest: the SHA-256 in hex, and the name."""
    lines = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST:
            with path.open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return "".join(lines)


def find_damage(folder: Path) -> str | None:
    """A short description of the damage to a folder's files; None if they are intact."""
    try:
        stored = (folder / MANIFEST).read_bytes().decode("ascii", "replace")
        actual = manifest(folder)
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


def _name(line: str) -> str:
    return printable(line.partition("  ")[2], 60)
