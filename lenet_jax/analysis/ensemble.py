"""Several networks as one: the mean of their probabilities."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer
from scipy.special import log_softmax, softmax

from lenet_jax.analysis.calibration import calibration, fit_temperature, negative_log_likelihood


class Scores(NamedTuple):
    """How good predictions are.

    Attributes:
      accuracy: in [0, 1].
      loss: mean negative log-likelihood, in nats.
      calibration_error: expected calibration error, in [0, 1].
    """

    accuracy: float
    loss: float
    calibration_error: float


def scores(logits: Float[np.ndarray, "n k"], labels: Integer[np.ndarray, " n"]) -> Scores:
    """The scores of logits."""
    return Scores(
        float(np.mean(logits.argmax(axis=1) == labels)),
        negative_log_likelihood(logits, labels),
        calibration(softmax(logits.astype(np.float64), axis=1), labels).error,
    )


def combine(logits: Float[np.ndarray, "*m n k"]) -> Float[np.ndarray, "*m2 n k"]:
    """The logarithm of the mean probability of members, the third axis from the end.

    Source: Lakshminarayanan, Pritzel, Blundell, "Simple and scalable predictive uncertainty
    estimation using deep ensembles", 2017, section 2.4.
    """
    log_probabilities = log_softmax(logits.astype(np.float64), axis=-1)
    return np.logaddexp.reduce(log_probabilities, axis=-3) - np.log(logits.shape[-3])


def disjoint(logits: Float[np.ndarray, "m n k"], size: int) -> Float[np.ndarray, "e n k"]:
    """The logits of the ensembles of `size` members each that m members make.

    They share no member, so that their scores are independent of each other.

    Raises:
      ValueError: there are fewer members than `size`.
    """
    count = len(logits) // size
    if count < 1:
        raise ValueError(f"{len(logits)} members make no ensemble of {size}")
    return combine(logits[: count * size].reshape(count, size, *logits.shape[1:]))


def size_curve(
    test: Float[np.ndarray, "m n k"],
    labels: Integer[np.ndarray, " n"],
    sizes: Sequence[int],
    valid: Float[np.ndarray, "m n2 k"] | None = None,
    valid_labels: Integer[np.ndarray, " n2"] | None = None,
) -> dict[int, list[Scores]]:
    """The scores of disjoint ensembles of each size, as many as the members make.

    Args:
      test: logits of each member.
      labels: of the same images.
      sizes: of ensembles, 1 to m.
      valid: logits of other images; with them, each ensemble's are divided by its temperature.
      valid_labels: of those.
    """
    curve = {}
    for size in sizes:
        ensembles = disjoint(test, size)
        if valid is not None and valid_labels is not None:
            temperatures = [fit_temperature(own, valid_labels) for own in disjoint(valid, size)]
            ensembles = ensembles / np.array(temperatures)[:, None, None]
        curve[size] = [scores(own, labels) for own in ensembles]
    return curve
