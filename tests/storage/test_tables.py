"""Tables as CSV and as Parquet."""

import sys

import pytest

from lenet_jax.storage import tables
from lenet_jax.storage.tables import Table, write_csv, write_parquet

COLUMNS = ["member", "rate", "widths", "mixed", "stopped", "diverged_step", "nothing"]
LINES = [
    [0, 0.1, "6 16", 1, True, None, None],
    [1, 1, "=6", "off", False, 7, None],
    [2, None, None, 2.5, None, None, None],
]


def test_csv_is_the_lines(tmp_path):
    write_csv(tmp_path / "a.csv", Table(COLUMNS, LINES))
    assert (tmp_path / "a.csv").read_text() == (
        "member,rate,widths,mixed,stopped,diverged_step,nothing\n"
        "0,0.1,6 16,1,True,,\n1,1,'=6,off,False,7,\n2,,,2.5,,,\n"
    )


def test_parquet_keeps_types_over_batches(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is an extra")
    monkeypatch.setattr(tables, "BATCH", 2)
    assert write_parquet(tmp_path / "a.parquet", Table(COLUMNS, LINES))
    read = parquet.read_table(tmp_path / "a.parquet")
    types = ["int64", "double", "string", "string", "bool", "int64", "double"]
    assert [str(field.type) for field in read.schema] == types
    assert read.column_names == COLUMNS
    assert read.to_pydict() == {
        "member": [0, 1, 2],
        "rate": [0.1, 1.0, None],
        "widths": ["6 16", "=6", None],
        "mixed": ["1", "off", "2.5"],
        "stopped": [True, False, None],
        "diverged_step": [None, 7, None],
        "nothing": [None, None, None],
    }


def test_without_pyarrow_there_is_no_parquet(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert not write_parquet(tmp_path / "a.parquet", Table(COLUMNS, LINES))
    assert list(tmp_path.iterdir()) == []
