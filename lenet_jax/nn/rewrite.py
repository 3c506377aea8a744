"""Any function with its convolutions and pools in forms that run well in loops on a CPU.

XLA's own convolution is several times slower inside a loop than outside it there, and so is the
gradient of its pools. `fast_forms` traces a function, whatever library it is written with, and runs
its program with these operations in other forms: a convolution is C++, or a matrix product of
windows (`windows.py`), with the batch last; a pool combines shifted copies. Both have derivatives
of every order. Between them images stay with the batch last (`_Turned`), as far as operations go
that allow it: a transposition would take longer than the convolution. What has no such form
(dilated or grouped convolutions, operations inside `scan`, `cond` or `custom_vjp`) stays as it is.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Jaxpr, Literal, Var
from jaxtyping import Array

from lenet_jax import machine
from lenet_jax.device_defaults import defaults_of
from lenet_jax.nn import native, windows

MOST_TAPS = 49  # of a window: 7×7
TURN, BACK = (3, 1, 2, 0), (3, 1, 2, 0)  # (b, h, w, c) → (c, h, w, b), and its inverse
# Operations that treat all elements alike, and can be bound to arrays of any shape.
ELEMENTWISE = frozenset(
    (
        *("abs", "add", "and", "bitcast_convert_type", "ceil", "clamp", "convert_element_type"),
        *("copy", "copy_p", "cos", "div", "eq", "erf", "exp", "exp2", "expm1", "floor", "ge", "gt"),
        *("integer_pow", "is_finite", "le", "log", "log1p", "logistic", "lt", "max", "min", "mul"),
        *("ne", "neg", "not", "or", "pow", "real", "rem", "round", "rsqrt", "select_n"),
        *("shift_left", "shift_right_arithmetic", "shift_right_logical", "sign", "sin", "sqrt"),
        *("square", "stop_gradient", "sub", "tan", "tanh", "xor"),
    )
)


def fast_forms(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of pytrees of arrays, with fast forms of its convolutions and pools.

    Values and derivatives are the function's own, up to rounding.
    """

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        outs = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), map(_plain, outs))

    return run


@dataclasses.dataclass(frozen=True)
class _Turned:
    """Images (b, h, w, c) that are held as an array (c, h, w, b), between two fast forms."""

    array: Array

    @classmethod
    def of(cls, x: Array) -> "_Turned":
        return cls(x.transpose(TURN))

    def plain(self) -> Array:
        return self.array.transpose(BACK)


def _evaluate(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """Runs a program; `args` and what it gives may be `_Turned`."""
    values: dict[Var, Any] = dict(
        zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True)
    )

    def read(atom: Var | Literal) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        outs = _apply(equation, [read(atom) for atom in equation.invars])
        values |= zip(equation.outvars, outs, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation: Any, inputs: Sequence[Any]) -> Sequence[Any]:
    """Runs one operation of a program, in its fast form if it has one."""
    name, params = equation.primitive.name, equation.params
    if name in ("jit", "pjit"):  # a function that is only compiled apart
        return _evaluate(params["jaxpr"].jaxpr, params["jaxpr"].consts, inputs)
    if name in FORMS and (form := FORMS[name](params, *inputs)) is not None:
        return [form]
    if any(isinstance(x, _Turned) for x in inputs):
        turned = _apply_turned(equation, inputs)
        if turned is not None:
            return [turned]
        inputs = [_plain(x) for x in inputs]
    outs = equation.primitive.bind(*inputs, **equation.primitive.get_bind_params(params))
    return outs if equation.primitive.multiple_results else [outs]


def _apply_turned(equation: Any, inputs: Sequence[Any]) -> Any:
    """An operation on images that stay turned; None if it needs them plain."""
    name, params = equation.primitive.name, equation.params
    if name in ELEMENTWISE and all(isinstance(x, _Turned) or np.ndim(x) in (0, 4) for x in inputs):
        arrays = [
            x.array if isinstance(x, _Turned) else x if np.ndim(x) == 0 else jnp.transpose(x, TURN)
            for x in inputs
        ]
        return _Turned(equation.primitive.bind(*arrays, **params))
    if name == "custom_jvp_call":
        source = params["call_jaxpr"].jaxpr.debug_info.func_src_info
        function = _activations().get(source)
        return None if function is None else _Turned(function(inputs[0].array))
    if name in ("reduce_sum", "reduce_max", "reduce_min"):
        kept = [axis for axis in range(4) if axis not in params["axes"]]
        if len(kept) == 1:
            axes = tuple(BACK[axis] for axis in params["axes"])
            return equation.primitive.bind(inputs[0].array, **{**params, "axes": axes})
    if name == "reshape" and params["dimensions"] is None:
        x = inputs[0].array
        if params["new_sizes"] == (x.shape[3], math.prod(x.shape[:3])):
            return x.transpose(1, 2, 0, 3).reshape(-1, x.shape[3]).T
    return None


@functools.cache
def _activations() -> Mapping[str, Callable[[Array], Array]]:
    """JAX's own functions with rules for their derivatives, by where they are written."""
    shape = jax.ShapeDtypeStruct((1,), jnp.float32)
    found = {}
    for function, form in ((jax.nn.relu, _relu), (jax.nn.relu6, jax.nn.relu6), (jax.nn.silu,) * 2):
        for equation in jax.make_jaxpr(function)(shape).eqns:
            if equation.primitive.name == "custom_jvp_call":
                found[equation.params["call_jaxpr"].jaxpr.debug_info.func_src_info] = form
    return found


def _relu(x: Array) -> Array:
    """ReLU that XLA fuses: of a maximum with 0 it would first write the zeros to memory."""
    return jnp.where(x <= 0, 0, x)


