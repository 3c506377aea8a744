"""The overrides of a sweep's members by key, so that a million members take a few megabytes.

In JSON: `{"count": 4, "columns": {"seed": {"values": [7, 8], "members": [0, 1, 0, -1]}}}`. Member 0
sets `seed` to the first of the values, and member 3 does not set it. Without `members`, member i
has the i-th value.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from lenet_jax.errors import UserError
from lenet_jax.storage.formats import PlannedColumn, PlannedMember, PlannedMembers

UNSET = -1
EXACT = ({int}, {float}, {str})  # types whose equal values are the same value


class Column(NamedTuple):
    """One key's values.

    Attributes:
      values: the distinct ones, in the order of their first members.
      members: the index of each member's value; `UNSET` where it does not override the key.
    """

    values: list[Any]
    members: Int32[np.ndarray, " n"]


class Columns:
    """The overrides of members 0 to n - 1.

    Attributes:
      by_key: the columns, in the order of their first members.
    """

    def __init__(self, count: int, by_key: Mapping[str, Column]):
        self._count, self.by_key = count, dict(by_key)

    @classmethod
    def of(cls, changes: Sequence[Mapping[str, Any]]) -> "Columns":
        """The columns of overrides, one mapping per member."""
        keys = dict.fromkeys(key for overrides in changes for key in overrides)
        return cls(len(changes), {key: _column(changes, key) for key in keys})

    @classmethod
    def from_json(cls, value: PlannedMembers | list[PlannedMember], source: str) -> "Columns":
        """Inverts `to_json`; also reads the list of members of an older version.

        Raises:
          UserError: members are missing.
        """
        if isinstance(value, list):
            complete = [entry["member"] for entry in value] == list(range(len(value)))
            columns = cls.of([entry["overrides"] for entry in value])
        else:
            count, stored = value["count"], value["columns"]
            complete = all(_is_complete(column, count) for column in stored.values())
            columns = cls(count, {key: _read(stored[key]) for key in stored})
        if not complete:
            raise UserError(f"{source} is damaged: it does not have each member once")
        return columns

    def to_json(self) -> dict[str, Any]:
        """Returns them for JSON; equal overrides give equal JSON."""
        columns = {}
        for key, column in self.by_key.items():
            values = [list(v) if isinstance(v, tuple) else v for v in column.values]
            columns[key] = {"values": values}
            if not np.array_equal(column.members, np.arange(self._count)):
                columns[key]["members"] = column.members.tolist()
        return {"count": self._count, "columns": columns}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, member: int) -> dict[str, Any]:
        """The overrides of one member."""
        return {
            key: column.values[column.members[member]]
            for key, column in self.by_key.items()
            if column.members[member] != UNSET
        }


def plain(value: object) -> object:
    """Converts NumPy scalars and arrays to Python numbers and tuples."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return tuple(value) if isinstance(value, list) else value


def _column(changes: Sequence[Mapping[str, Any]], key: str) -> Column:
    given = [plain(overrides[key]) for overrides in changes if key in overrides]
    # Equality does not tell 1 from True and 1.0, and what is no number may not be hashable.
    names = given if set(map(type, given)) in EXACT else list(map(repr, given))
    codes = {name: code for code, name in enumerate(dict.fromkeys(names))}
    values = dict(zip(reversed(names), reversed(given), strict=True))  # of equal ones the first
    members = np.full(len(changes), UNSET, np.int32)
    members[[key in overrides for overrides in changes]] = [codes[name] for name in names]
    return Column([values[name] for name in codes], members)


def _is_complete(column: PlannedColumn, count: int) -> bool:
    """Whether a column has a value, or none, for each of `count` members."""
    members = column.get("members")
    if members is None:
        return len(column["values"]) == count
    return len(members) == count and max(members, default=UNSET) < len(column["values"])


def _read(column: PlannedColumn) -> Column:
    members = column.get("members", range(len(column["values"])))
    return Column(column["values"], np.array(members, np.int32))
