"""A sweep at a URL, and its copy in the cache folder, where it is worked on.

What is below the URL is called as in a sweep's directory, but a chunk is one object, a tar file of
its folder: `chunks/0007.tar`. It is uploaded in the background, once it is in the copy. One that is
there stays, so two drivers of one sweep waste time, but harm nothing.
"""

import contextlib
import hashlib
import threading
from collections import deque
from collections.abc import Collection, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from queue import SimpleQueue

from lenet_jax import machine
from lenet_jax.errors import UnreachableError, UserError, printable, show
from lenet_jax.storage.remote import Remote, pack

ENDING = 5.0  # seconds for uploads, of a sweep that is stopped
AT_ONCE = 4  # uploads
SUFFIX = ".tar"


class UrlCopy:
    """A sweep's URL, and the folder of its copy.

    Attributes:
      url: where the sweep is.
      folder: where its copy is, or will be.
    """

    def __init__(self, url: str):
        """Opens no connection yet.

        Raises:
          UserError: there can be nothing at such a URL.
        """
        self._remote = Remote(url)
        self.url = self._remote.url
        digest = hashlib.sha256(self.url.encode()).hexdigest()[:12]
        name = self.url.rpartition("/")[2][:60]
        self.folder = machine.cache_folder() / "sweeps" / f"{name}-{digest}"
        # Unlike those of an executor, they do not keep Python from ending.
        self._threads = list[threading.Thread]()
        self._queue = SimpleQueue[tuple[Path, Future[bool]] | None]()
        self._uploads = deque[tuple[Path, Future[bool]]]()
        self._failed, self._others = list[Path](), list[Path]()
        self._problem: str | None = None

    def prepare(self) -> None:
        """Creates the folder.

        Raises:
          UserError: it cannot be written, or others may write to it.
        """
        if problem := machine.make_private(self.folder):
            raise UserError(
                f"{show(self.folder, 120)}, for the copy of {show(self.url)}, {problem}\n"
                "Set XDG_CACHE_HOME to another folder."
            )

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is none; raises UserError if it cannot be read."""
        return self._remote.read(name)

    def write(self, name: str) -> None:
        """Uploads a file of the copy, or deletes it if the copy has none.

        Raises:
          UnreachableError: it cannot be written.
        """
        file = self.folder / name
        with self._saying():
            if file.exists():
                self._remote.write(name, file.read_bytes())
            else:
                self._remote.remove(name)

    def create(self, name: str, content: bytes) -> bytes:
        """Uploads a file, unless there is one; returns what is there then.

        Raises:
          UserError: it cannot be written, or read.
        """
        with self._saying():
            created = self._remote.create(name, content)
        return content if created else self._remote.read(name) or content

    def chunks(self, folder: str) -> dict[str, str]:
        """The names of the chunks in a folder, and of the objects that they are."""
        names = (name for name in self._remote.names(folder) if name.endswith(SUFFIX))
        return {name.removesuffix(SUFFIX): f"{folder}/{name}" for name in names}

    def read_all(self, names: Collection[str]) -> Iterator[tuple[str, bytes | None]]:
        """The names and contents of objects; see `Remote.read_all`."""
        return self._remote.read_all(names)

    def upload(self, chunk: Path) -> None:
        """Uploads a chunk's folder in the background; see `flush`."""
        upload = chunk, Future[bool]()
        self._uploads.append(upload)
        self._queue.put(upload)
        if len(self._threads) < AT_ONCE:
            self._threads.append(threading.Thread(target=self._serve, name="upload", daemon=True))
            self._threads[-1].start()

    def take_problem(self) -> str | None:
        """Why an upload has failed, once; it is repeated by `flush`."""
        known = bool(self._failed)
        self._settle()
        if known or self._problem is None:
            return None
        return f"{self._problem}; what is trained is kept in {show(self.folder, 120)}"

    def flush(self) -> list[Path]:
        """Waits until all is uploaded, and tries again what has failed.

        Returns:
          The chunks of which there is another at the URL, which stays.

        Raises:
          UnreachableError: something cannot be uploaded.
          OSError: something cannot be read.
        """
        wait([future for _, future in self._uploads])
        self._settle()
        failed, self._failed = self._failed, []
        with self._saying():
            self._others += [chunk for chunk in failed if not self._upload(chunk)]
        others, self._others = self._others, []
        return others

    def close(self) -> None:
        """Waits for uploads a few seconds; the next command uploads the rest."""
        wait([future for _, future in self._uploads], ENDING)
        for _, future in self._uploads:
            future.cancel()
        for _ in self._threads:
            self._queue.put(None)
        self._threads.clear()
        self._uploads.clear()

    def _serve(self) -> None:
        """Uploads what is in the queue, until there is None."""
        while (upload := self._queue.get()) is not None:
            chunk, future = upload
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._upload(chunk))
            except Exception as error:  # noqa: BLE001  # which `flush` raises, if it does not pass
                future.set_exception(error)

    def _settle(self) -> None:
        """Sorts the uploads that have ended."""
        while self._uploads and self._uploads[0][1].done():
            chunk, future = self._uploads.popleft()
            error = future.exception()
            if error is not None:
                self._failed.append(chunk)
                own = isinstance(error, UserError)
                where = "" if own else f"{show(chunk, 120)} cannot be uploaded: "
                self._problem = f"{where}{error if own else printable(error)}"
            elif not future.result():
                self._others.append(chunk)

    def _upload(self, chunk: Path) -> bool:
        """Uploads a chunk; whether the URL has this one then, and not another."""
        name, content = f"{chunk.parent.name}/{chunk.name}{SUFFIX}", pack(chunk)
        return self._remote.create(name, content) or self._remote.read(name) == content

    @contextlib.contextmanager
    def _saying(self) -> Iterator[None]:
        """Adds to what cannot be written where it is."""
        try:
            yield
        except UnreachableError as error:
            raise UnreachableError(
                f"{error}\nWhat is trained is kept in {show(self.folder, 120)}."
                "\nRun the same command again: it uploads what is missing, and goes on."
            ) from error
