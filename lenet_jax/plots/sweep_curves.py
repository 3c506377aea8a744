"""The errors of a sweep's settings over the epochs, with bands."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lenet_jax.plots.axes import log_scale, mark_chance
from lenet_jax.plots.settings import Setting, centre_of, is_robust, name_of_centre
from lenet_jax.plots.style import Axes, legible, line_look
from lenet_jax.statistics import FEWEST, summarise

MOST_CURVES, MOST_BANDS = 12, 5


def plot_curves(axes: Axes, settings: Sequence[Setting]) -> None:
    """The centre of each setting's validation errors and its range, over the epochs."""
    from matplotlib.ticker import MaxNLocator

    robust, what = is_robust(settings), name_of_centre(settings) or "each network"
    split = "validation" if all(setting.validated for setting in settings) else "training"
    axes.set(title=f"{split} error, %: {what}", xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    colours, ends = colours_of(settings), []
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
            *(centre_of(summarise(column, 100.0), robust) for column in errors.T.tolist()),
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
        log_scale(axes, "y")
    else:
        axes.set_ylim(0, 1.05 * highest or None)
    mark_chance(axes, settings, ends=ends if len(shown) > 1 else ())


def colours_of(settings: Sequence[Setting]) -> dict[int, Any]:
    """The colours of the settings whose curves are drawn, by their places: of many a part."""
    from matplotlib import colormaps

    places = range(0, len(settings), math.ceil(len(settings) / MOST_CURVES))
    return dict(zip(places, colormaps["viridis"](np.linspace(0, 0.75, len(places))), strict=True))
