"""The errors of the cells as tables and as a figure."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.lenet_1998.cells import CELLS, IMAGES, NETWORKS, TRAININGS, Cell
from lenet_jax.statistics import summarise
from lenet_jax.storage.files import write_atomically

WORDS = {"single": "then, one by one"}


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


def plot(cells: dict[str, dict[str, Any]], file: Path) -> None:
    """Draws each seed's error as a dot, their means, and the paper's errors as marks."""
    from lenet_jax.plots.output import png
    from lenet_jax.plots.style import BLUE, INK, VERMILION, chart, house_style

    rng = np.random.default_rng(0)
    colours = dict(zip(TRAININGS, (VERMILION, BLUE), strict=True))
    with house_style():
        figure = chart(1000, 620, "Error rates of the networks of 1998 on MNIST's test images")
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        for axes, images in zip(panels, IMAGES, strict=True):
            for row, name in enumerate(NETWORKS):
                for training, offset in zip(TRAININGS, (-0.17, 0.17), strict=True):
                    result = cells.get(str(Cell(name, training, images)))
                    if result is None or result["mean"] is None:
                        continue
                    errors = np.asarray(errors_of(result["parts"]))
                    heights = row + offset + rng.uniform(-0.1, 0.1, len(errors))
                    colour = colours[training]
                    axes.plot(errors, heights, ".", color=colour, alpha=0.35, markersize=4)
                    right = training == "then"  # the worse of the two, as a rule
                    axes.annotate(
                        f"{result['mean']:.2f}",
                        (errors.max() if right else errors.min(), row + offset),
                        xytext=(9 if right else -9, 0),
                        textcoords="offset points",
                        ha="left" if right else "right",
                        va="center",
                        color=colour,
                    )
                published = Cell(name, "then", images).published
                if published is not None:
                    axes.plot([published] * 2, [row - 0.38, row + 0.38], color=INK, linewidth=2)
            axes.set_xscale("log")
            axes.set_title(f"{images} training images")
            axes.set_xlabel("error, % (log scale)")
        panels[0].set_yticks(range(len(NETWORKS)), [row.title for row in NETWORKS.values()])
        panels[0].invert_yaxis()
        panels[0].set_xlim(0.3, 20)
        panels[0].set_xticks(ticks := (0.5, 1, 2, 5, 10), [f"{tick:g}" for tick in ticks])
        panels[0].minorticks_off()
        for label, colour, marker in (
            *((f"each seed, trained as {name}", colours[name], ".") for name in TRAININGS),
            ("published in 1998", INK, "|"),
        ):
            panels[1].plot([], [], marker, color=colour, label=label, markersize=9)
        panels[1].legend(loc="lower right")
    write_atomically(file, png(figure))
