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
        """Compares two arrays; other shapes, or a NaN on one side only, are infinitely apart.

        Args:
          actual: what the package computed.
          expected: what the oracle did.
          least: the smallest number that a difference is divided by.
        """
        actual, expected = (np.asarray(array, np.float64) for array in (actual, expected))
        self.cases += 1
        if actual.shape != expected.shape or not np.array_equal(
            np.isfinite(actual), np.isfinite(expected)
        ):
            self.error = np.inf
            return
        finite = np.isfinite(expected)
        difference = np.abs(actual[finite] - expected[finite]).max(initial=0)
        scale = np.abs(expected[finite]).max(initial=least) or 1.0
        self.error = max(self.error, float(difference / scale))

    def add_each(self, actual: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        """Compares the arrays that both mappings have, which must be some."""
        shared = actual.keys() & expected.keys()
        if not shared:
            raise ValueError(f"nothing to compare: {list(actual)} and {list(expected)}")
        for name in shared:
            self.add(actual[name], expected[name])

    @property
    def holds(self) -> bool:
        """Whether there were cases, and none is out of bounds."""
        return self.cases > 0 and self.error <= self.bound
