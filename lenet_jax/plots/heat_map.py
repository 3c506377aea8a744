"""The errors of a sweep over the values of two keys, as colours."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lenet_jax.plots.axes import name_columns
from lenet_jax.plots.settings import MOST_DOTS, Setting, as_text, centre_of, is_robust, value_of
from lenet_jax.plots.style import VERMILION, WIDTH, Axes, legible
from lenet_jax.statistics import FEWEST

MOST_WRITTEN = 24, 10  # rows and columns of a heat map with numbers in it
MOST_TICKS = 24
INNER = 0.8 * WIDTH  # pixels, about: the width of all columns
ROW, ALL_ROWS = 44, 550  # pixels: the height of a row with numbers, and of all without
DOTS = 6, 13  # pixels from a dot to the next: at least, and at most
MARGIN = 7  # pixels from those to the border of a cell
LEAST = 1e-3  # %: what has no error is drawn as, on a scale of logarithms
LETTER, LINE = 6, 18  # pixels, about: the width of a letter in a cell, and the height of a line


def height_of(settings: Sequence[Setting], keys: Sequence[str]) -> int:
    """The height of the rows of a heat map, in pixels."""
    rows, columns = map(len, _values(settings, keys))
    if not _is_written(rows, columns):
        return ALL_ROWS
    robust, dots = is_robust(settings), _lay_out(settings, (rows, columns))
    lines = max(_cell(setting, robust, INNER / columns).count("\n") + 1 for setting in settings)
    return rows * (max(ROW, LINE * lines) + (dots.height if dots else 0))


def plot_heat_map(axes: Axes, settings: Sequence[Setting], keys: Sequence[str]) -> None:
    """The centre of the test errors of each pair of values, and the members as dots of their own.

    Few pairs have the centre in numbers too.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    robust, values = is_robust(settings), _values(settings, keys)
    index = [{value: place for place, value in enumerate(v)} for v in values]
    places = [
        tuple(at[value_of(setting, key)] for at, key in zip(index, keys, strict=True))
        for setting in settings
    ]
    shape = rows, columns = len(values[0]), len(values[1])
    errors = np.full(shape, np.nan)
    for place, setting in zip(places, settings, strict=True):
        centre, _ = centre_of(setting.test, robust)
        errors[place] = np.nan if centre is None else max(centre, LEAST)
    written, height = _is_written(*shape), height_of(settings, keys) / rows
    dots = _lay_out(settings, shape, None if written else height)
    finite = errors[np.isfinite(errors)]
    low, high = (finite.min(), finite.max()) if finite.size else (1.0, 10.0)
    norm = LogNorm(low, max(high, low * 1.01))
    colours = ScalarMappable(norm, "viridis_r")
    axes.imshow(errors, aspect="auto", cmap=colours.cmap, norm=norm)
    for (row, column), setting in zip(places, settings, strict=True):
        if not (written or dots or setting.best):
            continue
        red, green, blue, _ = colours.to_rgba(errors[row, column])
        dark = np.isfinite(errors[row, column]) and red + green + blue <= 1.5
        ink = "white" if dark else "black"
        half = 0.5 * dots.height / height if dots and written else 0  # of what is below the number
        if dots:
            x, y = dots.places(len(setting.test_errors))
            place = column + x * columns / INNER, row + y / height + (0.5 - half if written else 0)
            members = np.maximum(sorted(setting.test_errors), LEAST)
            look = {"s": (0.5 * dots.pitch) ** 2, "edgecolors": ink, "linewidths": 0.4}
            axes.scatter(*place, c=members, cmap=colours.cmap, norm=norm, **look)
        if not (written or setting.best):
            continue
        text = _cell(setting, robust, INNER / columns) if written else ""
        axes.text(
            column if written else column - 0.45,
            row - half,
            f"★ {text}".strip() if setting.best else text,
            ha="center" if written else "left",
            va="center",
            size=8,
            color=ink,
            weight="bold" if setting.best else "normal",
        )
    figure = axes.get_figure()
    assert figure is not None
    label, ticks = "test error, % (log scale)", np.geomspace(low, max(high, low * 1.01), 5)
    look = {"pad": 0.01, "ticks": ticks, "format": "%.3g", "extend": "both" if dots else "neither"}
    bar = figure.colorbar(colours, ax=axes, label=label, **look)
    bar.minorticks_off()
    if not written:
        diverged = [p for p, s in zip(places, settings, strict=True) if not s.test_errors]
        axes.plot([c for _, c in diverged], [r for r, _ in diverged], "x", color=VERMILION)
    named = [range(0, len(v), math.ceil(len(v) / MOST_TICKS)) for v in values]
    axes.set_yticks(named[0], [legible(as_text(values[0][place]), 18) for place in named[0]])
    name_columns(axes, named[1], [as_text(values[1][place]) for place in named[1]])
    what = "each network"
    if any(len(setting.test_errors) > 1 for setting in settings):
        what = f"{'median' if robust else 'mean'} of each setting"
    if written and any(setting.test.n >= FEWEST for setting in settings):
        what += " [25–75 %]" if robust else " ± sd"
    what += "; dots: each network, by colour" if dots else ""
    axes.set(ylabel=keys[0], xlabel=keys[1], title=f"test error, %: {what}")
    axes.grid(visible=False)
    axes.tick_params(length=0)


