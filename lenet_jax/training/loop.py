"""The compiled programs of one run, with its data on the devices that share the work."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int32, PyTree, UInt8

from lenet_jax.config.file import Config
from lenet_jax.data.dataset import Dataset, Split
from lenet_jax.training import batches, parallel
from lenet_jax.training import step as train
from lenet_jax.training.spec import Spec, hyperparameters, seeds


class Programs:
    """What trains and evaluates the network of one config.

    Attributes:
      spec: what is compiled.
    """

    def __init__(self, config: Config, spec: Spec, dataset: Dataset):
        """Chooses the devices; nothing is compiled or copied yet."""
        num_devices = parallel.count_sharing(spec.batch_size, spec.micro_batch_size)
        self.spec = dataclasses.replace(spec, num_devices=num_devices)
        self._dataset = dataset
        self._seeds, self._numbers = seeds(config), hyperparameters(config)
        self._init = functools.partial(train.init_state, self.spec)

    def shapes(self) -> train.TrainState:
        """The shapes and dtypes of a state."""
        return jax.eval_shape(self._init, self._seeds, self._numbers)

    def init(self) -> train.TrainState:
        """The state before the first step."""
        return self.place(jax.jit(self._init)(self._seeds, self._numbers))

    def place(self, tree: PyTree) -> Any:
        """Copies arrays to the devices."""
        return parallel.replicate(tree, self.spec.num_devices)

    def compile(self) -> None:
        """Copies the data, and compiles what trains and evaluates or finds it in the cache.

        The splits that are evaluated are padded to one size, so that they share one program.
        """
        spec, dataset = self.spec, self._dataset
        self._train_split = self.place((dataset.train.images, dataset.train.labels))
        evaluated = {"valid": dataset.valid, "test": dataset.test}
        longest = max(map(len, evaluated.values()))
        self._splits = {name: self.place(_pad(split, longest)) for name, split in evaluated.items()}

        # Numbers are arguments: a program that knew them would be compiled anew for others.
        def train_steps(state: train.TrainState, *args: Any) -> tuple[Any, ...]:
            state, sums = train.train_steps(spec, state, *args)
            return state, sums, train.learning_rate(spec, args[-1], state.step - 1)

        compile_shared = functools.partial(parallel.compile_shared, num_devices=spec.num_devices)
        state, sums = (
            _like(shapes, self._train_split[0])
            for shapes in (self.shapes(), jax.eval_shape(train.no_metrics))
        )
        order = compile_shared(functools.partial(batches.epoch_order, spec))
        lowered = order.lower(state.order_key, np.int32(0))
        self._order = lowered.compile()
        order = _like(lowered.out_info, self._train_split[0])
        # Nothing is donated: while the next steps are taken, a checkpoint is made of the last ones.
        args = (*self._train_split, order, np.int32(0), np.int32(0), self._numbers)
        self._train_steps = compile_shared(train_steps).lower(state, sums, *args).compile()
        program = compile_shared(functools.partial(train.evaluate, spec))
        self._evaluate = program.lower(state.params, *self._splits["test"]).compile()

    def order(self, state: train.TrainState, epoch: int) -> Int32[Array, "steps b"]:
        """The examples of each step of an epoch, which is counted from 0."""
        return self._order(state.order_key, np.int32(epoch))

    def train_steps(
        self,
        state: train.TrainState,
        sums: train.Metrics,
        order: Int32[Array, "steps b"],
        first: int,
        last: int,
    ) -> tuple[train.TrainState, train.Metrics, Float[Array, ""]]:
        """Takes the steps `first` to `last` - 1 of the epoch that has this order.

        Returns:
          The new state, the sums with what was met on the way, and the last step's learning rate.
        """
        args = (*self._train_split, order, np.int32(first), np.int32(last), self._numbers)
        return self._train_steps(state, sums, *args)

    def evaluate(self, params: nnx.State, split: str) -> tuple[train.Metrics, Float[Array, "n k"]]:
        """The metrics of a split, `valid` or `test`, and its logits, with rows of 0 behind them."""
        return self._evaluate(params, *self._splits[split])


def _pad(split: Split, size: int) -> tuple[UInt8[np.ndarray, "n h w c"], np.ndarray, np.int32]:
    """The images and labels with zeros behind them, and how many count."""
    count = len(split)
    images = np.pad(split.images, ((0, size - count), (0, 0), (0, 0), (0, 0)))
    return images, np.pad(split.labels, (0, size - count)), np.int32(count)


def _like(shapes: PyTree, placed: jax.Array) -> Any:
    """Stand-ins for arrays of these shapes, where `placed` is."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed.sharding), shapes
    )
