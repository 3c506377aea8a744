"""Optimisers and learning-rate schedules in optax, with PyTorch's arithmetic.

They are built inside the compiled training step. Names and booleans are static; all other
hyperparameters may be traced, so members of a population can differ in them. No state's structure
depends on their values.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Num

Scalar = int | float | Num[Array, ""]
SCHEDULES = ("constant", "cosine", "step", "piecewise", "one_cycle", "linear")


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
    mu: Scalar = 0.02,
    samples: Scalar = 500,
    max_grad_norm: Scalar | None = None,
) -> optax.GradientTransformation:
    """Builds the equivalent of `torch.optim.SGD`, `Adam` or `AdamW`, or `scale_by_curvature`.

    The gradient is clipped, decayed and averaged, in this order. Weight decay applies to all
    parameters, including biases. Adam and AdamW are optax's, which equal PyTorch's.

    Args:
      name: `sgd`, `adam`, `adamw` or `diagonal_lm`.
      learning_rate: a number, or a function of the number of steps taken.
      momentum: sgd only, in [0, 1). The buffer is allocated even if it is 0.
      dampening: sgd only, in [0, 1]: fraction by which every gradient but the first is reduced.
      nesterov: sgd only. Requires momentum and no dampening, as in PyTorch; the config checks it.
      weight_decay: at least 0. An L2 term in the gradient; in adamw decoupled, scaled by the
        learning rate.
      b1: adam and adamw only, in [0, 1): decay rate of the mean of the gradients.
      b2: adam and adamw only, in [0, 1): decay rate of the mean of the squared gradients.
      eps: adam and adamw only: added to the square root of the latter.
      mu: diagonal_lm only, above 0: see `scale_by_curvature`.
      samples: those that the curvature is estimated on; no update depends on their number.
      max_grad_norm: bound on the gradient's global norm; None: no clipping.

    Raises:
      ValueError: the name is unknown.
    """
    decay = optax.add_decayed_weights(weight_decay)
    adam = scale_by_adam(b1, b2, eps)
    match name:
        case "sgd":
            transforms = [decay, scale_by_momentum(momentum, dampening, nesterov)]
        case "adam":
            transforms = [decay, adam]
        case "adamw":
            transforms = [adam, decay]
        case "diagonal_lm":
            transforms = [decay, scale_by_curvature(mu)]
        case _:
            choices = "sgd, adam, adamw or diagonal_lm"
            raise ValueError(f"unknown optimizer {name!r}; it must be {choices}")
    if max_grad_norm is not None:
        transforms.insert(0, clip_grad_norm(max_grad_norm))
    return optax.chain(*transforms, optax.scale_by_learning_rate(learning_rate))


class MomentumState(NamedTuple):
    """Whether a gradient has been seen, and PyTorch's `momentum_buffer`."""

    started: Bool[Array, ""]
    buffer: optax.Updates


def scale_by_momentum(
    momentum: Scalar, dampening: Scalar, nesterov: bool
) -> optax.GradientTransformation:
    """Momentum with dampening, as in `torch.optim.SGD`; optax has no dampening.

    buffer ← momentum · buffer + (1 - dampening) · gradient. The first gradient is not dampened, nor
    is any gradient if the momentum is 0. The update is the buffer, or, with Nesterov momentum,
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
    """`optax.scale_by_adam` under JAX's strict dtype promotion."""
    adam = optax.scale_by_adam(b1, b2, eps)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        with jax.numpy_dtype_promotion("standard"):  # it raises floats to an integer power
            return adam.update(updates, state, params)

    return optax.GradientTransformation(adam.init, update)


class CurvatureState(NamedTuple):
    """The curvature of the loss along each parameter, which `set_curvature` replaces."""

    curvature: optax.Updates


def scale_by_curvature(mu: Scalar) -> optax.GradientTransformation:
    """Divides each parameter's gradient by `mu` plus its curvature: stochastic diagonal LM.

    The curvature is 0 until `set_curvature` sets it. With the sign and the learning rate η that
    follow, each parameter has the rate η / (mu + curvature).

    Source: LeCun et al., "Gradient-based learning applied to document recognition" (1998), appendix
    C, the stochastic diagonal Levenberg–Marquardt method.
    """

    def init(params: optax.Params) -> CurvatureState:
        return CurvatureState(jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params))

    def update(
        gradients: optax.Updates, state: CurvatureState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, CurvatureState]:
        return jax.tree.map(lambda g, h: g / (mu + h), gradients, state.curvature), state

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def set_curvature(opt_state: optax.OptState, curvature: optax.Updates) -> optax.OptState:
    """The state of an optimiser with `scale_by_curvature`, and this curvature in it."""

    def is_ours(path: Any, _: Any) -> bool:
        return getattr(path[-1], "tuple_name", None) == CurvatureState.__name__

    return optax.tree.set(opt_state, is_ours, curvature=curvature)


