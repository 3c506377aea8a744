import numpy as np
import pytest

from lenet_jax.analysis.influence import RIDGES, fit, held_out_correlation, margins, shared, weights


def population(members, images, noise, seed=0):
    """Masks, true weights of three targets on the images, and the targets."""
    random = np.random.default_rng(seed)
    masks = random.permuted(np.tile(np.arange(images) < images // 2, (members, 1)), axis=1)
    true = np.where(random.random((images, 3)) < 0.1, random.normal(size=(images, 3)), 0.0)
    targets = 5 + masks @ true + noise * random.normal(size=(members, 3))
    return masks, true, targets


def test_a_margin_is_above_the_best_other_class():
    logits = np.array([[[1.0, 4.0, 2.0], [3.0, 0.0, 5.0]], [[9.0, 4.0, 2.0], [3.0, 0.0, -5.0]]])
    np.testing.assert_array_equal(margins(logits, np.array([1, 0])), [[2, -2], [-5, 3]])


def test_shared_images_are_counted():
    masks, _, _ = population(7, 9000, 0.0)
    expected = masks.astype(int) @ masks.T.astype(int)
    np.testing.assert_array_equal(shared(masks), expected)
    assert (np.diag(expected) == 4500).all()


def test_the_weights_are_those_of_the_ridge_regression():
    masks, _, targets = population(40, 60, 0.1)
    fitted = fit(shared(masks), targets)
    x, y = masks - masks.mean(axis=0), targets - targets.mean(axis=0)
    expected = np.linalg.solve(x.T @ x + fitted.ridge * np.eye(60), x.T @ y)
    np.testing.assert_allclose(weights(masks, fitted.duals), expected, rtol=1e-4, atol=1e-5)


def test_the_ridge_is_the_best_for_networks_left_out():
    masks, _, targets = population(30, 60, 2.0, seed=3)
    products, y = shared(masks), targets
    x = masks.astype(float)
    centred = x - x.mean(axis=0)
    scale = np.linalg.eigvalsh(centred @ centred.T).mean()

    def error(ridge):
        residuals = []
        for out in range(30):
            kept = np.arange(30) != out
            mean = x[kept].mean(axis=0)
            own = x[kept] - mean
            normal = own.T @ own + ridge * np.eye(60)
            w = np.linalg.solve(normal, own.T @ (y[kept] - y[kept].mean(axis=0)))
            residuals.append(y[out] - y[kept].mean(axis=0) - (x[out] - mean) @ w)
        return np.mean(np.square(np.array(residuals) / y.std(axis=0)))

    best = min(RIDGES * scale, key=error)
    assert fit(products, targets).ridge == pytest.approx(best)


def test_influence_is_found_where_it_is_and_nowhere_else():
    masks, true, targets = population(400, 200, 0.5)
    products = shared(masks)
    estimated = weights(masks, fit(products, targets).duals)
    # Sets of one size leave the sum of all weights open.
    agreement = [np.corrcoef(a, b)[0, 1] for a, b in zip(estimated.T, true.T, strict=True)]
    assert min(agreement) > 0.97
    assert held_out_correlation(products, targets).min() > 0.9
    shuffled = np.random.default_rng(1).permutation(targets)
    nothing = held_out_correlation(products, shuffled)
    assert np.abs(nothing).max() < 4 / np.sqrt(400)
    constant = np.ones((400, 1))
    np.testing.assert_array_equal(held_out_correlation(products, constant), 0)
