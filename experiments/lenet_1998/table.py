"""The errors of the cells as tables and as a figure."""

from typing import Any

import numpy as np

from experiments.lenet_1998.cells import CELLS, IMAGES, NETWORKS, TRAININGS, Cell
from lenet_jax.plots.style import BLUE, INK, VERMILION, WIDTH, Figure, chart, key, styled
from lenet_jax.statistics import summarise

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

    "–" is what is not trained; what is not published is empty.
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
            values += [_spread(cells.get(str(Cell(name, how, images)))) for how in TRAININGS]
        lines.append(f"| {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def _spread(row: dict[str, Any] | None) -> str:
    if row is None or row["mean"] is None:
        return "–"
    return f"{row['mean']:.2f}" + ("" if row["sd"] is None else f" ± {row['sd']:.2f}")


def table(cells: dict[str, dict[str, Any]]) -> str:
    """All results in Markdown, a row for each cell."""
    lines = [
        "| network | trained as | images | 1998, % | mean ± sd, % | median | best | seeds"
        " | at or below 1998 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in CELLS:
        if (row := cells.get(str(cell))) is None or row["mean"] is None:
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
    drawn = [cells[name] for name in map(str, CELLS) if name in cells]
    counts = sorted({cell["seeds"] for cell in drawn if cell["mean"] is not None})
    figure = chart(WIDTH, 620, "Test errors of the networks of 1998 on MNIST")
    key(
        figure,
        [
            ("■ trained as then, each seed", LOOKS["then"][0]),
            ("● trained as now, each seed", LOOKS["now"][0]),
            ("┃ published in 1998", INK),
            (f"number: mean, n = {' to '.join(map(str, counts[:1] + counts[1:][-1:]))} seeds", INK),
        ],
    )
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, images in zip(panels, IMAGES, strict=True):
        for row, name in enumerate(NETWORKS):
            for training, (colour, marker, offset) in LOOKS.items():
                result = cells.get(str(Cell(name, training, images)))
                if result is None or result["mean"] is None:
                    continue
                errors = np.asarray(errors_of(result["parts"]))
                heights = row + offset + rng.uniform(-0.1, 0.1, len(errors))
                axes.plot(errors, heights, marker, color=colour, alpha=0.4, markersize=3)
                published = Cell(name, training, images).published or np.nan
                right = training == "then"  # the worse of the two, as a rule
                ends = (errors.max(), published) if right else (errors.min(), published)
                axes.annotate(
                    f"{result['mean']:.2f}",
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
    panels[0].set_xlim(0.3, 25)
    panels[0].set_xticks(ticks := (0.5, 1, 2, 5, 10, 20), [f"{tick:g}" for tick in ticks])
    panels[0].minorticks_off()
    return figure
