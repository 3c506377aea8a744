"""A convolution of any size and strides, with the batch last, differentiable to any order.

In C++ (`cpu_kernels.py`), or as a matrix product of the windows of its input.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lenet_jax.nn import cpu_kernels
from lenet_jax.nn.primitives import Trilinear

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]


def convolve(
    x: Float[Array, "c h w b"],
    kernel: Float[Array, "s t c k"],
    strides: Pair,
    padding: Pads,
    *,
    precision: Any = None,
    native: bool = False,
) -> Float[Array, "k h2 w2 b"]:
    """A convolution without bias.

    Args:
      x: images or feature maps, not smaller than the kernel after padding.
      kernel: in the layout (height, width, in, out).
      strides: of rows and columns.
      padding: zeros before and after the rows, and the columns.
      precision: of matrix products, as JAX names it.
      native: takes the C++, which must be available, for float32.
    """
    layer = _layer(kernel.shape[:2], strides, padding, x.shape[1:3], precision, native)
    return layer.apply(x, kernel, jnp.zeros(kernel.shape[-1:], kernel.dtype))


@functools.cache
def _layer(
    size: Pair, strides: Pair, padding: Pads, sides: Pair, precision: Any, native: bool
) -> Trilinear:
    """The convolution of images with these sides."""
    products = functools.partial(_products, precision=precision)
    convolve = cpu_kernels.convolve if native else products
    sums = functools.partial(_sums, precision=precision)

    def apply(x: Array, kernel: Array, _: Array) -> Array:
        return convolve(_pad(x, padding), kernel, strides)

    def kernel_gradient(x: Array, cotangent: Array, groups: int) -> tuple[Array, Array]:
        x = _pad(x, padding)
        if native and groups == 1:
            gradient = cpu_kernels.convolution_kernel_gradient(x, cotangent, size, strides)[None]
        else:
            gradient = sums(x, cotangent, size, strides, groups)
        return gradient, jnp.zeros((groups, cotangent.shape[0]), x.dtype)

    def input_gradient(kernel: Array, cotangent: Array) -> Array:
        # The convolution of the cotangent, strides apart, with the kernel turned by 180°.
        edges = []
        for side, taps, stride, (low, _), count in zip(
            sides, size, strides, padding, cotangent.shape[1:3], strict=True
        ):
            before = taps - 1 - low
            edges.append((before, side - before - (count - 1) * stride + taps - 2, stride - 1))
        spread = lax.pad(cotangent, jnp.zeros((), cotangent.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
        return convolve(spread, kernel[::-1, ::-1].transpose(0, 1, 3, 2), (1, 1))

    name = "native_convolution" if native else "windows_convolution"
    return Trilinear(name, apply, kernel_gradient, input_gradient)


def _pad(x: Float[Array, "c h w b"], padding: Pads) -> Float[Array, "c h2 w2 b"]:
    return jnp.pad(x, ((0, 0), *padding, (0, 0)))


def _products(x: Array, kernel: Array, strides: Pair, *, precision: Any) -> Array:
    """The convolution of padded images, as a matrix product."""
    columns, shape = _columns(x, kernel.shape[:2], strides)
    weights = kernel.reshape(-1, kernel.shape[-1]).T
    return jnp.matmul(weights, columns, precision=precision).reshape(-1, *shape)


def _sums(
    x: Array, cotangent: Array, size: Pair, strides: Pair, groups: int, *, precision: Any
) -> Float[Array, "g s t c k"]:
    """The kernel's gradient of each group of images."""
    columns, _ = _columns(x, size, strides)
    k, b = cotangent.shape[0], cotangent.shape[-1] // groups
    if groups == 1:
        gradient = jnp.matmul(columns, cotangent.reshape(k, -1).T, precision=precision)
    else:
        apart = (array.reshape(array.shape[0], -1, groups, b) for array in (columns, cotangent))
        gradient = jnp.einsum("npgb,kpgb->gnk", *apart, precision=precision)
    return gradient.reshape(groups, *size, x.shape[0], k)


def _columns(
    x: Float[Array, "c h w b"], size: Sequence[int], strides: Pair
) -> tuple[Float[Array, "taps_c h2_w2_b"], Sequence[int]]:
    """The windows of images as columns of a matrix, and their number per side and batch."""
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
