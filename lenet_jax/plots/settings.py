"""What a figure of a sweep shows: its settings, with the statistics of their members."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lenet_jax.statistics import FEWEST, Summary

MOST_DOTS = 2000  # networks of a figure in which each is a dot


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


def value_of(setting: Setting, key: str) -> Any:
    """The value of a key in a setting; None: the setting leaves it as it is."""
    value = setting.overrides.get(key)
    return tuple(value) if isinstance(value, list) else value


def as_text(value: Any) -> str:
    """A value as figures show it: of several numbers `6–12`."""
    return "–".join(map(str, value)) if isinstance(value, tuple) else f"{value}"


def are_numbers(values: Sequence[Any]) -> bool:
    """Whether values have places on a scale."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def is_robust(settings: Sequence[Setting]) -> bool:
    """Whether members are stuck, so that means would say more of those than of the others."""
    return any(setting.stuck for setting in settings)


def name_of_centre(settings: Sequence[Setting]) -> str:
    """What `centre_of` is, for a title; nothing if every setting has too few members."""
    if all(setting.test.n < FEWEST for setting in settings):
        return ""
    return "median, 25–75 %" if is_robust(settings) else "mean, 95 % interval"


def centre_of(summary: Summary, robust: bool) -> tuple[float | None, list[list[float]] | None]:
    """The median or mean, and how far the quartiles or the interval reach below and above it."""
    centre = summary.median if robust else summary.mean
    ends = summary.quartiles if robust else summary.ci95
    if centre is None or ends is None or summary.n < FEWEST:
        return centre, None
    # The interval of the mean holds it, but for rounding.
    return centre, [[max(centre - ends[0], 0.0)], [max(ends[1] - centre, 0.0)]]
