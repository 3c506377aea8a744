"""The errors of a sweep over the values of two keys, as colours."""

import math
from collections.abc import Sequence

import numpy as np

from lenet_jax.plots.axes import name_columns
from lenet_jax.plots.settings import Setting, as_text, centre_of, is_robust, value_of
from lenet_jax.plots.style import VERMILION, Axes, legible
from lenet_jax.statistics import FEWEST

MOST_WRITTEN = 24, 10  # rows and columns of a heat map with numbers in it
MOST_TICKS = 24


def plot_heat_map(axes: Axes, settings: Sequence[Setting], keys: Sequence[str]) -> None:
    """The centre of the test errors of each pair of values; few pairs have it in numbers too."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    robust = is_robust(settings)
    values = [list(dict.fromkeys(value_of(s, key) for s in settings)) for key in keys]
    index = [{value: place for place, value in enumerate(v)} for v in values]
    places = [
        tuple(at[value_of(setting, key)] for at, key in zip(index, keys, strict=True))
        for setting in settings
    ]
    errors = np.full([len(v) for v in values], np.nan)
    for place, setting in zip(places, settings, strict=True):
        centre, _ = centre_of(setting.test, robust)
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
    axes.set_yticks(rows, [legible(as_text(values[0][place]), 18) for place in rows])
    name_columns(axes, columns, [as_text(values[1][place]) for place in columns])
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
    centre, _ = centre_of(summary, robust)
    text = "× diverged" if centre is None else f"{centre:.2f}"
    if summary.n >= FEWEST and summary.quartiles is not None:
        low, high = summary.quartiles
        text += f" [{low:.2f}–{high:.2f}]" if robust else f" ± {summary.sd:.2f}"
    return text + (f"\n{setting.stuck} stuck" if setting.stuck else "")
