"""The weights of a sweep's members: of each at its best, and after epochs if they are recorded."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lenet_jax.errors import UserError, printable
from lenet_jax.storage import weights
from lenet_jax.storage.chunk import DamagedError
from lenet_jax.storage.formats import MemberResult
from lenet_jax.storage.recorded import WEIGHTS, members_of, recorded_epochs, weights_file
from lenet_jax.storage.sums import stored_line
from lenet_jax.storage.sweep_dir import SweepDir

MAX_LISTED = 12  # members or epochs in one message


class StoredMember(NamedTuple):
    """The weights and results of one member, from a finished chunk.

    Attributes:
      state_dict: its weights.
      metadata: of the weights file.
      row: its results; empty if the weights are those after an epoch, of which they may not be.
      history: its metrics until then, a row per epoch, named as in a run's `metrics.jsonl`.
    """

    state_dict: weights.StateDict
    metadata: Mapping[str, str]
    row: Mapping[str, Any]
    history: list[dict[str, float | int]]


class SweepWeights:
    """Reads the weights in the finished chunks of a sweep."""

    def __init__(self, store: SweepDir):
        """Reads nothing yet."""
        self._store = store

    def read_member(self, member: int, epoch: int | None = None) -> StoredMember:
        """The weights and results of a member.

        Args:
          member: its number.
          epoch: after which, 0 for the initial weights; None: its best on validation.

        Raises:
          UserError: its weights were not saved or recorded, its chunk is damaged, or it had
            diverged or stopped before.
        """
        chunk = self._find_chunk(member, epoch)
        rows, curves = self._store.read_chunk(chunk)
        if epoch is None:
            self._check_done(rows, {member}, chunk)
        members, stacked, metadata = self._read_stacked(chunk, epoch)
        if member not in members:
            raise self._missing(member, epoch)
        index, position = members.index(member), self._store.members_of(chunk).index(member)
        state_dict = {name: np.asarray(array)[index] for name, array in stacked.items()}
        # `train_loss` is called `train/loss` in a run.
        names = [name.replace("_", "/", 1) for name in curves]
        own = np.s_[position, : rows[position].get("epochs")]
        epochs = zip(*(array[own].tolist() for array in curves.values()), strict=True)
        history = [
            {"epoch": epoch} | dict(zip(names, values, strict=True))
            for epoch, values in enumerate(epochs, 1)
        ]
        if epoch is None:
            return StoredMember(state_dict, metadata, rows[position], history)
        self._check_alive(state_dict, member, epoch)
        return StoredMember(state_dict, metadata, {}, history[:epoch])

    def read(
        self, members: Collection[int], epoch: int | None = None
    ) -> dict[int, tuple[weights.StateDict, Mapping[str, str]]]:
        """The weights of members, and the metadata of their file.

        Args:
          members: their numbers.
          epoch: after which, 0 for the initial ones; None: of each member's best on validation.

        Raises:
          UserError: they were not saved or recorded, a chunk is damaged, or a member
            diverged, or stopped before.
        """
        found, chunks = {}, {self._find_chunk(member, epoch) for member in members}
        for chunk in sorted(chunks):
            rows, _ = self._store.read_chunk(chunk)
            if epoch is None:
                self._check_done(rows, members, chunk)
            stated, stacked, metadata = self._read_stacked(chunk, epoch)
            arrays = {name: np.asarray(array) for name, array in stacked.items()}
            for member in set(members).intersection(stated):
                index = stated.index(member)
                own = {name: array[index] for name, array in arrays.items()}
                if epoch is not None:
                    self._check_alive(own, member, epoch)
                found[member] = own, metadata
        if missing := sorted(set(members) - found.keys()):
            raise self._missing(missing[0], epoch)
        return found

    def sum_of(self, member: int, epoch: int | None = None) -> str:
        """The line of a chunk's manifest on the file of a member's weights.

        Raises:
          UserError: they were not saved or recorded, or the manifest cannot be read.
        """
        folder = self._store.folder(self._find_chunk(member, epoch))
        try:
            return stored_line(folder, weights_file(epoch))
        except (OSError, LookupError) as error:
            raise DamagedError(folder, printable(error)) from error

    def _find_chunk(self, member: int, epoch: int | None = None) -> int:
        """The chunk of a member, with a file of weights.

        Raises:
          UserError: there is no such member, or file.
        """
        chunk = self._store.chunk_of(member)
        if chunk is None or not (self._store.folder(chunk) / weights_file(epoch)).exists():
            raise self._missing(member, epoch)
        return chunk

    def _read_stacked(
        self, chunk: int, epoch: int | None = None
    ) -> tuple[list[int], weights.StateDict, dict[str, str]]:
        """The members of a chunk's file of weights, their stacked weights, and the metadata."""
        name, numbers = weights_file(epoch), self._store.members_of(chunk)
        stacked, metadata = weights.read(self._store.folder(chunk) / name)
        members = members_of(metadata)
        stacks = {array.shape[:1] for array in stacked.values()}
        if not set(members) <= set(numbers) or stacks != {(len(members),)}:
            raise DamagedError(self._store.folder(chunk), f"{name} is of other members")
        return members, stacked, metadata

    def _check_done(
        self, rows: Iterable[MemberResult], members: Collection[int], chunk: int
    ) -> None:
        for row in rows:
            if row["member"] not in members or row["status"] != "diverged":
                continue
            name = f"{self._store.path}:{row['member']}"
            has_others = recorded_epochs([self._store.folder(chunk)], "weights")
            before = f", or an epoch before, such as {name}@0" if has_others else ""
            raise UserError(
                f"{self._store.path}: member {row['member']} diverged, so that its weights are of"
                f" no use\nChoose another member{before}"
            )

    def _check_alive(self, state_dict: weights.StateDict, member: int, epoch: int) -> None:
        if any(np.isnan(np.asarray(array)).any() for array in state_dict.values()):
            raise UserError(
                f"{self._store.path}: member {member} had diverged or stopped before epoch {epoch}"
                "\nChoose an epoch before, or another member."
            )

    def _missing(self, member: int, epoch: int | None = None) -> UserError:
        if epoch is not None:
            folders = [self._store.folder(chunk) for chunk in self._store.done()]
            listed = _listed(recorded_epochs(folders, "weights"))
            return UserError(
                f"{self._store.path} has no weights of member {member} after epoch {epoch}\n"
                f"It has those after epochs: {listed}\n"
                "A sweep records them with --record=weights --record_every=1, 0 being the initial"
                " ones."
            )
        stored = list(self.saved())
        return UserError(
            f"{self._store.path} has no weights of member {member}\n"
            f"It has those of members: {_listed(stored)}\n"
            "A sweep saves the best member of each setting, or every member with --save=all."
        )

    def saved(self) -> Iterator[int]:
        """The members whose weights are saved.

        Raises:
          UserError: weights are damaged.
        """
        for chunk in sorted(self._store.done()):
            file = self._store.folder(chunk) / WEIGHTS
            if file.exists():
                yield from members_of(weights.read(file)[1])


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
