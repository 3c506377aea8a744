"""Statistics over seeds: means of rates and losses, and intervals that stay where they can be."""

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple, SupportsFloat

import numpy as np

FEWEST = 3  # values that have an interval
STUCK = 0.1  # of the way from chance to 1: what is below has learned nothing


class Summary(NamedTuple):
    """What some values have in common.

    Attributes:
      n: how many there are.
      mean: None if there are none, or one is not finite; the others likewise.
      sd: their standard deviation; None of fewer than two.
      ci95: the ends of the 95 % interval of the mean; None of fewer than three.
      median: the middle one.
      quartiles: what a quarter of the values is below, and above.
    """

    n: int
    mean: float | None = None
    sd: float | None = None
    ci95: tuple[float, float] | None = None
    median: float | None = None
    quartiles: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns it for JSON, without n."""
        return {key: value for key, value in self._asdict().items() if key != "n"}


def summarise(values: Sequence[float], upper: float = math.inf, lower: float = 0.0) -> Summary:
    """Describes values in [0, upper], or, with `lower=-math.inf`, any values.

    The interval is Student's on the scale of the logarithm, or, of rates (upper 1) and percentages
    (upper 100), of the logit, around the mean: it is near the usual one where that is narrow, and
    stays within the bounds where it is not. Of values without bounds it is the usual one.

    Source: the delta method; Agresti, "Categorical Data Analysis", 2013, section 3.1.

    Args:
      values: of each seed.
      upper: what none of them can exceed.
      lower: 0, or minus infinity.

    Raises:
      ValueError: a finite value is not in [lower, upper].
    """
    n = len(values)
    if not n or not _are_finite(values):
        return Summary(n)
    if min(values) < lower or max(values) > upper:
        raise ValueError(
            f"values from {min(values)} to {max(values)} are not in [{lower:g}, {upper}]"
        )
    mean = statistics.fmean(values)
    several = values if n > 1 else [*values, *values]
    # As NumPy's, in a tenth of its time for a few values.
    low, median, high = statistics.quantiles(several, n=4, method="inclusive")
    sd = statistics.stdev(values) if n > 1 else None
    interval = None
    if sd is not None and n >= FEWEST:
        half = _student(n - 1) * sd / math.sqrt(n)
        bounded = lower == 0
        interval = _interval(mean, half, upper) if bounded else (mean - half, mean + half)
    return Summary(n, mean, sd, interval, median, (low, high))


def p_value(first: Sequence[float], second: Sequence[float]) -> float | None:
    """How likely means at least as far apart are if both have the same expectation: Welch's test.

    None of fewer than two values on either side, or where one is not finite. If the values of
    neither side differ, there is no doubt: 1 for equal means, 0 for others.

    Source: Welch, "The generalization of 'Student's' problem", 1947.
    """
    if min(len(first), len(second)) < 2 or not _are_finite([*first, *second]):
        return None
    from scipy.special import stdtr

    difference = abs(statistics.fmean(first) - statistics.fmean(second))
    squares = [statistics.variance(values) / len(values) for values in (first, second)]
    total = sum(squares)
    if not total:
        return float(not difference)
    freedom = 1 / sum(
        (s / total) ** 2 / (len(v) - 1) for s, v in zip(squares, (first, second), strict=True)
    )
    return float(2 * stdtr(freedom, -difference / math.sqrt(total)))


def mcnemar(first: int, second: int) -> float:
    """How likely counts at least as unequal are of two networks that are equally good.

    Two-sided and exact.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", 1947.

    Args:
      first: examples that only the first network gets right.
      second: those that only the second does.
    """
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(first, second), first + second, 0.5)))


def chance(labels: Sequence[int] | np.ndarray) -> float:
    """The accuracy of always answering the most frequent class."""
    return float(np.bincount(labels).max() / len(labels))


def is_stuck(accuracy: float, chance: float) -> bool:
    """Whether a network is hardly better than chance: it trained, and learned nothing."""
    return accuracy < chance + STUCK * (1 - chance)


def shortest(value: SupportsFloat) -> float:
    """The shortest decimal number that rounds to a float32: 0.9924, not 0.9923999905586243."""
    return float(str(np.float32(float(value))))


def _are_finite(values: Sequence[float]) -> bool:
    """Whether the values, and with them their variance, are finite."""
    return math.isfinite(sum(value * value for value in values))


def _interval(mean: float, half: float, upper: float) -> tuple[float, float]:
    """The ends of `mean` ± `half` on a scale whose inverse stays in (0, upper)."""
    if not half or not 0 < mean < upper:
        return mean, mean
    share = mean / upper  # 0 without an upper bound
    step = half / (mean * (1 - share))
    odds = [mean / (1 - share) * math.exp(min(sign * step, 700)) for sign in (-1, 1)]
    low, high = (odd / (1 + odd / upper) for odd in odds)
    return low, high


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))
