import numpy as np
import pytest
from scipy.special import softmax

from lenet_jax.analysis.calibration import (
    calibration,
    fit_temperature,
    negative_log_likelihood,
)
from lenet_jax.analysis.disagreement import disagreement, lost
from lenet_jax.analysis.ensemble import combine, disjoint, scores, size_curve


def noisy_logits(members, n, seed=0):
    """Logits of members that each see the right class through noise of their own."""
    random = np.random.default_rng(seed)
    labels = random.integers(10, size=n)
    logits = random.normal(size=(members, n, 10)) + 1.5 * np.eye(10)[labels]
    return logits.astype(np.float32), labels


def test_calibration_compares_confidence_with_accuracy():
    probabilities = np.array([[0.9, 0.1], [0.95, 0.05], [0.35, 0.65], [0.0, 1.0]], np.float32)
    measured = calibration(probabilities, np.array([0, 1, 1, 1]), bins=4)
    np.testing.assert_array_equal(measured.count, [0, 0, 1, 3])
    np.testing.assert_allclose(measured.accuracy, [np.nan, np.nan, 1, 2 / 3])
    np.testing.assert_allclose(measured.confidence, [np.nan, np.nan, 0.65, 0.95], rtol=1e-6)
    assert measured.error == pytest.approx((0.35 + 3 * (0.95 - 2 / 3)) / 4)


@pytest.mark.parametrize("factor", [0.25, 1.0, 7.0])
def test_a_temperature_undoes_the_scale_of_logits(factor):
    random = np.random.default_rng(0)
    logits = 2 * random.normal(size=(20_000, 10))
    labels = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)  # drawn from their softmax
    temperature = fit_temperature(factor * logits, labels)
    assert temperature == pytest.approx(factor, rel=0.03)
    assert scores(factor * logits / temperature, labels).calibration_error < 0.01


def test_an_ensemble_has_the_mean_probability():
    logits, labels = noisy_logits(6, 50)
    mean = softmax(logits.astype(np.float64), axis=-1).mean(axis=0)
    np.testing.assert_allclose(np.exp(combine(logits)), mean, rtol=1e-9)
    np.testing.assert_array_equal(disjoint(logits, 3)[1], combine(logits[3:]))
    expected = -np.log(mean[np.arange(50), labels]).mean()
    assert negative_log_likelihood(combine(logits), labels) == pytest.approx(expected)
    with pytest.raises(ValueError, match="no ensemble of 7"):
        disjoint(logits, 7)


def test_larger_ensembles_are_better():
    test, labels = noisy_logits(16, 2000)
    valid, valid_labels = noisy_logits(16, 1000, seed=1)
    curve = size_curve(test, labels, [1, 4, 16])
    scaled = size_curve(test, labels, [1, 4, 16], valid, valid_labels)
    assert [len(own) for own in curve.values()] == [16, 4, 1]
    accuracies = [np.mean([each.accuracy for each in own]) for own in curve.values()]
    assert accuracies == sorted(accuracies) and accuracies[2] - accuracies[0] > 0.2
    for size, own in curve.items():
        assert [each.accuracy for each in own] == [each.accuracy for each in scaled[size]]
        assert np.mean([each.loss for each in scaled[size]]) < np.mean([each.loss for each in own])


def test_disagreement_counts_the_examples_of_each_pair():
    predictions = np.array([[0, 1, 2, 2], [0, 1, 1, 0], [0, 0, 2, 2]])
    labels = np.array([0, 1, 2, 0])
    different = [[0, 0.5, 0.25], [0.5, 0, 0.75], [0.25, 0.75, 0]]
    np.testing.assert_array_equal(disagreement(predictions), different)
    right_and_wrong = [[0, 0.25, 0.25], [0.25, 0, 0.5], [0, 0.25, 0]]
    np.testing.assert_array_equal(lost(predictions, labels), right_and_wrong)
