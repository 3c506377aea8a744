"""Objects below a URL, such as `s3://bucket/folder`, through fsspec.

Object stores rename nothing and have no locks. What they do have suffices for a sweep: an object is
there as a whole or not at all, and one that is there need not be replaced (on S3 and Google by a
condition of the request, elsewhere by a look before it). Requests that fail are repeated.
"""

import io
import os
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from lenet_jax.errors import UnreachableError, UserError, printable, show

Result = TypeVar("Result")

TRIES = 4  # of a request
PAUSE = 1.0  # seconds before the second try, doubled before each further one
AT_ONCE = 16  # requests
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}  # of this package, by protocol
# What libraries below fsspec raise besides OSError, by module; those that are imported matter.
FAILURES = {
    "aiohttp": "ClientError",
    "botocore.exceptions": "BotoCoreError",
    "gcsfs.retry": "HttpError",
    "google.auth.exceptions": "GoogleAuthError",
}


class Remote:
    """The objects below a URL, by name."""

    def __init__(self, url: str):
        """Opens no connection yet.

        Raises:
          UserError: fsspec knows no such URL, or what it needs for it is not installed.
        """
        self.url, protocol = url.rstrip("/"), url.partition("://")[0]
        if protocol in ("file", "local"):
            raise UserError(f"{show(url)}: give a folder of this machine as a path, not as a URL")
        try:
            from fsspec.core import url_to_fs

            # Whose listings, if kept, would not have what other machines write.
            self._system, self._root = url_to_fs(self.url, use_listings_cache=False)
        except ImportError as error:
            extra = EXTRAS.get(protocol)
            install = f": pip install '.[{extra}]' in the repository" if extra else ""
            raise UserError(
                f"{protocol}:// needs a package{install}: {printable(error)}"
            ) from error
        except ValueError as error:
            raise UserError(f"{show(url)}: {printable(error)}") from error

    def read(self, name: str) -> bytes | None:
        """The content of an object; None if there is none.

        Raises:
          UserError: it cannot be read.
        """
        try:
            return self._repeat(lambda: self._system.cat_file(self._path(name)))
        except FileNotFoundError:
            return None
        except _failures() as error:
            raise self._unreadable(error) from error

    def read_all(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """The names and contents of objects, several of which are read at once; see `read`."""
        waiting = list(names)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for first in range(0, len(waiting), AT_ONCE):  # so that few are in memory
                some = waiting[first : first + AT_ONCE]
                yield from zip(some, pool.map(self.read, some), strict=True)

    def names(self, folder: str) -> set[str]:
        """The names of the objects in a folder, without it.

        Raises:
          UserError: they cannot be listed.
        """
        try:
            paths = self._repeat(lambda: self._system.ls(self._path(folder), detail=False))
        except FileNotFoundError:
            return set()
        except _failures() as error:
            raise self._unreadable(error) from error
        return {path.rstrip("/").rpartition("/")[2] for path in paths}

    def write(self, name: str, content: bytes) -> None:
        """Writes an object, in place of what is there.

        Raises:
          UnreachableError: it cannot be written.
        """
        try:
            self._repeat(lambda: self._system.pipe_file(self._path(name), content))
        except _failures() as error:
            raise self._unwritable(error) from error

    def create(self, name: str, content: bytes) -> bool:
        """Writes an object unless there is one of the name; whether there was none.

        Raises:
          UnreachableError: it cannot be written.
        """

        def create() -> bool:
            try:
                self._system.pipe_file(self._path(name), content, mode="create")
            except FileExistsError:
                return False
            except _failures():  # such as that the condition does not hold
                if self._system.exists(self._path(name)):
                    return False
                raise
            return True

        try:
            return self._repeat(create)
        except _failures() as error:
            raise self._unwritable(error) from error

    def remove(self, name: str) -> None:
        """Deletes an object, if there is one.

        Raises:
          UnreachableError: it cannot be deleted.
        """
        try:
            self._repeat(lambda: self._system.rm_file(self._path(name)))
        except FileNotFoundError:
            return
        except _failures() as error:
            raise self._unwritable(error) from error

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _repeat(self, request: Callable[[], Result]) -> Result:
        """What a request returns, tried a few times if it fails in a way that may pass."""
        for attempt in range(TRIES):
            try:
                return request()
            except (FileNotFoundError, PermissionError):
                raise
            except _failures():
                if attempt == TRIES - 1:
                    raise
                time.sleep(PAUSE * 2**attempt)
        raise AssertionError

    def _unreadable(self, error: BaseException) -> UserError:
        return UserError(
            f"{show(self.url, 120)} cannot be read: {_reason(error)}\n"
            "Check the address and your permissions, then run the same command again."
        )

    def _unwritable(self, error: BaseException) -> UserError:
        if isinstance(error, FileNotFoundError):
            return UnreachableError(f"{show(self.url, 120)} cannot be written: no such bucket")
        return UnreachableError(f"{show(self.url, 120)} cannot be written: {_reason(error)}")


def pack(folder: Path) -> bytes:
    """The files of a folder as a tar file, the same for the same files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(folder.iterdir()):
            with path.open("rb") as file:
                entry = tarfile.TarInfo(path.name)
                entry.size, entry.mode = os.fstat(file.fileno()).st_size, 0o644
                archive.addfile(entry, file)
    return stream.getvalue()


def unpack(content: bytes) -> dict[str, bytes]:
    """The files of a tar file by name.

    Raises:
      ValueError: it is damaged, or has anything but files.
    """
    files = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for entry in archive:
                # A sparse one would claim more than the content has, without end.
                is_plain = entry.type == tarfile.REGTYPE and not entry.issparse()
                file = archive.extractfile(entry) if is_plain else None
                if file is None or entry.name in files:
                    raise ValueError(f"its entry {printable(entry.name, 60)} is no file")
                files[entry.name] = file.read()
    except (tarfile.TarError, EOFError, OverflowError, RecursionError) as error:
        raise ValueError(printable(error)) from error
    return files


def _failures() -> tuple[type[BaseException], ...]:
    """What a request may raise that fails."""
    known = [(sys.modules.get(module), name) for module, name in FAILURES.items()]
    return OSError, *(getattr(module, name) for module, name in known if module is not None)


def _reason(error: BaseException) -> str:
    if isinstance(error, PermissionError):
        return f"no permission ({printable(error, 100)})"
    text = printable(error, 100) or type(error).__name__
    return f"{text}, {TRIES} times"
