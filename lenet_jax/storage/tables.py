"""The table of a sweep's members as CSV and as Parquet, written line by line."""

import io
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from lenet_jax.storage.files import write_atomically, write_rows

BATCH = 10_000  # lines of a row group


class Table(NamedTuple):
    """The names of columns, and lines, which may be read several times."""

    columns: Sequence[str]
    lines: Iterable[Sequence[Any]]


def write_csv(path: Path, table: Table) -> None:
    """Writes a table as CSV; raises OSError if it cannot be written."""

    def write(stream: IO[bytes]) -> None:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        write_rows(text, [table.columns])
        write_rows(text, table.lines)
        text.flush()
        text.detach()

    write_atomically(path, write)


def write_parquet(path: Path, table: Table) -> bool:
    """Writes a table as Parquet; whether pyarrow is installed, without which it is not.

    A column whose values are of several types, other than numbers, has them as text.

    Raises:
      OSError: it cannot be written.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return False
    kinds: list[set[type]] = [set() for _ in table.columns]
    for line in table.lines:
        for own, value in zip(kinds, line, strict=True):
            own.add(type(value))
    types = [_arrow_type(pyarrow, own - {type(None)}) for own in kinds]
    schema = pyarrow.schema(list(zip(table.columns, types, strict=True)))

    def write(stream: IO[bytes]) -> None:
        lines = iter(table.lines)
        with pyarrow.parquet.ParquetWriter(stream, schema) as writer:
            while some := list(itertools.islice(lines, BATCH)):
                columns = zip(*some, strict=True)
                arrays = [_array(pyarrow, *each) for each in zip(columns, types, strict=True)]
                writer.write_batch(pyarrow.record_batch(arrays, schema=schema))

    write_atomically(path, write)
    return True


def _arrow_type(pyarrow: Any, kinds: set[type]) -> Any:
    """The type of a column whose values are of some types."""
    for python, arrow in ((set(), "float64"), ({bool}, "bool_"), ({int}, "int64")):
        if kinds == python:
            return getattr(pyarrow, arrow)()
    return pyarrow.float64() if kinds <= {int, float} else pyarrow.string()


def _array(pyarrow: Any, values: Sequence[Any], kind: Any) -> Any:
    if kind == pyarrow.string():
        values = [None if value is None else str(value) for value in values]
    elif kind == pyarrow.float64():
        values = [None if value is None else float(value) for value in values]
    return pyarrow.array(values, kind)
