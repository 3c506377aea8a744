"""Training as pure functions of arrays.

`train_epoch` is a loop of `train_step` over the batches of an epoch. It can be jitted, mapped over
members of a population, and sharded. `train_steps` takes a slice of an epoch.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int32, Key, PyTree, ScalarLike

from lenet_jax.nn import autograd, ops
from lenet_jax.nn.variables import join_variables, split_variables
from lenet_jax.training import batches, optim, parallel
from lenet_jax.training.batches import Batch, DeviceSplit, EpochSlice
from lenet_jax.training.curvature import gauss_newton_diagonal
from lenet_jax.training.evaluation import Metrics, no_metrics
from lenet_jax.training.forward import apply_in_training
from lenet_jax.training.hyperparameters import Hyperparameters
from lenet_jax.training.spec import Spec
from lenet_jax.training.streams import STREAMS, stream


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that training changes, and the keys that determine its randomness.

    Members of a population are stacked along a leading axis of every array.

    Attributes:
      params: the network's variables: its parameters and, of a module that has them, what else a
        forward pass changes, such as statistics of batches and counts of random draws.
      opt_state: the optimiser's buffers.
      step: optimiser steps taken; negative in a state that is frozen, see `guarded_step`.
      order_key: determines, with the epoch, the order of the examples.
      augment_key: determines, with the step, the random transformations.
      ema: the exponential moving average of the parameters, which starts at the initial ones; None
        without `train.ema_decay`.
      masks: False where a parameter is pruned, and stays 0, see `start`; None where none is.
    """

    params: nnx.State
    opt_state: optax.OptState
    step: Int32[Array, "..."]
    order_key: Key[Array, "..."]
    augment_key: Key[Array, "..."]
    ema: nnx.State | None = None
    masks: nnx.State | None = None

    @property
    def averaged(self) -> nnx.State | None:
        """The network's variables with the average of its parameters in their place."""
        if self.ema is None:
            return None
        return nnx.merge_state(self.params, self.ema)


Carry = TypeVar("Carry")
MicroBatch: TypeAlias = tuple[Array, Array, Array, Array | None]  # images, labels, weights, scales


def init_state(
    spec: Spec, seeds: Mapping[str, ScalarLike], hyperparameters: Hyperparameters
) -> TrainState:
    """The state before the first step; `seeds` has `init`, `order` and `augment`."""
    init, order, augment = (stream(seeds[name], name) for name in STREAMS)
    variables = nnx.state(spec.make_model(init, hyperparameters["model"]))
    params, _ = split_variables(variables, spec.frozen)
    return TrainState(
        params=variables,
        opt_state=_optimizer(spec, hyperparameters).init(params),
        step=jnp.zeros((), jnp.int32),
        order_key=order,
        augment_key=augment,
        ema=None if hyperparameters["ema_decay"] is None else params,
    )


def train_epoch(
    spec: Spec,
    state: TrainState,
    split: DeviceSplit,
    epoch: Int32[Array, ""],
    hyperparameters: Hyperparameters,
) -> tuple[TrainState, Metrics]:
    """Takes `spec.steps_per_epoch` steps through all examples, in the order of this epoch.

    The last batch is padded; padding has weight 0, so that the loss is the mean over the real
    examples.

    Returns:
      The new state, and the sums of the losses and hits.
    """
    order = batches.epoch_order(spec, state.order_key, epoch)
    steps = EpochSlice(order, 0, spec.steps_per_epoch)
    return train_steps(spec, state, no_metrics(), split, steps, hyperparameters)


def train_steps(
    spec: Spec,
    state: TrainState,
    metrics: Metrics,
    split: DeviceSplit,
    steps: EpochSlice,
    hyperparameters: Hyperparameters,
) -> tuple[TrainState, Metrics]:
    """Takes some consecutive steps of an epoch.

    An epoch in slices, of any lengths, is bit-identical to an epoch in one call.

    Args:
      spec: the static specification.
      state: before the first of the steps.
      metrics: sums over the epoch's steps so far; those of these steps are added.
      split: the training images.
      steps: which steps of the epoch, and the order of its examples.
      hyperparameters: see `hyperparameters`.
    """
    state = with_curvature(spec, state, split, steps, hyperparameters)
    steps_before = state.step - steps.first
    augment_key = state.augment_key

    def fetch(step: Int32[Array, ""], size: int) -> Batch:
        key = jax.random.fold_in(augment_key, steps_before + step)
        return batches.make_batch(spec, split, steps.order[step][:size], key, hyperparameters)

    def take(carry: tuple[TrainState, Metrics], batch: Batch) -> tuple[TrainState, Metrics]:
        state, metrics = carry
        state, new = guarded_step(spec, state, batch, hyperparameters)
        return state, jax.tree.map(jnp.add, metrics, new)

    return loop(spec, take, fetch, steps.first, steps.last, (state, metrics))


