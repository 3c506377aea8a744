"""The picture of a sweep: curves with bands, points with intervals, or a heat map.

What is drawn follows from the keys that the settings differ in, seeds aside. One key, or several
that move together: the curves of each setting and its test error over that key. Two keys whose
values are all combined: a heat map. Anything else: the settings ranked.

Test errors are of each member's best epoch on validation. Three members or more have a mean and its
95 % interval; fewer are drawn one by one, and up to 2,000 as dots too. Where members are stuck near
chance, one of them would lead a mean, so the figure has medians and the middle half instead. A
setting all of whose members diverged is a cross.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lenet_jax.errors import counted
from lenet_jax.plots.style import (
    BLUE,
    FAINT,
    VERMILION,
    WIDTH,
    Axes,
    Figure,
    chart,
    label_ends,
    legible,
    line_look,
    styled,
)
from lenet_jax.statistics import FEWEST, Summary, summarise

MOST_RANKED = 24
MOST_DOTS = 2000
MOST_NAME, MOST_COLUMN = 52, 28  # letters beside a ranking, and below a column
NARROW = 760  # pixels, of one panel
LETTER = 8  # pixels, about
JOIN = " · "
MOST_CURVES, MOST_BANDS = 12, 5
MOST_WRITTEN = 24, 10  # rows and columns of a heat map with numbers in it
MOST_TICKS = 24


class Setting(NamedTuple):
    """The members of a sweep that differ in their seeds alone.

    Attributes:
        name: what they change, in short.
        overrides: the same by key.
        diverged: members that did; the fields below are about the others.
        stuck: members that are hardly better than chance.
        errors: of each member on validation, or where there is none in training, %, after each
            epoch; empty if not known.
        test_errors: of each member, %.
        test: their statistics.
        best: whether validation chose this setting.
        validated: whether there was validation.
        chance: the error of always answering the most frequent class, %; None if not known.
    """

    name: str
    overrides: Mapping[str, Any]
    diverged: int
    stuck: int
    errors: Float[np.ndarray, "n epochs"]
    test_errors: Sequence[float]
    test: Summary
    best: bool
    validated: bool = True
    chance: float | None = None


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
    subtitle = f"{counted(members, 'network')}, {counted(len(settings), 'setting')}"
    subtitle += f", {diverged} diverged" if diverged else ""
    subtitle += " (× if all)" if any(not s.test_errors for s in settings) else ""
    stuck = sum(setting.stuck for setting in settings)
    subtitle += f", {stuck} stuck near chance" if stuck else ""
    validated = all(setting.validated for setting in settings)
    subtitle += f"; test errors at the {'best epoch on validation' if validated else 'last epoch'}"
    if validated and len(settings) > 1:
        means = any(len(setting.test_errors) > 1 for setting in settings)
        subtitle += f"; ★ best {'mean ' if means else ''}on validation"
    ranked = not keys and len(settings) > 1
    height = max(430, 140 + 26 * min(len(settings), MOST_RANKED))
    if len(keys) == 2:
        rows = len({_value(setting, keys[0]) for setting in settings})
        height = 154 + (44 * rows if rows <= MOST_WRITTEN[0] else 550)
    elif ranked:
        height = 140 + 26 * min(len(settings), MOST_RANKED)
    curved = any(setting.errors.size for setting in settings)
    wide = curved or keys[1:] or ranked or LETTER * len(subtitle) > NARROW
    width = WIDTH if wide else NARROW
    figure = chart(width, max(height, 300), f"Sweep {legible(title, 80)}", subtitle)
    if len(keys) == 2:
        _plot_heat_map(figure.subplots(), settings, keys)
    elif ranked:
        _plot_ranking(figure.subplots(), settings)
    elif not curved:
        _plot_members(figure.subplots(), settings, keys)
    else:
        left, right = figure.subplots(1, 2)
        _plot_members(right, settings, keys, _colours(settings))
        _plot_curves(left, settings)
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
    """The centre of each setting's validation errors and its range, over the epochs."""
    from matplotlib.ticker import MaxNLocator

    robust, what = _is_robust(settings), _named_centre(settings) or "each network"
    split = "validation" if all(setting.validated for setting in settings) else "training"
    axes.set(title=f"{split} error, %: {what}", xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    colours, ends = _colours(settings), []
    shown = [settings[index] for index in colours]
    for place, (setting, colour) in enumerate(zip(shown, colours.values(), strict=True)):
        errors = setting.errors
        name = legible(setting.name, 26)
        if not errors.size:
            continue  # a cross in the panel beside this one
        epochs = np.arange(1, errors.shape[1] + 1)
        dashes, marker = line_look(place)
        if len(errors) < FEWEST:
            axes.plot(epochs, errors.T, dashes, color=colour, marker=marker)
            ends.append((epochs, errors.mean(axis=0), name, colour))
            continue
        centres, bars = zip(
            *(_centre(summarise(column, 100.0), robust) for column in errors.T.tolist()),
            strict=True,
        )
        centre, (below, above) = np.array(centres), np.squeeze(bars, axis=2).T
        axes.plot(epochs, centre, dashes, color=colour, marker=marker)
        ends.append((epochs, centre, name, colour))
        if len(shown) <= MOST_BANDS:  # more would hide each other
            look = {"color": colour, "alpha": 0.2, "linewidth": 0}
            axes.fill_between(epochs, centre - below, centre + above, **look)
    lowest = min((setting.errors.min(initial=100) for setting in shown), default=0)
    highest = max((setting.errors.max(initial=0) for setting in shown), default=0)
    if highest > 1.5 * lowest > 0:
        _log_scale(axes, "y")
    else:
        axes.set_ylim(0, 1.05 * highest or None)
    _mark_chance(axes, settings)
    if len(shown) > 1:
        label_ends(axes, ends)


def _colours(settings: Sequence[Setting]) -> dict[int, Any]:
    """The colours of the settings whose curves are drawn, by their places: of many a part."""
    from matplotlib import colormaps

    places = range(0, len(settings), math.ceil(len(settings) / MOST_CURVES))
    return dict(zip(places, colormaps["viridis"](np.linspace(0, 0.75, len(places))), strict=True))


def _plot_members(
    axes: Axes,
    settings: Sequence[Setting],
    keys: Sequence[str],
    colours: Mapping[int, Any] | None = None,
) -> None:
    """The test errors over the values of a key, or, where these are long names, ranked.

    Args:
        axes: to draw on.
        settings: what members share.
        keys: that span the settings.
        colours: of settings whose curves are beside, by their places.
    """
    values = [_value(setting, key) for setting in settings for key in keys]
    if values and not _are_numbers(values) and _are_crowded(axes, list(map(_show, values))):
        _plot_ranking(axes, settings)
    else:
        _plot_points(axes, settings, keys, colours or {})


def _plot_points(
    axes: Axes, settings: Sequence[Setting], keys: Sequence[str], colours: Mapping[int, Any]
) -> None:
    """Test error of every member, and the centre and its range for each setting."""
    centre = _named_centre(settings)
    axes.set(title=f"test error, %: {f'each, {centre}' if centre else 'each network'}")
    values = [_value(setting, keys[0]) if keys else "" for setting in settings]
    numeric = bool(keys) and _are_numbers(values)
    places: list[Any] = list(values) if numeric else list(range(len(values)))
    label, robust = keys[0] if keys else "", _is_robust(settings)
    dotted = sum(len(setting.test_errors) for setting in settings) <= MOST_DOTS
    diverged = [p for p, setting in zip(places, settings, strict=True) if not setting.test_errors]
    look = {"color": VERMILION, "markersize": 6, "transform": axes.get_xaxis_transform()}
    axes.plot(diverged, [0.96] * len(diverged), "x", **look)
    for index, (place, setting) in enumerate(zip(places, settings, strict=True)):
        errors = setting.test_errors
        centre, bar = _centre(setting.test, robust)
        if centre is None:
            continue
        best = setting.best and len(settings) > 1
        shape, colour = "*" if best else "o", colours.get(index, VERMILION if best else BLUE)
        if len(errors) < FEWEST:
            axes.plot([place] * len(errors), errors, "o", color=colour, markersize=4)
            if best:
                axes.plot(place, centre, shape, color=colour, markersize=11)
            continue
        look = {"fmt": shape, "color": colour, "zorder": 3, "markersize": 11 if best else 6}
        axes.errorbar(place, centre, bar, capsize=4, **look)
        if dotted:
            look = {"color": FAINT, "alpha": 0.6, "markersize": 3, "zorder": 4}
            axes.plot([place] * len(errors), errors, "o", **look)
    if numeric:
        if min(places) > 0 and max(places) / min(places) >= 8:
            axes.set_xscale("log")
            axes.minorticks_off()
            label += " (log scale)"
        if len(places) <= 10:
            apart = _apart(axes, places, [f"{value:g}" for value in values])
            _name_columns(axes, list(apart), list(apart.values()))
    else:
        _name_columns(axes, places, [_show(value) for value in values])
        axes.margins(x=0.3 if len(places) < 4 else 0.1)
    axes.set_xlabel(label)
    _scale(axes, "y", settings)
    _mark_chance(axes, settings)


def _plot_heat_map(axes: Axes, settings: Sequence[Setting], keys: Sequence[str]) -> None:
    """The centre of the test errors of each pair of values; few pairs have it in numbers too."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    robust = _is_robust(settings)
    values = [list(dict.fromkeys(_value(s, key) for s in settings)) for key in keys]
    index = [{value: place for place, value in enumerate(v)} for v in values]
    places = [
        tuple(at[_value(setting, key)] for at, key in zip(index, keys, strict=True))
        for setting in settings
    ]
    errors = np.full([len(v) for v in values], np.nan)
    for place, setting in zip(places, settings, strict=True):
        centre, _ = _centre(setting.test, robust)
        errors[place] = np.nan if centre is None else max(centre, 1e-3)
    finite = errors[np.isfinite(errors)]
    low, high = (finite.min(), finite.max()) if finite.size else (1.0, 10.0)
    norm = LogNorm(low, max(high, low * 1.01))
    colours = ScalarMappable(norm, "viridis_r")
    axes.imshow(errors, aspect="auto", cmap=colours.cmap, norm=norm)
    written = all(len(v) <= most for v, most in zip(values, MOST_WRITTEN, strict=True))
    for (row, column), setting in zip(places, settings, strict=True):
        if not (written or setting.best):
            continue
        red, green, blue, _ = colours.to_rgba(errors[row, column])
        dark = np.isfinite(errors[row, column]) and red + green + blue <= 1.5
        text = _cell(setting, robust) if written else ""
        axes.text(
            column,
            row,
            f"★ {text}".strip() if setting.best else text,
            ha="center",
            va="center",
            size=8,
            color="white" if dark else "black",
            weight="bold" if setting.best else "normal",
        )
    figure = axes.get_figure()
    assert figure is not None
    label, ticks = "test error, % (log scale)", np.geomspace(low, max(high, low * 1.01), 5)
    bar = figure.colorbar(colours, ax=axes, label=label, pad=0.01, ticks=ticks, format="%.3g")
    bar.minorticks_off()
    if not written:
        diverged = [p for p, s in zip(places, settings, strict=True) if not s.test_errors]
        axes.plot([c for _, c in diverged], [r for r, _ in diverged], "x", color=VERMILION)
    rows, columns = (range(0, len(v), math.ceil(len(v) / MOST_TICKS)) for v in values)
    axes.set_yticks(rows, [legible(_show(values[0][place]), 18) for place in rows])
    _name_columns(axes, columns, [_show(values[1][place]) for place in columns])
    what = "each network"
    if any(len(setting.test_errors) > 1 for setting in settings):
        what = f"{'median' if robust else 'mean'} of each setting"
    if written and any(setting.test.n >= FEWEST for setting in settings):
        what += " [25–75 %]" if robust else " ± sd"
    axes.set(ylabel=keys[0], xlabel=keys[1], title=f"test error, %: {what}")
    axes.grid(visible=False)
    axes.tick_params(length=0)


def _cell(setting: Setting, robust: bool) -> str:
    """What a heat map says of a setting."""
    summary = setting.test
    centre, _ = _centre(summary, robust)
    text = "× diverged" if centre is None else f"{centre:.2f}"
    if summary.n >= FEWEST and summary.quartiles is not None:
        low, high = summary.quartiles
        text += f" [{low:.2f}–{high:.2f}]" if robust else f" ± {summary.sd:.2f}"
    return text + (f"\n{setting.stuck} stuck" if setting.stuck else "")


def _plot_ranking(axes: Axes, settings: Sequence[Setting]) -> None:
    """The best settings by the centre of their test errors, one below the other."""
    robust = _is_robust(settings)
    centres = [_centre(setting.test, robust)[0] for setting in settings]
    ranked = sorted((math.inf if c is None else c, i) for i, c in enumerate(centres))[:MOST_RANKED]
    for place, (centre, index) in enumerate(ranked):
        if centre == math.inf:
            axes.plot(0.01, place, "x", color=VERMILION, transform=axes.get_yaxis_transform())
            continue
        best, errors = settings[index].best, settings[index].test_errors
        shape, colour = ("*", VERMILION) if best else ("o", BLUE)
        size = 9 if best else 4
        if len(errors) < FEWEST:
            axes.plot(errors, [place] * len(errors), shape, color=colour, markersize=size)
            continue
        look = {"color": FAINT, "alpha": 0.45, "markersize": 3}
        if len(errors) <= MOST_DOTS // MOST_RANKED:
            axes.plot(errors, [place] * len(errors), "o", **look)
        bar = _centre(settings[index].test, robust)[1]
        look = {"fmt": shape, "color": colour, "markersize": size, "capsize": 3, "zorder": 3}
        axes.errorbar(centre, place, xerr=bar, **look)
    room = min(MOST_NAME, round(0.6 * axes.get_window_extent().width / LETTER))
    heading, names = _names([settings[index] for _, index in ranked], room)
    names = [
        legible(name, room) + (": diverged" if centre == math.inf else "")
        for name, (centre, _) in zip(names, ranked, strict=True)
    ]
    axes.set_yticks(range(len(names)), names, size=8)
    short = LETTER * len(heading) > axes.get_window_extent().height
    axes.set_ylabel(heading.replace(JOIN, f"{JOIN}\n") if short else heading, size=8)
    axes.set_ylim(len(ranked) - 0.5, -0.5)
    centre = _named_centre(settings)
    side = "left" if room == MOST_NAME else "right"  # there is room over the names
    axes.set_title(f"test error, %: {f'each, {centre}' if centre else 'each network'}", loc=side)
    _scale(axes, "x", [settings[index] for *_, index in ranked])
    _mark_chance(axes, settings, "x")


def _apart(axes: Axes, places: Sequence[float], names: Sequence[str]) -> dict[float, str]:
    """The names of places on the x axis that do not run into the one before."""
    axes.autoscale_view()  # which Matplotlib leaves until it draws
    kept: dict[float, str] = {}
    end = -math.inf
    for place, name in sorted(zip(places, names, strict=True)):
        middle, half = axes.transData.transform((place, 0))[0], LETTER * (len(name) + 1) / 2
        if middle - half >= end:
            kept[place], end = name, middle + half
    return kept


def _name_columns(axes: Axes, places: Sequence[Any], names: Sequence[str]) -> None:
    """Names places on the x axis; names that are too long for their place are turned."""
    names = [legible(name, MOST_COLUMN) for name in names]
    axes.set_xticks(places, names)
    if _are_crowded(axes, names):
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation=40, rotation_mode="anchor")


def _are_crowded(axes: Axes, names: Sequence[str]) -> bool:
    """Whether names side by side are longer than the axes."""
    return bool(LETTER * (max(map(len, names)) + 1) > axes.get_window_extent().width / len(names))


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _names(settings: Sequence[Setting], room: int) -> tuple[str, list[str]]:
    """A heading and the settings' names: long names of the same keys are values under the keys."""
    names = [setting.name for setting in settings]
    keys = [*settings[0].overrides]
    same = all([*setting.overrides] == keys for setting in settings)
    if not same or max(map(len, names)) <= room:
        return "", names
    values = [JOIN.join(_show(_value(setting, key)) for key in keys) for setting in settings]
    return JOIN.join(keys), values


def _is_robust(settings: Sequence[Setting]) -> bool:
    """Whether members are stuck, so that means would say more of those than of the others."""
    return any(setting.stuck for setting in settings)


def _named_centre(settings: Sequence[Setting]) -> str:
    """What `_centre` is, for a title; nothing if every setting has too few members."""
    if all(setting.test.n < FEWEST for setting in settings):
        return ""
    return "median, 25–75 %" if _is_robust(settings) else "mean, 95 % interval"


def _centre(summary: Summary, robust: bool) -> tuple[float | None, list[list[float]] | None]:
    """The median or mean, and how far the quartiles or the interval reach below and above it."""
    centre = summary.median if robust else summary.mean
    ends = summary.quartiles if robust else summary.ci95
    if centre is None or ends is None or summary.n < FEWEST:
        return centre, None
    # The interval of the mean holds it, but for rounding.
    return centre, [[max(centre - ends[0], 0.0)], [max(ends[1] - centre, 0.0)]]


def _mark_chance(axes: Axes, settings: Sequence[Setting], name: str = "y") -> None:
    """Draws a line at chance on the axis `x` or `y`, within its limits, where errors come near."""
    across = name == "y"
    low, high = axes.get_ylim() if across else axes.get_xlim()
    for chance in {setting.chance for setting in settings if setting.chance is not None}:
        if low <= chance <= high:
            draw, place = (axes.axhline, (0, chance)) if across else (axes.axvline, (chance, 0))
            draw(chance, color=FAINT, linestyle=":", linewidth=1)
            where = ("axes fraction", "data") if across else ("data", "axes fraction")
            *ends, here = axes.transData.transform([(each, each) for each in (low, high, chance)])
            below = across and here[1] > max(end[1] for end in ends) - 2 * LETTER  # not in a title
            look = {"xytext": (2, -10 if below else 2), "textcoords": "offset points"}
            axes.annotate("chance", place, xycoords=where, color=FAINT, size=8, **look)


def _scale(axes: Axes, name: str, settings: Sequence[Setting]) -> None:
    """Makes the axis `x` or `y` logarithmic if test errors are far apart; none goes below 0."""
    errors = [error for setting in settings for error in setting.test_errors]
    axis = axes.xaxis if name == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    if errors and max(errors) > 3 * min(errors) > 0:
        _log_scale(axes, name)
    else:
        axes.set(**{f"{name}lim": (max(low, 0.0), high)})


def _log_scale(axes: Axes, name: str) -> None:
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


def _value(setting: Setting, key: str) -> Any:
    value = setting.overrides.get(key)
    return tuple(value) if isinstance(value, list) else value


def _show(value: Any) -> str:
    return "–".join(map(str, value)) if isinstance(value, tuple) else f"{value}"
