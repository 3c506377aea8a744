"""The picture of a sweep: curves with bands, points with intervals, or a heat map.

What is drawn follows from the keys that the settings differ in, seeds aside. One key, or several
that move together: the curves of each setting and its test error over that key. Two keys whose
values are all combined: a heat map. Anything else: the settings ranked.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lenet_jax.plots.style import (
    BLUE,
    FAINT,
    VERMILION,
    WIDTH,
    Axes,
    Figure,
    chart,
    legible,
    styled,
)
from lenet_jax.statistics import FEWEST, Summary

MOST_RANKED = 24
MOST_CURVES = 12


class Setting(NamedTuple):
    """The members of a sweep that differ in their seeds alone.

    Attributes:
        name: what they change, in short.
        overrides: the same by key.
        diverged: members that did; the fields below are about the others.
        stuck: members that are hardly better than chance.
        valid_errors: of each member, %, after each epoch.
        test_errors: of each member, %.
        test: their statistics.
        best: whether validation chose this setting.
    """

    name: str
    overrides: Mapping[str, Any]
    diverged: int
    stuck: int
    valid_errors: Float[np.ndarray, "n epochs"]
    test_errors: Sequence[float]
    test: Summary
    best: bool


@styled
def plot_sweep(settings: Sequence[Setting], *, title: str) -> Figure:
    """Plots a sweep.

    Args:
        settings: what its members share.
        title: the sweep's name.
    """
    keys = find_axes(settings)
    diverged = sum(setting.diverged for setting in settings)
    members = diverged + sum(len(setting.test_errors) for setting in settings)
    subtitle = f"{members:,} networks, {len(settings)} setting{'' if len(settings) == 1 else 's'}"
    subtitle += f", {diverged} diverged" if diverged else ""
    stuck = sum(setting.stuck for setting in settings)
    subtitle += f", {stuck} stuck near chance" if stuck else ""
    subtitle += "; ★ best on validation" if len(settings) > 1 else ""
    ranked = not keys and len(settings) > 1
    height = 430
    if len(keys) == 2:
        height = 154 + 44 * len({_value(setting, keys[0]) for setting in settings})
    elif ranked:
        height = 140 + 26 * min(len(settings), MOST_RANKED)
    figure = chart(WIDTH, max(height, 300), f"Sweep {legible(title, 80)}", subtitle)
    if len(keys) == 2:
        _plot_heat_map(figure.subplots(), settings, keys)
    elif ranked:
        _plot_ranking(figure.subplots(), settings)
    else:
        left, right = figure.subplots(1, 2)
        _plot_curves(left, settings)
        _plot_points(right, settings, keys)
    return figure


def find_axes(settings: Sequence[Setting]) -> list[str]:
    """The keys that span the settings: none, one, or two; [] of several settings: no such keys."""
    keys = list(dict.fromkeys(key for setting in settings for key in setting.overrides))
    keys = [key for key in keys if len({_value(setting, key) for setting in settings}) > 1]
    count = len(settings)
    for key in keys:
        if len({_value(setting, key) for setting in settings}) == count:
            return [key]
    for index, first in enumerate(keys):
        for second in keys[index + 1 :]:
            sizes = [len({_value(s, key) for s in settings}) for key in (first, second)]
            pairs = {(_value(s, first), _value(s, second)) for s in settings}
            if len(pairs) == count == sizes[0] * sizes[1]:
                return [first, second]
    return []


def _plot_curves(axes: Axes, settings: Sequence[Setting]) -> None:
    """Median validation error of each setting over the epochs, with a band of the middle half."""
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    axes.set(title="validation error, %: median, 25–75 % (log scale)", xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    shown = settings[:: math.ceil(len(settings) / MOST_CURVES)]
    colours = colormaps["viridis"](np.linspace(0, 0.9, len(shown)))
    for setting, colour in zip(shown, colours, strict=True):
        errors = setting.valid_errors
        if not errors.size:
            continue
        low, median, high = np.quantile(errors, (0.25, 0.5, 0.75), axis=0)
        epochs = np.arange(1, errors.shape[1] + 1)
        axes.plot(epochs, median, color=colour, marker="o", label=legible(setting.name, 26))
        if len(errors) >= FEWEST:
            axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set_yscale("log")
    _plain_ticks(axes)
    if len(shown) > 1:
        axes.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3)


def _plot_points(axes: Axes, settings: Sequence[Setting], keys: Sequence[str]) -> None:
    """Test error of every member, and mean and 95 % interval of each setting."""
    axes.set(title="test error, %: networks, mean ± 95 % interval")
    values = [_value(setting, keys[0]) if keys else "" for setting in settings]
    numeric = bool(keys) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )
    places: list[Any] = list(values) if numeric else list(range(len(values)))
    for place, setting in zip(places, settings, strict=True):
        errors = setting.test_errors
        if setting.test.mean is None:
            continue
        axes.plot([place] * len(errors), errors, "o", color=FAINT, alpha=0.45, markersize=3)
        best = setting.best and len(settings) > 1
        look = {"fmt": "*" if best else "o", "color": VERMILION if best else BLUE, "zorder": 3}
        size = 11 if best else 6
        mean, bar = setting.test.mean, _error_bar(setting.test)
        axes.errorbar(place, mean, bar, capsize=4, markersize=size, **look)
    if numeric:
        if min(places) > 0 and max(places) / min(places) >= 8:
            axes.set_xscale("log")
            axes.minorticks_off()
        if len(places) <= 10:
            axes.set_xticks(places, [f"{value:g}" for value in values])
    else:
        axes.set_xticks(places, [legible(_show(value), 14) for value in values])
        axes.margins(x=0.3 if len(places) < 4 else 0.1)
    axes.set_xlabel(keys[0] if keys else "")
    low, high = axes.get_ylim()
    if high > 3 * max(low, 1e-9):
        axes.set_yscale("log")
        _plain_ticks(axes)


def _plot_heat_map(axes: Axes, settings: Sequence[Setting], keys: Sequence[str]) -> None:
    """Mean test error of each pair of values, with its deviation."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    values = [list(dict.fromkeys(_value(s, key) for s in settings)) for key in keys]
    errors = np.full([len(v) for v in values], np.nan)
    places = [
        tuple(v.index(_value(setting, key)) for v, key in zip(values, keys, strict=True))
        for setting in settings
    ]
    for place, setting in zip(places, settings, strict=True):
        errors[place] = np.nan if setting.test.mean is None else max(setting.test.mean, 1e-3)
    finite = errors[np.isfinite(errors)]
    low, high = (finite.min(), finite.max()) if finite.size else (1.0, 10.0)
    norm, colours = LogNorm(low, max(high, low * 1.01)), colormaps["viridis_r"]
    axes.imshow(errors, aspect="auto", cmap=colours, norm=norm)
    for (row, column), setting in zip(places, settings, strict=True):
        mean, sd = setting.test.mean, setting.test.sd
        text = "diverged" if mean is None else f"{mean:.2f}"
        text += "" if sd is None else f" ± {sd:.2f}"
        text += f"\n{setting.stuck} stuck" if setting.stuck else ""
        shade = (1, 1, 1) if mean is None else colours(norm(errors[row, column]))[:3]
        axes.text(
            column,
            row,
            f"★ {text}" if setting.best else text,
            ha="center",
            va="center",
            size=8,
            color="black" if sum(shade) > 1.5 else "white",
            weight="bold" if setting.best else "normal",
        )
    axes.set_yticks(range(len(values[0])), [legible(_show(v), 18) for v in values[0]])
    axes.set_xticks(range(len(values[1])), [legible(_show(v), 12) for v in values[1]])
    axes.set(ylabel=keys[0], xlabel=keys[1], title="test error, %: mean ± sd over seeds")
    axes.grid(visible=False)
    axes.tick_params(length=0)


