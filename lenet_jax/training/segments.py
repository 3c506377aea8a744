"""The steps of a run in parts of about a second: while one is written about, the next is under way.

Between two parts a run may be stopped and saved. Into which parts an epoch falls changes no bit.
"""

import contextlib
import math
import time
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import jax
from jaxtyping import Array, Float

from lenet_jax.training import step as train
from lenet_jax.training.loop import Programs

SECONDS = 1.0  # of a part; a signal waits for two
FIRST_IMAGES = 4096  # in a part, as long as it is not known how fast they go through


class Part(NamedTuple):
    """Consecutive steps of one epoch, and what they came to.

    Attributes:
      step: steps taken in all, up to the end of the part.
      state: after these steps.
      sums: over the epoch so far.
      learning_rate: the last step's.
      valid: the sums over the validation images; None unless the epoch ends with the part.
      seconds: what the steps took, without the validation.
    """

    step: int
    state: train.TrainState
    sums: train.Metrics
    learning_rate: Float[Array, ""]
    valid: train.Metrics | None
    seconds: float = 0.0


def train_in_parts(
    programs: Programs,
    state: train.TrainState,
    sums: train.Metrics,
    *,
    trace: Path | None = None,
) -> Generator[Part, None, None]:
    """Trains from a state on to the end of the last epoch.

    Close what is left of it where it is not read to its end: a part may be under way.

    Args:
      programs: compiled.
      state: where the training goes on, between two steps.
      sums: over the steps that its epoch has behind it.
      trace: a folder to write a profile of the last epoch to; None: no profile.
    """
    spec = programs.spec
    whole = spec.steps_per_epoch
    pace = max(1, FIRST_IMAGES // spec.batch_size)
    step, order, none = int(state.step), None, programs.place(train.no_metrics())
    ahead: Part | None = None
    with contextlib.ExitStack() as tracing:

        def begin(step: int, state: train.TrainState, sums: train.Metrics) -> Part | None:
            """Gives the device the steps behind `step`; None: there are none."""
            nonlocal order
            epoch, first = divmod(step, whole)
            if epoch == spec.num_epochs:
                return None
            if order is None or first == 0:
                if trace is not None and epoch + 1 == spec.num_epochs:
                    jax.block_until_ready(state)
                    tracing.enter_context(jax.profiler.trace(trace))
                order = programs.order(state, epoch)
            last = first + math.ceil((whole - first) / math.ceil((whole - first) / pace))
            sums = sums if first else none
            state, sums, rate = programs.train_steps(state, sums, order, first, last)
            valid = programs.evaluate(state.params, "valid")[0] if last == whole else None
            return Part(epoch * whole + last, state, sums, rate, valid)

        try:
            free = time.perf_counter()
            ahead = begin(step, state, sums)
            while ahead is not None:
                part, ahead = ahead, begin(ahead.step, ahead.state, ahead.sums)
                jax.block_until_ready(part.sums)
                seconds = time.perf_counter() - free
                pace = max(1, round(SECONDS / seconds * (part.step - step)))
                jax.block_until_ready(part.valid)
                free, step = time.perf_counter(), part.step
                yield part._replace(seconds=seconds)
        finally:
            jax.block_until_ready(ahead)
