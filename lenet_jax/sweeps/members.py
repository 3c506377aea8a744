"""The members of a sweep, in columns: a config is built when it is asked for.

Whatever concerns all members (what is valid, which are equal, which are compiled together) is
computed on the distinct values of each key.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int64

from lenet_jax.config.file import Config, replace, stored_value
from lenet_jax.config.key import Key
from lenet_jax.config.rules import JOINT_RULES
from lenet_jax.config.schema import is_fulfilled, keys
from lenet_jax.storage.columns import Column, Columns

Overrides = dict[str, object]
INVALID = -1


class Member(NamedTuple):
    """One network of a sweep: its number, its overrides, and the resulting config."""

    number: int
    overrides: Overrides
    config: Config


class Members:
    """Some of a sweep's members, in order.

    Attributes:
      config: what they override.
      columns: the overrides of all members of the sweep.
      numbers: which of them these are.
    """

    def __init__(self, config: Config, columns: Columns):
        """All members of a sweep; the columns may have mistakes, see `find_wrong`."""
        self.config, self.columns = config, columns
        self.numbers = np.arange(len(columns), dtype=np.int32)
        known = keys(config.model.name)
        self._stored = {
            path: _stored(config, path, column, known[path])
            for path, column in columns.by_key.items()
        }

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: int) -> Member:
        number = int(self.numbers[position])
        overrides = self.columns[number]
        return Member(number, overrides, replace(self.config, overrides))

    def __iter__(self) -> Iterator[Member]:
        return (self[position] for position in range(len(self)))

    def overrides(self) -> dict[int, Overrides]:
        """The overrides of each member, by its number."""
        return {number: self.columns[number] for number in self.numbers.tolist()}

    def part(self, positions: slice | np.ndarray) -> "Members":
        """The members at these positions."""
        part = object.__new__(Members)
        part.__dict__ |= self.__dict__ | {"numbers": self.numbers[positions]}
        return part

    def join(self, others: Sequence["Members"]) -> "Members":
        """These members and others of the sweep, in order."""
        numbers = np.concatenate([self.numbers, *(other.numbers for other in others)])
        joined = self.part(slice(0))
        joined.numbers = np.sort(numbers)
        return joined

    def values(self, path: str) -> list[Any]:
        """The distinct values of a config key among these members."""
        if path not in self._stored:
            return [attrgetter(path)(self.config)]
        column = self._stored[path]
        return [column.values[code] for code in np.unique(column.members[self.numbers])]

    def split(self, view: Callable[[str, Any], Hashable]) -> list["Members"]:
        """Splits the members by a view of their values, in the order of the first of each part.

        Args:
          view: of a config key and its value; it is the same for all members of a part.
        """
        views = []
        for path, column in self._stored.items():
            codes: dict[Hashable, int] = {}
            seen = [codes.setdefault(view(path, value), len(codes)) for value in column.values]
            views.append(np.array(seen)[column.members[self.numbers]])
        first, kind = _distinct(len(self), views)
        order = np.argsort(kind, kind="stable")
        ends = np.cumsum(np.bincount(kind))
        parts = np.split(order, ends[:-1])
        return [self.part(parts[index]) for index in np.argsort(first)]

    def find_wrong(self) -> Bool[np.ndarray, " n"]:
        """Marks the members whose config has mistakes, so that `replace` would refuse it."""
        stored = {path: column.members[self.numbers] for path, column in self._stored.items()}
        wrong, known = np.zeros(len(self), bool), keys(self.config.model.name)
        for codes in stored.values():
            wrong |= codes == INVALID
        for paths, holds, _ in JOINT_RULES:
            if not stored.keys() & paths or not known.keys() >= set(paths):
                continue
            right = np.flatnonzero(~wrong)
            swept = [path for path in paths if path in stored]
            first, kind = _distinct(len(right), [stored[path][right] for path in swept])
            values = {path: [attrgetter(path)(self.config)] * len(first) for path in paths}
            for path in swept:
                values[path] = [
                    self._stored[path].values[code] for code in stored[path][right[first]]
                ]
            broken = [
                not is_fulfilled(holds, combined) for combined in zip(*values.values(), strict=True)
            ]
            wrong[right] |= np.array(broken, bool)[kind]
        return wrong

    def find_twins(self) -> Int64[np.ndarray, " n"]:
        """The position of the first member with the same config; of most members, their own."""
        stored = [column.members[self.numbers] for column in self._stored.values()]
        first, kind = _distinct(len(self), stored)
        return first[kind]


def _stored(config: Config, path: str, column: Column, key: Key) -> Column:
    """A column as the configs have it: with the config's own value where it is not overridden."""
    values = [attrgetter(path)(config)]
    codes = {values[0]: 0}
    code_of = np.zeros(len(column.values) + 1, np.int32)  # the last is that of `UNSET`
    for index, value in enumerate(column.values):
        try:
            stored = stored_value(path, value, key)
        except ValueError:
            code_of[index] = INVALID
            continue
        code_of[index] = code = codes.setdefault(stored, len(codes))
        if code == len(values):
            values.append(stored)
    return Column(values, code_of[column.members])


def _distinct(
    count: int, columns: Sequence[Int[np.ndarray, " n"]]
) -> tuple[Int64[np.ndarray, " kinds"], Int64[np.ndarray, " n"]]:
    """The first position of each distinct row of some columns, and the kind of each row."""
    first, kind = np.zeros(min(count, 1), np.int64), np.zeros(count, np.int64)
    for codes in columns:
        rows = kind * (int(codes.max(initial=0)) + 1) + codes
        _, first, kind = np.unique(rows, return_index=True, return_inverse=True)
    return first, kind
