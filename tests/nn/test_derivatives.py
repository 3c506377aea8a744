"""Derivatives of every kind and order, of every backend, against the plain layers in float64."""

import pytest

from experiments.correctness.derivatives import DERIVATIVES, compare_one
from tests.support.backends import NATIVE

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("backend", ["phase", NATIVE])
@pytest.mark.parametrize("derivative", DERIVATIVES, ids=lambda derivative: derivative.__name__)
def test_derivatives_equal_those_of_the_plain_layers_in_float64(derivative, backend):
    comparison = compare_one(derivative, [backend], compiled=False, seeds=1)
    assert comparison.holds, comparison
