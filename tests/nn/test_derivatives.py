"""Derivatives of every kind and order, of every backend, against the plain layers in float64."""

import pytest

from experiments.correctness.derivatives import DERIVATIVES, compare_one, gradient, jvp
from tests.support.backends import NATIVE

pytestmark = [pytest.mark.slow, pytest.mark.optimized(False)]


@pytest.mark.parametrize("backend", ["phase", NATIVE])
@pytest.mark.parametrize(
    ("derivative", "compiled"),
    [*((derivative, True) for derivative in DERIVATIVES), (jvp, False), (gradient, False)],
    ids=lambda value: value if isinstance(value, bool) else value.__name__,
)
def test_derivatives_equal_those_of_the_plain_layers_in_float64(derivative, compiled, backend):
    comparison = compare_one(derivative, [backend], compiled=compiled, seeds=1)
    assert comparison.holds, comparison
