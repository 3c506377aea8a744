"""Many networks of one spec, trained by one compiled function on all devices.

A population is a stack of the states and settings that single runs have, and its members take the
same `step.train_step`. Seeds and settings (learning rate, weight decay, augmentation, …) differ
between members; the static `Spec` does not.

On a CPU the members of a device train one after the other (`map`: the data of a network this small
then stays in the cache), with one host device per core, see `machine.use_cores`. On
accelerators they train side by side (`vmap`).

A member whose loss or parameters stop being finite is frozen in the state before that step, and
its `step` becomes negative: -17 says that the 17th step failed. A member that `train.patience`
stops is frozen likewise, in the state after the last step of that epoch. Other members are
unaffected.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int32, PyTree

from lenet_jax import machine
from lenet_jax.config.file import Config
from lenet_jax.data.dataset import Split
from lenet_jax.device_defaults import defaults_of
from lenet_jax.nn.variables import weights_of
from lenet_jax.training.batches import (
    Batch,
    DeviceSplit,
    EpochSlice,
    epoch_order,
    make_batch,
)
from lenet_jax.training.evaluation import Metrics, evaluate, no_metrics
from lenet_jax.training.hyperparameters import Hyperparameters, hyperparameters, seeds
from lenet_jax.training.spec import Spec
from lenet_jax.training.start import Start, begin, restart
from lenet_jax.training.step import (
    TrainState,
    guarded_step,
    init_state,
    loop,
    train_epoch,
    with_curvature,
)
from lenet_jax.training.training_set import TrainingSet

Strategy = Literal["auto", "map", "vmap"]
Tree = TypeVar("Tree", bound=PyTree)
Item = TypeVar("Item")
AXIS = "members"
NEVER = 2**31 - 1  # a patience that no training exhausts


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Members:
    """All that changes while a population trains; the leading axis of every array is the members.

    Attributes:
      state: the training states; `state.step` is negative where a member is frozen.
      best_params: the parameters of the epoch that was best on validation, the first of equals; or
        without validation of the last. For a member that froze in its first epoch, those it froze
        with.
      best_epoch: that epoch, counted from 1; 0 if there is none.
      best_valid: the sums over the validation images in that epoch.
      stopped_epoch: the epoch after which `train.patience` stopped the member, counted from 1; 0 if
        it did not.
    """

    state: TrainState
    best_params: nnx.State
    best_epoch: Int32[Array, "..."]
    best_valid: Metrics
    stopped_epoch: Int32[Array, "..."]


class Settings(NamedTuple):
    """What differs between members; a slot that is not `active` is padding and never trains.

    `training_set` is None where all train on the whole split.
    """

    seeds: Mapping[str, Any]
    hyperparameters: Hyperparameters
    patience: Any
    active: Any
    training_set: TrainingSet | None = None

    def own(self, split: DeviceSplit) -> DeviceSplit:
        """A member's training split, which shares the images with those of other members."""
        if self.training_set is None:
            return split
        return split._replace(**self.training_set._asdict())


class EpochMetrics(NamedTuple):
    """Each member's metrics of an epoch; NaN once it is frozen.

    Those under the average of the parameters are None without `train.ema_decay`.
    """

    train_loss: Float[Array, "..."]
    train_accuracy: Float[Array, "..."]
    valid_loss: Float[Array, "..."]
    valid_accuracy: Float[Array, "..."]
    measured: dict[str, Float[Array, "..."]]  # on the validation images
    valid_ema_loss: Float[Array, "..."] | None = None
    valid_ema_accuracy: Float[Array, "..."] | None = None


