"""A sweep's directory: its plan, the finished chunks, and the results collected from them.

    sweep.json, config.json, environment.json    the plan, the config that members override, and
                                                 the versions and devices
    chunks/0007/                                 a finished chunk: results.json, history.npz, and
                                                 weights.safetensors if any weights were saved;
                                                 for what is recorded see `storage.recorded`;
                                                 chunk.json names its place in the plan, and
                                                 SHA256SUMS has the sums of all
    results.csv, history.npz, summary.json,      the results of the finished chunks
    sweep.png, corruptions.png,
    sweep.html, winner.py

A chunk is written under a temporary name and renamed, so it is either complete or absent, and the
first to be there stays. Whoever reads one checks its sums, and that it belongs to the plan; those
of what is recorded, which may be large, when it is read. One process at a time drives the sweep,
and holds its lock, see `storage.lock`. Those of a job array only publish chunks, which needs none.
"""

import contextlib
import functools
import hashlib
import json
import re
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from lenet_jax.errors import UserError, expand, printable
from lenet_jax.reading import read_json
from lenet_jax.storage import run_dir, weights
from lenet_jax.storage.chunk import HISTORY, ROWS, Curves, damaged, read_chunk
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
from lenet_jax.storage.formats import ChunkResults, MemberResult, Place, Plan, PlannedChunk
from lenet_jax.storage.lock import Lock
from lenet_jax.storage.recorded import (
    WEIGHTS,
    is_recorded,
    members_of,
    recorded_epochs,
    weights_file,
)
from lenet_jax.storage.sums import find_damage, manifest, stored_line, write_manifest

PLAN, CONFIG, ENVIRONMENT = "sweep.json", "config.json", "environment.json"
CHUNKS = "chunks"
PLACE = "chunk.json"
TABLE, SUMMARY, WINNER, PAGE = "results.csv", "summary.json", "winner.py", "sweep.html"
FIGURE, ERROR_MAP = "sweep", "corruptions"  # each a file of one or several formats
FIGURES = tuple(f"{name}{end}" for name in (FIGURE, ERROR_MAP) for end in (".png", ".svg", ".pdf"))
RESULTS = TABLE, HISTORY, SUMMARY, *FIGURES, PAGE, WINNER
NAMES = CONFIG, ENVIRONMENT, *RESULTS
MAX_LISTED = 12  # members or epochs in one message
_OWN_DRAFT = re.compile(r"\.[0-9]{4,}\.draft")

Row = dict[str, Any]


class StoredMember(NamedTuple):
    """The weights and results of one member, from a finished chunk.

    Attributes:
      state_dict: its weights.
      metadata: of the weights file.
      row: its results.
      history: its metrics, one row per epoch, named as in a run's `metrics.jsonl`.
    """

    state_dict: weights.StateDict
    metadata: Mapping[str, str]
    row: Mapping[str, Any]
    history: list[dict[str, float | int]]


