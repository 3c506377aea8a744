import numpy as np
import pytest

from experiments.correctness import document, images, statistics
from experiments.correctness.comparison import Comparison

pytestmark = pytest.mark.slow


def compare(actual, expected, bound=0.1):
    comparison = Comparison("ours", "theirs", bound)
    comparison.add(actual, expected)
    return comparison


def test_an_error_is_relative_to_the_largest_expected_number():
    assert compare([1.0, 99.0], [1.0, 100.0]).error == pytest.approx(0.01)
    assert compare([0.0, 0.5], [0.0, 0.0]).error == 0.5


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        ([1.0, 2.0], [1.0]),
        ([np.nan], [1.0]),
        ([1.0], [np.nan]),
        ([np.inf], [1.0]),
        ([np.inf], [-np.inf]),
    ],
)
def test_what_cannot_be_compared_is_infinitely_apart(actual, expected):
    comparison = compare(actual, expected)
    assert comparison.error == np.inf and not comparison.holds


def test_a_comparison_of_nothing_does_not_hold():
    comparison = Comparison("ours", "theirs", 1.0)
    assert not comparison.holds
    with pytest.raises(KeyError, match="a"):
        comparison.add_each({"a": 1.0}, {"b": 1.0})


@pytest.mark.parametrize("module", [images, statistics], ids=lambda module: module.__name__)
def test_comparisons_hold(module):
    for comparison in module.compare():
        assert comparison.holds, comparison


def test_the_page_marks_what_is_out_of_bounds():
    rows = [
        {
            "subject": "sums",
            "oracle": "NumPy",
            "cases": 1200,
            "error": 0.0,
            "bound": 0.0,
            "holds": True,
        },
        {
            "subject": "ties",
            "oracle": "NumPy",
            "cases": 7,
            "error": 1.2,
            "bound": 1e-5,
            "holds": False,
        },
    ]
    environment = {
        "git_revision": "0123456789abcdef",
        "versions": {"jax": "1.0"},
        "cores": 2,
        "processor": "Abacus",
    }
    record = {"comparisons": rows, "seconds": 9.6, "sizes": "one image", "environment": environment}
    page = document.write(record, "correctness_cpu.json")
    assert "| sums | NumPy | 1,200 | 0 | to the bit |" in page
    assert "| ties | NumPy | 7 | **1.2e+00** | 1e-05 |" in page
    assert "Measured on 2 cores of an Abacus at revision 0123456789ab" in page
