"""Trains one network in segments of about a second.

The devices compute one segment while the host handles the results of the previous one. Between two
segments a run can be stopped and saved. How an epoch is split into segments changes no bit.
"""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int32, PyTree

from lenet_jax import machine, timeline
from lenet_jax.config.file import Config
from lenet_jax.data.dataset import Dataset
from lenet_jax.nn.variables import weights_of
from lenet_jax.training import parallel, sizes
from lenet_jax.training.batches import DeviceSplit, EpochSlice, epoch_order
from lenet_jax.training.evaluation import Metrics, evaluate, no_metrics
from lenet_jax.training.hyperparameters import Hyperparameters, hyperparameters, seeds
from lenet_jax.training.spec import Spec, make_spec
from lenet_jax.training.start import Start, abstract_masks, begin, is_pruned, restart
from lenet_jax.training.step import TrainState, init_state, learning_rate, train_steps
from lenet_jax.training.training_set import make_split

SECONDS = 1.0  # of a segment; a signal waits for two
FIRST_IMAGES = 4096  # in a segment, until the speed is known


class Segment(NamedTuple):
    """Consecutive steps of one epoch, and their results.

    Attributes:
      step: steps taken in all, up to the end of the segment.
      state: after these steps.
      sums: over the epoch so far.
      learning_rate: the last step's.
      valid: the sums over the validation images; None unless the epoch ends with the segment.
      ema_valid: those under the average of the parameters, if there is one.
      seconds: duration of the steps, without the validation.
    """

    step: int
    state: TrainState
    sums: Metrics
    learning_rate: Float[Array, ""]
    valid: Metrics | None
    ema_valid: Metrics | None
    seconds: float = 0.0


class Trainer:
    """Trains and evaluates the network of one config.

    Attributes:
      config: the run's.
      dataset: what it trains and evaluates on.
      spec: the static specification.
    """

    def __init__(self, config: Config, dataset: Dataset):
        """Chooses the devices; nothing is compiled or copied yet.

        Raises:
          UserError: as `make_spec` does.
        """
        spec = make_spec(config, dataset)
        num_devices = parallel.count_sharing(spec.batch_size, spec.micro_batch_size)
        self.config, self.dataset, self.spec = config, dataset, spec.shared_by(num_devices)
        self._seeds, self._hyperparameters = seeds(config), hyperparameters(config)
        self._init = functools.partial(init_state, self.spec)
        # It runs once: to optimise it would take a quarter of all compilation.
        on_cpu = machine.devices()[0].platform == "cpu"
        options = {"xla_backend_optimization_level": 1} if on_cpu else {}
        self._start = jax.jit(self._init, compiler_options=options)

    def abstract_state(self) -> TrainState:
        """The shapes and dtypes of a state."""
        state = jax.eval_shape(self._init, self._seeds, self._hyperparameters)
        masks = abstract_masks(self.spec) if is_pruned(self.config) else None
        return dataclasses.replace(state, masks=masks)

    def init(self, start: Start | None = None) -> TrainState:
        """The state before the first step.

        Args:
          start: what the config names; None: weights are drawn, and not pruned.
        """
        state = self.place(self._start(self._seeds, self._hyperparameters))
        if start is None:
            return state
        drawn = jax.device_get(weights_of(state.params))
        return restart(self.spec, state, *self.place(begin(self.spec, self.config, drawn, start)))

    def place(self, tree: PyTree) -> Any:
        """Copies arrays to the devices."""
        return parallel.replicate(tree, self.spec.num_devices)

    def compile(self) -> None:
        """Copies the data to the devices, and compiles the functions or loads them from the cache.

        Evaluated splits are padded to one size, so that they share a compiled function.
        """
        spec, dataset = self.spec, self.dataset
        size = max(len(dataset.valid), len(dataset.test))
        self._train_split = self.place(DeviceSplit.of(make_split(self.config, dataset)))
        self._splits = {
            "valid": self.place(DeviceSplit.of(dataset.valid, size)),
            "test": self.place(DeviceSplit.of(dataset.test, size)),
        }

        images = self._train_split.images
        state = _like(self.abstract_state(), images)
        sums = _like(jax.eval_shape(no_metrics), images)
        shape = spec.steps_per_epoch, spec.batch_size
        order = _like(jax.ShapeDtypeStruct(shape, np.int32), images)
        steps = EpochSlice(order, np.int32(0), np.int32(0))
        with ThreadPoolExecutor() as pool:

            def shared(function: Any, *args: PyTree) -> Future[Any]:
                options, bound = spec.compiler_options(), functools.partial(function, spec)
                jitted = parallel.compile_shared(bound, spec.num_devices, options=options)
                return _compile(pool, function.__name__, jitted, *args)

            # What takes longest comes first. No buffer is donated: a checkpoint is written from one
            # state during the next steps. Hyperparameters are arguments, since constants would
            # force a recompilation.
            settings = self._hyperparameters
            take_steps = shared(_take_steps, state, sums, self._train_split, steps, settings)
            start = _compile(pool, init_state.__name__, self._start, self._seeds, settings)
            epoch = shared(epoch_order, state.order_key, np.int32(0))
            evaluation = shared(evaluate, state.params, self._splits["test"])
        self._take_steps, self._start = take_steps.result(), start.result()
        self._epoch_order, self._evaluate = epoch.result(), evaluation.result()

    def memory(self) -> int:
        """Bytes of what some steps give, and of what they hold meanwhile, beside the images."""
        return sizes.memory_of(self._take_steps)

    def order(self, state: TrainState, epoch: int) -> Int32[Array, "steps b"]:
        """Indices of the examples of each step of an epoch, counted from 0."""
        return self._epoch_order(state.order_key, np.int32(epoch))

    def evaluate(self, params: nnx.State, split: str) -> tuple[Metrics, Float[Array, "n k"]]:
        """The metrics of a split, `valid` or `test`, and its logits, padded with rows of 0."""
        return self._evaluate(params, self._splits[split])

    def take_steps(
        self, state: TrainState, sums: Metrics, steps: EpochSlice, rate: float | None = None
    ) -> tuple[TrainState, Metrics, Float[Array, ""]]:
        """Dispatches some steps of an epoch; returns before they are computed.

        Args:
          state: before the first of the steps.
          sums: over the epoch's steps so far.
          steps: with `first` and `last` as Python integers.
          rate: the optimiser's peak learning rate; None: the config's.

        Returns:
          The new state, the sums with those of these steps, and the last step's learning rate.
        """
        first, last = (np.asarray(bound, np.int32) for bound in (steps.first, steps.last))
        steps = EpochSlice(steps.order, first, last)
        settings = self._hyperparameters
        if rate is not None:
            settings = settings | {"optimizer": settings["optimizer"] | {"learning_rate": rate}}
        return self._take_steps(state, sums, self._train_split, steps, settings)


