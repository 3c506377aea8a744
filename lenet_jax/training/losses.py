"""What training minimises: the loss of each example, as `config.train.loss` names it."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from lenet_jax.config.source import find_attribute, guarded, split
from lenet_jax.errors import UserError, show

Loss: TypeAlias = Callable[[Float[Array, "b k"], Int32[Array, " b"]], Float[Array, " b"]]


def squared_error(logits: Float[Array, "b k"], labels: Int32[Array, " b"]) -> Float[Array, " b"]:
    """Mean over the classes of the squared differences between logits and one-hot targets.

    Source: the loss of LeNet-5 in LeCun et al., "Gradient-based learning applied to document
    recognition" (1998), section II.C, with one-hot targets in place of its bitmaps.
    """
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return jnp.mean(jnp.square(logits - targets), axis=-1)


BUILT_IN: dict[str, Loss | None] = {"cross_entropy": None, "mse": squared_error}


def find_loss(name: str, num_classes: int) -> Loss | None:
    """The function of logits and labels that a name stands for; None: the cross-entropy.

    Raises:
      UserError: there is none, or it gives no differentiable loss for each example.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    if not split(name)[1]:
        near = f"one of {', '.join(BUILT_IN)}, FILE.py:function or package.module:function"
        raise UserError(f"train.loss={show(name)}: must be {near}")
    found = find_attribute(name, "train.loss", "loss")
    _check(name, found, num_classes)
    return found


def _check(name: str, found: Any, num_classes: int) -> None:
    """Checks that this is a function, by the shapes and dtypes of what it and its gradient give."""
    where, function = split(name)
    if not callable(found):
        raise UserError(f"train.loss={show(name)}: {show(where)} has no function {show(function)}")
    count = num_classes + 1  # examples, as no other axis is long
    loss: Any = found
    logits = jax.ShapeDtypeStruct((count, num_classes), jnp.float32)
    labels = jax.ShapeDtypeStruct((count,), jnp.int32)
    losses = guarded(Path(where), functools.partial(jax.eval_shape, loss, logits, labels))
    shape = getattr(losses, "shape", type(losses).__name__)
    kind = str(getattr(losses, "dtype", ""))
    if (shape, kind) != ((count,), "float32"):
        raise UserError(
            f"train.loss={show(name)} maps logits of shape {logits.shape} and {count} labels to"
            f" {kind or 'a'} {shape}, not to float32 {(count,)}\nIt must return a loss per example."
        )

    def total(logits: Array, labels: Array) -> Array:
        return jnp.sum(loss(logits, labels))

    guarded(Path(where), functools.partial(jax.eval_shape, jax.grad(total), logits, labels))
