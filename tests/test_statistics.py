"""Statistics over seeds against SciPy's, and at the edges of what rates can be."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from lenet_jax.statistics import Summary, chance, is_stuck, mcnemar, p_value, shortest, summarise

RATES = st.lists(st.floats(0, 1), min_size=3, max_size=40)


@given(RATES)
def test_the_interval_of_a_rate_holds_its_mean_and_stays_a_rate(values):
    summary = summarise(values, 1.0)
    assert summary.ci95 is not None and summary.mean is not None
    low, high = summary.ci95
    assert 0 <= low <= summary.mean + 1e-12 and summary.mean - 1e-12 <= high <= 1


@given(st.lists(st.floats(0, 1e6), min_size=3, max_size=40))
def test_the_interval_of_a_loss_is_not_negative(values):
    summary = summarise(values)
    assert summary.ci95 is not None and 0 <= summary.ci95[0] <= summary.ci95[1]
    assert math.isfinite(summary.ci95[1])


@pytest.mark.parametrize("upper", [1.0, math.inf])
def test_a_narrow_interval_is_students(upper):
    values = np.random.default_rng(0).normal(0.5, 0.001, 20).tolist()
    expected = scipy.stats.t.interval(0.95, 19, np.mean(values), scipy.stats.sem(values))
    assert summarise(values, upper).ci95 == pytest.approx(expected, rel=1e-5)


def test_the_interval_of_any_numbers_is_students():
    values = [-3.0, 1.0, 0.5, 2.0]
    expected = scipy.stats.t.interval(0.95, 3, np.mean(values), scipy.stats.sem(values))
    assert summarise(values, lower=-math.inf).ci95 == pytest.approx(expected)
    with pytest.raises(ValueError, match="not in"):
        summarise(values)


def test_rates_near_the_end_have_an_uneven_interval():
    summary = summarise([0.99, 0.98, 0.995, 0.1], 1.0)
    assert summary.ci95 is not None and summary.mean is not None
    low, high = summary.ci95
    assert 0 < low < summary.mean < high < 1
    assert summary.median == pytest.approx(0.985)


def test_few_values_have_no_interval():
    assert summarise([]).to_json() == dict.fromkeys(("mean", "sd", "ci95", "median", "quartiles"))
    assert summarise([0.5]).sd is None
    two = summarise([0.4, 0.6])
    assert two.sd == pytest.approx(math.sqrt(0.02)) and two.ci95 is None
    assert summarise([1.0, 1.0, 1.0], 1.0).ci95 == (1.0, 1.0)


def test_welchs_test_is_scipys():
    random = np.random.default_rng(1)
    first, second = random.normal(0, 1, 5), random.normal(1, 3, 12)
    expected = scipy.stats.ttest_ind(first, second, equal_var=False).pvalue  # pyright: ignore
    assert p_value(first.tolist(), second.tolist()) == pytest.approx(expected)
    assert p_value([1.0], [2.0, 3.0]) is None
    assert p_value([math.nan, 1.0], [2.0, 3.0]) is None
    assert p_value([1.0, 1.0], [1.0, 1.0]) == 1
    assert p_value([1.0, 1.0, 1.0], [2.0, 2.0, 2.0]) == 0
    tiny = 1e-90  # whose variance has no square
    assert p_value([0.0, tiny, 2 * tiny], [0.0, tiny, 2 * tiny]) == pytest.approx(1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e308])
def test_values_that_are_not_finite_or_overflow_have_no_mean(value):
    assert summarise([0.5, value, 0.5, 1e308]) == Summary(4)
    assert p_value([0.5, value], [0.5, 1e308]) is None


def test_values_out_of_their_range_are_refused():
    for values, upper in (([0.5, 1.5], 1.0), ([-0.5, 0.5], math.inf), ([50.0, 101.0], 100.0)):
        with pytest.raises(ValueError, match="are not in"):
            summarise(values, upper)


def test_hardly_better_than_chance_is_stuck():
    base = chance([0] * 30 + [1] * 10)
    assert base == 0.75
    assert is_stuck(0.77, base) and not is_stuck(0.8, base)
    assert is_stuck(0.1135, 0.1135) and not is_stuck(0.3, 0.1135)


def test_a_float32_is_written_as_short_as_it_can_be():
    assert shortest(np.float32(0.9924)) == 0.9924
    assert np.float32(shortest(np.float32(1 / 3))) == np.float32(1 / 3)


def test_mcnemar_is_the_exact_binomial_test():
    assert mcnemar(0, 0) == 1
    for first, second in ((3, 3), (1, 9), (25, 12)):
        expected = scipy.stats.binomtest(first, first + second, 0.5).pvalue
        assert mcnemar(first, second) == mcnemar(second, first) == pytest.approx(expected)
