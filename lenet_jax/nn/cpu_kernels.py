"""The layers as calls of the C++ kernels in `cpp/`, differentiable to any order.

Arrays have the batch last. Most of the C++ takes batches that are a multiple of `LANES`, or
`HALF_LANES`; others are padded. Convolutions take smaller ones too, and put neighbours in a vector.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching
from jaxtyping import Array, Float, Int8

from lenet_jax.nn import native
from lenet_jax.nn.phase import at_winner, conv_phases
from lenet_jax.nn.primitives import Trilinear, make_primitive, map_images

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]  # before and after the rows, and the columns

SIZE = 5  # the kernel size that the convolution supports
LANES = 16  # a multiple of every vector's length
HALF_LANES = 8  # suffice for a convolution's forward pass
CUT = 4  # instead of the winner's phase, where ReLU gives 0


def conv_pool_relu(
    x: Float[Array, "c h w b"],
    kernel: Float[Array, "5 5 c k"],
    bias: Float[Array, " k"],
    precision: str = "float32",
) -> Float[Array, "k h2 w2 b"]:
    """`ops.conv_pool_relu` of float32 arrays that have the batch last.

    With the precision `bfloat16`, images of several channels and the kernel are rounded before they
    are multiplied, if the processor has products of bfloat16. Derivatives stay those of float32, at
    the winners that this gives.

    Raises:
      ValueError: the shapes do not fit.
      UserError: the C++ cannot be compiled here, see `native.missing`.
    """
    _, height, width, _ = x.shape
    _check_shapes(x, kernel, bias, (SIZE, SIZE))
    if min(height, width) < SIZE or (height - SIZE) % 2 == 0 or (width - SIZE) % 2 == 0:
        raise ValueError(f"maps of {height}×{width} leave no even size to pool")
    if precision == "bfloat16" and len(x) > 1 and native.has_bfloat16():
        native.load(native.LENET + native.BFLOAT16)
        return _rounded_conv_pool_relu.bind(x, kernel, bias)[0]
    native.load()
    return _conv_pool_relu.bind(x, kernel, bias)[0]


def linear(
    x: Float[Array, "n b"], kernel: Float[Array, "n k"], bias: Float[Array, " k"]
) -> Float[Array, "k b"]:
    """`ops.linear` of float32 arrays that have the batch last.

    Raises:
      ValueError: the shapes do not fit.
      UserError: the C++ cannot be compiled here, see `native.missing`.
    """
    _check_shapes(x, kernel, bias, ())
    native.load()
    return _linear.apply(x, kernel, bias)


def _check_shapes(x: Array, kernel: Array, bias: Array, window: tuple[int, ...]) -> None:
    """Raises ValueError unless they fit, since the C++ trusts shapes."""
    if kernel.shape != (*window, x.shape[0], *bias.shape) or bias.ndim != 1:
        raise ValueError(
            f"an input of {x.shape}, a kernel of {kernel.shape}, a bias of {bias.shape} do not fit"
        )


def _forward(
    x: Float[Array, "c h w b"],
    kernel: Float[Array, "5 5 c k"],
    bias: Float[Array, " k"],
    *,
    call: str,
) -> list[Array]:
    """The layer's output, and the winning phase of each block, or `CUT`."""
    _, height, width, batch = x.shape
    x = _pad_batch(x, _lanes(batch, (width - SIZE + 1) // 2))
    shape = len(bias), (height - SIZE + 1) // 2, (width - SIZE + 1) // 2, x.shape[-1]
    outs = _like(bias, shape), jax.ShapeDtypeStruct(shape, jnp.int8)
    return [out[..., :batch] for out in jax.ffi.ffi_call(call, outs)(x, kernel, bias)]


def _lanes(batch: int, neighbours: int) -> int:
    """What a batch is padded to a multiple of, if vectors may hold so many pixels of a row."""
    fit = (lanes for lanes in (4, 8) if batch <= lanes and LANES // lanes <= neighbours)
    return next(fit, LANES)


def _read_winners(
    x: Float[Array, "c h w b"],
    kernel: Float[Array, "5 5 c k"],
    bias: Float[Array, " k"],
    winners: Int8[Array, "k h2 w2 b"],
) -> Float[Array, "k h2 w2 b"]:
    """The convolution plus the bias, at the given winners; 0 where ReLU cuts."""
    phases = conv_phases(x, kernel) + bias.reshape(1, -1, 1, 1, 1)
    return at_winner(phases, winners)


def _kernel_gradient(
    x: Float[Array, "c h w b"],
    cotangent: Float[Array, "k h2 w2 b"],
    winners: Int8[Array, "k h2 w2 b"],
    *,
    groups: int,
) -> Sequence[Array]:
    shape = groups, SIZE, SIZE, x.shape[0], cotangent.shape[0]
    outs = _like(x, shape), _like(x, (groups, shape[-1]))
    args = _pad_batch(x), _pad_batch(cotangent), _pad_batch(winners)
    images = np.int32(x.shape[-1] // groups)
    return jax.ffi.ffi_call("conv_pool_kernel_gradient", outs)(*args, images=images)


def _input_gradient(
    kernel: Float[Array, "5 5 c k"],
    cotangent: Float[Array, "k h2 w2 b"],
    winners: Int8[Array, "k h2 w2 b"],
) -> Float[Array, "c h w b"]:
    _, h, w, batch = cotangent.shape
    cotangent, winners = _pad_batch(cotangent), _pad_batch(winners)
    out = _like(kernel, (kernel.shape[2], 2 * h + SIZE - 1, 2 * w + SIZE - 1, cotangent.shape[-1]))
    call = jax.ffi.ffi_call("conv_pool_input_gradient", out)
    x = call(kernel, cotangent, winners, images=np.int32(batch))
    return x[..., :batch]


_at_winners = Trilinear("conv_at_winners", _read_winners, _kernel_gradient, _input_gradient)


def _make_conv_pool_relu(name: str, call: str) -> Primitive:
    layer = make_primitive(name, partial(_forward, call=call))

    def jvp(
        primals: Sequence[Array], tangents: Sequence[Any]
    ) -> tuple[Sequence[Array], Sequence[Any]]:
        outs = layer.bind(*primals)
        tangent = _at_winners.tangent((*primals, outs[1]), tangents, outs[0])
        return outs, [tangent, ad.Zero(jax.typeof(outs[1]).to_tangent_aval())]

    ad.primitive_jvps[layer] = jvp
    batching.primitive_batchers[layer] = partial(map_images, layer, weights=(1, 2))
    return layer


_conv_pool_relu = _make_conv_pool_relu("conv_pool_relu", "conv_pool_forward")
_rounded_conv_pool_relu = _make_conv_pool_relu(
    "conv_pool_relu_bfloat16", "conv_pool_forward_bfloat16"
)


def _linear_forward(
    x: Float[Array, "n b"], kernel: Float[Array, "n k"], bias: Float[Array, " k"]
) -> Float[Array, "k b"]:
    batch = x.shape[-1]
    x = _pad_batch(x)
    out = _like(x, (kernel.shape[1], x.shape[1]))
    return jax.ffi.ffi_call("linear_forward", out)(x, kernel, bias)[:, :batch]


def _linear_kernel_gradient(
    x: Float[Array, "n b"], cotangent: Float[Array, "k b"], *, groups: int
) -> Sequence[Array]:
    if groups == 1:
        shape = x.shape[0], cotangent.shape[0]
        outs = _like(x, shape), _like(x, shape[1:])
        kernel, bias = jax.ffi.ffi_call("linear_kernel_gradient", outs)(x, cotangent)
        return kernel[None], bias[None]
    x, cotangent = (array.reshape(len(array), groups, -1) for array in (x, cotangent))
    return jnp.einsum("ngb,kgb->gnk", x, cotangent, precision="float32"), cotangent.sum(axis=-1).T


def _linear_input_gradient(
    kernel: Float[Array, "n k"], cotangent: Float[Array, "k b"]
) -> Float[Array, "n b"]:
    batch = cotangent.shape[-1]
    cotangent = _pad_batch(cotangent)
    out = _like(kernel, (kernel.shape[0], cotangent.shape[-1]))
    return jax.ffi.ffi_call("linear_input_gradient", out)(kernel, cotangent)[:, :batch]


_linear = Trilinear("linear", _linear_forward, _linear_kernel_gradient, _linear_input_gradient)


def convolve(
    x: Float[Array, "c h w b"], kernel: Float[Array, "s t c k"], strides: Pair, padding: Pads
) -> Float[Array, "k h2 w2 b"]:
    """The convolution of float32 images, which after padding are not smaller than the kernel.

    It has no derivative of its own, see `windows.convolve`. Negative padding crops.

    Raises:
      UserError: the C++ cannot be compiled here, see `native.missing`.
    """
    native.load(native.WINDOWS)
    batch = x.shape[-1]
    if batch >= LANES:
        x = _pad_batch(x, HALF_LANES)
    counts = (
        (side + sum(pads) - taps) // stride + 1
        for side, pads, taps, stride in zip(
            x.shape[1:3], padding, kernel.shape[:2], strides, strict=True
        )
    )
    out = _like(x, (kernel.shape[-1], *counts, x.shape[-1]))
    call = jax.ffi.ffi_call("convolution_forward", out)
    return call(x, kernel, **_steps(strides, padding))[..., :batch]


def convolution_kernel_gradient(
    x: Float[Array, "c h w b"],
    cotangent: Float[Array, "k h2 w2 b"],
    size: Pair,
    strides: Pair,
    padding: Pads,
) -> Float[Array, "s t c k"]:
    """The gradient of the kernel of `convolve`, of this size; it has no derivative either.

    Raises:
      UserError: the C++ cannot be compiled here, see `native.missing`.
    """
    native.load(native.WINDOWS)
    if x.shape[-1] >= LANES:
        x, cotangent = _pad_batch(x), _pad_batch(cotangent)
    out = _like(x, (*size, x.shape[0], cotangent.shape[0]))
    call = jax.ffi.ffi_call("convolution_kernel_gradient", out)
    return call(x, cotangent, **_steps(strides, padding))


def _steps(strides: Pair, padding: Pads) -> dict[str, np.int32]:
    names = "row_stride", "column_stride", "top", "left"
    values = *strides, *(low for low, _ in padding)
    return {name: np.int32(value) for name, value in zip(names, values, strict=True)}


def _pad_batch(x: Array, lanes: int = LANES) -> Array:
    padding = -x.shape[-1] % lanes
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, padding)]) if padding else x


def _like(array: Array, shape: Sequence[int]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, array.dtype)
