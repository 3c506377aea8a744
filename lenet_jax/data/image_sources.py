"""Where images come from: files, folders, patterns, zip archives, standard input."""

import fnmatch
import functools
import glob
import io
import os
import re
import stat
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from lzma import LZMAError
from pathlib import Path
from typing import NamedTuple, TypeAlias

from lenet_jax.data import signatures
from lenet_jax.data.decode import Stream, suffixes
from lenet_jax.data.files import identity
from lenet_jax.errors import UserError, expand, printable, show
from lenet_jax.reading import open_file

STDIN = "-"
URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
DESCRIPTOR = re.compile(r"/dev/stdin|/dev/fd/\d+|/proc/self/fd/\d+")  # the process's own
ARCHIVE = b"PK\x03\x04", b"PK\x05\x06"  # how a zip begins
MEGABYTE = 1 << 20
LARGEST = 512 * MEGABYTE  # of standard input, and of an image in an archive
MOST_ENTRIES = 200_000  # of an archive
MOST_UNPACKED = 64 << 10  # megabytes: of an archive
HIDDEN = ("__macosx", "thumbs.db", "desktop.ini")  # beside names that begin with a dot
# Why files are left out, of one and of more; what is no image is counted by its suffix.
NO_SUFFIX = "no suffix"
NOT_IMAGE = "is not an image|are not images"
IS_HIDDEN = "is hidden|are hidden"
NOT_REGULAR = "is not a regular file|are not regular files"
BROKEN = "is a broken link|are broken links"
CLOSED = "is a folder that cannot be read|are folders that cannot be read"
LISTED = 5  # suffixes of what is left out


class Entry(NamedTuple):
    """A file in a zip archive."""

    archive: Path
    number: int  # in its table
    name: str

    def __str__(self) -> str:
        """The archive's path, then the name in it."""
        return f"{self.archive}/{self.name}"


class Content(NamedTuple):
    """A file that was read already."""

    name: str
    data: bytes

    def __str__(self) -> str:
        """Where it came from."""
        return self.name


ImageSource: TypeAlias = str | Path | Entry | Content


def label(source: ImageSource) -> str:
    """The name of an image for messages: in one line, unprintable text escaped."""
    return show(Path(str(source)), 120)


class Found(NamedTuple):
    """Images, in order, and how many of what else was left out."""

    images: list[ImageSource]
    left_out: Counter[str]


class _Candidate(NamedTuple):
    parts: tuple[str, ...]  # of its path in a folder or an archive
    source: ImageSource


def find(paths: Sequence[str | Path]) -> Found:
    """The images that the arguments of a command name.

    A folder stands for the images in it and in its sub-folders, a zip archive for those in it, a
    pattern (`*`, `?`, `[…]`, `**`) that is no file for what it matches: sorted, numbers by their
    value, without what is hidden and what is no image, by its suffix or its content. `-` is the
    image on standard input; so are /dev/stdin and, of a process substitution, /dev/fd/63. What is
    named itself is not checked.

    Raises:
      UserError: a folder, an archive or a pattern has no images, or cannot be read; standard input
        is none.
    """
    images: list[ImageSource] = []
    left_out: Counter[str] = Counter()
    for given in paths:
        if given == STDIN:
            images.append(_stdin())
            continue
        if _is_pipe(given):
            images.append(_read_pipe(given))
            continue
        if URL.match(str(given)):
            images.append(str(given))  # a path would lose a slash
            continue
        if str(given) == "":
            raise UserError("the name of an image is empty")
        path = Path(given) if os.path.lexists(given) else expand(given)
        skipped: Counter[str] = Counter()
        if not os.path.lexists(path) and glob.has_magic(str(path)):
            what, candidates = "pattern", list(_matching(path, skipped))
            if not candidates and not skipped:
                raise UserError(f"the pattern {show(path)} matches no file")
        elif path.is_dir():
            what, candidates = "folder", list(_walk(path, skipped))
        elif path.is_file() and _is_archive(path):
            what, candidates = "archive", list(_entries(path, skipped))
        else:
            images.append(path)
            continue
        inside = sorted((c for c in candidates if _is_image(c, skipped)), key=_natural_order)
        if not inside:
            seen = f": {describe_left_out(skipped)}" if skipped else ""
            raise UserError(f"the {what} {show(path)} has no images in it{seen}")
        images += [candidate.source for candidate in inside]
        left_out += skipped
    return Found(images, left_out)


def describe_left_out(left_out: Counter[str]) -> str:
    """Says in a line what `find` left out."""
    other = Counter({what: n for what, n in left_out.items() if what.startswith((".", NO_SUFFIX))})
    reasons = []
    if other:
        kinds = [f"{show(suffix)} {n:,}" for suffix, n in other.most_common(LISTED)]
        if rest := other.total() - sum(n for _, n in other.most_common(LISTED)):
            kinds.append(f"others {rest:,}")
        reasons.append(f"{_count(other.total(), NOT_IMAGE)} ({', '.join(kinds)})")
    reasons += [_count(n, what) for what, n in left_out.items() if what not in other]
    files = "1 file" if left_out.total() == 1 else f"{left_out.total():,} files"
    return f"{files} left out: {', '.join(reasons)}"


