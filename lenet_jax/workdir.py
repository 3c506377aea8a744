"""The run directory: who writes in it, and the small files that tell what was run and found."""

import csv
import fcntl
import io
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from lenet_jax.errors import UserError

Row = Mapping[str, float | int]


class Workdir:
    """A run directory, locked for this process while it is open.

    Attributes:
      path: the directory.
      checkpoints: the folder of the checkpoints in it.
      rows: what `metrics.jsonl` holds, a row per epoch.
    """

    def __init__(self, path: str | Path):
        """Creates the directory if need be and locks it.

        Raises:
          UserError: it cannot be written, or another process holds it.
        """
        try:
            self.path = Path(path).expanduser().absolute()
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("a")
        except RuntimeError as error:  # `~name` of nobody
            raise UserError(f"--workdir={path}: {error}") from error
        except OSError as error:
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
        self._board: Any = None
        self.rows = self._read_rows()

    def __enter__(self) -> "Workdir":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Flushes TensorBoard's events and lets go of the lock."""
        if self._board is not None:
            self._board.close()
        self._lock.close()

    def files(self) -> list[Path]:
        """What is in the directory for people to open."""
        return sorted(path for path in self.path.iterdir() if not path.name.startswith("."))

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The object in the file `name`, or None if there is no such file.

        Raises:
          UserError: the file is there, but is not JSON.
        """
        file = self.path / name
        try:
            return json.loads(file.read_bytes()) if file.exists() else None
        except ValueError as error:
            raise UserError(
                f"{file} is not JSON: {error}\nTake another --workdir to start anew."
            ) from error

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Replaces the file `name` in one step: a reader sees the old text or the new."""
        write_atomically(self.path / name, json.dumps(value, indent=2) + "\n")

    def keep_rows(self, num_epochs: int) -> None:
        """Forgets the rows after `num_epochs`: a resumed run writes them anew."""
        self.rows = [row for row in self.rows if row["epoch"] <= num_epochs]
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        write_atomically(self.path / "metrics.jsonl", text)
        self._write_csv()

    def log(self, row: Row) -> None:
        """Appends an epoch's metrics to `metrics.jsonl`, `metrics.csv` and TensorBoard."""
        self.rows.append(dict(row))
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._write_csv()
        if self._board is None:
            from tensorboardX import SummaryWriter  # late: a third of a second

            # What an earlier process logged of this epoch and later ones is hidden.
            self._board = SummaryWriter(
                str(self.path / "tensorboard"), purge_step=int(row["epoch"])
            )
        for name, value in row.items():
            if name != "epoch":
                self._board.add_scalar(name, value, int(row["epoch"]))

    def _read_rows(self) -> list[Row]:
        file = self.path / "metrics.jsonl"
        rows = []
        for line in file.read_text().splitlines() if file.exists() else ():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break  # the process died while it wrote this line
        return rows

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
    with draft.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)


def environment(packages: Sequence[str]) -> dict[str, Any]:
    """What a result may depend on: revision, versions, processor, XLA's flags.

    `git_revision` and `git_dirty` are None where there is no git or no repository.
    """
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "git_revision": _git("rev-parse", "HEAD"),
        "git_dirty": None if changes is None else changes != "",
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
        "processor": processor(),
        "cores": cores(),
        "platform": platform.platform(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def cores() -> int:
    """The cores that this process may use; where the system does not tell, all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The name of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
