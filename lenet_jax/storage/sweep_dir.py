"""A sweep's directory: its plan, the chunks that are done, and the results joined from them.

    sweep.json, config.json, environment.json    the plan, the config that the members change,
                                                 and what the results may depend on
    chunks/0007/                                 a finished chunk: results.json, history.npz, and
                                                 weights.safetensors if any weights were saved
    results.csv, history.npz, summary.json,      the results of the chunks that are done
    sweep.png, winner.py

A chunk is written beside its place and moved there in one step, so it is complete or absent.
Several processes may share the directory. The one that works on a chunk holds a lock on a file,
which the system releases if the process dies; a shared folder needs a file system with locks, such
as NFS 4.
"""

import contextlib
import fcntl
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lenet_jax.errors import DISK_FAULTS, UserError, WriteError, printable
from lenet_jax.storage import run_dir, weights
from lenet_jax.storage.files import publish, read_json, write_atomically, write_json

PLAN, CONFIG, ENVIRONMENT = "sweep.json", "config.json", "environment.json"
CHUNKS, ROWS, HISTORY, WEIGHTS = "chunks", "results.json", "history.npz", "weights.safetensors"
TABLE, SUMMARY, FIGURE, WINNER = "results.csv", "summary.json", "sweep.png", "winner.py"
MAX_LISTED = 12  # members in one message

Row = dict[str, Any]
Curves = dict[str, np.ndarray]


