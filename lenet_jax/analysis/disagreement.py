"""How often two networks answer differently."""

import numpy as np
from jaxtyping import Float, Integer


def disagreement(predictions: Integer[np.ndarray, "m n"]) -> Float[np.ndarray, "m m"]:
    """The share of n examples that each pair of m networks gives different classes, in [0, 1].

    Also called churn, where one network replaces the other.

    Source: Milani Fard, Cormier, Canini, Gupta, "Launch and iterate: reducing prediction churn",
    2016.
    """
    return np.stack([np.mean(predictions != own, axis=1) for own in predictions])


def lost(
    predictions: Integer[np.ndarray, "m n"], labels: Integer[np.ndarray, " n"]
) -> Float[np.ndarray, "m m"]:
    """The share of examples that network i (row) gets right and network j (column) wrong.

    The part of the churn that users notice, where j replaces i: its transpose is what they win.
    """
    right = predictions == labels
    return np.stack([np.mean(own & ~right, axis=1) for own in right])