def with_curvature(
    spec: Spec,
    state: TrainState,
    split: DeviceSplit,
    steps: EpochSlice,
    hyperparameters: Hyperparameters,
) -> TrainState:
    """The state with the curvature that `diagonal_lm` estimates before the first step of an epoch.

    It is that of the epoch's first examples. Of other optimisers, inside an epoch, and where it is
    frozen, the state is as it was.
    """
    if not spec.estimates_curvature:
        return state
    count = jnp.minimum(hyperparameters["optimizer"]["samples"], spec.num_examples)
    key = jax.random.fold_in(state.order_key, -1 - state.step)  # epochs have the others

    def estimate(opt_state: optax.OptState) -> optax.OptState:
        curvature = gauss_newton_diagonal(
            spec, state.params, split, steps.order.ravel(), count, key
        )
        return optim.set_curvature(opt_state, curvature)

    due = (jnp.asarray(steps.first) == 0) & (state.step >= 0)
    opt_state = lax.cond(due, estimate, lambda opt_state: opt_state, state.opt_state)
    return dataclasses.replace(state, opt_state=opt_state)


def loop(
    spec: Spec,
    take: Callable[[Carry, Batch], Carry],
    fetch: Callable[[Int32[Array, ""], int], Batch],
    first: ScalarLike,
    last: ScalarLike,
    carry: Carry,
) -> Carry:
    """Takes the steps `first` to `last` - 1 of an epoch.

    Args:
      spec: the static specification.
      take: one step.
      fetch: the batch of a step, with that many images.
      first: may be traced.
      last: likewise.
      carry: what the steps change.
    """

    def body(step: Int32[Array, ""], carried: tuple[Carry, Batch]) -> tuple[Carry, Batch]:
        carry, batch = carried
        # The batch of the next step: what a loop carries is a real array. Gathered in the step that
        # uses it, it would be fused into each slice that the first convolution takes of it.
        return take(carry, batch), fetch(step + 1, spec.batch_size)

    first, last = (jnp.asarray(bound, jnp.int32) for bound in (first, last))
    padded = spec.padded_steps
    if padded == spec.steps_per_epoch:
        return lax.fori_loop(first, last, body, (carry, fetch(first, spec.batch_size)))[0]
    rest = spec.num_examples - padded * spec.batch_size
    end, last_batch = jnp.minimum(last, padded), fetch(jnp.int32(padded), rest)
    if padded:
        start = carry, fetch(first, spec.batch_size)
        carry, _ = lax.fori_loop(first, end, body, start)
    return lax.cond(last > padded, lambda c: take(c, last_batch), lambda c: c, carry)


def guarded_step(
    spec: Spec, state: TrainState, batch: Batch, hyperparameters: Hyperparameters
) -> tuple[TrainState, Metrics]:
    """`train_step`, unless the state is frozen or this step would leave it not finite.

    A diverging state is frozen as it was before that step, and its `step` becomes negative:
    -17 says that the 17th step failed.
    """
    new, metrics = train_step(spec, state, batch, hyperparameters)
    going = state.step >= 0
    taken = going & jnp.isfinite(metrics.objective) & _are_finite(new.params)
    frozen = dataclasses.replace(state, step=jnp.where(going, -1 - state.step, state.step))
    return jax.tree.map(lambda new, old: jnp.where(taken, new, old), new, frozen), metrics


def _are_finite(params: nnx.State) -> Bool[Array, ""]:
    # A product with a small factor, which no sum of finite values overflows: unlike a test of each
    # value, it runs at memory speed.
    leaves = [jnp.atleast_1d(leaf) for leaf in jax.tree.leaves(split_variables(params)[0])]
    factors = [jnp.full(leaf.shape[-1], 2.0**-30, leaf.dtype) for leaf in leaves]
    sums = [jnp.matmul(*pair, precision="float32") for pair in zip(leaves, factors, strict=True)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(s)) for s in sums]))


