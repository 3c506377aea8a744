import numpy as np
import pytest
from scipy.linalg import hadamard

from lenet_jax.analysis.influence import (
    THRESHOLDS,
    Design,
    choose_threshold,
    held_out_correlation,
    margins,
)


def population(members, images, noise, seed=0):
    """Masks, true weights of three targets on a tenth of the images, and the targets."""
    random = np.random.default_rng(seed)
    masks = random.permuted(np.tile(np.arange(images) < images // 2, (members, 1)), axis=1)
    true = np.where(random.random((images, 3)) < 0.1, random.normal(size=(images, 3)), 0.0)
    targets = 5 + masks @ true + noise * random.normal(size=(members, 3))
    return masks, true, targets


def test_a_margin_is_above_the_best_other_class():
    logits = np.array([[[1.0, 4.0, 2.0], [3.0, 0.0, 5.0]], [[9.0, 4.0, 2.0], [3.0, 0.0, -5.0]]])
    np.testing.assert_array_equal(margins(logits, np.array([1, 0])), [[2, -2], [-5, 3]])


@pytest.mark.parametrize("threshold", [0.0, 0.8, 2.0])
def test_of_orthogonal_columns_it_is_the_lasso(threshold):
    masks = hadamard(32)[:, 1:] > 0
    targets = np.random.default_rng(0).normal(size=(32, 4))
    weights = Design.of(masks).weights(targets, threshold)
    # The conditions of Karush, Kuhn and Tucker.
    columns, centred = masks - masks.mean(axis=0), targets - targets.mean(axis=0)
    penalty = threshold * centred.std(axis=0) * np.linalg.norm(columns, axis=0)[0]
    gradient = columns.T @ (centred - columns @ weights)
    expected = np.where(weights != 0, np.sign(weights) * penalty, gradient)
    np.testing.assert_allclose(gradient, expected, atol=1e-5)
    assert (np.abs(gradient) <= penalty + 1e-5).all()
    assert 0 < (weights == 0).mean() < 1 if threshold else (weights != 0).all()


def test_an_image_that_all_networks_saw_has_no_weight():
    masks, _, targets = population(20, 10, 0.1)
    masks[:, 3] = True
    weights = Design.of(masks).weights(targets, 0.0)
    assert not weights[3].any() and np.isfinite(weights).all()


def test_influence_is_found_where_it_is_and_nowhere_else():
    masks, true, targets = population(800, 400, 1.0)
    threshold = choose_threshold(masks, targets)
    assert 0 < threshold < THRESHOLDS[-1]
    weights = Design.of(masks).weights(targets, threshold)
    agreement = [np.corrcoef(a, b)[0, 1] for a, b in zip(weights.T, true.T, strict=True)]
    assert min(agreement) > 0.9
    assert np.mean(weights[true == 0] == 0) > 0.8
    assert held_out_correlation(masks, targets).min() > 0.6
    shuffled = np.random.default_rng(1).permutation(targets)
    assert np.abs(held_out_correlation(masks, shuffled)).max() < 4 / np.sqrt(800)
    np.testing.assert_array_equal(held_out_correlation(masks, np.ones((800, 1))), 0)