def _plot_ranking(axes: Axes, settings: Sequence[Setting]) -> None:
    """The best settings by mean test error, one below the other."""
    ranked = sorted(
        (setting.test.mean, index)
        for index, setting in enumerate(settings)
        if setting.test.mean is not None
    )[:MOST_RANKED]
    for place, (mean, index) in enumerate(ranked):
        best = settings[index].best
        shape, colour = ("*", VERMILION) if best else ("o", BLUE)
        look = {"fmt": shape, "markersize": 9 if best else 4, "capsize": 3}
        bar = _error_bar(settings[index].test)
        axes.errorbar(mean, place, xerr=bar, color=colour, **look)
    names = [legible(settings[index].name, 52) for *_, index in ranked]
    axes.set_yticks(range(len(names)), names, size=8)
    axes.set_ylim(len(ranked) - 0.5, -0.5)
    axes.set_title("test error, %: mean ± 95 % interval")


def _error_bar(summary: Summary) -> list[list[float]] | None:
    """How far the interval reaches below and above the mean; None without one."""
    if summary.mean is None or summary.ci95 is None:
        return None
    low, high = summary.ci95
    return [[summary.mean - low], [high - summary.mean]]


def _plain_ticks(axes: Axes) -> None:
    """Writes a logarithmic error axis in plain numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = axes.get_ylim()
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low > 4 else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
    ticks = [m * 10.0**d for d in decades for m in steps if low <= m * 10.0**d <= high]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))


def _value(setting: Setting, key: str) -> Any:
    value = setting.overrides.get(key)
    return tuple(value) if isinstance(value, list) else value


def _show(value: Any) -> str:
    return "–".join(map(str, value)) if isinstance(value, tuple) else f"{value}"
