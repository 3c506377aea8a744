"""The axes of errors and of the values of keys: their scales, their names, and chance."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lenet_jax.plots.settings import Setting
from lenet_jax.plots.style import FAINT, Axes, End, label_ends, legible

MOST_COLUMN = 28  # letters below a column
LETTER = 8  # pixels, about


def scale_axis(axes: Axes, name: str, settings: Sequence[Setting]) -> None:
    """Makes the axis `x` or `y` logarithmic if test errors are far apart; none goes below 0."""
    errors = [error for setting in settings for error in setting.test_errors]
    axis = axes.xaxis if name == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    if errors and max(errors) > 3 * min(errors) > 0:
        log_scale(axes, name)
    else:
        axes.set(**{f"{name}lim": (max(low, 0.0), high)})


def log_scale(axes: Axes, name: str) -> None:
    """Makes the axis `x` or `y` logarithmic, in plain numbers; the title says so."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set(**{f"{name}scale": "log"})
    side = "left" if axes.get_title("left") else "right"
    axes.set_title(f"{axes.get_title(side)} (log scale)", loc=side)
    axis = axes.xaxis if name == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    steps = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
    if high / low > 4:
        steps = (1, 1.5, 2, 3, 5, 7) if high / low < 20 else (1, 2, 5)
    if high / low > 1000:
        steps = (1,)
    ticks = [m * 10.0**d for d in decades for m in steps if low <= m * 10.0**d <= high]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))


def mark_chance(
    axes: Axes, settings: Sequence[Setting], name: str = "y", ends: Sequence[End] = ()
) -> None:
    """Draws a line at chance on the axis `x` or `y`, within its limits, where errors come near.

    Args:
        axes: to draw on, with final scales and limits.
        settings: that know their chance.
        name: of the axis.
        ends: of lines, for `label_ends`: on the axis `y` chance is named beside them.
    """
    low, high = sorted(axes.get_ylim() if name == "y" else axes.get_xlim())
    chances = {setting.chance for setting in settings if setting.chance is not None}
    near = [chance for chance in chances if low <= chance <= high]
    look = {"color": FAINT, "linestyle": ":", "linewidth": 1}
    if name == "y":
        for chance in near:
            axes.axhline(chance, **look)
        right = np.array(axes.get_xlim()[1:])
        own = [(right, np.array([chance]), "chance", FAINT) for chance in near]
        if ends or own:
            label_ends(axes, [*ends, *own])
        return
    for chance in near:
        axes.axvline(chance, **look)
        place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        axes.annotate("chance", (chance, 0), xytext=(2, 2), color=FAINT, size=8, **place)


def name_columns(axes: Axes, places: Sequence[Any], names: Sequence[str]) -> None:
    """Names places on the x axis; names that are too long for their place are turned."""
    names = [legible(name, MOST_COLUMN) for name in names]
    axes.set_xticks(places, names)
    if are_crowded(axes, names):
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation=40, rotation_mode="anchor")


def are_crowded(axes: Axes, names: Sequence[str]) -> bool:
    """Whether names side by side are longer than the axes."""
    return bool(LETTER * (max(map(len, names)) + 1) > axes.get_window_extent().width / len(names))


def apart(axes: Axes, places: Sequence[float], names: Sequence[str]) -> dict[float, str]:
    """The names of places on the x axis that do not run into the one before."""
    axes.autoscale_view()  # which Matplotlib leaves until it draws
    kept: dict[float, str] = {}
    end = -math.inf
    for place, name in sorted(zip(places, names, strict=True)):
        middle, half = axes.transData.transform((place, 0))[0], LETTER * (len(name) + 1) / 2
        if middle - half >= end:
            kept[place], end = name, middle + half
    return kept
