"""The page of a sweep: its members in a table and over parallel axes, in one file."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from lenet_jax.errors import counted
from lenet_jax.storage.chunk import MEAN_CORRUPTION_ERROR, Row, is_corrupted
from lenet_jax.sweeps import results, results_table
from lenet_jax.sweeps.members import Overrides

FOLDER = Path(__file__).with_name("page")
MOST_MEMBERS = 10_000  # on the page, the best of them
MOST_AXES = 10
RESULTS = "valid_accuracy", "test_accuracy", MEAN_CORRUPTION_ERROR  # the last axes


def render(rows: Sequence[Row], overrides: Mapping[int, Overrides], name: str, title: str) -> str:
    """The page.

    Args:
      rows: of all members.
      overrides: by member.
      name: of the sweep.
      title: see `figure_data.title`.
    """
    best = sorted(rows, key=_rank, reverse=True)[:MOST_MEMBERS]
    count = counted(len(rows), "member")
    count += f", the best {MOST_MEMBERS:,} of which are here" if len(best) < len(rows) else ""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string((FOLDER / "sweep.html").read_text(encoding="utf-8")).render(
        title=title,
        count=count,
        style=(FOLDER / "sweep.css").read_text(encoding="utf-8"),
        script=(FOLDER / "sweep.js").read_text(encoding="utf-8"),
        # Within a script, only `<` could end it.
        data=json.dumps(to_data(best, overrides, name)).replace("<", "\\u003c"),
    )


def to_data(rows: Sequence[Row], overrides: Mapping[int, Overrides], name: str) -> dict[str, Any]:
    """What the script needs.

    Returns:
      `sweep`, its name; `columns`, of each its name, unit and number of decimals, None where there
      is none; `rows`; `axes`, which columns are; and `judged`, the column of the accuracy that
      colours and sorts.
    """
    names, lines = results_table.table(rows, overrides)
    values = {
        key: list(column) for key, column in zip(names, zip(*lines, strict=True), strict=True)
    }
    validated = any(value is not None for value in values[RESULTS[0]])
    judged = RESULTS[0 if validated else 1]
    columns = [key for key in names if key == judged or any(v is not None for v in values[key])]
    swept = {key for row in rows for key in overrides[row["member"]]}
    varied = [key for key in columns if key in swept and key not in results.SEEDS]
    results_axes = [key for key in RESULTS if key in columns]
    axes = [*varied[: MOST_AXES - len(results_axes)], *results_axes]
    cells = [[_plain(value, key) for value in values[key]] for key in columns]
    return {
        "sweep": name,
        "columns": [
            {"name": key, "unit": "%" if _is_share(key) else None, "decimals": _decimals(key)}
            for key in columns
        ],
        "axes": [columns.index(key) for key in axes],
        "rows": [list(row) for row in zip(*cells, strict=True)],
        "judged": columns.index(judged),
    }


def _is_share(column: str) -> bool:
    own = column in results.COLUMNS  # what a user measures may have any unit
    return (own and column.endswith("_accuracy")) or is_corrupted(column)


def _decimals(column: str) -> int | None:
    if _is_share(column):
        return 2
    return {"valid_loss": 4, "test_loss": 4, "seconds": 2}.get(column)


def _plain(value: Any, column: str) -> float | int | str | None:
    """A cell that the page can sort: a finite number, shares in %, a text, or nothing."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value)
    if not math.isfinite(value):
        return None
    return round(100 * value, 6) if _is_share(column) else value


def _rank(row: Row) -> tuple[bool, tuple[float, float, int]]:
    done = row["status"] == "done"
    return done, results.rank(row) if done else (0.0, 0.0, -row["member"])
