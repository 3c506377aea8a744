"""PyTorch's gradient vocabulary as pure functions: backward, zero_grad, accumulate.

PyTorch keeps gradients in `parameter.grad`, adds to them at each `backward()`, and resets them in
`zero_grad()`. Here gradients are values: `backward` returns them, `accumulate` adds them, and
`zero_grad` gives the zeros that a sum starts from.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

Parameters = TypeVar("Parameters", bound=PyTree)


def backward(
    forward: Callable[[Parameters, PyTree], Any],
    params: Parameters,
    x: PyTree,
    cotangent: Array | None = None,
    *,
    has_aux: bool = False,
) -> Any:
    """The output of `forward(params, x)` and its vector-Jacobian product with `cotangent`.

    PyTorch's `out = forward(x); out.backward(cotangent)`, with the gradients returned instead of
    stored in `.grad`.

    Args:
      forward: a differentiable function.
      params: what the gradient is taken with respect to.
      x: the other input, held fixed.
      cotangent: the weight of each output element, of the output's shape and dtype. A scalar
        output, such as a loss, needs none: it counts as 1.
      has_aux: whether `forward` returns (output, auxiliary data).

    Returns:
      The output, gradients of the structure of `params`, and, with `has_aux`, the auxiliary data.

    Raises:
      ValueError: the cotangent's shape or dtype is not the output's, or it is missing.
    """
    output, vjp, *aux = jax.vjp(lambda params: forward(params, x), params, has_aux=has_aux)
    if cotangent is None:
        if output.shape:
            raise ValueError(
                f"an output of shape {output.shape} needs a cotangent of that shape; only a scalar"
                " output needs none"
            )
        cotangent = jnp.ones_like(output)
    if cotangent.shape != output.shape or cotangent.dtype != output.dtype:
        raise ValueError(
            f"the cotangent is {cotangent.dtype} of shape {cotangent.shape}, but the output is"
            f" {output.dtype} of shape {output.shape}"
        )
    return output, vjp(cotangent)[0], *aux


def zero_grad(params: Parameters) -> Parameters:
    """Gradients of zero, one for each parameter: where a sum of gradients starts."""
    return jax.tree.map(jnp.zeros_like, params)


def accumulate(grads: Parameters, new: Parameters) -> Parameters:
    """The sum that PyTorch's `.grad` holds after one more `backward`."""
    return jax.tree.map(jnp.add, grads, new)
