"""How far errors rise where the images are corrupted."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Robustness(NamedTuple):
    """The errors of a network, in [0, 1].

    Attributes:
      clean: on the images as they are.
      corrupted: on the same under each corruption, by its name.
    """

    clean: float
    corrupted: Mapping[str, float]

    @property
    def mean_error(self) -> float:
        """The mean corruption error: that over the corruptions."""
        return float(np.mean(list(self.corrupted.values())))

    @property
    def excess(self) -> float:
        """The mean over the corruptions of the error less the clean one."""
        return self.mean_error - self.clean

    @property
    def worst(self) -> str:
        """The name of the corruption with the largest error."""
        return max(self.corrupted, key=lambda name: self.corrupted[name])

    def relative_to(self, baseline: "Robustness") -> float:
        """The mean over the corruptions of the error over that of a baseline: 1 if they are equal.

        The baseline has no error of 0.

        Source: Hendrycks, Dietterich, "Benchmarking neural network robustness to common corruptions
        and perturbations", 2019, section 4.1.
        """
        return float(
            np.mean([error / baseline.corrupted[name] for name, error in self.corrupted.items()])
        )
