"""A sweep's directory: its plan, the finished chunks, and the results collected from them.

    sweep.json, config.json, environment.json    the plan, the config that members override, and
                                                 the versions and devices
    chunks/0007/                                 a finished chunk: results.json, history.npz, and
                                                 weights.safetensors if any weights were saved;
                                                 for what is recorded see `storage.recorded`;
                                                 chunk.json names its place in the plan, and
                                                 SHA256SUMS has the sums of all
    results.csv, results.parquet, history.npz,   the results of the finished chunks
    summary.json,
    sweep.png, corruptions.png,
    sweep.html, winner.py

A chunk is written under a temporary name and renamed, so it is either complete or absent, and the
first to be there stays. Whoever reads one checks its sums, and that it belongs to the plan; those
of what is recorded, which may be large, when it is read. One process at a time drives the sweep,
and holds its lock, see `storage.lock`. Those of a job array only publish chunks, which needs none.

A sweep at a URL is a `storage.sweep_url.SweepAtUrl`, whose directory is a copy.
"""

import contextlib
import functools
import hashlib
import json
import re
import secrets
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from lenet_jax.errors import UserError, expand
from lenet_jax.reading import read_json
from lenet_jax.storage import run_dir
from lenet_jax.storage.chunk import HISTORY, ROWS, Curves, DamagedError, read_chunk, write_arrays
from lenet_jax.storage.columns import Columns
from lenet_jax.storage.files import (
    make_folder,
    preparing,
    publish_once,
    refuse_others,
    remove,
    remove_drafts,
    write_atomically,
    write_json,
)
from lenet_jax.storage.formats import (
    ChunkResults,
    MemberResult,
    Place,
    Plan,
    PlannedChunk,
    SweepConfig,
)
from lenet_jax.storage.lock import Lock
from lenet_jax.storage.recorded import is_recorded
from lenet_jax.storage.sums import find_damage, manifest, write_manifest
from lenet_jax.storage.tables import Table, write_csv, write_parquet

PLAN, CONFIG, ENVIRONMENT = "sweep.json", "config.json", "environment.json"
CHUNKS = "chunks"
PLACE = "chunk.json"
TABLE, PARQUET = "results.csv", "results.parquet"
SUMMARY, WINNER, PAGE = "summary.json", "winner.py", "sweep.html"
FIGURE, ERROR_MAP = "sweep", "corruptions"  # each a file of one or several formats
FIGURES = tuple(f"{name}{end}" for name in (FIGURE, ERROR_MAP) for end in (".png", ".svg", ".pdf"))
RESULTS = TABLE, PARQUET, HISTORY, SUMMARY, *FIGURES, PAGE, WINNER
NAMES = CONFIG, ENVIRONMENT, *RESULTS
CHUNK_NAME = re.compile("[0-9]{4,}")
_OWN_DRAFT = re.compile(r"\.[0-9]{4,}\.draft")


