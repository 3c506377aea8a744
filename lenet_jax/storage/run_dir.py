"""The run directory: the names of its files, the lock of the writing process, and the metrics."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import GenericAlias, TracebackType
from typing import Any

from lenet_jax.errors import UserError, expand, show
from lenet_jax.reading import Kind, decode, read_bytes, read_json
from lenet_jax.storage.files import (
    preparing,
    refuse_others,
    remove_drafts,
    table,
    write_atomically,
    write_json,
)
from lenet_jax.storage.formats import Metrics, RunRecord
from lenet_jax.storage.lock import Lock
from lenet_jax.storage.sums import MANIFEST, find_damaged, write_sums
from lenet_jax.storage.tensorboard import EventFile

CONFIG, RECORD, SUMMARY = "config.json", "run.json", "summary.json"
METRICS, TABLE, WEIGHTS = "metrics.jsonl", "metrics.csv", "model.safetensors"
CHECKPOINTS, TENSORBOARD = "checkpoints", "tensorboard"
EMA_WEIGHTS = "model_ema.safetensors"  # the moving average of the weights, if one is taken
NETWORK = "network.py"  # the text of a network of the user's own, as it was trained
TRACKERS = "trackers.json"  # the ids of the run in MLflow and the like
SUMMED = (CONFIG, METRICS, WEIGHTS, SUMMARY)  # what a finished run is read from
FIGURES = ("curves.png", "confusion_matrix.png", "filters.png", "feature_maps.png", "mistakes.png")

Row = Mapping[str, float | int]


class RunDir:
    """A run directory, locked for this process while it is open.

    Attributes:
      path: the directory.
      checkpoints: the folder of the checkpoints in it.
      rows: the metrics, one row per epoch, as in `metrics.jsonl`.
    """

    def __init__(self, path: str | Path):
        """Creates the directory if needed and locks it.

        Raises:
          UserError: the directory cannot be written, or another process has locked it.
          OSError: the disk is full or has failed.
        """
        self.path = expand(path, "--workdir=").absolute()
        with preparing(path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(self.path / ".lock")
            held = self._lock.acquire()
        if not held:
            lines = f"another process is running in {self.path}; wait, or choose another --workdir"
            raise UserError("\n".join(filter(None, (lines, self._lock.holder()))))
        remove_drafts(self.path)
        self.checkpoints = self.path / CHECKPOINTS
        self._events: EventFile | None = None
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
        """Releases the lock."""
        try:
            if self._events is not None:
                self._events.close()
        finally:
            self._lock.release()

    @property
    def lock_note(self) -> str | None:
        """In one line, that the file system has no locks; None if it has."""
        return self._lock.note

    def files(self) -> list[Path]:
        """The directory's files, except hidden ones."""
        return sorted(path for path in self.path.iterdir() if not path.name.startswith("."))

    def read_json(self, name: str, kind: type[Kind] | GenericAlias) -> Kind | None:
        """The content of the file `name`, or None if there is no such file.

        Raises:
          UserError: the file cannot be read, or does not hold this kind of JSON.
        """
        try:
            return read_json(self.path / name, kind)
        except UserError as error:
            raise UserError(f"{error}\nChoose another --workdir to start over.") from error

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes the file `name`, atomically."""
        write_json(self.path / name, value)

    def write_sums(self) -> None:
        """Writes the sums of what a finished run is read from."""
        write_sums(self.path, SUMMED)

    def refuse_others(self) -> None:
        """As `files.refuse_others`, for what a run writes."""
        names = (CONFIG, NETWORK, SUMMARY, METRICS, TABLE, WEIGHTS, EMA_WEIGHTS, TRACKERS)
        names += (MANIFEST, *FIGURES)
        refuse_others(self.path, names, RECORD, "run")

    def has_checkpoints(self) -> bool:
        """Whether there are checkpoints, intact or not."""
        return any(self.checkpoints.glob("[0-9]*"))

    def num_logged(self) -> int:
        """The number of rows in `metrics.jsonl`, including those of earlier processes."""
        try:
            return len(read_bytes(self.path / METRICS).splitlines())
        except FileNotFoundError:
            return 0

    def restart_rows(self, rows: Sequence[Row]) -> None:
        """Replaces the metrics by `rows`, to which a resumed run appends."""
        (self.path / MANIFEST).unlink(missing_ok=True)  # it is of the old ones
        self.rows = list(rows)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomically(self.path / METRICS, text)
        self._write_csv()

    def log(self, row: Row) -> None:
        """Appends an epoch's metrics to `metrics.jsonl`, `metrics.csv` and TensorBoard."""
        self.rows.append(dict(row))
        file = self.path / METRICS
        size = file.stat().st_size if file.exists() else 0
        try:
            with file.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
        except OSError:
            os.truncate(file, size)  # leaves no half line
            raise
        self._write_csv()
        epoch = int(row["epoch"])
        if self._events is None:
            self._events = EventFile(self.path / TENSORBOARD, first_step=epoch)
        self._events.add(epoch, {name: value for name, value in row.items() if name != "epoch"})

    def _write_csv(self) -> None:
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        rows = [[row.get(name, "") for name in columns] for row in self.rows]
        write_atomically(self.path / TABLE, table([columns, *rows]))


def check(folder: Path) -> str | None:
    """Checks that the files of a run are as it wrote them, once it is finished.

    Returns:
      A remark if they have no sums to check, as an older version left them.

    Raises:
      UserError: a file differs, or the sums are missing.
    """
    record = read_json(folder / RECORD, RunRecord)
    finished = record is not None and record["status"] == "done"
    has_sums = record is not None and record.get("has_sums", False)
    damaged = find_damaged(folder, SUMMED if has_sums else ())
    if damaged is None and not (folder / MANIFEST).exists():
        if not finished:
            return None
        if not has_sums:
            return f"{show(folder)} has no {MANIFEST}: its files cannot be checked"
        damaged = MANIFEST
    if damaged is not None:
        what = (
            "is missing or incomplete"
            if damaged == MANIFEST
            else f"is not as its run wrote it, see {MANIFEST}"
        )
        raise UserError(
            f"{folder} is damaged: {damaged} {what}\n"
            "Restore a backup; if the change is yours, update the sums in that folder:\n"
            f"sha256sum {' '.join(SUMMED)} > {MANIFEST}"
        )
    return None


def read_rows(folder: Path) -> list[Metrics]:
    """The metrics of a run, one row per epoch; without the last line if it is incomplete.

    Raises:
      UserError: they cannot be read, or a line holds something else.
    """
    file = folder / METRICS
    try:
        *lines, _ = read_bytes(file).split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    where = [f"{show(file)}, line {number}" for number in range(1, len(lines) + 1)]
    rows = [decode(line, Metrics, place) for line, place in zip(lines, where, strict=True)]
    for row, place in zip(rows, where, strict=True):
        if "epoch" not in row:
            raise UserError(f"{place}: there is no epoch")
    return rows
