"""The page of a sweep: its members in a table and over parallel axes, in one file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from lenet_jax.errors import counted
from lenet_jax.storage.chunk import MEAN_CORRUPTION_ERROR, Row
from lenet_jax.sweeps import results
from lenet_jax.sweeps.members import Overrides

FOLDER = Path(__file__).with_name("page")
MOST_MEMBERS = 10_000  # on the page, the best of them
MOST_AXES = 10
RESULTS = "valid_accuracy", "test_accuracy", MEAN_CORRUPTION_ERROR  # the last axes


def render(rows: Sequence[Row], overrides: Mapping[int, Overrides], title: str) -> str:
    """The page.

    Args:
      rows: of all members.
      overrides: by member.
      title: see `results.title`.
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
        data=json.dumps(to_data(best, overrides)).replace("<", "\\u003c"),
    )


def to_data(rows: Sequence[Row], overrides: Mapping[int, Overrides]) -> dict[str, Any]:
    """What the script needs: columns, rows, which columns are axes, and which sorts at first."""
    columns, lines = results.table(rows, overrides)
    names = list(columns)
    swept = {key for row in rows for key in overrides[row["member"]]}
    varied = [name for name in names if name in swept and name not in results.SEEDS]
    results_axes = [name for name in RESULTS if name in names]
    axes = [*varied[: MOST_AXES - len(results_axes)], *results_axes]
    return {
        "columns": names,
        "axes": [names.index(name) for name in axes],
        "rows": [[_plain(value) for value in line] for line in lines],
        "sortedBy": names.index(RESULTS[0]),
    }


def _plain(value: Any) -> float | int | str | None:
    """A cell that the page can sort: a finite number, a text, or nothing."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value)
    return value if abs(value) < float("inf") else None


def _rank(row: Row) -> tuple[bool, tuple[float, float, int]]:
    done = row["status"] == "done"
    return done, results.rank(row) if done else (0.0, 0.0, -row["member"])
