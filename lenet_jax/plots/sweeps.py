"""The picture of a sweep: curves with bands, points with intervals, or a heat map.

What is drawn follows from the keys that the settings differ in, seeds aside. One key, or several
that move together: the curves of each setting and its test error over that key. Two keys whose
values are all combined: a heat map. Anything else: the settings ranked.

Test errors are of each member's best epoch on validation. Three members or more have a mean and its
95 % interval; fewer are drawn one by one, and up to 2,000 as dots too. Where members are stuck near
chance, one of them would lead a mean, so the figure has medians and the middle half instead. A
setting all of whose members diverged is a cross.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lenet_jax.errors import counted
from lenet_jax.plots.axes import LETTER, are_crowded
from lenet_jax.plots.heat_map import height_of, plot_heat_map
from lenet_jax.plots.points import plot_points
from lenet_jax.plots.ranking import MOST_RANKED, plot_ranking
from lenet_jax.plots.settings import Setting, are_numbers, as_text, value_of
from lenet_jax.plots.style import WIDTH, Axes, Figure, chart, legible, styled
from lenet_jax.plots.sweep_curves import colours_of, plot_curves

NARROW = 760  # pixels, of one panel


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
        height = 154 + height_of(settings, keys)
    elif ranked:
        height = 140 + 26 * min(len(settings), MOST_RANKED)
    curved = any(setting.errors.size for setting in settings)
    wide = curved or keys[1:] or ranked or LETTER * len(subtitle) > NARROW
    width = WIDTH if wide else NARROW
    figure = chart(width, max(height, 300), f"Sweep {legible(title, 80)}", subtitle)
    if len(keys) == 2:
        plot_heat_map(figure.subplots(), settings, keys)
    elif ranked:
        plot_ranking(figure.subplots(), settings)
    elif not curved:
        _plot_members(figure.subplots(), settings, keys)
    else:
        left, right = figure.subplots(1, 2)
        _plot_members(right, settings, keys, colours_of(settings))
        plot_curves(left, settings)
    return figure


def find_axes(settings: Sequence[Setting]) -> list[str]:
    """The keys that span the settings: none, one, or two; [] of several settings: no such keys."""
    keys = list(dict.fromkeys(key for setting in settings for key in setting.overrides))
    keys = [key for key in keys if len({value_of(setting, key) for setting in settings}) > 1]
    count = len(settings)
    for key in keys:
        if len({value_of(setting, key) for setting in settings}) == count:
            return [key]
    for index, first in enumerate(keys):
        for second in keys[index + 1 :]:
            sizes = [len({value_of(s, key) for s in settings}) for key in (first, second)]
            pairs = {(value_of(s, first), value_of(s, second)) for s in settings}
            if len(pairs) == count == sizes[0] * sizes[1]:
                return [first, second]
    return []


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
    values = [value_of(setting, key) for setting in settings for key in keys]
    if values and not are_numbers(values) and are_crowded(axes, list(map(as_text, values))):
        plot_ranking(axes, settings)
    else:
        plot_points(axes, settings, keys, colours or {})
