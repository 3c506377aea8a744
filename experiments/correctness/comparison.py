"""One comparison with an oracle: over many cases, the largest error."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass
class Comparison:
    """What is compared with what, and how far they were apart.

    Attributes:
      subject: what the package computes.
      oracle: what it is compared with.
      bound: the largest allowed error; 0: equal to the last bit.
      cases: arrays or numbers compared so far.
      error: the largest so far: of an array, the largest difference divided by the largest number
        that is expected in it.
    """

    subject: str
    oracle: str
    bound: float
    cases: int = 0
    error: float = 0.0

    def add(self, actual: Any, expected: Any, least: float = 0.0) -> None:
        """Compares two arrays; other shapes, infinities or NaNs are infinitely far apart.

        Args:
          actual: what the package computed.
          expected: what the oracle did.
          least: the smallest number that a difference is divided by.
        """
        actual, expected = (np.asarray(array, np.float64) for array in (actual, expected))
        self.cases += 1
        finite = np.isfinite(expected)
        if actual.shape != expected.shape or not np.array_equal(
            np.where(np.isfinite(actual), 0, actual), np.where(finite, 0, expected), equal_nan=True
        ):
            self.error = np.inf
            return
        difference = np.abs(actual[finite] - expected[finite]).max(initial=0)
        scale = np.abs(expected[finite]).max(initial=least) or 1.0
        self.error = max(self.error, float(difference / scale))

    def add_each(self, actual: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        """Compares every array of `actual`, each of which `expected` has."""
        for name, array in actual.items():
            self.add(array, expected[name])

    @property
    def holds(self) -> bool:
        """Whether there were cases, and none is out of bounds."""
        return self.cases > 0 and self.error <= self.bound
