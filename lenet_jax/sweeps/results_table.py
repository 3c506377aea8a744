"""The tables of a sweep: results.csv, a line per member, and history.npz, curves per member."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lenet_jax.storage.chunk import Curves, Row
from lenet_jax.storage.tables import Table
from lenet_jax.sweeps.members import Overrides
from lenet_jax.sweeps.results import COLUMNS, measured


def table(rows: Sequence[Row], overrides: Mapping[int, Overrides]) -> Table:
    """The columns of results.csv, and its lines: one per member, its overrides and results."""
    swept = list(dict.fromkeys(key for row in rows for key in overrides[row["member"]]))
    columns = [name for name in COLUMNS if any(name in row for row in rows)]
    columns[columns.index("best_epoch") : columns.index("best_epoch")] = measured(rows[0])
    return Table(["member", *swept, *columns], _Lines(rows, overrides, swept, columns))


def history(members: Sequence[int], curves: Mapping[int, Mapping[str, np.ndarray]]) -> Curves:
    """Member numbers, and curves (members, epochs), padded with NaN to the longest.

    Those that only some members have, of averaged weights, are NaN for the others.
    """
    names = dict.fromkeys(name for own in curves.values() for name in own)
    longest = max((len(curve) for own in curves.values() for curve in own.values()), default=0)
    arrays: Curves = {"member": np.asarray(members, np.int32)}
    for name in names:
        arrays[name] = np.full((len(members), longest), np.nan, np.float32)
        for index, member in enumerate(members):
            values = curves[member].get(name, ())
            arrays[name][index, : len(values)] = values
    return arrays


class _Lines:
    """The lines of results.csv, made as they are read: a member's overrides and results each."""

    def __init__(
        self,
        rows: Sequence[Row],
        overrides: Mapping[int, Overrides],
        swept: Sequence[str],
        columns: Sequence[str],
    ):
        self._rows, self._overrides, self._swept, self._columns = rows, overrides, swept, columns

    def __iter__(self) -> Iterator[list[Any]]:
        for row in self._rows:
            values = map(self._overrides[row["member"]].get, self._swept)
            shown = [" ".join(map(str, v)) if isinstance(v, list | tuple) else v for v in values]
            yield [row["member"], *shown, *map(row.get, self._columns)]
