"""A sweep's directory: its plan, and the chunks that are done. Several processes may share it.

    sweep.json, config.json    the plan, and the config that the members change
    chunks/0007/               a finished chunk: results.json, history.npz, weights.safetensors

A chunk is written beside its place and moved there in one step, so it is there as a whole or not
at all. Who works on one holds a lock on a file, which the system takes back from the dead; on a
shared folder that takes a file system with locks, such as NFS 4.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lenet_jax.errors import DISK_FAULTS, UserError, WriteError
from lenet_jax.storage.run_dir import write_atomically

Row = dict[str, Any]
Curves = dict[str, np.ndarray]


class SweepDir:
    """The directory of one sweep.

    Attributes:
      path: the directory.
    """

    def __init__(self, path: str | Path):
        """Names the directory; `open` creates it."""
        try:
            self.path = Path(path).expanduser().absolute()
        except RuntimeError as error:  # `~name` of nobody
            raise UserError(f"--workdir={path}: {error}") from error

    def plan(self) -> dict[str, Any] | None:
        """The plan in the directory, or None if no sweep was begun in it.

        Raises:
          UserError: the directory holds something else, or its plan is damaged.
        """
        file = self.path / "sweep.json"
        if not file.exists():
            if (self.path / "run.json").exists():
                raise UserError(f"{self.path} holds a run; take another --workdir for a sweep")
            return None
        try:
            return json.loads(file.read_bytes())
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read: {error}") from error

    def open(self, plan: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
        """Writes the plan, unless another process was first: the plan that holds.

        Raises:
          UserError: the directory cannot be written, or holds another sweep.
        """
        try:
            (self.path / "chunks").mkdir(parents=True, exist_ok=True)
            with self.lock("sweep"):
                if self.plan() is None:
                    write_atomically(self.path / "config.json", _json(config))
                    write_atomically(self.path / "sweep.json", _json(plan))
        except OSError as error:
            if error.errno in DISK_FAULTS:
                raise WriteError(error, self.path) from error
            raise UserError(
                f"--workdir={self.path} cannot be written: {error.strerror} ({error.filename})\n"
                "Choose a folder that you may write to."
            ) from error
        written = self.plan()
        assert written is not None
        return written

    def is_done(self, chunk: int) -> bool:
        """Whether a chunk is there."""
        return self._folder(chunk).is_dir()

    @contextlib.contextmanager
    def claim(self, chunk: int) -> Iterator[Path | None]:
        """Claims a chunk: yields a folder for its files, which then takes its place if it has any.

        Yields None if the chunk is done already, or another process is at it.
        """
        with self._try_lock(f"{chunk:04d}") as held:
            if not held or self.is_done(chunk):
                yield None
                return
            draft = self.path / "chunks" / f".{chunk:04d}.draft"
            shutil.rmtree(draft, ignore_errors=True)  # of a process that died
            draft.mkdir()
            yield draft
            if not any(draft.iterdir()):
                draft.rmdir()
                return
            for file in draft.iterdir():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
            draft.replace(self._folder(chunk))

    def write(self, folder: Path, rows: Sequence[Row], curves: Curves) -> None:
        """Writes a chunk's results, a row a member, and its curves of shape (members, epochs)."""
        (folder / "results.json").write_text(_json({"rows": list(rows)}))
        np.savez(folder / "history.npz", **curves)  # pyright: ignore[reportArgumentType]

    def read(self, chunk: int) -> tuple[list[Row], Curves]:
        """What `write` wrote.

        Raises:
          UserError: the chunk is damaged.
        """
        folder = self._folder(chunk)
        try:
            rows = json.loads((folder / "results.json").read_bytes())["rows"]
            with np.load(folder / "history.npz", allow_pickle=False) as file:
                return rows, dict(file)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{folder} is damaged: {error}\nRemove it, and the same command trains it again."
            ) from error

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Waits for, and holds, what only one process may do at a time."""
        with (self.path / f".{name}.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _try_lock(self, name: str) -> Iterator[bool]:
        with (self.path / "chunks" / f".{name}.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def _folder(self, chunk: int) -> Path:
        return self.path / "chunks" / f"{chunk:04d}"


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1) + "\n"