def train_in_segments(
    trainer: Trainer,
    state: TrainState,
    sums: Metrics,
    *,
    num_epochs: int | None = None,
    trace: Path | None = None,
) -> Generator[Segment, None, None]:
    """Trains from a state to the end of the last epoch.

    Close the generator if it is not exhausted: a segment may still be running.

    Args:
      trainer: compiled.
      state: where to start, between two steps.
      sums: over the steps of its epoch so far.
      num_epochs: the last of them, counted from 1; None: the spec's.
      trace: a folder to write a profile of the last epoch to; None: no profile.
    """
    num_epochs, whole = num_epochs or trainer.spec.num_epochs, trainer.spec.steps_per_epoch
    pace = max(1, FIRST_IMAGES // trainer.spec.batch_size)
    done = step = int(state.step)
    none, order = trainer.place(no_metrics()), None
    running = ahead = None
    with contextlib.ExitStack() as tracing:
        try:
            free = time.perf_counter()
            while True:
                epoch, first = divmod(step, whole)
                ahead = None
                if epoch < num_epochs:
                    if trace is not None and epoch + 1 == num_epochs:
                        jax.block_until_ready(state)
                        tracing.enter_context(jax.profiler.trace(trace))
                        trace = None
                    if order is None or first == 0:
                        order = trainer.order(state, epoch)
                    last = first + math.ceil((whole - first) / math.ceil((whole - first) / pace))
                    steps = EpochSlice(order, first, last)
                    state, sums, rate = trainer.take_steps(state, sums if first else none, steps)
                    step = epoch * whole + last
                    valid = ema_valid = None
                    if last == whole:
                        valid, _ = trainer.evaluate(state.params, "valid")
                        if state.averaged is not None:
                            ema_valid, _ = trainer.evaluate(state.averaged, "valid")
                    ahead = Segment(step, state, sums, rate, valid, ema_valid)
                if running is not None:
                    jax.block_until_ready(running.sums)
                    seconds = time.perf_counter() - free
                    pace = max(1, round(SECONDS / seconds * (running.step - done)))
                    jax.block_until_ready((running.valid, running.ema_valid))
                    free, done = time.perf_counter(), running.step
                    yield running._replace(seconds=seconds)
                if ahead is None:
                    return
                running = ahead
        finally:
            jax.block_until_ready(ahead)


def _compile(pool: ThreadPoolExecutor, name: str, function: Any, *args: PyTree) -> Future[Any]:
    """Traces a jitted function, and compiles it on another thread."""
    with timeline.span(f"tracing: {name}"):
        lowered = function.lower(*args)

    def compile_lowered() -> Any:
        with timeline.span(f"XLA: {name}"):
            return lowered.compile()

    return pool.submit(compile_lowered)


def _take_steps(
    spec: Spec,
    state: TrainState,
    sums: Metrics,
    split: DeviceSplit,
    steps: EpochSlice,
    hyperparameters: Hyperparameters,
) -> tuple[TrainState, Metrics, Float[Array, ""]]:
    state, sums = train_steps(spec, state, sums, split, steps, hyperparameters)
    return state, sums, learning_rate(spec, hyperparameters, state.step - 1)


def _like(shapes: PyTree, placed: jax.Array) -> Any:
    """Abstract arrays of these shapes, with the sharding of `placed`."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed.sharding), shapes
    )