def _count(number: int, what: str) -> str:
    """`1 is hidden`, `2 are hidden`."""
    singular, _, plural = what.partition("|")
    return f"1 {singular}" if number == 1 else f"{number:,} {plural}"


@contextmanager
def open_source(source: ImageSource) -> Iterator[Stream]:
    """Opens an image; an entry of an archive is unpacked into memory.

    Raises:
      UserError: it cannot be read, or is no regular file.
    """
    if isinstance(source, Content):
        yield io.BytesIO(source.data)
        return
    if isinstance(source, Entry):
        yield io.BytesIO(_unpack(source))
        return
    if URL.match(str(source)):
        raise UserError(f"{show(source)} is no file: download it, and give the file's path")
    if _is_pipe(source):
        yield io.BytesIO(_read_pipe(source).data)
        return
    name = label(source)
    try:
        mode = Path(source).stat().st_mode
        if stat.S_ISDIR(mode):
            raise UserError(f"{name} is a folder: give one of its files")
        if not stat.S_ISREG(mode):
            raise UserError(f"{name} is not a regular file; to read standard input, give -")
        stream = open_file(source)  # closed below, where errors are the caller's
    except OSError as error:
        reason = printable(error.strerror or error)
        raise UserError(f"{name} cannot be read: {reason}{_similar(Path(source))}") from error
    except ValueError as error:  # a null character
        raise UserError(f"{name} cannot be read: {printable(error)}") from error
    with stream:
        yield stream


def _stdin() -> Content:
    if sys.stdin is None or sys.stdin.closed:
        raise UserError("-: standard input is closed; pipe an image into the command")
    if sys.stdin.isatty():
        raise UserError("-: standard input is a terminal; pipe an image into the command")
    return _content(STDIN, sys.stdin.buffer.read(LARGEST + 1), "-: standard input")


def _is_pipe(path: str | Path) -> bool:
    """Whether it names an open pipe of this process; another FIFO may have no writer for ever."""
    if not DESCRIPTOR.fullmatch(str(path)):
        return False
    try:
        return stat.S_ISFIFO(Path(path).stat().st_mode)
    except OSError:
        return False


