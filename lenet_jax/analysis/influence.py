"""Which training images move which test images: linear models of margins of many networks.

Networks are trained on random subsets of the training images. The margin of a test image is
regressed on which training images a network saw: a weight is what seeing one adds to the margin.

There are far more training images than networks, so the regression is a ridge, solved among the
networks: all that it needs of the masks is how many images each pair of networks shares.

Source: Ilyas, Park, Engstrom, Leclerc, Madry, "Datamodels: predicting predictions from training
data", 2022, section 3, where the regression is a lasso.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer

BLOCK = 4096  # training images at once
# Ridges that are tried, over the mean eigenvalue of the masks' products.
RIDGES = 10.0 ** np.arange(-2, 4.5, 0.5)


class Fit(NamedTuple):
    """A ridge regression on masks, of n margins at once.

    Attributes:
      duals: of each network; the weights are their sum over the networks that saw an image.
      ridge: the penalty.
    """

    duals: Float[np.ndarray, "m n"]
    ridge: float


def margins(
    logits: Float[np.ndarray, "*m n k"], labels: Integer[np.ndarray, " n"]
) -> Float[np.ndarray, "*m n"]:
    """The logit of the true class less the largest other one: above 0 where it is right."""
    own = np.arange(logits.shape[-1]) == labels[:, None]
    true = np.take_along_axis(logits, np.broadcast_to(labels[:, None], (*logits.shape[:-1], 1)), -1)
    return true[..., 0] - np.where(own, -np.inf, logits).max(axis=-1)


def shared(masks: Bool[np.ndarray, "m p"]) -> Float[np.ndarray, "m m"]:
    """How many training images both networks of each pair saw."""
    counts = np.zeros((len(masks), len(masks)))
    for first in range(0, masks.shape[1], BLOCK):
        block = masks[:, first : first + BLOCK].astype(np.float32)
        counts += block @ block.T  # exact: the counts are below 2²⁴
    return counts


def fit(products: Float[np.ndarray, "m m"], targets: Float[np.ndarray, "m n"]) -> Fit:
    """Regresses targets on masks, with an intercept and the best of `RIDGES`.

    The best ridge has the smallest squared error of each network by the others, over all targets
    on their own scales; leaving each out has a closed form.

    Args:
      products: from `shared`.
      targets: margins of m networks.
    """
    centred = targets - targets.mean(axis=0)
    values, vectors = np.linalg.eigh(_centre(products, products))
    values = np.maximum(values, 0)
    turned = vectors.T @ centred
    deviations = np.maximum(centred.std(axis=0), np.finfo(np.float64).tiny)
    errors = []
    candidates = RIDGES * values.mean()
    for ridge in candidates:
        kept = values / (values + ridge)
        leverage = 1 / len(targets) + np.square(vectors) @ kept
        residuals = (centred - vectors @ (kept[:, None] * turned)) / (1 - leverage)[:, None]
        errors.append(np.mean(np.square(residuals / deviations)))
    ridge = float(candidates[int(np.argmin(errors))])
    return Fit(vectors @ (turned / (values + ridge)[:, None]), ridge)


def weights(
    masks: Bool[np.ndarray, "m p"], duals: Float[np.ndarray, "m n"]
) -> Float[np.ndarray, "p n"]:
    """What seeing each training image adds to each target."""
    blocks = []
    for first in range(0, masks.shape[1], BLOCK):
        block = masks[:, first : first + BLOCK].astype(np.float32)
        blocks.append((block - block.mean(axis=0)).T @ duals.astype(np.float32))
    return np.concatenate(blocks)


def held_out_correlation(
    products: Float[np.ndarray, "m m"], targets: Float[np.ndarray, "m n"], folds: int = 5
) -> Float[np.ndarray, " n"]:
    """The correlation of each target with its prediction for networks that were held out.

    The networks are dealt into folds, each predicted by a fit to the others. Both are centred in
    each fold: the mean of the others is no prediction.

    Args:
      products: from `shared`.
      targets: margins of m networks.
      folds: at least 2.
    """
    predictions, actual = (np.empty(targets.shape) for _ in range(2))
    for fold in range(folds):
        out = np.arange(len(targets)) % folds == fold
        inner = products[np.ix_(~out, ~out)]
        own = _centre(products[np.ix_(out, ~out)], inner) @ fit(inner, targets[~out]).duals
        predictions[out] = own - own.mean(axis=0)
        actual[out] = targets[out] - targets[out].mean(axis=0)
    lengths = np.linalg.norm(predictions, axis=0) * np.linalg.norm(actual, axis=0)
    products_sum = np.sum(predictions * actual, axis=0)
    return products_sum / np.where(lengths > 0, lengths, 1)


def _centre(
    products: Float[np.ndarray, "a m"], among: Float[np.ndarray, "m m"]
) -> Float[np.ndarray, "a m"]:
    """Products of masks of which the mean of those m networks is taken off.

    Args:
      products: of the masks of some networks with those of m others.
      among: of those m.
    """
    rows = products.mean(axis=1, keepdims=True)
    return products - rows - among.mean(axis=0) + among.mean()