def train_step(
    spec: Spec, state: TrainState, batch: Batch, hyperparameters: Hyperparameters
) -> tuple[TrainState, Metrics]:
    """One step of the optimiser: forward, backward, update.

    The gradient is that of the mean loss over the whole batch. It is accumulated over
    micro-batches, which fit the cache better than the whole, and summed over the devices that share
    the batch.
    """
    params, others = split_variables(state.params, spec.frozen)

    def mean_loss(params: nnx.State, inputs: tuple[nnx.State, MicroBatch]) -> tuple[Array, Any]:
        others, (images, labels, weights, scales) = inputs
        logits, others = apply_in_training(spec, params, others, images)
        if spec.loss is None:
            smoothing = hyperparameters["label_smoothing"]
            objectives = ops.cross_entropy(logits, labels, label_smoothing=smoothing)
        else:
            objectives = spec.loss(logits, labels)
        if scales is not None:
            objectives = scales * objectives
        losses = lax.stop_gradient(ops.cross_entropy(logits, labels))
        hits = jnp.argmax(logits, axis=-1) == labels
        metrics = Metrics(
            loss=jnp.sum(weights * losses),
            objective=jnp.sum(weights * objectives),
            correct=jnp.sum(jnp.where(hits, weights, 0)),
            count=jnp.sum(weights),
        )
        return metrics.objective / batch.total, (metrics, others)

    def accumulate(
        carry: tuple[nnx.State, nnx.State], micro_batch: MicroBatch
    ) -> tuple[tuple[nnx.State, nnx.State], Metrics]:
        grads, others = carry
        inputs = others, micro_batch
        _, new, (metrics, others) = autograd.backward(mean_loss, params, inputs, has_aux=True)
        return (autograd.accumulate(grads, new), others), metrics

    micro_batches = batch.images, batch.labels, batch.weights, batch.scales
    start = autograd.zero_grad(params), others
    (grads, others), metrics = lax.scan(accumulate, start, micro_batches)
    metrics = jax.tree.map(jnp.sum, metrics)
    grads, metrics = parallel.sum_over_devices((grads, metrics), spec.num_devices)
    if state.masks is not None:
        grads = apply_masks(grads, state.masks)
    updates, opt_state = _optimizer(spec, hyperparameters).update(grads, state.opt_state, params)
    new: Any = optax.apply_updates(params, updates)
    state = dataclasses.replace(
        state,
        params=join_variables(new, others),
        opt_state=_like(state.opt_state, opt_state),
        step=state.step + 1,
        ema=_average(state.ema, new, hyperparameters["ema_decay"]),
    )
    return state, metrics


def apply_masks(tree: nnx.State, masks: nnx.State) -> nnx.State:
    """Parameters, or their gradient, with 0 where they are pruned."""
    return jax.tree.map(lambda leaf, mask: jnp.where(mask, leaf, jnp.zeros_like(leaf)), tree, masks)


def _average(
    ema: nnx.State | None, params: nnx.State, decay: ScalarLike | None
) -> nnx.State | None:
    """The moving average after a step; None if there is none."""
    if ema is None or decay is None:
        return None
    return _like(ema, jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, ema, params))


def _like(old: PyTree, new: PyTree) -> PyTree:
    """`new` in the dtypes of `old`: of parameters in bfloat16, products with rates are float32."""
    return jax.tree.map(lambda old, new: new.astype(old.dtype), old, new)


def learning_rate(
    spec: Spec, hyperparameters: Hyperparameters, step: Int32[Array, ""]
) -> Float[Array, ""]:
    """The learning rate of a step, counted from 0."""
    return jnp.asarray(_schedule(spec, hyperparameters)(step))


def _schedule(spec: Spec, hyperparameters: Hyperparameters) -> optax.Schedule:
    return optim.make_schedule(
        **dict(spec.schedule),
        **hyperparameters["schedule"],
        learning_rate=hyperparameters["optimizer"]["learning_rate"],
        num_steps=spec.schedule_epochs * spec.steps_per_epoch,
        steps_per_epoch=spec.steps_per_epoch,
    )


def _optimizer(spec: Spec, hyperparameters: Hyperparameters) -> optax.GradientTransformation:
    settings = dict(spec.optimizer) | dict(hyperparameters["optimizer"])
    settings["learning_rate"] = _schedule(spec, hyperparameters)
    return optim.make_optimizer(**settings, max_grad_norm=hyperparameters["max_grad_norm"])