class SweepDir:
    """The directory of one sweep.

    Attributes:
      path: the directory.
    """

    def __init__(self, path: str | Path):
        """Does not create the directory; `open` does."""
        self.path = expand(path, "--workdir=").absolute()
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

    @property
    def lock_note(self) -> str | None:
        """In one line, that the file system has no locks; None if it has, or before `lock`."""
        return self._lock.note

    def config(self) -> dict[str, Any]:
        """The values of the config that members override.

        Raises:
          UserError: there are none, or they cannot be read.
        """
        plan = self.plan()
        stored = plan and plan.get("config")
        if stored is None:  # a plan of an older version
            stored = read_json(self.path / CONFIG, dict[str, Any])
        if stored is None:
            raise UserError(f"{self.path} has no {CONFIG} that says what its members override")
        return stored

    def plan(self) -> Plan | None:
        """The plan in the directory, or None if it holds no sweep yet.

        Raises:
          UserError: the directory holds a run, or its plan is damaged.
        """
        if self._plan is None:  # of a million members it takes a second to read
            self._plan = read_json(self.path / PLAN, Plan)
        if self._plan is None and (self.path / run_dir.RECORD).exists():
            raise UserError(f"{self.path} holds a run; choose another --workdir for a sweep")
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
            if self.plan() is None:
                if not any(chunks.glob("[0-9]*")):
                    refuse_others(self.path, NAMES, PLAN, "sweep")
                write_atomically(self.path / PLAN, _plan_text({**plan, "config": config}))
            if not (self.path / CONFIG).exists():
                write_json(self.path / CONFIG, config)
        written = self.plan()
        assert written is not None
        return written

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
            text = f"another process trains the sweep in {self.path}; wait, or choose another"
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
        numbers = {int(name) for name in names if re.fullmatch("[0-9]{4,}", name)}
        return set(filter(self.is_done, numbers))

    def folders(self, chunks: Collection[int]) -> list[tuple[Path, list[int]]]:
        """The folders of chunks, and their members in order."""
        return [(self._folder(chunk), self._chunks[chunk]["members"]) for chunk in sorted(chunks)]

    def is_done(self, chunk: int) -> bool:
        """Whether a chunk is finished."""
        return self._folder(chunk).is_dir()

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
        return publish_once(draft, self._folder(chunk))

    def unpack(self, chunk: int, files: Mapping[str, bytes], sums: str) -> bool:
        """Publishes a chunk that was trained elsewhere, as `publish` does.

        Args:
          chunk: the chunk.
          files: the content of its files by name.
          sums: their `manifest`.

        Raises:
          UserError: the files differ from their sums, or are not results of the chunk's members.
        """
        with self.draft(chunk) as draft:
            for name, content in files.items():
                if name != Path(name).name:
                    raise damaged(self._folder(chunk), f"it would have a file {name}")
                (draft / name).write_bytes(content)
            if manifest(draft) != sums:
                raise damaged(self._folder(chunk), "it was changed on its way")
            self._read(chunk, draft)
            return self.publish(chunk, draft)

    def remove_shared_drafts(self) -> None:
        """Deletes what processes of a job array left half-written; every chunk must be done."""
        remove_drafts(self.path / CHUNKS)

    def check(self, chunk: int) -> None:
        """Checks that a finished chunk is intact and belongs here, but not what it recorded.

        Raises:
          UserError: a file differs from its sum, or the chunk is another plan's or another place's.
        """
        folder = self._folder(chunk)
        damage = find_damage(folder, is_recorded)
        if damage is not None:
            raise damaged(folder, damage)
        known = chunk < len(self._chunks)
        if not known or read_json(folder / PLACE, Place) != self._place(chunk):
            raise damaged(folder, f"it is not chunk {chunk} of the plan in {PLAN}")

    def read_chunk(self, chunk: int) -> tuple[list[MemberResult], Curves]:
        """The rows and curves of a finished chunk.

        Raises:
          UserError: the chunk is damaged, or belongs elsewhere.
        """
        self.check(chunk)
        return self._read(chunk, self._folder(chunk))

    def _read(self, chunk: int, folder: Path) -> tuple[list[MemberResult], Curves]:
        """The rows and curves of a chunk's members, in a folder."""
        members = self._chunks[chunk]["members"]
        if not 0 <= members[0] < len(self._members):
            raise UserError(f"{self.path / PLAN} is damaged: it has no member {members[0]}")
        overrides = self._members[members[0]]  # in the number of epochs they are alike
        train = self.config()["train"]
        epochs = overrides.get("train.num_epochs", train["num_epochs"])
        measured = [name.rpartition(":")[2] for name in train.get("measurements", ())]
        return read_chunk(folder, members, epochs, measured)

    def read_chance(self, chunk: int) -> float:
        """What `write_chunk` wrote of a chunk that was read before; 0 if it was not known."""
        results = read_json(self._folder(chunk) / ROWS, ChunkResults)
        return (results or {}).get("chance", 0.0)

    def read_member(self, member: int) -> StoredMember:
        """The weights and results of a member.

        Raises:
          UserError: its weights were not saved, or its chunk is damaged.
        """
        chunk = self._chunk_with_weights(member)
        rows, curves = self.read_chunk(chunk)
        members, stacked, metadata = self._read_stacked(chunk)
        if member not in members:
            raise self._without_weights(member)
        index, position = members.index(member), self._chunks[chunk]["members"].index(member)
        state_dict = {name: np.asarray(array)[index] for name, array in stacked.items()}
        # `train_loss` is called `train/loss` in a run.
        names = [name.replace("_", "/", 1) for name in curves]
        own = np.s_[position, : rows[position].get("epochs")]
        epochs = zip(*(array[own].tolist() for array in curves.values()), strict=True)
        history = [
            {"epoch": epoch} | dict(zip(names, values, strict=True))
            for epoch, values in enumerate(epochs, 1)
        ]
        return StoredMember(state_dict, metadata, rows[position], history)

    def read_weights(
        self, members: Collection[int], epoch: int | None = None
    ) -> dict[int, tuple[weights.StateDict, Mapping[str, str]]]:
        """The weights of members, and the metadata of their file.

        Args:
          members: their numbers.
          epoch: after which, 0 for the initial ones; None: of each member's best on validation.

        Raises:
          UserError: they were not saved or recorded, or a chunk is damaged.
        """
        found, chunks = {}, {self._chunk_with_weights(member, epoch) for member in members}
        for chunk in sorted(chunks):
            self.check(chunk)
            stated, stacked, metadata = self._read_stacked(chunk, epoch)
            arrays = {name: np.asarray(array) for name, array in stacked.items()}
            if epoch is not None and any(array.dtype == np.float16 for array in arrays.values()):
                raise UserError(
                    f"{self.path} recorded weights after epochs in float16, which rounds them\n"
                    "To start from them, record them with --record_dtype=float32."
                )
            for member in set(members).intersection(stated):
                index = stated.index(member)
                own = {name: array[index] for name, array in arrays.items()}
                found[member] = own, metadata
        if missing := sorted(set(members) - found.keys()):
            raise self._without_weights(missing[0], epoch)
        return found

    def sum_of_weights(self, member: int, epoch: int | None = None) -> str:
        """The line of a chunk's manifest on the file of a member's weights.

        Raises:
          UserError: they were not saved or recorded, or the manifest cannot be read.
        """
        folder = self._folder(self._chunk_with_weights(member, epoch))
        try:
            return stored_line(folder, weights_file(epoch))
        except (OSError, LookupError) as error:
            raise damaged(folder, printable(error)) from error

    def _chunk_with_weights(self, member: int, epoch: int | None = None) -> int:
        """The chunk of a member, with a file of weights.

        Raises:
          UserError: there is no such member, or file.
        """
        if not 0 <= member < len(self._members):
            known = f"0 to {len(self._members) - 1}" if len(self._members) else "none"
            raise UserError(f"{self.path} has no member {member}; it has {known}")
        planned = (n for n, entry in enumerate(self._chunks) if member in entry["members"])
        chunk = next(planned, None)
        if chunk is None or not (self._folder(chunk) / weights_file(epoch)).exists():
            raise self._without_weights(member, epoch)
        return chunk

    def _read_stacked(
        self, chunk: int, epoch: int | None = None
    ) -> tuple[list[int], weights.StateDict, dict[str, str]]:
        """The members of a chunk's file of weights, their stacked weights, and the metadata."""
        name, numbers = weights_file(epoch), self._chunks[chunk]["members"]
        stacked, metadata = weights.read(self._folder(chunk) / name)
        members = members_of(metadata)
        stacks = {array.shape[:1] for array in stacked.values()}
        if not set(members) <= set(numbers) or stacks != {(len(members),)}:
            raise damaged(self._folder(chunk), f"{name} is of other members")
        return members, stacked, metadata

    def _without_weights(self, member: int, epoch: int | None = None) -> UserError:
        if epoch is not None:
            epochs = recorded_epochs([self._folder(chunk) for chunk in self.done()], "weights")
            listed = _listed(epochs)
            return UserError(
                f"{self.path} has no weights of member {member} after epoch {epoch}\n"
                f"It has those after epochs: {listed}\n"
                "A sweep records them with --record=weights --record_every=1, 0 being the initial"
                " ones."
            )
        stored = list(self.saved_members())
        return UserError(
            f"{self.path} has no weights of member {member}\n"
            f"It has those of members: {_listed(stored)}\n"
            "A sweep saves the best member of each setting, or every member with --save=all."
        )

    def saved_members(self) -> Iterator[int]:
        """The members whose weights are saved.

        Raises:
          UserError: weights are damaged.
        """
        for chunk in sorted(self.done()):
            file = self._folder(chunk) / WEIGHTS
            if file.exists():
                yield from members_of(weights.read(file)[1])

    def write_results(
        self,
        table: str,
        history: Curves,
        summary: Mapping[str, Any],
        *,
        winner: str | None,
        figures: Mapping[str, bytes],
        page: str,
    ) -> None:
        """Writes the results of the finished chunks, in place of earlier ones.

        Args:
          table: the content of results.csv.
          history: curves of shape (members, epochs), and the member numbers.
          summary: the statistics.
          winner: the content of the winner's config file; None if there is none, or not yet.
          figures: the contents of those of `FIGURES` that were drawn.
          page: the content of sweep.html.
        """
        write_atomically(self.path / TABLE, table)
        _write_arrays(self.path / HISTORY, history)
        write_json(self.path / SUMMARY, summary)
        write_atomically(self.path / PAGE, page)
        for name, content in (*((name, figures.get(name)) for name in FIGURES), (WINNER, winner)):
            if content is None:
                (self.path / name).unlink(missing_ok=True)
            else:
                write_atomically(self.path / name, content)

    def results(self) -> list[Path]:
        """The result files that exist."""
        return [file for name in RESULTS if (file := self.path / name).exists()]

    def _folder(self, chunk: int) -> Path:
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