class Population:
    """The compiled functions of populations of one spec; the caller holds the arrays.

    Attributes:
      spec: what the members have in common.
      size: slots for members: at least the requested size, a multiple of the devices.
    """

    def __init__(
        self,
        spec: Spec,
        size: int,
        *,
        devices: Sequence[Any] = (),
        strategy: Strategy = "auto",
        shared_data_order: bool = False,
    ):
        """Prepares the functions, which are compiled when they are first called.

        Args:
          spec: what the members have in common.
          size: how many members there may be.
          devices: what to train on; those of `machine.devices`, if none are given.
          strategy: `map`, `vmap`, or `auto`: what suits the devices.
          shared_data_order: gathers and augments each batch once for all members of a device, with
            the first member's settings; members alternate after every step, not every epoch. Their
            seeds of order and augmentation, augmentation strengths, training sets and class weights
            must be equal.
        """
        self._mesh = Mesh(np.asarray(devices or machine.devices()), (AXIS,))
        self.spec, self.size = spec, -(-size // self._mesh.size) * self._mesh.size
        self._mapped = choose_strategy(strategy, self._mesh.devices.flat[0]) == "map"
        self._over = _map if self._mapped else jax.vmap
        advance = self._advance_together if shared_data_order else self._advance_apart
        members, everywhere = PartitionSpec(AXIS), PartitionSpec()
        self._init = self._compile(self._over(self._begin), (members,))
        self._advance = self._compile(
            advance, (members, members, everywhere, everywhere, everywhere), donate_argnums=0
        )
        self._test = self._compile(self._evaluate, (members, everywhere))
        self._logits = self._compile(self._answer, (members, everywhere))

    def put(self, split: Split, size: int = 1) -> DeviceSplit:
        """Copies a split to every device, padded with images of zeros to at least `size`."""
        everywhere = NamedSharding(self._mesh, PartitionSpec())
        return jax.device_put(DeviceSplit.of(split, max(size, len(split))), everywhere)

    def start(
        self, configs: Sequence[Config], training_sets: Sequence[TrainingSet] = ()
    ) -> tuple[Members, Settings]:
        """The members of these configs before their first step, and their settings.

        Unused slots are padding. The leading axis of every result is the slots, from which `pick`
        selects the members.

        Args:
          configs: one for each member.
          training_sets: likewise; none: every member trains on the whole training split.
        """
        assert 0 < len(configs) <= self.size
        padded, sets = self._pad(configs), self._pad(training_sets)
        settings = Settings(
            _stack([seeds(config) for config in padded], np.int32),
            _stack([hyperparameters(config) for config in padded], np.float32),
            _stack([config.train.patience or NEVER for config in padded], np.int32),
            np.arange(self.size) < len(configs),
            _stack(sets, np.int32) if sets else None,
        )
        order = self._slots()
        settings = jax.tree.map(lambda array: array[order], settings)
        settings = jax.device_put(settings, NamedSharding(self._mesh, PartitionSpec(AXIS)))
        return self._init(settings), settings

    def restart(
        self, members: Members, configs: Sequence[Config], starts: Sequence[Start]
    ) -> Members:
        """Members before their first step, with the weights and masks of their configs.

        Args:
          members: from `start`.
          configs: those of `start`, all of which prune, or none.
          starts: what each config names.
        """
        drawn = self.pick(weights_of(members.state.params), len(configs))
        begun = [
            begin(self.spec, config, jax.tree.map(lambda leaf, i=index: leaf[i], drawn), start)
            for index, (config, start) in enumerate(zip(configs, starts, strict=True))
        ]
        order, sharding = self._slots(), NamedSharding(self._mesh, PartitionSpec(AXIS))
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves)[order], *self._pad(begun))
        state = restart(self.spec, members.state, *jax.device_put(stacked, sharding))
        best_params = jax.tree.map(jnp.copy, state.params)  # each is donated
        return dataclasses.replace(members, state=state, best_params=best_params)

    def train_epoch(
        self,
        members: Members,
        settings: Settings,
        train_split: DeviceSplit,
        valid_split: DeviceSplit,
        epoch: int,
    ) -> tuple[Members, EpochMetrics]:
        """Trains every member for an epoch, counted from 0, and validates it.

        The buffers of `members` are donated.
        """
        return self._advance(members, settings, train_split, valid_split, np.int32(epoch))

    def compile_epoch(
        self,
        members: Members,
        settings: Settings,
        train_split: DeviceSplit,
        valid_split: DeviceSplit,
    ) -> jax.stages.Compiled:
        """Compiles `train_epoch` for shapes or arrays, to call it or for XLA's analysis of it."""
        args = members, settings, train_split, valid_split, np.int32(0)
        return self._advance.lower(*args).compile()

    def test(self, members: Members, split: DeviceSplit) -> Metrics:
        """The sums over all images of a split, under each member's best parameters."""
        return self._test(members.best_params, split)

    def test_averaged(self, members: Members, split: DeviceSplit) -> Metrics | None:
        """Those under the average of each member's parameters; None without `train.ema_decay`."""
        averaged = members.state.averaged
        return None if averaged is None else self._test(averaged, split)

    def logits(self, params: nnx.State, split: DeviceSplit) -> Float[Array, "members n k"]:
        """The logits of all images of a split, under each member's parameters."""
        return self._logits(params, split)

    def pick(self, tree: Tree, count: int) -> Tree:
        """The first `count` members of stacked arrays, in the configs' order, as NumPy arrays."""
        at = np.argsort(self._slots())[:count]
        return jax.tree.map(lambda array: np.asarray(array)[at], tree)

    def _pad(self, items: Sequence[Item]) -> list[Item]:
        return [*items, *list(items[:1]) * (self.size - len(items))]

    def _slots(self) -> np.ndarray:
        """The member of each slot, dealt out so that every device has equally many."""
        return np.arange(self.size).reshape(-1, self._mesh.size).T.ravel()

    def _compile(
        self, function: Callable[..., Any], in_specs: tuple[PartitionSpec, ...], **options: Any
    ) -> Any:
        first = self._mesh.devices.flat[0]

        def compute(*args: Any) -> Any:
            with jax.default_device(first):  # for which the layers choose their backend
                return function(*args)

        sharded = jax.shard_map(
            compute,
            mesh=self._mesh,
            in_specs=in_specs,
            out_specs=PartitionSpec(AXIS),
            check_vma=False,
        )
        options |= {"compiler_options": self.spec.compiler_options(first)}
        return jax.jit(sharded, **options)

    def _begin(self, settings: Settings) -> Members:
        state = init_state(self.spec, settings.seeds, settings.hyperparameters)
        state = dataclasses.replace(state, step=jnp.where(settings.active, state.step, -1))
        # Fewer hits than any network has, so that the first epoch is better.
        measured = {name: jnp.zeros(()) for name in self.spec.measured}
        none = dataclasses.replace(no_metrics(), correct=jnp.float32(-1), measured=measured)
        return Members(state, state.params, jnp.int32(0), none, jnp.int32(0))

    def _advance_apart(
        self,
        members: Members,
        settings: Settings,
        train_split: DeviceSplit,
        valid: DeviceSplit,
        epoch: Array,
    ) -> tuple[Members, EpochMetrics]:
        """Trains each member for the epoch, in its own order."""

        def advance(args: tuple[Members, Settings]) -> tuple[Members, EpochMetrics]:
            member, settings = args
            hyper, own = settings.hyperparameters, settings.own(train_split)

            def run(state: TrainState) -> tuple[TrainState, Metrics]:
                return train_epoch(self.spec, state, own, epoch, hyper)

            after = self._unless_frozen(run, member.state)
            return self._validate(member, *after, settings.patience, valid, epoch)

        return self._over(advance)((members, settings))

    def _advance_together(
        self,
        members: Members,
        settings: Settings,
        train_split: DeviceSplit,
        valid: DeviceSplit,
        epoch: Array,
    ) -> tuple[Members, EpochMetrics]:
        """Trains all members on one batch, and then on the next."""

        def take(carry: tuple[TrainState, Metrics], batch: Batch) -> tuple[TrainState, Metrics]:
            states, sums = carry

            def take_one(args: tuple[TrainState, Hyperparameters]) -> Any:
                state, hyper = args
                return self._unless_frozen(
                    lambda state: guarded_step(self.spec, state, batch, hyper), state
                )

            states, new = self._over(take_one)((states, settings.hyperparameters))
            return states, jax.tree.map(jnp.add, sums, new)

        def validate(args: tuple[Members, TrainState, Metrics, Array]) -> Any:
            return self._validate(*args, valid, epoch)

        steps = self.spec.steps_per_epoch
        first, shared = jax.tree.map(lambda x: x[0], (members.state, settings))
        hyper, own = shared.hyperparameters, shared.own(train_split)
        order = epoch_order(self.spec, first.order_key, epoch)

        def fetch(step: Int32[Array, ""], size: int) -> Batch:
            key = jax.random.fold_in(first.augment_key, epoch * steps + step)
            return make_batch(self.spec, own, order[step][:size], key, hyper)

        sums = jax.tree.map(lambda zero: jnp.full(len(members.best_epoch), zero), no_metrics())

        def prepare(args: tuple[TrainState, Hyperparameters]) -> TrainState:
            state, hyper = args
            return with_curvature(self.spec, state, own, EpochSlice(order, 0, steps), hyper)

        states = members.state
        if self.spec.estimates_curvature:
            states = self._over(prepare)((states, settings.hyperparameters))
        carry = states, sums
        states, metrics = loop(self.spec, take, fetch, 0, steps, carry)
        return self._over(validate)((members, states, metrics, settings.patience))

    def _validate(
        self,
        member: Members,
        state: TrainState,
        metrics: Metrics,
        patience: Array,
        valid_split: DeviceSplit,
        epoch: Array,
    ) -> tuple[Members, EpochMetrics]:
        """The member after an epoch, with its best parameters kept, and the epoch's metrics."""
        valid, _ = evaluate(self.spec, state.params, valid_split)
        # As in a single run, the loss after the last step is the validation's.
        failed = (state.step >= 0) & ~jnp.isfinite(valid.loss)
        state = dataclasses.replace(state, step=jnp.where(failed, -state.step, state.step))
        going = state.step >= 0
        better = going & ((valid.correct > member.best_valid.correct) | (valid.count == 0))

        def choose(when: Array, new: Tree, old: Tree) -> Tree:
            return jax.tree.map(lambda new, old: jnp.where(when, new, old), new, old)

        best_epoch = choose(better, epoch + 1, member.best_epoch)
        stops = going & (epoch + 1 - best_epoch >= patience)
        member = Members(
            state=dataclasses.replace(state, step=jnp.where(stops, -state.step, state.step)),
            best_params=choose(
                better | (~going & (member.best_epoch == 0)), state.params, member.best_params
            ),
            best_epoch=best_epoch,
            best_valid=choose(better, valid, member.best_valid),
            stopped_epoch=choose(stops, epoch + 1, member.stopped_epoch),
        )
        values = EpochMetrics(
            metrics.mean_loss,
            metrics.accuracy,
            valid.mean_loss,
            valid.accuracy,
            {name: total / valid.count for name, total in valid.measured.items()},
        )
        if state.averaged is not None:
            averaged, _ = evaluate(self.spec, state.averaged, valid_split)
            values = values._replace(
                valid_ema_loss=averaged.mean_loss, valid_ema_accuracy=averaged.accuracy
            )
        return member, jax.tree.map(lambda value: jnp.where(going, value, jnp.nan), values)

    def _unless_frozen(
        self, run: Callable[[TrainState], tuple[TrainState, Metrics]], state: TrainState
    ) -> tuple[TrainState, Metrics]:
        """Skips a frozen member if members run one after the other.

        Side by side, its steps cost nothing more and leave the state as it is. A `cond` that
        differs between members would copy all that its branches read, the images, for each of them.
        """
        if not self._mapped:
            return run(state)
        return lax.cond(state.step >= 0, run, lambda state: (state, no_metrics()), state)

    def _evaluate(self, params: nnx.State, split: DeviceSplit) -> Metrics:
        return self._over(lambda params: evaluate(self.spec, params, split)[0])(params)

    def _answer(self, params: nnx.State, split: DeviceSplit) -> Float[Array, "members n k"]:
        return self._over(lambda params: evaluate(self.spec, params, split)[1])(params)


