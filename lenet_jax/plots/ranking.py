"""The best settings of a sweep, one below the other, with their members."""

import math
from collections.abc import Sequence

from lenet_jax.plots.axes import LETTER, mark_chance, scale_axis
from lenet_jax.plots.settings import (
    MOST_DOTS,
    Setting,
    as_text,
    centre_of,
    is_robust,
    name_of_centre,
    value_of,
)
from lenet_jax.plots.style import BLUE, FAINT, VERMILION, Axes, legible
from lenet_jax.statistics import FEWEST

MOST_RANKED = 24
MOST_NAME = 52  # letters beside a ranking
JOIN = " · "


def plot_ranking(axes: Axes, settings: Sequence[Setting]) -> None:
    """The best settings by the centre of their test errors, one below the other."""
    robust = is_robust(settings)
    centres = [centre_of(setting.test, robust)[0] for setting in settings]
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
        bar = centre_of(settings[index].test, robust)[1]
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
    centre = name_of_centre(settings)
    side = "left" if room == MOST_NAME else "right"  # there is room over the names
    axes.set_title(f"test error, %: {f'each, {centre}' if centre else 'each network'}", loc=side)
    scale_axis(axes, "x", [settings[index] for *_, index in ranked])
    mark_chance(axes, settings, "x")


def _names(settings: Sequence[Setting], room: int) -> tuple[str, list[str]]:
    """A heading and the settings' names: long names of the same keys are values under the keys."""
    names = [setting.name for setting in settings]
    keys = [*settings[0].overrides]
    same = all([*setting.overrides] == keys for setting in settings)
    if not same or max(map(len, names)) <= room:
        return "", names
    values = [JOIN.join(as_text(value_of(setting, key)) for key in keys) for setting in settings]
    return JOIN.join(keys), values
