"""What is said of two precisions, from times and accuracies that are given."""

import pytest

from experiments import bfloat16
from lenet_jax.statistics import p_value, summarise


def test_the_second_precision_is_compared_with_the_first_turn_by_turn():
    seconds = {"float32": [9.0, 2e-6, 4e-6, 3e-6], "bfloat16": [9.0, 1e-6, 4e-6, 2e-6]}
    speeds = bfloat16._speeds(seconds)  # the first turn compiles
    assert speeds["images_per_second"] == {"float32": 333_333, "bfloat16": 500_000}
    assert speeds["ratio_median"] == pytest.approx(1.5)
    assert (speeds["ratio_min"], speeds["ratio_max"]) == (1.0, 2.0)
    accuracies = {"float32": [0.99, 0.98, 0.97], "bfloat16": [0.97, 0.96, 0.95]}
    answer = {
        "seeds": 3,
        "turns": 3,
        "speeds": {"LeNet": {"training": speeds}},
        "test_accuracy": {name: summarise(own, 1.0).to_json() for name, own in accuracies.items()},
        "p": p_value(*accuracies.values()),
        "environment": {"cores": 2},
    }
    text = bfloat16.to_markdown(answer)
    assert "| LeNet, training | 333,333 | 500,000 | 1.50 (1.00–2.00) |" in text
    assert "98.000 ± 1.000 % (float32) and 96.000 ± 1.000 % (bfloat16); p = 0.07" in text
