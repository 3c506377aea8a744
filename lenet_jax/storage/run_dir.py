"""The run directory: who writes in it, and the small files that tell what was run and found."""

import csv
import fcntl
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from lenet_jax.errors import DISK_FAULTS, UserError
from lenet_jax.storage.tensorboard import Board

Row = Mapping[str, float | int]


class RunDir:
    """A run directory, locked for this process while it is open.

    Attributes:
      path: the directory.
      checkpoints: the folder of the checkpoints in it.
      rows: the metrics, a row per epoch; `metrics.jsonl` follows them.
    """

    def __init__(self, path: str | Path):
        """Creates the directory if need be and locks it.

        Raises:
          UserError: it cannot be written, or another process holds it.
          OSError: the disk is full, or has failed.
        """
        try:
            self.path = Path(path).expanduser().absolute()
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("a")
        except RuntimeError as error:  # `~name` of nobody
            raise UserError(f"--workdir={path}: {error}") from error
        except OSError as error:
            if error.errno in DISK_FAULTS:
                raise
            raise UserError(
                f"--workdir={path} cannot be written: {error.strerror} ({error.filename})\n"
                "Choose a folder that you may write to."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            told = f"{self.path} cannot be locked: {error.strerror}; take another --workdir"
            if isinstance(error, BlockingIOError):
                told = f"another process is running in {self.path}; wait, or take another --workdir"
            raise UserError(told) from error
        self.checkpoints = self.path / "checkpoints"
        self._board: Board | None = None
        self.rows: list[Row] = []

    def __enter__(self) -> "RunDir":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the lock."""
        try:
            if self._board is not None:
                self._board.close()
        finally:
            self._lock.close()

    def files(self) -> list[Path]:
        """What is in the directory for people to open."""
        return sorted(path for path in self.path.iterdir() if not path.name.startswith("."))

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The object in the file `name`, or None if there is no such file.

        Raises:
          UserError: the file is there, but is not that.
        """
        file = self.path / name
        try:
            found = json.loads(file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            reason = f"is not JSON: {error}" if isinstance(error, ValueError) else "cannot be read"
            raise UserError(f"{file} {reason}\nTake another --workdir to start anew.") from error
        if not isinstance(found, dict):
            raise UserError(f"{file} holds no JSON object\nTake another --workdir to start anew.")
        return found

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Replaces the file `name` in one step: a reader sees the old text or the new."""
        write_atomically(self.path / name, json.dumps(value, indent=2) + "\n")

    def has_checkpoints(self) -> bool:
        """Whether there is a checkpoint, sound or not."""
        return any(self.checkpoints.glob("[0-9]*"))

    def num_logged(self) -> int:
        """How many rows `metrics.jsonl` has, whoever wrote them."""
        try:
            return len((self.path / "metrics.jsonl").read_bytes().splitlines())
        except FileNotFoundError:
            return 0

    def restart_rows(self, rows: Sequence[Row]) -> None:
        """Has `rows` be the metrics so far, and nothing else; a resumed run goes on from there."""
        self.rows = list(rows)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomically(self.path / "metrics.jsonl", text)
        self._write_csv()

    def log(self, row: Row) -> None:
        """Appends an epoch's metrics to `metrics.jsonl`, `metrics.csv` and TensorBoard."""
        self.rows.append(dict(row))
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._write_csv()
        epoch = int(row["epoch"])
        if self._board is None:
            self._board = Board(self.path / "tensorboard", first_step=epoch)
        self._board.add(epoch, {name: value for name, value in row.items() if name != "epoch"})

    def _write_csv(self) -> None:
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.path / "metrics.csv", text.getvalue())


def write_atomically(file: Path, text: str) -> None:
    """Writes a file beside its place and moves it there once it is on the disk."""
    draft = file.with_name(f".{file.name}.draft")
    try:
        with draft.open("w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