class StoredMember(NamedTuple):
    """What a finished chunk holds of one member whose weights were saved.

    Attributes:
      state_dict: its weights.
      metadata: of the file of weights.
      row: its results; empty if the chunk has none of it.
      history: its metrics, a row per epoch, named as in a run's `metrics.jsonl`.
    """

    state_dict: weights.StateDict
    metadata: Mapping[str, str]
    row: Row
    history: list[dict[str, float | int]]


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

    @property
    def config(self) -> Path:
        """The file of the config that the members change."""
        return self.path / CONFIG

    @property
    def figure(self) -> Path:
        """The file of the sweep's figure."""
        return self.path / FIGURE

    def plan(self) -> dict[str, Any] | None:
        """The plan in the directory, or None if it holds no sweep yet.

        Raises:
          UserError: the directory holds something else, or its plan is damaged.
        """
        plan = read_json(self.path / PLAN)
        if plan is None and (self.path / run_dir.RECORD).exists():
            raise UserError(f"{self.path} holds a run; choose another --workdir for a sweep")
        return plan

    def members(self) -> dict[int, dict[str, Any]]:
        """What each member of the plan changes in the config, by its number."""
        return {
            entry["member"]: entry["overrides"]
            for entry in (self.plan() or {}).get("members", ())
            if isinstance(entry, dict) and {"member", "overrides"} <= entry.keys()
        }

    def open(self, plan: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
        """Writes the plan, unless another process was first, and returns the plan that holds.

        Raises:
          UserError: the directory cannot be written, or holds another sweep.
        """
        try:
            (self.path / CHUNKS).mkdir(parents=True, exist_ok=True)
            with self.lock("sweep"):
                if self.plan() is None:
                    write_json(self.config, config)
                    write_json(self.path / PLAN, plan)
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

    def write_environment(self, record: Mapping[str, Any]) -> None:
        """Writes what the results may depend on: versions, devices, the command."""
        with self.lock("sweep"):  # of several processes, one at a time
            write_json(self.path / ENVIRONMENT, record)

    def is_done(self, chunk: int) -> bool:
        """Whether a chunk is finished."""
        return self._folder(chunk).is_dir()

    @contextlib.contextmanager
    def claim(self, chunk: int) -> Iterator[Path | None]:
        """Claims a chunk: yields a folder for its files, which becomes the chunk if it has any.

        Yields None if the chunk is done already, or another process works on it.
        """
        with self._try_lock(f"{chunk:04d}") as held:
            if not held or self.is_done(chunk):
                yield None
                return
            draft = self.path / CHUNKS / f".{chunk:04d}.draft"
            shutil.rmtree(draft, ignore_errors=True)  # of a process that died
            draft.mkdir()
            yield draft
            if not any(draft.iterdir()):
                draft.rmdir()
                return
            publish(draft, self._folder(chunk))

    def read_chunk(self, chunk: int) -> tuple[list[Row], Curves]:
        """What `write_chunk` wrote.

        Raises:
          UserError: the chunk is damaged.
        """
        return _read_chunk(self._folder(chunk))

    def read_member(self, member: int) -> StoredMember:
        """The weights and results of a member.

        Raises:
          UserError: its weights were not saved, or its chunk is damaged.
        """
        stored = []
        for file in sorted((self.path / CHUNKS).glob(f"*/{WEIGHTS}")):
            stacked, metadata = weights.read(file)
            members = metadata.get("members", "").split()
            stored += members
            if str(member) not in members:
                continue
            index = members.index(str(member))
            state_dict = {name: np.asarray(array)[index] for name, array in stacked.items()}
            rows, curves = _read_chunk(file.parent)
            place = next((i for i, row in enumerate(rows) if row.get("member") == member), None)
            if place is None:
                return StoredMember(state_dict, metadata, {}, [])
            # `train_loss` there is `train/loss` in a run.
            names = [name.replace("_", "/", 1) for name in curves]
            epochs = zip(*(array[place].tolist() for array in curves.values()), strict=True)
            history = [
                {"epoch": epoch} | dict(zip(names, values, strict=True))
                for epoch, values in enumerate(epochs, 1)
            ]
            return StoredMember(state_dict, metadata, rows[place], history)
        more = f" and {len(stored) - MAX_LISTED} more" if len(stored) > MAX_LISTED else ""
        listed = ", ".join(stored[:MAX_LISTED]) + more
        raise UserError(
            f"{self.path} has no weights of member {member}\n"
            f"It has those of members: {listed or 'none yet'}"
        )

    def write_results(
        self, table: str, history: Curves, summary: Mapping[str, Any], winner: str | None
    ) -> None:
        """Writes the results of the chunks that are done.

        Args:
          table: the text of results.csv.
          history: curves of shape (members, epochs), and the members' numbers.
          summary: the statistics.
          winner: the winner's config file, if any member has not diverged.
        """
        write_atomically(self.path / TABLE, table)
        _write_arrays(self.path / HISTORY, history)
        write_json(self.path / SUMMARY, summary)
        if winner is not None:
            write_atomically(self.path / WINNER, winner)

    def results(self) -> list[Path]:
        """The files of results that exist."""
        files = [self.path / name for name in (TABLE, HISTORY, SUMMARY, FIGURE, WINNER)]
        return [file for file in files if file.exists()]

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Waits for, and holds, the lock `name`, which one process at a time may hold."""
        with (self.path / f".{name}.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _try_lock(self, name: str) -> Iterator[bool]:
        with (self.path / CHUNKS / f".{name}.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def _folder(self, chunk: int) -> Path:
        return self.path / CHUNKS / f"{chunk:04d}"


def write_chunk(folder: Path, rows: Sequence[Row], curves: Curves) -> None:
    """Writes a chunk's results, a row a member, and its curves of shape (members, epochs)."""
    write_json(folder / ROWS, {"rows": list(rows)})
    _write_arrays(folder / HISTORY, curves)


def write_weights(
    folder: Path, members: Mapping[int, Mapping[str, np.ndarray]], metadata: Mapping[str, str]
) -> None:
    """Writes the weights of some of a chunk's members, stacked, by their numbers."""
    first = next(iter(members.values()))
    stacked = {name: np.stack([arrays[name] for arrays in members.values()]) for name in first}
    numbers = {"members": " ".join(map(str, members))}
    weights.write(folder / WEIGHTS, stacked, {**metadata, **numbers})


def is_sweep(path: Path) -> bool:
    """Whether a folder holds a sweep."""
    return (path / PLAN).is_file()


def _read_chunk(folder: Path) -> tuple[list[Row], Curves]:
    try:
        rows = (read_json(folder / ROWS) or {})["rows"]
        with np.load(folder / HISTORY, allow_pickle=False) as file:
            return rows, dict(file)
    except (OSError, ValueError, LookupError, zipfile.BadZipFile, UserError) as error:
        raise UserError(
            f"{folder} is damaged: {printable(error)}\n"
            "Delete it, then run the same command to train it again."
        ) from error


def _write_arrays(path: Path, arrays: Curves) -> None:
    write_atomically(path, lambda stream: np.savez(stream, **arrays))  # pyright: ignore
