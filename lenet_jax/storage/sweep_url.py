"""A sweep at a URL: its directory is a copy in the cache folder, see `storage.url_copy`."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from lenet_jax.errors import UserError, is_url, printable
from lenet_jax.reading import decode, read_bytes
from lenet_jax.storage.chunk import DamagedError
from lenet_jax.storage.files import make_folder, publish_once, remove, set_aside, write_atomically
from lenet_jax.storage.formats import Place, Plan
from lenet_jax.storage.remote import unpack
from lenet_jax.storage.sums import MANIFEST
from lenet_jax.storage.sweep_dir import (
    CHUNK_NAME,
    CHUNKS,
    CONFIG,
    ENVIRONMENT,
    PLACE,
    PLAN,
    RESULTS,
    SweepDir,
)
from lenet_jax.storage.url_copy import SUFFIX, UrlCopy


def find_sweep(path: str | Path) -> SweepDir:
    """The sweep in a directory or at a URL, which need not exist.

    Raises:
      UserError: there can be no sweep.
    """
    return SweepAtUrl(str(path)) if is_url(path) else SweepDir(path)


class SweepAtUrl(SweepDir):
    """The copy of a sweep at a URL, to which what is published is uploaded."""

    def __init__(self, url: str):
        """Opens no connection yet; raises UserError if there can be no sweep at the URL."""
        self._url = UrlCopy(url)
        super().__init__(self._url.folder)
        self.name = self._url.url
        self._uploaded: set[int] | None = None  # the chunks at the URL; None if it has no plan

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._url.close()
        super().__exit__(kind, error, trace)

    def pull(self) -> None:
        """See `SweepDir`."""
        if (plan := self._url.read(PLAN)) is None:
            return
        if self.plan() not in (None, self._decode(plan)):
            raise UserError(
                f"{self.path} is the copy of another sweep than {self.name} has\n"
                "Delete that folder, then run the same command again."
            )
        self._url.prepare()
        make_folder(self.path / CHUNKS)
        contents = {PLAN: plan} | {name: self._url.read(name) for name in (CONFIG, ENVIRONMENT)}
        for name, content in contents.items():
            if content is not None:
                write_atomically(self.path / name, content)
        stored = self._url.chunks(CHUNKS).items()
        chunks = {int(n): name for n, name in stored if CHUNK_NAME.fullmatch(n)}
        self._uploaded = set(chunks)
        missing = {chunks[n]: n for n in sorted(chunks.keys() - self.done())}
        for name, content in self._url.read_all(missing):
            if content is not None:
                self._take_copy(missing[name], content, f"{self.name}/{name}")

    def push(self) -> None:
        """See `SweepDir`."""
        self._upload_missing()
        for folder in self._url.flush():
            name = f"{CHUNKS}/{folder.name}{SUFFIX}"
            if (content := self._url.read(name)) is not None:
                remove(set_aside(folder))
                self._take_copy(int(folder.name), content, f"{self.name}/{name}")

    def take_problem(self) -> str | None:
        """See `SweepDir`."""
        return self._url.take_problem()

    def open(self, plan: Mapping[str, Any], config: Mapping[str, Any]) -> Plan:
        """See `SweepDir`; begins to upload what the URL does not have."""
        self._url.prepare()
        written = super().open(plan, config)
        self._upload_missing()
        return written

    def publish(self, chunk: int, draft: Path) -> bool:
        """See `SweepDir`; begins to upload the chunk."""
        published = super().publish(chunk, draft)
        if published:
            self._upload(chunk)
        return published

    def write_environment(self, record: Mapping[str, Any]) -> None:
        """See `SweepDir`."""
        super().write_environment(record)
        self._url.write(ENVIRONMENT)

    def write_results(self, *args: Any, **kwargs: Any) -> bool:
        """See `SweepDir`."""
        has_parquet = super().write_results(*args, **kwargs)
        for name in RESULTS:
            self._url.write(name)
        return has_parquet

    def _decode(self, plan: bytes) -> Plan:
        try:
            return decode(plan, Plan, f"{self.name}/{PLAN}")
        except UserError as error:
            what = "Put back what was there, or choose another --workdir"
            raise UserError(f"{printable(error)}\n{what}.") from error

    def _write_plan(self, content: bytes) -> None:
        """Writes the plan, or that of another driver which was faster."""
        super()._write_plan(self._url.create(PLAN, content))

    def _upload_missing(self) -> None:
        """Uploads the plan, and begins to upload the chunks, that the URL does not have."""
        if self._uploaded is None:
            content = self._url.create(PLAN, read_bytes(self.path / PLAN))
            if self._decode(content) != self.plan():
                raise UserError(f"another sweep was begun at {self.name}; choose another --workdir")
            self._url.write(CONFIG)
            self._uploaded = set()
        for chunk in sorted(self.done() - self._uploaded):
            self._upload(chunk)

    def _upload(self, chunk: int) -> None:
        if self._uploaded is not None:
            self._uploaded.add(chunk)
        self._url.upload(self.folder(chunk))

    def _take_copy(self, chunk: int, content: bytes, where: str) -> None:
        """Publishes a chunk that was read from the URL; raises UserError if it is damaged."""
        known = chunk < len(self._chunks)
        try:
            files = unpack(content)
            sums = files.pop(MANIFEST).decode()
            place = decode(files[PLACE], Place, PLACE)
            if not known or place != self._place(chunk):
                raise UserError(f"it is not chunk {chunk} of the plan in {PLAN}")
            with self.draft(chunk, shared=True) as draft:
                self._write_checked(chunk, draft, files, sums)
                (draft / MANIFEST).write_text(sums)
                publish_once(draft, self.folder(chunk))
        except DamagedError as error:
            raise DamagedError(where, error.reason) from error
        except (ValueError, LookupError, UserError) as error:
            raise DamagedError(where, printable(str(error).partition("\n")[0])) from error
