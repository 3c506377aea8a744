"""The picture of a sweep: curves with bands, points with intervals, or a heat map.

What is drawn follows from the keys that the settings differ in, seeds aside. One key, or several
that move together: the curves of each setting and its test accuracy over that key. Two keys whose
values are all combined: a heat map. Anything else: the settings ranked.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lenet_jax.plots.style import Sheet, legible, open_sheet
from lenet_jax.sweeps.results import Setting, choose, describe

BLUE, MARK, PALE = "#0072B2", "#D55E00", "#888888"
MOST_RANKED = 24
MOST_CURVES = 12


def plot_sweep(
    settings: Sequence[Setting],
    curves: Mapping[int, Mapping[str, np.ndarray]],
    path: Path | str,
    *,
    title: str,
) -> None:
    """Draws a sweep.

    Args:
        settings: from `sweep_results.by_setting`.
        curves: of each member its metrics by name, a number an epoch.
        path: where the PNG goes.
        title: the sweep's name.
    """
    axes = find_axes(settings)
    members = sum(len(setting.rows) for setting in settings)
    diverged = members - sum(len(setting.done) for setting in settings)
    words = f"{members:,} networks, {len(settings)} setting{'' if len(settings) == 1 else 's'}"
    words += f", {diverged} diverged" if diverged else ""
    ranked = len(axes) > 2 or (len(axes) == 0 and len(settings) > 1)
    rows = len({_value(s, axes[0]) for s in settings}) if len(axes) == 2 else 0
    heights = {2: 154 + 44 * rows}
    height = 130 + 26 * min(len(settings), MOST_RANKED) if ranked else heights.get(len(axes), 530)
    with open_sheet(path, 1000, max(height, 300)) as sheet:
        sheet.text(70, 22, legible(title, 90), size=11, weight="bold")
        sheet.text(70, 44, words, color="#444444")
        if len(axes) == 2:
            _plot_heat_map(sheet, settings, axes)
        elif ranked:
            _plot_ranking(sheet, settings)
        else:
            _plot_curves(sheet, settings, curves)
            _plot_points(sheet, settings, axes)


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


def _plot_curves(
    sheet: Sheet, settings: Sequence[Setting], curves: Mapping[int, Mapping[str, np.ndarray]]
) -> None:
    """Mean validation error of each setting over the epochs, with a band of one deviation."""
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    axes = sheet.axes(70, 92, 430, 310)
    axes.set(title="validation error, %", xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    shown = settings[:: math.ceil(len(settings) / MOST_CURVES)]
    colours = colormaps["viridis"](np.linspace(0, 0.9, len(shown)))
    lowest = []
    for setting, colour in zip(shown, colours, strict=True):
        errors = np.array([100 * (1 - curves[r["member"]]["valid_accuracy"]) for r in setting.done])
        if not errors.size:
            continue
        mean, sd = errors.mean(0), errors.std(0, ddof=1) if len(errors) > 1 else None
        epochs = np.arange(1, len(mean) + 1)
        axes.plot(epochs, mean, color=colour, marker="o", label=legible(setting.name, 26))
        if sd is not None:
            axes.fill_between(epochs, mean - sd, mean + sd, color=colour, alpha=0.2, linewidth=0)
        lowest.append(mean.min())
    axes.set_yscale("log")
    _plain_ticks(axes)
    if len(shown) > 1:
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.15), "ncols": 3}
        axes.legend(frameon=False, fontsize=7.5, **below)


def _plot_points(sheet: Sheet, settings: Sequence[Setting], keys: Sequence[str]) -> None:
    """Test error of every member, and mean and 95 % interval of each setting."""
    axes = sheet.axes(580, 92, 370, 310)
    axes.set(title="test error, %: networks, mean and 95 % interval")
    values = [_value(setting, keys[0]) if keys else "" for setting in settings]
    numbers = all(isinstance(value, int | float) for value in values) and not any(
        isinstance(value, bool) for value in values
    )
    places: list[Any] = list(values) if numbers and keys else list(range(len(values)))
    winner = choose(settings)
    for index, (place, setting) in enumerate(zip(places, settings, strict=True)):
        errors = [100 * (1 - row["test_accuracy"]) for row in setting.done]
        if not errors:
            continue
        axes.plot([place] * len(errors), errors, "o", color=PALE, alpha=0.45, markersize=3)
        found = describe(errors)
        assert found["mean"] is not None
        colour = MARK if winner and winner[0] == index and keys else BLUE
        axes.errorbar(
            place,
            found["mean"],
            found["ci95"] or 0.0,
            fmt="o",
            color=colour,
            capsize=4,
            markersize=6,
            zorder=3,
        )
    if numbers and keys:
        positive = min(places) > 0
        if positive and max(places) / min(places) >= 8:
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
    if winner and len(settings) > 1:
        sheet.text(950, 44, "● best on validation", color=MARK, ha="right")


def _plot_heat_map(sheet: Sheet, settings: Sequence[Setting], keys: Sequence[str]) -> None:
    """Mean test error of each pair of values, with its deviation."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    values = [list(dict.fromkeys(_value(s, key) for s in settings)) for key in keys]
    errors = np.full([len(v) for v in values], np.nan)
    winner = choose(settings)
    at = {}
    for index, setting in enumerate(settings):
        place = tuple(v.index(_value(setting, key)) for v, key in zip(values, keys, strict=True))
        at[index] = place
        mean = describe([100 * (1 - row["test_accuracy"]) for row in setting.done])["mean"]
        errors[place] = np.nan if mean is None else max(mean, 1e-3)
    left, top, width = 190, 92, 720
    height = sheet.height - top - 62
    axes = sheet.axes(left, top, width, height)
    finite = errors[np.isfinite(errors)]
    low, high = (finite.min(), finite.max()) if finite.size else (1.0, 10.0)
    norm, colours = LogNorm(low, max(high, low * 1.01)), colormaps["viridis_r"]
    axes.imshow(errors, aspect="auto", cmap=colours, norm=norm)
    for index, setting in enumerate(settings):
        row, column = at[index]
        found = describe([100 * (1 - r["test_accuracy"]) for r in setting.done])
        told = "diverged" if found["mean"] is None else f"{found['mean']:.2f}"
        told += "" if found["sd"] is None else f" ± {found['sd']:.2f}"
        shade = colours(norm(errors[row, column]))[:3] if found["mean"] is not None else (1, 1, 1)
        light = sum(shade) > 1.5
        best = winner is not None and winner[0] == index
        axes.text(
            column,
            row,
            f"★ {told}" if best else told,
            ha="center",
            va="center",
            size=8,
            color="#222222" if light else "white",
            weight="bold" if best else "normal",
        )
    axes.set_yticks(range(len(values[0])), [legible(_show(v), 18) for v in values[0]])
    axes.set_xticks(range(len(values[1])), [legible(_show(v), 12) for v in values[1]])
    axes.set(ylabel=keys[0], xlabel=keys[1])
    axes.grid(visible=False)
    axes.tick_params(length=0)
    sheet.text(70, 70, "mean test error, % (± deviation over seeds); ★ best mean on validation")


def _plot_ranking(sheet: Sheet, settings: Sequence[Setting]) -> None:
    """The best settings by mean test error, one below the other."""
    winner = choose(settings)
    ranked = []
    for index, setting in enumerate(settings):
        found = describe([100 * (1 - row["test_accuracy"]) for row in setting.done])
        if found["mean"] is not None:
            ranked.append((found["mean"], found["ci95"], index))
    ranked = sorted(ranked)[:MOST_RANKED]
    if not ranked:
        return
    axes = sheet.axes(430, 92, 520, 26 * len(ranked))
    for place, (mean, half, index) in enumerate(ranked):
        colour = MARK if winner and winner[0] == index else BLUE
        axes.errorbar(mean, place, xerr=half or 0.0, fmt="o", color=colour, capsize=3)
    names = [legible(settings[index].name, 52) for *_, index in ranked]
    axes.set_yticks(range(len(names)), names, size=8)
    axes.set_ylim(len(ranked) - 0.5, -0.5)
    axes.set_title("test error, %: mean and 95 % interval")


def _plain_ticks(axes: Any) -> None:
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