def _values(settings: Sequence[Setting], keys: Sequence[str]) -> list[list[Any]]:
    """The values of each key, in the order in which they come."""
    return [list(dict.fromkeys(value_of(setting, key) for setting in settings)) for key in keys]


def _is_written(rows: int, columns: int) -> bool:
    return rows <= MOST_WRITTEN[0] and columns <= MOST_WRITTEN[1]


class _Dots(NamedTuple):
    """How the dots of a cell are laid out: in `lines` of up to `across`, `pitch` pixels apart."""

    pitch: int
    across: int
    lines: int

    @property
    def height(self) -> int:
        """What they take of the height of a cell, in pixels."""
        return self.pitch * self.lines + MARGIN

    def places(self, count: int) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """How far dots are to the right of and below the middle of all of them, in pixels."""
        line, place = np.divmod(np.arange(count), self.across)
        own = np.minimum(self.across, count - line * self.across)
        return (place - (own - 1) / 2) * self.pitch, (line - (self.lines - 1) / 2) * self.pitch


def _lay_out(
    settings: Sequence[Setting], shape: tuple[int, int], height: float | None = None
) -> _Dots | None:
    """The dots of each cell; None: a cell is one network, or they are too many.

    Args:
      settings: the cells.
      shape: the rows and columns of the heat map.
      height: of a cell, in pixels; None: they enlarge it, so far that all take `ALL_ROWS` more.
    """
    rows, columns = shape
    height = ALL_ROWS / rows if height is None else height
    counts = [len(setting.test_errors) for setting in settings]
    if max(counts) < 2 or sum(counts) > MOST_DOTS:
        return None
    room, (least, most) = INNER / columns - 2 * MARGIN, DOTS
    pitch = int(min(max(room / max(counts), least), most, max(height - MARGIN, least)))
    across = int(room / pitch)
    dots = _Dots(pitch, across, math.ceil(max(counts) / max(across, 1)))
    return dots if across > 0 and dots.height <= height else None


def _cell(setting: Setting, robust: bool, width: float) -> str:
    """What a heat map says of a setting, in lines of up to `width` pixels."""
    summary = setting.test
    centre, _ = centre_of(summary, robust)
    parts = ["× diverged" if centre is None else f"{centre:.2f}"]
    if summary.n >= FEWEST and summary.quartiles is not None:
        low, high = summary.quartiles
        parts.append(f"[{low:.2f}–{high:.2f}]" if robust else f"± {summary.sd:.2f}")
    text = " ".join(parts)
    if LETTER * (len(text) + 2) > width:
        text = "\n".join(parts)
    return text + (f"\n{setting.stuck} stuck" if setting.stuck else "")
