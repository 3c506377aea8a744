"""A sweep at a URL, and its copy in the cache folder, where it is worked on.

What is below the URL is called as in a sweep's directory, but a chunk is one object, a tar file of
its folder: `chunks/0007.tar`. It is uploaded in the background, once it is in the copy. One that is
there stays, so two drivers of one sweep waste time, but harm nothing.
"""

import contextlib
import hashlib
import queue
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

from lenet_jax import machine
from lenet_jax.errors import UnreachableError, UserError, show
from lenet_jax.storage.remote import Remote, pack

ENDING = 5.0  # seconds for uploads, of a sweep that is stopped
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
        self._waiting = queue.SimpleQueue[Path]()
        self._pending, self._failed, self._others = 0, list[Path](), list[Path]()
        self._problem: UserError | None = None
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

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
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="upload", daemon=True)
            self._thread.start()
        with self._change:
            self._pending += 1
        self._waiting.put(chunk)

    def take_problem(self) -> str | None:
        """Why an upload has failed, once; it is repeated by `flush`."""
        with self._change:
            problem, self._problem = self._problem, None
        return problem and f"{problem}; what is trained is kept in {show(self.folder, 120)}"

    def flush(self) -> list[Path]:
        """Waits until all is uploaded, and tries again what has failed.

        Returns:
          The chunks of which there is another at the URL, which stays.

        Raises:
          UnreachableError: something cannot be uploaded.
        """
        with self._change:
            self._change.wait_for(lambda: self._pending == 0)
            failed, self._failed, self._problem = self._failed, [], None
        with self._saying():
            for chunk in failed:
                self._upload(chunk)
        others, self._others = self._others, []
        return others

    def close(self) -> None:
        """Waits for uploads a few seconds; the next command uploads the rest."""
        with self._change:
            self._change.wait_for(lambda: self._pending == 0, ENDING)

    def _serve(self) -> None:
        while True:
            chunk = self._waiting.get()
            try:
                self._upload(chunk)
            except UserError as error:
                with self._change:
                    self._failed.append(chunk)
                    self._problem = error
            finally:
                with self._change:
                    self._pending -= 1
                    self._change.notify_all()

    def _upload(self, chunk: Path) -> None:
        name, content = f"{chunk.parent.name}/{chunk.name}{SUFFIX}", pack(chunk)
        if not self._remote.create(name, content) and self._remote.read(name) != content:
            self._others.append(chunk)

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