def population_of(
    spec: Spec, size: int, *, strategy: Strategy = "auto", shared_data_order: bool = False
) -> Population:
    """A population on all devices, see `Population`; of those asked for last, with its programs.

    A sweep like the one before it, in the same process, compiles nothing, unless it has code of the
    user's, which may read what has changed since.
    """
    options: dict[str, Any] = {"strategy": strategy, "shared_data_order": shared_data_order}
    code = spec.network, spec.loss, *(measure for _, measure in spec.measurements)
    package = __name__.partition(".")[0]
    if {getattr(each, "__module__", "").partition(".")[0] for each in code if each} == {package}:
        return _kept_population(
            spec, size, devices=(*machine.devices(),), written=repr(spec), **options
        )
    return Population(spec, size, **options)


@functools.lru_cache(maxsize=4)
def _kept_population(spec: Spec, size: int, *, written: str, **options: Any) -> Population:
    """Of equal specs, one for each way that they are `written`: 1 equals True."""
    return Population(spec, size, **options)


def choose_strategy(strategy: Strategy, device: Any) -> Literal["map", "vmap"]:
    """Resolves `auto` to what suits the device."""
    if strategy == "auto":
        return defaults_of(device).strategy
    return strategy


def _map(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda xs: lax.map(function, xs)


def _stack(trees: Sequence[PyTree], dtype: type) -> PyTree:
    return jax.tree.map(lambda *leaves: np.asarray(leaves, dtype), *trees)
