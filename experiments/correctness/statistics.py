"""Means, intervals and tests against SciPy, and how often an interval holds the true mean."""

from collections.abc import Iterator

import numpy as np
import scipy.stats

from experiments.correctness.comparison import Comparison
from lenet_jax.statistics import p_value, summarise

SAMPLES = 4000


def compare() -> Iterator[Comparison]:
    """Yields the comparisons."""
    rng = np.random.default_rng(0)
    means = Comparison("mean, standard deviation, median, quartiles", "NumPy", 1e-12)
    narrow = Comparison("95 % intervals of values that hardly differ", "SciPy's Student", 1e-3)
    tests = Comparison("p-values between two settings", "SciPy's Welch", 1e-9)
    for n in (3, 4, 5, 16, 100):
        for spread in (1e-5, 1e-6):
            values = np.clip(0.97 + spread * rng.standard_normal(n), 0, 1)
            summary = summarise(values.tolist(), upper=1.0)
            quartiles = np.percentile(values, (25, 50, 75))
            expected = values.mean(), values.std(ddof=1), *quartiles
            assert summary.quartiles is not None and summary.ci95 is not None
            low, high = summary.quartiles
            means.add((summary.mean, summary.sd, low, summary.median, high), expected)
            # Student's is symmetric; the logit's is nearly so where the values hardly differ.
            student = scipy.stats.t.interval(0.95, n - 1, values.mean(), scipy.stats.sem(values))
            narrow.add(np.subtract(summary.ci95, values.mean()), student - values.mean())
            others = np.clip(0.97 + 2 * spread * rng.standard_normal(n + 2), 0, 1)
            _, welch = scipy.stats.ttest_ind(values, others, equal_var=False)
            tests.add(p_value(values.tolist(), others.tolist()), welch)
    yield from (means, narrow, tests)

    covered = Comparison(
        f"share of 95 % intervals that hold the true mean, of {SAMPLES} samples", "0.95", 0.02
    )
    for n, (a, b) in ((5, (90, 10)), (16, (990, 10)), (5, (200, 200))):
        samples = rng.beta(a, b, (SAMPLES, n))
        intervals = [summarise(sample.tolist(), upper=1.0).ci95 or (0, 0) for sample in samples]
        holds = [low <= a / (a + b) <= high for low, high in intervals]
        covered.add(np.mean(holds), 0.95)
    yield covered