def clip_grad_norm(max_norm: Scalar) -> optax.GradientTransformation:
    """Scales a gradient whose global norm exceeds `max_norm` > 0 to that norm.

    As `torch.nn.utils.clip_grad_norm_`, including the 1e-6 in the denominator, which
    `optax.clip_by_global_norm` lacks.
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
    boundaries: Sequence[float] = (),
    factors: Sequence[float] = (),
) -> optax.Schedule:
    """Builds the learning rate as a function of the number of optimiser steps taken.

    Each schedule is that of PyTorch's scheduler, stepped once per batch: `CosineAnnealingLR`,
    `StepLR`, `LinearLR`, and `OneCycleLR` with `cycle_momentum=False`; but for `piecewise`,
    whose factors are given one by one. After `num_steps` those that span the run keep the rate of
    their last step. (optax's schedules need boundaries as Python integers, so members of a
    population could not differ in them.)

    During a warm-up of n steps, step t < n has (t + 1) / (n + 1) of the peak learning rate, so step
    n is the first at the peak; the named schedule covers the remaining steps. As in PyTorch,
    `cosine` and `linear` would reach `final_scale` at step `num_steps`, one after the last.

    Args:
      name: one of `SCHEDULES`.
      learning_rate: the peak learning rate.
      num_steps: optimiser steps that the schedule spans.
      steps_per_epoch: optimiser steps of one epoch.
      warmup_epochs: length of the linear warm-up, rounded to steps; not for `one_cycle`.
      final_scale: `cosine` and `linear`: final over peak learning rate.
      step_epochs: `step`: epochs between drops, rounded to steps, at least one step.
      step_scale: `step`: factor of each drop.
      pct_start: `one_cycle`: share of the steps with rising learning rate, in [0, 1].
      div_factor: `one_cycle`: peak over initial learning rate.
      final_div_factor: `one_cycle`: initial over final learning rate.
      boundaries: `piecewise`: epochs, ascending, rounded to steps, after which the rate changes.
      factors: `piecewise`: the rate after each boundary over the peak.

    Raises:
      ValueError: the name is unknown.

    Source: for `one_cycle`, Smith and Topin, "Super-Convergence" (2017); for `cosine`, Loshchilov
    and Hutter, "SGDR" (2016), without restarts.
    """
    if name not in SCHEDULES:
        *others, last = SCHEDULES
        raise ValueError(f"unknown schedule {name!r}; it must be {', '.join(others)} or {last}")

    def in_steps(epochs: Scalar | Float[Array, " n"]) -> Float[Array, "..."]:
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
            case "piecewise":
                passed = jnp.sum(step >= in_steps(jnp.asarray((0.0, *boundaries))))
                return jnp.asarray((1.0, *factors))[passed - 1]
            case _:
                period = jnp.maximum(1.0, in_steps(step_epochs))
                since = jnp.maximum(0.0, step - in_steps(warmup_epochs))
                drops = since.astype(jnp.int32) // period.astype(jnp.int32)
                return jnp.power(step_scale, drops.astype(jnp.float32))

    def schedule(count: ArrayLike) -> Float[Array, ""]:
        step = jnp.asarray(count).astype(jnp.float32)
        if depends_on_length(name):
            step = jnp.minimum(step, num_steps - 1)
        if name == "one_cycle":
            return learning_rate * one_cycle(step)
        warmup = jnp.minimum(1.0, (step + 1) / (in_steps(warmup_epochs) + 1))
        return learning_rate * warmup * after_warmup(step)

    return schedule


def depends_on_length(name: str) -> bool:
    """Whether a schedule's rates depend on the number of steps that it spans."""
    return name in ("cosine", "linear", "one_cycle")


def _remaining(step: Scalar, first: Scalar, last: Scalar) -> Float[Array, ""]:
    """The remaining fraction, in [0, 1], of the steps from `first` to `last`; 0 if none."""
    return jnp.clip((last - step) / jnp.maximum(last - first, 1e-6), 0.0, 1.0)


def _cosine(start: Scalar, end: Scalar, remaining: Scalar) -> Float[Array, ""]:
    """Half a cosine wave from `start` to `end`."""
    # sin² of half the angle equals (1 - cos) / 2 without cancellation near the end.
    weight = jnp.sin(jnp.pi / 2 * remaining) ** 2
    return weight * start + (1 - weight) * end
