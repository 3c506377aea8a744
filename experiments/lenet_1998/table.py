"""The errors of the cells as tables and as a figure."""

from typing import Any

import numpy as np

from experiments.lenet_1998.cells import CELLS, IMAGES, NETWORKS, TRAININGS, Cell
from lenet_jax.plots.style import BLUE, INK, VERMILION, WIDTH, Figure, chart, key, styled
from lenet_jax.statistics import summarise

FEWEST = 20  # seeds; results of fewer are not shown
WORDS = {"single": "then, one by one"}
# Of each training, its colour and marker in the figure, and its place in a network's row.
LOOKS = dict(zip(TRAININGS, ((VERMILION, "s", -0.17), (BLUE, "o", 0.17)), strict=True))


def errors_of(parts: dict[str, Any]) -> list[float]:
    """The errors of all seeds of a cell, in percent."""
    return [error for part in parts.values() for error in part["errors"].values()]


def describe(errors: list[float], published: float | None) -> dict[str, Any]:
    """Mean, deviation, median, best, and the share of seeds at or below the paper's error."""
    summary = summarise(errors, upper=100.0)
    at_or_below = [error <= published for error in errors] if published is not None else []
    return {
        "seeds": summary.n,
        **summary.to_json(),
        "best": min(errors, default=None),
        "share_at_or_below_published": float(np.mean(at_or_below)) if at_or_below else None,
    }


def overview(cells: dict[str, dict[str, Any]]) -> str:
    """The networks' errors in Markdown, a row each.

    "–" is what is not trained; what is not published, or does not exist, is empty. Where single
    networks broke down, it is the median.
    """
    lines = [
        "| network | 1998 | as then | as now | 1998, distorted | as then | as now |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, network in NETWORKS.items():
        values = [network.title]
        for images in IMAGES:
            published = Cell(name, "then", images).published
            values.append("" if published is None else f"{published:g}")
            own = [Cell(name, how, images) for how in TRAININGS]
            values += [_brief(cells.get(str(cell))) if cell in CELLS else "" for cell in own]
        lines.append(f"| {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def _brief(row: dict[str, Any] | None) -> str:
    if not _is_known(row):
        return "–"
    assert row is not None
    return f"{row['median']:.2f} (median)" if _has_broken(row) else _spread(row)


def _spread(row: dict[str, Any]) -> str:
    return f"{row['mean']:.2f} ± {row['sd']:.2f}"


def _has_broken(row: dict[str, Any]) -> bool:
    """Whether networks of a cell broke down, so that its mean says little of the others."""
    return row["sd"] > row["mean"] / 2


def _is_known(row: dict[str, Any] | None) -> bool:
    return row is not None and row["seeds"] >= FEWEST


def table(cells: dict[str, dict[str, Any]]) -> str:
    """All results in Markdown, a row for each cell."""
    lines = [
        "| network | trained as | images | 1998, % | mean ± sd, % | median | best | seeds"
        " | at or below 1998 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in CELLS:
        row = cells.get(str(cell))
        if row is None or not _is_known(row):
            continue
        share = row["share_at_or_below_published"]
        values = (
            NETWORKS[cell.network].title,
            WORDS.get(cell.training, cell.training),
            cell.images,
            "" if cell.published is None else f"{cell.published:g}",
            _spread(row),
            f"{row['median']:.2f}",
            f"{row['best']:.2f}",
            str(row["seeds"]),
            "" if share is None else f"{100 * share:.0f} %",
        )
        lines.append(f"| {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


@styled
def plot(answer: dict[str, Any]) -> Figure:
    """Draws each seed's error as a dot, their means, and the paper's errors as marks."""
    cells, rng = answer["cells"], np.random.default_rng(0)
    drawn = [cells[name] for name in map(str, CELLS) if _is_known(cells.get(name))]
    counts = sorted({cell["seeds"] for cell in drawn})
    seeds = " to ".join(map(str, counts[:1] + counts[1:][-1:]))
    title = f"Test errors of the networks of 1998 on MNIST, n = {seeds} seeds"
    figure = chart(WIDTH, 620, title)
    key(
        figure,
        [
            ("■ trained as then, each seed", LOOKS["then"][0]),
            ("● trained as now, each seed", LOOKS["now"][0]),
            ("┃ published in 1998", INK),
            ("number: mean, of cells with a breakdown median", INK),
        ],
    )
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, images in zip(panels, IMAGES, strict=True):
        for row, name in enumerate(NETWORKS):
            for training, (colour, marker, offset) in LOOKS.items():
                result = cells.get(str(Cell(name, training, images)))
                if result is None or not _is_known(result):
                    continue
                errors = np.asarray(errors_of(result["parts"]))
                heights = row + offset + rng.uniform(-0.1, 0.1, len(errors))
                axes.plot(errors, heights, marker, color=colour, alpha=0.4, markersize=3)
                published = Cell(name, training, images).published or np.nan
                right = training == "then"  # the worse of the two, as a rule
                whole = errors[errors < 3 * result["median"]]
                ends = (whole.max(), published) if right else (whole.min(), published)
                axes.annotate(
                    f"{result['median' if _has_broken(result) else 'mean']:.2f}",
                    (np.nanmax(ends) if right else np.nanmin(ends), row + offset),
                    xytext=(7 if right else -7, 0),
                    textcoords="offset points",
                    ha="left" if right else "right",
                    va="center",
                    color=colour,
                )
            published = Cell(name, "then", images).published
            if published is not None:
                axes.plot([published] * 2, [row - 0.38, row + 0.38], color=INK, linewidth=2)
        axes.set(xscale="log", xlabel="test error, % (log scale)")
        axes.set_title(f"{images} training images")
    panels[0].set_yticks(range(len(NETWORKS)), [row.title for row in NETWORKS.values()])
    panels[0].invert_yaxis()
    panels[0].set_xlim(0.3, 100)
    panels[0].set_xticks(ticks := (0.5, 1, 2, 5, 10, 20, 50), [f"{tick:g}" for tick in ticks])
    panels[0].minorticks_off()
    return figure