def _plain(x: Any) -> Any:
    return x.plain() if isinstance(x, _Turned) else x


def _convolution(params: Mapping[str, Any], x: Any, kernel: Any) -> _Turned | None:
    """A convolution of images, as in `windows`; None if it has no such form."""
    kernel = _plain(kernel)  # which may be drawn at random
    shape = x.array.shape if isinstance(x, _Turned) else jnp.shape(x)
    numbers = params["dimension_numbers"]
    plain = (
        numbers.lhs_spec == numbers.out_spec == (0, 3, 1, 2)
        and numbers.rhs_spec == (3, 2, 0, 1)
        and params["feature_group_count"] == params["batch_group_count"] == 1
        and all(d == 1 for d in (*params["lhs_dilation"], *params["rhs_dilation"]))
        and all(pad >= 0 for pads in params["padding"] for pad in pads)
        and 0 not in (*shape, *kernel.shape)
        and math.prod(kernel.shape[:2]) <= MOST_TAPS
    )
    if not plain:
        return None
    sides = (side + sum(pads) for side, pads in zip(shape[1:3], params["padding"], strict=True))
    if any(side < taps for side, taps in zip(sides, kernel.shape[:2], strict=True)):
        return None
    turned = x if isinstance(x, _Turned) else _Turned.of(x)
    out = windows.convolve(
        turned.array,
        kernel,
        tuple(params["window_strides"]),
        cast(windows.Pads, tuple(map(tuple, params["padding"]))),
        precision=params["precision"],
        native=turned.array.dtype == kernel.dtype == jnp.float32 and _has_native(),
    )
    kind = params["preferred_element_type"]
    return _Turned(out if kind is None else out.astype(kind))


def _has_native() -> bool:
    """Whether the C++ is there, and for the device that computes."""
    has_backend = "native" in defaults_of(machine.devices()[0]).backends
    return has_backend and native.missing(native.WINDOWS) is None


def _max_pool(params: Mapping[str, Any], x: Any) -> Any:
    """The first maximum of each window."""
    dtype = (x.array if isinstance(x, _Turned) else x).dtype
    lowest = -jnp.inf if jnp.issubdtype(dtype, jnp.inexact) else jnp.iinfo(dtype).min

    def choose(best: Array, other: Array) -> Array:
        # A maximum passes the gradient of a tie on by halves; the first NaN remains.
        return jnp.where((other <= best) | jnp.isnan(best), best, other)

    return _pool(params, x, lowest, choose)


def _sum_pool(params: Mapping[str, Any], x: Any) -> Any:
    """The sum over each window."""
    return _pool(params, x, 0, jnp.add)


def _pool(
    params: Mapping[str, Any],
    x: Any,
    outside: float | int,
    combine: Callable[[Array, Array], Array],
) -> Any:
    """A pool that sees `outside` where there is padding; None if it has no fast form."""
    order = TURN if isinstance(x, _Turned) else tuple(range(np.ndim(x)))
    turned = {
        name: tuple(value[axis] for axis in order)
        for name, value in params.items()
        if isinstance(value, tuple) and len(value) == len(order)
    }
    taps = _taps(turned, x.array if isinstance(x, _Turned) else x, outside)
    if taps is None:
        return None
    pooled = functools.reduce(combine, taps)
    return _Turned(pooled) if isinstance(x, _Turned) else pooled


def _taps(params: Mapping[str, Any], x: Array, outside: float | int) -> list[Array] | None:
    """The pixels of every window, by place; None if the windows are unusual."""
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
        split = lax.split(x.reshape(-1, *counts), [1] * math.prod(window))
        return [tap[0] for tap in split]
    offsets = itertools.product(*map(range, window))
    return [
        x[
            tuple(
                slice(tap, tap + (n - 1) * stride + 1, stride)
                for tap, n, stride in zip(offset, counts, strides, strict=True)
            )
        ]
        for offset in offsets
    ]


def _random_bits(params: Mapping[str, Any], key: Array) -> _Turned | None:
    """JAX's own random bits of the shape of images, drawn where they are used."""
    shape = params["shape"]
    partitionable = jax.config.jax_threefry_partitionable  # pyright: ignore
    usual = len(shape) == 4 and params["bit_width"] == 32 and math.prod(shape) < 2**32
    if not (
        usual and partitionable and jax.random.key_impl(key) == "threefry2x32" and key.ndim == 0
    ):
        return None
    turned = tuple(shape[axis] for axis in TURN)
    strides = np.cumprod([1, *shape[:0:-1]])[::-1]  # of the pixels' numbers
    numbers = jnp.zeros(turned, jnp.uint32)
    for place, axis in enumerate(TURN):
        index = lax.broadcasted_iota(jnp.uint32, turned, place)
        numbers += index * jnp.uint32(strides[axis])
    first, second = jax.random.key_data(key)
    high, low = _threefry((first, second), (jnp.zeros_like(numbers), numbers))
    return _Turned(high ^ low)


def _threefry(key: tuple[Array, Array], counts: tuple[Array, Array]) -> tuple[Array, Array]:
    """JAX's Threefry, 20 rounds on two words, in a row: XLA would keep its loop's words in memory.

    Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011.
    """
    keys = *key, key[0] ^ key[1] ^ jnp.uint32(0x1BD11BDA)
    first, second = counts[0] + keys[0], counts[1] + keys[1]
    for group in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            first += second
            second = first ^ (second << jnp.uint32(turn) | second >> jnp.uint32(32 - turn))
        first += keys[(group + 1) % 3]
        second += keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return first, second


FORMS: Mapping[str, Callable[..., Any]] = {
    "conv_general_dilated": _convolution,
    "random_bits": _random_bits,
    "reduce_window_max": _max_pool,
    "reduce_window_sum": _sum_pool,
}
