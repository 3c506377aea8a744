"""A learning-rate range test: an epoch whose rate grows from step to step, and what it suggests.

Source: Smith, "Cyclical learning rates for training neural networks" (2017), section 3.3.
"""

import math
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from lenet_jax.training.batches import EpochSlice
from lenet_jax.training.evaluation import no_metrics
from lenet_jax.training.loop import Trainer

CHECKS = 20  # of whether to stop, over the test
MEMORY = 0.02  # of the test: the steps over which the loss is averaged
WORSE = 4.0  # times the lowest average, at which the test stops
LEAST = 0.02  # of the first average, by which it must fall for a suggestion


class RateTest(NamedTuple):
    """The steps of a test, until it stopped.

    Attributes:
      rates: the learning rate of each step.
      losses: the objective of its batch, before the step.
      averages: the moving average of the losses, in which all count equally at first.
      lowest: the step of the lowest average.
      steepest: the step at which the average falls fastest over the logarithm of the rate, before
        that; None if it does not fall.
    """

    rates: Float[np.ndarray, " n"]
    losses: Float[np.ndarray, " n"]
    averages: Float[np.ndarray, " n"]
    lowest: int
    steepest: int | None

    @property
    def suggestion(self) -> float | None:
        """A third of the rate of the lowest average; None if the loss does not fall."""
        return None if self.steepest is None else float(self.rates[self.lowest]) / 3


def run_test(trainer: Trainer, lowest: float, highest: float, steps: int) -> RateTest:
    """Takes the first steps of an epoch at rates that grow by a constant factor.

    The test stops early once the average of the loss is `WORSE` times its lowest, or is not finite.

    Args:
      trainer: compiled, of a config with a constant schedule.
      lowest: the first rate.
      highest: the last rate.
      steps: at least 2, at most those of an epoch.
    """
    rates = np.geomspace(lowest, highest, steps)
    state, none = trainer.init(), trainer.place(no_metrics())
    order, losses = trainer.order(state, 0), []
    every = math.ceil(steps / CHECKS)
    for first in range(0, steps, every):
        sums = []
        for step in range(first, min(first + every, steps)):
            bounds = EpochSlice(order, step, step + 1)
            state, of_step, _ = trainer.take_steps(state, none, bounds, float(rates[step]))
            sums.append((of_step.objective, of_step.count))
            # Devices that share a batch wait for each other: many steps under way could block them.
            jax.block_until_ready(state)
        losses += [float(total / count) for total, count in jax.device_get(sums)]
        average = _average(np.array(losses), steps)
        if int(state.step) < 0 or not average[-1] <= WORSE * average.min():
            break
    return summarise(rates, np.array(losses), steps)


def summarise(
    rates: Float[np.ndarray, " n"], losses: Float[np.ndarray, " m"], steps: int
) -> RateTest:
    """The test of these losses, without those after the first that is not finite.

    Args:
      rates: of all steps.
      losses: of the steps taken.
      steps: of the whole test, which say how long the moving average is.
    """
    finite = np.isfinite(losses)
    count = len(losses) if finite.all() else max(1, int(finite.argmin()))
    averages = _average(losses[:count], steps)
    lowest, steepest = int(np.argmin(averages)), None
    if averages[lowest] < (1 - LEAST) * averages[0]:
        slopes = np.gradient(averages[: lowest + 1], np.log(rates[: lowest + 1]))
        steepest = int(np.argmin(slopes))
    return RateTest(rates[:count], losses[:count], averages, lowest, steepest)


def _average(losses: Float[np.ndarray, " n"], steps: int) -> Float[np.ndarray, " n"]:
    """Exponential moving averages, corrected for their start."""
    decay = 1 - 1 / max(1.0, MEMORY * steps)
    averages, total, weight = [], 0.0, 0.0
    for loss in losses.tolist():
        total, weight = decay * total + (1 - decay) * loss, decay * weight + (1 - decay)
        averages.append(total / weight)
    return np.array(averages)
