"""From the config's words to an optax transformation and a schedule, with PyTorch's arithmetic.

Everything here is built inside the compiled training step. Names and booleans are Python's; every
other number may be traced, so that a population varies it, and no state depends on its value.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Num

Scalar = int | float | Num[Array, ""]


def make_optimizer(
    name: str,
    *,
    learning_rate: Scalar | optax.Schedule,
    momentum: Scalar,
    dampening: Scalar,
    nesterov: bool,
    weight_decay: Scalar,
    b1: Scalar,
    b2: Scalar,
    eps: Scalar,
    max_grad_norm: Scalar | None = None,
) -> optax.GradientTransformation:
    """Builds what `torch.optim.SGD`, `Adam` or `AdamW` does between a gradient and its parameters.

    The gradient is clipped, decayed and averaged in this order. Weight decay applies to every
    parameter, biases too. Adam and AdamW are optax's, which are PyTorch's.

    Args:
      name: `sgd`, `adam` or `adamw`.
      learning_rate: a number, or a function of the count of steps done.
      momentum: sgd only, in [0, 1). The buffer is there at 0 too.
      dampening: sgd only, in [0, 1]: what is withheld from each gradient but the first.
      nesterov: sgd only. PyTorch refuses it without momentum or with dampening; here `config` does.
      weight_decay: at least 0. Added to the gradient as L2 by sgd and adam; taken from the
        parameter, times the learning rate, by adamw.
      b1: adam and adamw only, in [0, 1): decay of the mean of gradients.
      b2: adam and adamw only, in [0, 1): decay of the mean of squared gradients.
      eps: adam and adamw only: added to the root of the latter.
      max_grad_norm: bound on the norm of the whole gradient; None: no bound.

    Raises:
      ValueError: no optimiser has this name.
    """
    decay = optax.add_decayed_weights(weight_decay)
    adam = scale_by_adam(b1, b2, eps)
    match name:
        case "sgd":
            parts = [decay, scale_by_momentum(momentum, dampening, nesterov)]
        case "adam":
            parts = [decay, adam]
        case "adamw":
            parts = [adam, decay]
        case _:
            raise ValueError(f"unknown optimizer {name!r}; there are sgd, adam and adamw")
    if max_grad_norm is not None:
        parts.insert(0, clip_grad_norm(max_grad_norm))
    return optax.chain(*parts, optax.scale_by_learning_rate(learning_rate))


class MomentumState(NamedTuple):
    """Whether a gradient has been seen, and PyTorch's `momentum_buffer`."""

    started: Bool[Array, ""]
    buffer: optax.Updates


def scale_by_momentum(
    momentum: Scalar, dampening: Scalar, nesterov: bool
) -> optax.GradientTransformation:
    """The part of `torch.optim.SGD` that optax lacks: momentum with dampening.

    buffer ← momentum · buffer + (1 - dampening) · gradient, but the first gradient enters whole,
    and every gradient does where the momentum is 0. The update is the buffer, or with Nesterov
    gradient + momentum · buffer.

    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning"
    (2013), section 2, in the form that PyTorch documents under `torch.optim.SGD`.
    """

    def init(params: optax.Params) -> MomentumState:
        return MomentumState(jnp.zeros((), bool), jax.tree.map(jnp.zeros_like, params))

    def update(
        gradients: optax.Updates, state: MomentumState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, MomentumState]:
        damped = jnp.logical_and(state.started, momentum != 0)
        share = jnp.where(damped, 1 - dampening, 1.0)
        buffer = jax.tree.map(lambda b, g: momentum * b + share * g, state.buffer, gradients)
        updates = buffer
        if nesterov:
            updates = jax.tree.map(lambda g, b: g + momentum * b, gradients, buffer)
        return updates, MomentumState(jnp.ones((), bool), buffer)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def scale_by_adam(b1: Scalar, b2: Scalar, eps: Scalar) -> optax.GradientTransformation:
    """`optax.scale_by_adam`, made to run under JAX's strict promotion of types."""
    adam = optax.scale_by_adam(b1, b2, eps)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        with jax.numpy_dtype_promotion("standard"):  # it raises floats to the power of a count
            return adam.update(updates, state, params)

    return optax.GradientTransformation(adam.init, update)


def clip_grad_norm(max_norm: Scalar) -> optax.GradientTransformation:
    """Shrinks a gradient whose global norm exceeds `max_norm` > 0 to that norm.

    `torch.nn.utils.clip_grad_norm_`, with its 1e-6 in the denominator, which
    `optax.clip_by_global_norm` has not.
    """

    def clip(gradients: optax.Updates, _: optax.Params | None) -> optax.Updates:
        share = jnp.minimum(1.0, max_norm / (optax.tree.norm(gradients) + 1e-6))
        return jax.tree.map(lambda g: share * g, gradients)

    return optax.stateless(clip)


