"""Which training images move which test images: linear models of margins of many networks.

Networks are trained on random subsets of the training images. The margin of a test image is
regressed on which training images a network saw: a weight is what seeing one adds to the margin.

Few training images matter for one test image, and there may be more of them than networks, so the
regression is a lasso. The columns of independent random subsets are nearly orthogonal, and where
they are the lasso has a closed form: the slope on each image by itself, drawn towards 0 by the same
number of its standard errors, and 0 below that.

Source: Ilyas, Park, Engstrom, Leclerc, Madry, "Datamodels: predicting predictions from training
data", 2022, section 3; Tibshirani, "Regression shrinkage and selection via the lasso", 1996,
section 2.2.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer

THRESHOLDS = np.arange(0, 5.5, 0.5)  # standard errors that are tried
TUNED = 1000  # targets at most that the threshold is chosen on
BLOCK = 500  # targets whose weights are in memory at once


def margins(
    logits: Float[np.ndarray, "*m n k"], labels: Integer[np.ndarray, " n"]
) -> Float[np.ndarray, "*m n"]:
    """The logit of the true class less the largest other one: above 0 where it is right."""
    own = np.arange(logits.shape[-1]) == labels[:, None]
    true = np.take_along_axis(logits, np.broadcast_to(labels[:, None], (*logits.shape[:-1], 1)), -1)
    return true[..., 0] - np.where(own, -np.inf, logits).max(axis=-1)


class Design(NamedTuple):
    """The masks of m networks, ready for a regression.

    Attributes:
      columns: of each training image, 1 for those that saw it and 0 for the others, less their
        mean, of length 1; 0 where all did alike.
      mean: what was taken off.
      length: what they were divided by.
    """

    columns: Float[np.ndarray, "m p"]
    mean: Float[np.ndarray, " p"]
    length: Float[np.ndarray, " p"]

    @classmethod
    def of(cls, masks: Bool[np.ndarray, "m p"]) -> "Design":
        """The design of some networks."""
        columns = masks.astype(np.float32)
        mean = columns.mean(axis=0)
        columns -= mean
        length = np.linalg.norm(columns, axis=0)
        length = np.where(length > 0, length, np.float32(1))
        columns /= length
        return cls(columns, mean, length)

    def weights(
        self, targets: Float[np.ndarray, "m n"], threshold: float
    ) -> Float[np.ndarray, "p n"]:
        """What seeing each training image adds to each target.

        Args:
          targets: margins of the networks.
          threshold: standard errors by which slopes are drawn towards 0.
        """
        centred = (targets - targets.mean(axis=0)).astype(np.float32)
        slopes = self.columns.T @ centred
        reach = np.float32(threshold) * centred.std(axis=0)
        shrunk = np.sign(slopes) * np.maximum(np.abs(slopes) - reach, 0)
        return shrunk / self.length[:, None]

    def predict(
        self, masks: Bool[np.ndarray, "a p"], weights: Float[np.ndarray, "p n"]
    ) -> Float[np.ndarray, "a n"]:
        """How far the targets of other networks are from the mean, by what they saw."""
        return (masks - self.mean) @ weights


def choose_threshold(masks: Bool[np.ndarray, "m p"], targets: Float[np.ndarray, "m n"]) -> float:
    """The one of `THRESHOLDS` that predicts a fifth of the networks best from the others.

    All targets count on their own scales; of many some are taken, evenly.
    """
    some = targets[:, :: -(-targets.shape[1] // TUNED)]
    out = np.arange(len(masks)) % 5 == 0
    design, known = Design.of(masks[~out]), some[~out]
    actual = some[out] - known.mean(axis=0)
    scale = np.maximum(known.std(axis=0), np.finfo(np.float32).tiny)

    def error(threshold: float) -> float:
        missed = actual - design.predict(masks[out], design.weights(known, threshold))
        return float(np.mean(np.square(missed / scale)))

    return float(min(THRESHOLDS, key=error))


def held_out_correlation(
    masks: Bool[np.ndarray, "m p"], targets: Float[np.ndarray, "m n"], folds: int = 5
) -> Float[np.ndarray, " n"]:
    """The correlation of each target with its prediction for networks that were held out.

    The networks are dealt into folds, each predicted from the others, which also choose the
    threshold. Both are centred in each fold: the mean of the others is no prediction.

    Args:
      masks: which training images each network saw.
      targets: margins of the networks.
      folds: at least 2.

    Returns:
      Correlations; 0 where nothing is predicted.
    """
    fold = np.arange(len(masks)) % folds
    sums = np.zeros((3, targets.shape[1]))
    for out in (fold == number for number in range(folds)):
        threshold = choose_threshold(masks[~out], targets[~out])
        design = Design.of(masks[~out])
        for first in range(0, targets.shape[1], BLOCK):
            own = slice(first, first + BLOCK)
            predicted = design.predict(masks[out], design.weights(targets[~out, own], threshold))
            predicted = predicted - predicted.mean(axis=0)
            actual = targets[out, own] - targets[out, own].mean(axis=0)
            products = predicted * actual, np.square(predicted), np.square(actual)
            sums[:, own] += [product.sum(axis=0) for product in products]
    lengths = np.sqrt(sums[1] * sums[2])
    return sums[0] / np.where(lengths > 0, lengths, 1)
