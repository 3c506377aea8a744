"""How far the confidence of predictions is to be believed, and its correction by a temperature."""

import dataclasses

import numpy as np
from jaxtyping import Float, Integer

HOTTEST = 100.0  # the largest temperature that is tried; the smallest is its inverse


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Accuracy at each confidence level, in m bins of equal width.

    Attributes:
      confidence: mean probability of the predicted class in each bin; NaN of an empty one.
      accuracy: share of right predictions; NaN likewise.
      count: images.
      error: the expected calibration error: their mean distance over all images.
    """

    confidence: Float[np.ndarray, " m"]
    accuracy: Float[np.ndarray, " m"]
    count: Integer[np.ndarray, " m"]
    error: float


def calibration(
    probabilities: Float[np.ndarray, "n k"], labels: Integer[np.ndarray, " n"], bins: int = 10
) -> Calibration:
    """The calibration of predictions.

    Source: Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", 2017, eq. 3.
    """
    confidences = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    place = np.minimum((confidences * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    divisor = np.where(count > 0, count, np.nan)
    confidence = np.bincount(place, confidences, bins) / divisor
    accuracy = np.bincount(place, right, bins) / divisor
    error = np.nansum(count * np.abs(accuracy - confidence)) / max(len(labels), 1)
    return Calibration(confidence, accuracy, count, float(error))


def negative_log_likelihood(
    logits: Float[np.ndarray, "n k"], labels: Integer[np.ndarray, " n"]
) -> float:
    """The mean over examples, in nats."""
    own = np.take_along_axis(logits.astype(np.float64), labels[:, None].astype(np.intp), axis=1)
    return float(np.mean(np.logaddexp.reduce(logits.astype(np.float64), axis=1) - own[:, 0]))


def fit_temperature(logits: Float[np.ndarray, "n k"], labels: Integer[np.ndarray, " n"]) -> float:
    """What logits are divided by so that their likelihood is highest: above 1, of a sure network.

    Fitted on validation logits, it changes no prediction on the test images, only its probability.
    It is in [1 / `HOTTEST`, `HOTTEST`].

    Source: Guo et al., 2017, section 4.2.
    """
    from scipy.optimize import minimize_scalar  # late: a report does without it

    logits = logits.astype(np.float64)
    limit = np.log(HOTTEST)
    fit = minimize_scalar(
        lambda log: negative_log_likelihood(logits * np.exp(-log), labels),
        bounds=(-limit, limit),
        method="bounded",
    )
    return float(np.exp(fit.x))  # pyright: ignore[reportAttributeAccessIssue]
