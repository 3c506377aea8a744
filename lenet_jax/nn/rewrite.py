"""Any function with its convolutions and pools in forms that XLA compiles well in loops on a CPU.

XLA's own convolution is several times slower inside a loop than outside it there, and so is the
gradient of its pools. `fast_forms` traces a function, whatever library it is written with, and runs
its program with these operations in other forms: a convolution is a matrix product of windows, with
the batch last; a pool selects from shifted copies. Both have derivatives of every order. What has
no such form (dilated or grouped convolutions, operations inside `scan`, `cond` or `custom_vjp`)
stays as it is.
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Jaxpr, Literal, Var
from jaxtyping import Array, Float

from lenet_jax.nn.primitives import Trilinear

MOST_TAPS = 49  # of a window: 7×7
Pads = tuple[tuple[int, int], tuple[int, int]]


def fast_forms(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of pytrees of arrays, with fast forms of its convolutions and pools.

    Values and derivatives are the function's own, up to rounding.
    """

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        outs = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), outs)

    return run


def _evaluate(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """Runs a program, inlining the functions that are only compiled apart."""
    values: dict[Var, Any] = dict(
        zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True)
    )

    def read(atom: Var | Literal) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        name, params = equation.primitive.name, equation.params
        if name in ("jit", "pjit"):
            inner = params["jaxpr"]
            outs = _evaluate(inner.jaxpr, inner.consts, inputs)
        else:
            form = FORMS[name](params, *inputs) if name in FORMS else None
            if form is None:
                form = equation.primitive.bind(
                    *inputs, **equation.primitive.get_bind_params(params)
                )
            outs = form if equation.primitive.multiple_results else [form]
        values |= zip(equation.outvars, outs, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _convolution(params: Mapping[str, Any], x: Array, kernel: Array) -> Array | None:
    """A convolution of images as a matrix product; None if it has no such form."""
    numbers = params["dimension_numbers"]
    plain = (
        x.ndim == 4
        and params["feature_group_count"] == params["batch_group_count"] == 1
        and all(d == 1 for d in (*params["lhs_dilation"], *params["rhs_dilation"]))
        and all(pad >= 0 for pads in params["padding"] for pad in pads)
        and 0 not in (*x.shape, *kernel.shape)
    )
    if not plain:
        return None
    b, c, *sides = numbers.lhs_spec
    k, n, *window = numbers.rhs_spec
    kernel = kernel.transpose(*window, n, k)
    if math.prod(kernel.shape[:2]) > MOST_TAPS:
        return None
    layer = _layer(
        kernel.shape[:2],
        tuple(params["window_strides"]),
        tuple(map(tuple, params["padding"])),
        tuple(x.shape[side] for side in sides),
        params["precision"],
    )
    out = layer.apply(x.transpose(c, *sides, b), kernel, jnp.zeros(kernel.shape[-1:], kernel.dtype))
    place = dict(zip(numbers.out_spec, (3, 0, 1, 2), strict=True))
    out = out.transpose(*(place[axis] for axis in range(4)))
    kind = params["preferred_element_type"]
    return out if kind is None else out.astype(kind)


@functools.cache
def _layer(
    size: tuple[int, int],
    strides: tuple[int, int],
    padding: Pads,
    sides: tuple[int, int],
    precision: Any,
) -> Trilinear:
    """A convolution without bias of images with these sides; for layouts see `Trilinear`."""
    matmul = functools.partial(jnp.matmul, precision=precision)

    def apply(x: Array, kernel: Array, _: Array) -> Array:
        columns, shape = _columns(x, size, strides, padding)
        return matmul(kernel.reshape(-1, kernel.shape[-1]).T, columns).reshape(-1, *shape)

    def kernel_gradient(x: Array, cotangent: Array, groups: int) -> tuple[Array, Array]:
        columns, _ = _columns(x, size, strides, padding)
        k, b = cotangent.shape[0], cotangent.shape[-1] // groups
        if groups == 1:
            gradient = matmul(columns, cotangent.reshape(k, -1).T)
        else:
            apart = (array.reshape(array.shape[0], -1, groups, b) for array in (columns, cotangent))
            gradient = jnp.einsum("npgb,kpgb->gnk", *apart, precision=precision)
        return gradient.reshape(groups, *size, x.shape[0], k), jnp.zeros((groups, k), x.dtype)

    def input_gradient(kernel: Array, cotangent: Array) -> Array:
        # The convolution of the cotangent, strides apart, with the kernel turned by 180°.
        edges = []
        for side, taps, stride, (low, _), count in zip(
            sides, size, strides, padding, cotangent.shape[1:3], strict=True
        ):
            before = taps - 1 - low
            edges.append((before, side - before - (count - 1) * stride + taps - 2, stride - 1))
        spread = lax.pad(cotangent, jnp.zeros((), cotangent.dtype), _inside(edges))
        columns, shape = _columns(spread, size, (1, 1), ((0, 0), (0, 0)))
        turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2).reshape(-1, kernel.shape[2])
        return matmul(turned.T, columns).reshape(-1, *shape)

    return Trilinear("windows_convolution", apply, kernel_gradient, input_gradient)


