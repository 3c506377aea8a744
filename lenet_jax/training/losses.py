"""What is computed of each example's logits: the loss, and what else the config measures."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from lenet_jax.config import measurements
from lenet_jax.config.source import find_attribute, guarded, split
from lenet_jax.errors import UserError, show
from lenet_jax.nn.lenet_1998 import squash

# Maps logits and labels to a value for each example.
PerExample: TypeAlias = Callable[[Float[Array, "b k"], Int32[Array, " b"]], Float[Array, " b"]]


def squared_error(logits: Float[Array, "b k"], labels: Int32[Array, " b"]) -> Float[Array, " b"]:
    """Mean over the classes of the squared differences between logits and one-hot targets.

    Source: the loss of LeNet-5 in LeCun et al., "Gradient-based learning applied to document
    recognition" (1998), section II.C, with one-hot targets in place of its bitmaps.
    """
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return jnp.mean(jnp.square(logits - targets), axis=-1)


def squashed_squared_error(
    logits: Float[Array, "b k"], labels: Int32[Array, " b"]
) -> Float[Array, " b"]:
    """Sum over the classes of the squared differences between squashed sums and ±1.

    Source: LeCun et al. (1998), section II.C, whose mean is over the examples only, and appendix A:
    targets where the squashing function bends most.
    """
    targets = 2 * jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype) - 1
    return jnp.sum(jnp.square(squash(logits) - targets), axis=-1)


def maximum_a_posteriori(
    logits: Float[Array, "b k"], labels: Int32[Array, " b"]
) -> Float[Array, " b"]:
    """Minus the log-probability of the right class, beside one more whose logit is `-PENALTY`.

    With logits that are minus distances, those of wrong classes need not grow beyond `PENALTY`.

    Source: LeCun et al. (1998), equation 9, with `PENALTY` as its constant j.
    """
    other = jnp.full_like(logits[:, :1], -PENALTY)
    total = jax.nn.logsumexp(jnp.concatenate([logits, other], axis=-1), axis=-1)
    right = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    return total - right


PENALTY = 10.0
BUILT_IN: dict[str, PerExample | None] = {
    "cross_entropy": None,
    "mse": squared_error,
    "squashed_mse": squashed_squared_error,
    "map": maximum_a_posteriori,
}


def find_loss(name: str, num_classes: int) -> PerExample | None:
    """The function of logits and labels that a name stands for; None: the cross-entropy.

    Raises:
      UserError: there is none, or it gives no differentiable loss for each example.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    if not split(name)[1]:
        near = f"one of {', '.join(BUILT_IN)}, FILE.py:function or package.module:function"
        raise UserError(f"train.loss={show(name)}: must be {near}")
    loss = _find(name, "train.loss", "loss", num_classes)

    def total(logits: Array, labels: Array) -> Array:
        return jnp.sum(loss(logits, labels))

    _check(name, jax.grad(total), num_classes)
    return loss


def find_measurements(names: Sequence[str], num_classes: int) -> tuple[tuple[str, PerExample], ...]:
    """The functions of `config.train.measurements`, each with what it is called.

    Raises:
      UserError: there is none of a name, or it gives no float32 for each example.
    """
    for name in names:
        if not split(name)[1]:
            near = "FILE.py:function or package.module:function"
            raise UserError(f"train.measurements={show(name)}: must be {near}")
    found = [_find(name, "train.measurements", "measurement", num_classes) for name in names]
    return tuple(zip(measurements.names(names), found, strict=True))


def _find(name: str, key: str, kind: str, num_classes: int) -> PerExample:
    """The function that a name stands for, of which shape and dtype of the result are checked.

    Args:
      name: `FILE.py:function` or `package.module:function`.
      key: the config key that has it.
      kind: what it is, for messages: `loss` or `measurement`.
      num_classes: how many logits it is given of each example.
    """
    found = find_attribute(name, key, kind)
    where, attribute = split(name)
    if not callable(found):
        raise UserError(f"{key}={show(name)}: {show(where)} has no function {show(attribute)}")
    values = _check(name, found, num_classes)
    count = num_classes + 1
    shape = getattr(values, "shape", type(values).__name__)
    dtype = str(getattr(values, "dtype", ""))
    if (shape, dtype) != ((count,), "float32"):
        cast = ", as float32: add .astype(jnp.float32)" if shape == (count,) else ""
        raise UserError(
            f"{key}={show(name)} maps logits of shape {(count, num_classes)} and {count} labels to"
            f" {dtype or 'a'} {shape}, not to float32 {(count,)}\n"
            f"It must return a {kind} per example{cast}."
        )
    function: Any = found  # which `callable` narrowed
    return function


def _check(name: str, function: Callable[..., Any], num_classes: int) -> Any:
    """What a function of the user's own gives for logits and labels, as shapes and dtypes.

    Raises:
      UserError: it fails; the message has the line.
    """
    count = num_classes + 1  # examples, as no other axis is long
    logits = jax.ShapeDtypeStruct((count, num_classes), jnp.float32)
    labels = jax.ShapeDtypeStruct((count,), jnp.int32)
    call = functools.partial(jax.eval_shape, function, logits, labels)
    return guarded(Path(split(name)[0]), call)
