"""The errors of a sweep's members over the values of a key."""

from collections.abc import Mapping, Sequence
from typing import Any

from lenet_jax.plots.axes import apart, mark_chance, name_columns, scale_axis
from lenet_jax.plots.settings import (
    MOST_DOTS,
    Setting,
    are_numbers,
    as_text,
    centre_of,
    is_robust,
    name_of_centre,
    value_of,
)
from lenet_jax.plots.style import BLUE, FAINT, VERMILION, Axes
from lenet_jax.statistics import FEWEST


def plot_points(
    axes: Axes, settings: Sequence[Setting], keys: Sequence[str], colours: Mapping[int, Any]
) -> None:
    """Test error of every member, and the centre and its range for each setting."""
    centre = name_of_centre(settings)
    axes.set(title=f"test error, %: {f'each, {centre}' if centre else 'each network'}")
    values = [value_of(setting, keys[0]) if keys else "" for setting in settings]
    numeric = bool(keys) and are_numbers(values)
    places: list[Any] = list(values) if numeric else list(range(len(values)))
    label, robust = keys[0] if keys else "", is_robust(settings)
    dotted = sum(len(setting.test_errors) for setting in settings) <= MOST_DOTS
    diverged = [p for p, setting in zip(places, settings, strict=True) if not setting.test_errors]
    look = {"color": VERMILION, "markersize": 6, "transform": axes.get_xaxis_transform()}
    axes.plot(diverged, [0.96] * len(diverged), "x", **look)
    for index, (place, setting) in enumerate(zip(places, settings, strict=True)):
        errors = setting.test_errors
        centre, bar = centre_of(setting.test, robust)
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
            named = apart(axes, places, [f"{value:g}" for value in values])
            name_columns(axes, list(named), list(named.values()))
    else:
        name_columns(axes, places, [as_text(value) for value in values])
        axes.margins(x=0.3 if len(places) < 4 else 0.1)
    axes.set_xlabel(label)
    scale_axis(axes, "y", settings)
    mark_chance(axes, settings)