def _inside(edges: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """The padding of the middle axes of an array with the channels first and the batch last."""
    return [(0, 0, 0), *edges, (0, 0, 0)]


def _columns(
    x: Float[Array, "c h w b"], size: tuple[int, int], strides: tuple[int, int], padding: Pads
) -> tuple[Float[Array, "taps_c h2_w2_b"], tuple[int, ...]]:
    """The windows of images as columns of a matrix, and their number per side and batch."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    counts = [
        (side - taps) // stride + 1
        for side, taps, stride in zip(x.shape[1:3], size, strides, strict=True)
    ]
    rows, columns = (
        [slice(tap, tap + (count - 1) * stride + 1, stride) for tap in range(taps)]
        for count, taps, stride in zip(counts, size, strides, strict=True)
    )
    windows = jnp.stack([x[:, i, j] for i in rows for j in columns])
    return windows.reshape(math.prod(size) * x.shape[0], -1), (*counts, x.shape[3])


def _max_pool(params: Mapping[str, Any], x: Array) -> Array | None:
    """The first maximum of each window."""
    lowest = -jnp.inf if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.iinfo(x.dtype).min
    taps = _taps(params, x, lowest)
    if taps is None:
        return None
    winner = jnp.argmax(taps, axis=0)
    number = jnp.arange(len(taps)).reshape(-1, *[1] * x.ndim)
    # One comparison for all taps, whose transpose is one select.
    return jnp.sum(jnp.where(winner[None] == number, taps, 0), axis=0, dtype=x.dtype)


def _sum_pool(params: Mapping[str, Any], x: Array) -> Array | None:
    """The sum over each window."""
    taps = _taps(params, x, 0)
    return None if taps is None else jnp.sum(taps, axis=0, dtype=x.dtype)


def _taps(params: Mapping[str, Any], x: Array, outside: float) -> Array | None:
    """The pixels of every window, stacked in front; None if the windows are unusual."""
    window, strides = params["window_dimensions"], params["window_strides"]
    dilated = any(d != 1 for d in (*params["base_dilation"], *params["window_dilation"]))
    if dilated or 0 in x.shape or not 1 < math.prod(window) <= MOST_TAPS:
        return None
    padding = [(low, high, 0) for low, high in params["padding"]]
    x = lax.pad(x, jnp.asarray(outside, x.dtype), padding)
    counts = [
        (side - taps) // stride + 1
        for side, taps, stride in zip(x.shape, window, strides, strict=True)
    ]
    if min(counts) < 1:
        return None
    if window == strides:  # no pixel is in two windows
        x = x[tuple(slice(0, n * taps) for n, taps in zip(counts, window, strict=True))]
        x = x.reshape([size for pair in zip(counts, window, strict=True) for size in pair])
        x = x.transpose(*range(1, x.ndim, 2), *range(0, x.ndim, 2))
        return x.reshape(-1, *counts)
    offsets = itertools.product(*map(range, window))
    return jnp.stack(
        [
            x[
                tuple(
                    slice(tap, tap + (n - 1) * stride + 1, stride)
                    for tap, n, stride in zip(offset, counts, strides, strict=True)
                )
            ]
            for offset in offsets
        ]
    )


FORMS: Mapping[str, Callable[..., Array | None]] = {
    "conv_general_dilated": _convolution,
    "reduce_window_max": _max_pool,
    "reduce_window_sum": _sum_pool,
}
