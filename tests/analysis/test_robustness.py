import pytest

from lenet_jax.analysis.robustness import Robustness


def test_errors_are_averaged_over_the_corruptions():
    ours = Robustness(0.01, {"fog": 0.4, "scale": 0.1})
    assert (ours.mean_error, ours.worst) == (pytest.approx(0.25), "fog")
    assert ours.excess == pytest.approx(0.24)
    assert ours.relative_to(Robustness(0.02, {"fog": 0.8, "scale": 0.1})) == pytest.approx(0.75)