def write_chunk(
    folder: Path, rows: Sequence[Row], curves: Curves, chance: float | None = None
) -> None:
    """Writes a chunk's results.

    Args:
      folder: its folder.
      rows: one per member.
      curves: of shape (members, epochs).
      chance: the accuracy of always answering the most frequent class, if it is known.
    """
    more = {} if chance is None else {"chance": chance}
    write_json(folder / ROWS, {"rows": list(rows), **more})
    _write_arrays(folder / HISTORY, curves)


def write_weights(
    folder: Path,
    members: Mapping[int, Mapping[str, np.ndarray]],
    metadata: Mapping[str, str],
    epoch: int | None = None,
) -> None:
    """Writes the weights of members of a chunk, stacked along a leading axis; keys are numbers.

    Those after an epoch, or without one those of the networks that results.csv is of.
    """
    first = next(iter(members.values()))
    stacked = {name: np.stack([arrays[name] for arrays in members.values()]) for name in first}
    member_numbers = " ".join(map(str, members))
    weights.write(folder / weights_file(epoch), stacked, {**metadata, "members": member_numbers})


def _listed(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - MAX_LISTED} more" if len(numbers) > MAX_LISTED else ""
    return (", ".join(map(str, numbers[:MAX_LISTED])) or "none") + more


def _plan_text(plan: Mapping[str, Any]) -> str:
    """A plan as JSON with a line per key: a million members with one each would take long."""
    lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in plan.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def is_sweep(path: Path) -> bool:
    """Whether a folder holds a sweep; one whose name no file can have holds none."""
    with contextlib.suppress(OSError):
        return (path / PLAN).is_file()
    return False


def _write_arrays(path: Path, arrays: Curves) -> None:
    write_atomically(path, lambda stream: np.savez(stream, **arrays))  # pyright: ignore
