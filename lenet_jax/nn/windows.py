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
from lenet_jax.nn.cpu_kernels import Pads, Pair
from lenet_jax.nn.primitives import Trilinear


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

    def apply(x: Array, kernel: Array, _: Array) -> Array:
        return convolve(x, kernel, strides, padding)

    def kernel_gradient(x: Array, cotangent: Array, groups: int) -> tuple[Array, Array]:
        if native and groups == 1:
            gradient = cpu_kernels.convolution_kernel_gradient(
                x, cotangent, size, strides, padding
            )[None]
        else:
            columns, _ = _columns(_pad(x, padding), size, strides)
            gradient = _sums(columns, cotangent, groups, precision)
            gradient = gradient.reshape(groups, *size, x.shape[0], -1)
        return gradient, jnp.zeros((groups, cotangent.shape[0]), x.dtype)

    def input_gradient(kernel: Array, cotangent: Array) -> Array:
        # The convolution of the cotangent, strides apart, with the kernel turned by 180°.
        between = [(0, 0, stride - 1) for stride in strides]
        spread = lax.pad(cotangent, _zero(cotangent), [(0, 0, 0), *between, (0, 0, 0)])
        edges = []
        for side, taps, (low, _), given in zip(
            sides, size, padding, spread.shape[1:3], strict=True
        ):
            before = taps - 1 - low
            edges.append((before, side - before - given + taps - 1))
        turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
        return convolve(spread, turned, (1, 1), tuple(edges))

    name = "native_convolution" if native else "windows_convolution"
    return Trilinear(name, apply, kernel_gradient, input_gradient)


def _products(x: Array, kernel: Array, strides: Pair, padding: Pads, *, precision: Any) -> Array:
    """The convolution as a matrix product."""
    columns, shape = _columns(_pad(x, padding), kernel.shape[:2], strides)
    weights = kernel.reshape(-1, kernel.shape[-1]).T
    return jnp.matmul(weights, columns, precision=precision).reshape(-1, *shape)


def _sums(
    columns: Float[Array, "n p"], cotangent: Array, groups: int, precision: Any
) -> Float[Array, "g n k"]:
    """The kernel's gradient of each group of images."""
    k, b = cotangent.shape[0], cotangent.shape[-1] // groups
    if groups == 1:
        return jnp.matmul(columns, cotangent.reshape(k, -1).T, precision=precision)[None]
    apart = (array.reshape(array.shape[0], -1, groups, b) for array in (columns, cotangent))
    return jnp.einsum("npgb,kpgb->gnk", *apart, precision=precision)


def _pad(x: Float[Array, "c h w b"], padding: Pads) -> Float[Array, "c h2 w2 b"]:
    """Adds zeros at the sides; negative padding crops."""
    return lax.pad(x, _zero(x), [(0, 0, 0), *((*pads, 0) for pads in padding), (0, 0, 0)])


def _zero(x: Array) -> Array:
    return jnp.zeros((), x.dtype)


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