def _read_pipe(path: str | Path) -> Content:
    try:
        with Path(path).open("rb") as stream:
            return _content(str(path), stream.read(LARGEST + 1), str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {printable(error.strerror or error)}") from error


def _content(name: str, data: bytes, what: str) -> Content:
    if len(data) > LARGEST:
        raise UserError(f"{what} has more than {LARGEST // MEGABYTE} MB")
    if data.startswith(ARCHIVE):
        raise UserError(f"{what} is a zip archive: save it, and give the file")
    return Content(name, data)


def _walk(folder: Path, left_out: Counter[str]) -> Iterator[_Candidate]:
    """The files in a folder and its sub-folders; each folder once, whatever links lead to it."""
    yield from _walk_in(folder, (), left_out, set())


def _walk_in(
    folder: Path, parts: tuple[str, ...], left_out: Counter[str], seen: set[tuple[int, int]]
) -> Iterator[_Candidate]:
    try:
        own = identity(folder)
        names = os.listdir(folder)  # noqa: PTH208  iterdir closes nothing earlier
    except OSError as error:
        if not parts:
            reason = printable(error.strerror or error)
            raise UserError(f"{show(folder)} cannot be read: {reason}") from error
        left_out[CLOSED] += 1
        return
    if own in seen:
        return
    seen.add(own)
    for name in sorted(names):
        path = folder / name
        if _is_hidden(name):
            left_out[IS_HIDDEN] += 1
        elif path.is_dir():
            yield from _walk_in(path, (*parts, name), left_out, seen)
        elif path.is_file():
            yield _Candidate((*parts, name), path)
        else:
            left_out[BROKEN if path.is_symlink() else NOT_REGULAR] += 1


def _matching(pattern: Path, left_out: Counter[str]) -> Iterator[_Candidate]:
    """The files that match a pattern, and those in the folders that do."""
    fixed = next(i for i, part in enumerate(pattern.parts) if glob.has_magic(part))
    base, rest = Path(*pattern.parts[:fixed]), pattern.parts[fixed:]
    if "**" in rest:
        if base.is_dir():
            for candidate in _walk(base, left_out):
                if _matches(candidate.parts, rest):
                    yield candidate
        return
    paths = [Path(name) for name in sorted(glob.glob(str(pattern)))]  # noqa: PTH207  hidden ones are not matched
    # Links to the folders that the pattern is about are not followed, as in `_walk`.
    seen = {identity(path.parent) for path in paths if path.is_file()}
    for path in paths:
        if path.is_dir():
            yield from _walk_in(path, path.parts, left_out, seen)
        elif path.is_file():
            yield _Candidate(path.parts, path)
        else:
            left_out[BROKEN if path.is_symlink() else NOT_REGULAR] += 1


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path matches a pattern, in which `**` is any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    matches = bool(parts) and fnmatch.fnmatch(parts[0], pattern[0])
    return matches and _matches(parts[1:], pattern[1:])


def _is_archive(path: Path) -> bool:
    with open_file(path) if os.access(path, os.R_OK) else io.BytesIO() as stream:
        return stream.read(4) in ARCHIVE


def _entries(path: Path, left_out: Counter[str]) -> Iterator[_Candidate]:
    """The files in a zip archive.

    Raises:
      UserError: it cannot be read, is encrypted, or unpacks to too much.
    """
    entries = _infos(path)
    total = sum(entry.file_size for entry in entries) // MEGABYTE
    if len(entries) > MOST_ENTRIES or total > MOST_UNPACKED:
        raise UserError(
            f"{show(path)} unpacks to {len(entries):,} files of {total:,} MB: more than"
            f" {MOST_ENTRIES:,} or {MOST_UNPACKED:,} MB; unpack it, and give the folder"
        )
    for index, entry in enumerate(entries):
        parts = tuple(part for part in entry.filename.split("/") if part not in ("", "."))
        if entry.is_dir() or not parts:
            continue
        if any(map(_is_hidden, parts)):
            left_out[IS_HIDDEN] += 1
        elif entry.flag_bits & 1:
            raise UserError(f"{show(path)} is encrypted: unpack it, and give the folder")
        else:
            yield _Candidate(parts, Entry(path, index, "/".join(parts)))


def _infos(path: Path) -> list[zipfile.ZipInfo]:
    status = path.stat()
    return _archive(path, status.st_mtime_ns, status.st_size).infolist()


@functools.lru_cache(maxsize=1)  # its table is read once, not for each entry
def _archive(path: Path, _modified: int, _size: int) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise UserError(f"{show(path)} is a damaged zip archive: {printable(error)}") from error


def _unpack(entry: Entry, most: int | None = None) -> bytes:
    """What an entry holds, or how it begins: at most so many bytes."""
    name = label(entry)
    try:
        status = entry.archive.stat()
        archive = _archive(entry.archive, status.st_mtime_ns, status.st_size)
        info = archive.infolist()[entry.number]
        if most is None and info.file_size > LARGEST:
            raise UserError(f"{name} has {info.file_size // MEGABYTE:,} MB: unpack it first")
        with archive.open(info) as stream:
            return stream.read() if most is None else stream.read(most)
    except (zipfile.BadZipFile, zlib.error, LZMAError, EOFError, OSError, IndexError) as error:
        raise UserError(f"{name} is damaged: {printable(error)}") from error
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise UserError(f"{name} cannot be unpacked: {printable(error)}") from error


def _is_image(candidate: _Candidate, left_out: Counter[str]) -> bool:
    """Whether a file is an image by its suffix or its content; counts it where it is none."""
    suffix = Path(candidate.parts[-1]).suffix.lower()
    if suffix in suffixes() or signatures.is_image(_head(candidate.source)):
        return True
    left_out[suffix if suffix.strip(".") else NO_SUFFIX] += 1
    return False


def _head(source: ImageSource) -> bytes:
    """How a file begins; nothing where it cannot be read."""
    try:
        if isinstance(source, Entry):
            return _unpack(source, signatures.HEAD)
        with open_source(source) as stream:
            return stream.read(signatures.HEAD)
    except (UserError, OSError):
        return b""


def _is_hidden(name: str) -> bool:
    return (name.startswith(".") and name != "..") or name.lower() in HIDDEN


def _natural_order(candidate: _Candidate) -> tuple[object, ...]:
    """Sorts numbers in names by their value, and names before longer ones that begin like them."""
    *folders, name = candidate.parts
    path = Path(name)
    keys = [_natural(part) for part in (*folders, path.stem)]
    return keys, _natural(path.suffix), candidate.parts, str(candidate.source)


def _natural(part: str) -> list[tuple[int, str]]:
    """Text and numbers in turns; a number by its length without zeros, then its digits."""
    pieces = re.split(r"([0-9]+)", part.casefold())
    return [
        (len(piece.lstrip("0")), piece.lstrip("0")) if i % 2 else (0, piece)
        for i, piece in enumerate(pieces)
    ]


def _similar(path: Path) -> str:
    """Asks for the file that may be meant, where a path does not exist."""
    try:
        names = os.listdir(path.parent)  # noqa: PTH208
    except (OSError, ValueError):
        return ""
    if path.name in names:
        return ""
    near = get_close_matches(path.name, names, 1, 0.75)
    return f"; did you mean {show(path.with_name(near[0]), 120)}?" if near else ""