class SweepDir:
    """The directory of one sweep.

    Attributes:
      path: the directory.
      name: where the sweep is, for messages.
    """

    def __init__(self, path: str | Path):
        """Does not create the directory; `open` does."""
        self.path = expand(path, "--workdir=").absolute()
        self.name = str(self.path)
        self._plan: Plan | None = None
        self._lock, self._is_locked = Lock(self.path / ".sweep.lock"), False

    def __enter__(self) -> "SweepDir":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()
        self._is_locked = False

    def pull(self) -> None:
        """Copies to the directory what is at a URL, if the sweep is at one, and not in it yet.

        Raises:
          UserError: it cannot be read, is damaged, or the directory has a copy of another sweep.
        """

    def push(self) -> None:
        """Uploads what a URL does not have, if the sweep is at one, and waits until it has all.

        A chunk that another driver has put there before stays, and replaces this one's.

        Raises:
          UserError: it cannot be written, or read, or has another sweep.
        """

    def take_problem(self) -> str | None:
        """Why a URL cannot be written, in a line, once; None if it can, or there is none."""

    @property
    def lock_note(self) -> str | None:
        """In one line, that the file system has no locks; None if it has, or before `lock`."""
        return self._lock.note

    def config(self) -> SweepConfig:
        """The values of the config that members override.

        Raises:
          UserError: there are none, or they cannot be read.
        """
        plan = self.plan()
        stored = plan and plan.get("config")
        if stored is None:  # a plan of an older version
            stored = read_json(self.path / CONFIG, SweepConfig)
        if stored is None:
            raise UserError(f"{self.name} has no {CONFIG} that says what its members override")
        return stored

    def plan(self) -> Plan | None:
        """The plan in the directory, or None if it holds no sweep yet.

        Raises:
          UserError: the directory holds a run, or its plan is damaged.
        """
        if self._plan is None:  # of a million members it takes a second to read
            self._plan = read_json(self.path / PLAN, Plan)
        if self._plan is None and (self.path / run_dir.RECORD).exists():
            raise UserError(f"{self.name} holds a run; choose another --workdir for a sweep")
        return self._plan

    def members(self) -> Columns:
        """The config overrides of each member of the plan.

        Raises:
          UserError: as for `plan`.
        """
        plan = self.plan()
        return Columns.from_json(plan["members"] if plan else [], str(self.path / PLAN))

    def open(self, plan: Mapping[str, Any], config: Mapping[str, Any]) -> Plan:
        """Prepares and locks the directory, and writes the plan unless there is one already.

        Returns:
          The plan in the directory.

        Raises:
          UserError: the directory cannot be written, holds another sweep or other files, or another
            process drives the sweep.
          OSError: the disk is full or has failed.
        """
        with preparing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            chunks = make_folder(self.path / CHUNKS)
            self.lock()
            remove_drafts(self.path)
            for draft in chunks.glob(".[0-9]*.draft"):
                if _OWN_DRAFT.fullmatch(draft.name):  # not those of a job array, which may run
                    remove(draft)
            for path in chunks.glob("[0-9]*"):
                if CHUNK_NAME.fullmatch(path.name) and not path.is_dir():
                    raise DamagedError(path, "it is not a folder")
            if self.plan() is None:
                if not any(chunks.glob("[0-9]*")):
                    refuse_others(self.path, NAMES, PLAN, "sweep")
                self._write_plan(_plan_text({**plan, "config": config}).encode())
            if not (self.path / CONFIG).exists():
                write_json(self.path / CONFIG, config)
        written = self.plan()
        assert written is not None
        return written

    def _write_plan(self, content: bytes) -> None:
        write_atomically(self.path / PLAN, content)

    def lock(self) -> None:
        """Keeps other processes from driving the sweep, until the context of this object is left.

        Raises:
          UserError: another process does.
        """
        if self._is_locked:
            return
        with preparing(self.path):
            self._is_locked = self._lock.acquire()
        if not self._is_locked:
            text = f"another process trains the sweep in {self.name}; wait, or choose another"
            lines = f"{text} --workdir\nlenet_jax.load_sweep reads its results so far."
            raise UserError("\n".join(filter(None, (lines, self._lock.holder()))))

    def environment(self) -> dict[str, Any]:
        """What `write_environment` wrote last; empty before.

        Raises:
          UserError: the file is damaged.
        """
        return read_json(self.path / ENVIRONMENT, dict[str, Any]) or {}

    def write_environment(self, record: Mapping[str, Any]) -> None:
        """Writes what may affect the results: versions, devices, the command."""
        write_json(self.path / ENVIRONMENT, record)

    def done(self) -> set[int]:
        """The finished chunks."""
        names = (path.name for path in (self.path / CHUNKS).glob("[0-9]*"))
        numbers = {int(name) for name in names if CHUNK_NAME.fullmatch(name)}
        return set(filter(self.is_done, numbers))

    def folders(self, chunks: Collection[int]) -> list[tuple[Path, list[int]]]:
        """The folders of chunks, and their members in order."""
        return [(self.folder(chunk), self.members_of(chunk)) for chunk in sorted(chunks)]

    def is_done(self, chunk: int) -> bool:
        """Whether a chunk is finished."""
        return self.folder(chunk).is_dir()

    @contextlib.contextmanager
    def draft(self, chunk: int, *, shared: bool = False) -> Iterator[Path]:
        """Yields an empty folder for a chunk's files; it is removed, unless it is published.

        Args:
          chunk: the chunk.
          shared: whether other processes may be writing the same chunk.
        """
        own = f".{secrets.token_hex(4)}" if shared else ""
        folder = self.path / CHUNKS / f".{chunk:04d}{own}.draft"
        remove(folder)
        folder.mkdir()
        try:
            yield folder
        finally:
            remove(folder)

    def publish(self, chunk: int, draft: Path) -> bool:
        """Makes a draft with all of a chunk's files the chunk, unless it is there already.

        Returns:
          Whether it was not.

        Raises:
          OSError: it cannot be written.
        """
        write_json(draft / PLACE, self._place(chunk))
        write_manifest(draft)
        return publish_once(draft, self.folder(chunk))

    def unpack(self, chunk: int, files: Mapping[str, bytes], sums: str) -> list[MemberResult]:
        """Publishes a chunk that was trained elsewhere, as `publish` does.

        Args:
          chunk: the chunk.
          files: the content of its files by name.
          sums: their `manifest`.

        Returns:
          The results of its members.

        Raises:
          DamagedError: the files differ from their sums, or are not results of the chunk's members.
        """
        with self.draft(chunk) as draft:
            rows = self._write_checked(chunk, draft, files, sums)
            self.publish(chunk, draft)
        return rows

    def _write_checked(
        self, chunk: int, draft: Path, files: Mapping[str, bytes], sums: str
    ) -> list[MemberResult]:
        """Writes a chunk's files to a draft; returns and raises what `unpack` does."""
        for name, content in files.items():
            if name != Path(name).name:
                raise DamagedError(self.folder(chunk), f"it would have a file {name}")
            (draft / name).write_bytes(content)
        if manifest(draft) != sums:
            raise DamagedError(self.folder(chunk), "it was changed on its way")
        return self._read(chunk, draft)[0]

    def remove_shared_drafts(self) -> None:
        """Deletes what processes of a job array left half-written; every chunk must be done."""
        remove_drafts(self.path / CHUNKS)

    def chunk_of(self, member: int) -> int | None:
        """The chunk that a member belongs to; None if none of the plan has it.

        Raises:
          UserError: there is no such member.
        """
        if not 0 <= member < len(self._members):
            known = f"0 to {len(self._members) - 1}" if len(self._members) else "none"
            raise UserError(f"{self.name} has no member {member}; it has {known}")
        return next((n for n, entry in enumerate(self._chunks) if member in entry["members"]), None)

    def members_of(self, chunk: int) -> list[int]:
        """The members of a chunk, in order."""
        return self._chunks[chunk]["members"]

    def check(self, chunk: int) -> None:
        """Checks that a finished chunk is intact and belongs here, but not what it recorded.

        Raises:
          UserError: a file differs from its sum, or the chunk is another plan's or another place's.
        """
        folder = self.folder(chunk)
        damage = find_damage(folder, is_recorded)
        if damage is not None:
            raise DamagedError(folder, damage)
        known = chunk < len(self._chunks)
        if not known or read_json(folder / PLACE, Place) != self._place(chunk):
            raise DamagedError(folder, f"it is not chunk {chunk} of the plan in {PLAN}")

    def read_chunk(self, chunk: int) -> tuple[list[MemberResult], Curves]:
        """The rows and curves of a finished chunk.

        Raises:
          UserError: the chunk is damaged, or belongs elsewhere.
        """
        self.check(chunk)
        return self._read(chunk, self.folder(chunk))

    def _read(self, chunk: int, folder: Path) -> tuple[list[MemberResult], Curves]:
        """The rows and curves of a chunk's members, in a folder."""
        members = self.members_of(chunk)
        if not 0 <= members[0] < len(self._members):
            raise UserError(f"{self.path / PLAN} is damaged: it has no member {members[0]}")
        overrides = self._members[members[0]]  # in the number of epochs they are alike
        train = self.config()["train"]
        epochs = overrides.get("train.num_epochs", train["num_epochs"])
        measured = [name.rpartition(":")[2] for name in train.get("measurements", ())]
        return read_chunk(folder, members, epochs, measured)

    def read_chance(self, chunk: int) -> float:
        """What `write_chunk` wrote of a chunk that was read before; 0 if it was not known."""
        results = read_json(self.folder(chunk) / ROWS, ChunkResults)
        return (results or {}).get("chance", 0.0)

    def write_results(
        self,
        table: Table,
        history: Curves,
        summary: Mapping[str, Any],
        *,
        winner: str | None,
        figures: Mapping[str, bytes],
        page: str,
        parquet: bool = False,
    ) -> bool:
        """Writes the results of the finished chunks, in place of earlier ones.

        Args:
          table: of results.csv.
          history: curves of shape (members, epochs), and the member numbers.
          summary: the statistics.
          winner: the content of the winner's config file; None if there is none, or not yet.
          figures: the contents of those of `FIGURES` that were drawn.
          page: the content of sweep.html.
          parquet: whether to write the table as results.parquet too.

        Returns:
          Whether there is a results.parquet, for which pyarrow must be installed.
        """
        write_csv(self.path / TABLE, table)
        has_parquet = parquet and write_parquet(self.path / PARQUET, table)
        if not has_parquet:
            (self.path / PARQUET).unlink(missing_ok=True)
        write_arrays(self.path / HISTORY, history)
        write_json(self.path / SUMMARY, summary)
        write_atomically(self.path / PAGE, page)
        for name, content in (*((name, figures.get(name)) for name in FIGURES), (WINNER, winner)):
            if content is None:
                (self.path / name).unlink(missing_ok=True)
            else:
                write_atomically(self.path / name, content)
        return has_parquet

    def results(self) -> list[Path]:
        """The result files that exist."""
        return [file for name in RESULTS if (file := self.path / name).exists()]

    def folder(self, chunk: int) -> Path:
        """Where a chunk is, or will be."""
        return self.path / CHUNKS / f"{chunk:04d}"

    def _place(self, chunk: int) -> Place:
        """What says that a folder is this chunk of this plan."""
        return {"chunk": chunk, "plan": self.plan_sum}

    @property
    def _chunks(self) -> list[PlannedChunk]:
        plan = self.plan()
        return plan["chunks"] if plan else []

    @functools.cached_property
    def _members(self) -> Columns:
        return self.members()

    @functools.cached_property
    def plan_sum(self) -> str:
        """The SHA-256 of the plan, in hex, however its JSON is laid out."""
        return hashlib.sha256(json.dumps(self.plan(), sort_keys=True).encode()).hexdigest()


def _plan_text(plan: Mapping[str, Any]) -> str:
    """A plan as JSON with a line per key: a million members with one each would take long."""
    lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in plan.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def is_sweep(path: Path) -> bool:
    """Whether a folder holds a sweep; one whose name no file can have holds none."""
    with contextlib.suppress(OSError):
        return (path / PLAN).is_file()
    return False