def make_schedule(
    name: str,
    *,
    learning_rate: Scalar,
    num_steps: int,
    steps_per_epoch: int,
    warmup_epochs: Scalar,
    final_scale: Scalar,
    step_epochs: Scalar,
    step_scale: Scalar,
    pct_start: Scalar,
    div_factor: Scalar,
    final_div_factor: Scalar,
) -> optax.Schedule:
    """Builds the learning rate as a function of the number of optimiser steps already done.

    Each is PyTorch's scheduler of that kind, stepped once per batch: `CosineAnnealingLR`, `StepLR`,
    `LinearLR`, and `OneCycleLR` with `cycle_momentum=False`. After `num_steps` they stay where they
    are. (optax's want boundaries as Python integers, so a population could not vary them.)

    A warm-up of n steps gives step t < n the rate (t + 1) / (n + 1) of the peak, so that step n is
    the first at the peak; the named schedule then runs over the steps that are left. As in PyTorch,
    `cosine` and `linear` would reach `final_scale` on step `num_steps`, one after the last.

    Args:
      name: `constant`, `cosine`, `step`, `one_cycle` or `linear`.
      learning_rate: the peak.
      num_steps: optimiser steps of the whole run.
      steps_per_epoch: optimiser steps of one epoch.
      warmup_epochs: length of the warm-up, rounded to steps; `one_cycle` has its own instead.
      final_scale: `cosine` and `linear`: last rate over the peak.
      step_epochs: `step`: epochs between two drops, rounded to steps, at least one step.
      step_scale: `step`: factor of a drop.
      pct_start: `one_cycle`: share of the steps that rise, in [0, 1].
      div_factor: `one_cycle`: peak over first rate.
      final_div_factor: `one_cycle`: first over last rate.

    Raises:
      ValueError: no schedule has this name.

    Source: for `one_cycle`, Smith and Topin, "Super-Convergence" (2017); for `cosine`, Loshchilov
    and Hutter, "SGDR" (2016), without restarts.
    """
    if name not in ("constant", "cosine", "step", "one_cycle", "linear"):
        raise ValueError(
            f"unknown schedule {name!r}; there are constant, cosine, step, one_cycle and linear"
        )

    def in_steps(epochs: Scalar) -> Float[Array, ""]:
        return jnp.round(jnp.asarray(epochs, jnp.float32) * steps_per_epoch)

    def one_cycle(step: Float[Array, ""]) -> Float[Array, ""]:
        first = 1 / div_factor
        top, last_step = pct_start * num_steps - 1, num_steps - 1
        rise = _cosine(first, 1.0, _remaining(step, 0.0, top))
        fall = _cosine(1.0, first / final_div_factor, _remaining(step, top, last_step))
        return jnp.where(step <= top, rise, fall)

    def after_warmup(step: Float[Array, ""]) -> Scalar:
        remaining = _remaining(step, in_steps(warmup_epochs), num_steps)
        match name:
            case "constant":
                return 1.0
            case "cosine":
                return _cosine(1.0, final_scale, remaining)
            case "linear":
                return remaining + (1 - remaining) * final_scale
            case _:
                period = jnp.maximum(1.0, in_steps(step_epochs))
                since = jnp.maximum(0.0, step - in_steps(warmup_epochs))
                drops = since.astype(jnp.int32) // period.astype(jnp.int32)
                return jnp.power(step_scale, drops.astype(jnp.float32))

    def schedule(count: ArrayLike) -> Float[Array, ""]:
        step = jnp.asarray(count).astype(jnp.float32)
        if name == "one_cycle":
            return learning_rate * one_cycle(step)
        warmup = jnp.minimum(1.0, (step + 1) / (in_steps(warmup_epochs) + 1))
        return learning_rate * warmup * after_warmup(step)

    return schedule


def _remaining(step: Scalar, first: Scalar, last: Scalar) -> Float[Array, ""]:
    """The share, in [0, 1], of the way from `first` to `last` that is still ahead; 0 if no way."""
    return jnp.clip((last - step) / jnp.maximum(last - first, 1e-6), 0.0, 1.0)


def _cosine(start: Scalar, end: Scalar, remaining: Scalar) -> Float[Array, ""]:
    """Half a cosine wave from `start` to `end`."""
    # sin² of half the angle is (1 - cos) / 2 without its cancellation near the end.
    weight = jnp.sin(jnp.pi / 2 * remaining) ** 2
    return weight * start + (1 - weight) * end
