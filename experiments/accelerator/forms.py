"""Other forms of the convolution and its pool, to compare with those of `lenet_jax.nn.ops`."""

import contextlib
from collections.abc import Iterator
from unittest import mock

import jax
import jax.numpy as jnp
from jax import lax

from lenet_jax.nn import ops


def im2col(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, *, backend: str, precision: str = "float32"
) -> jax.Array:
    """`ops.conv_pool_relu` as one matrix product with the 5×5 windows of all pixels."""
    del backend
    images = x.transpose(3, 1, 2, 0)
    channels, height, width, batch = images.shape
    size, _, _, k = kernel.shape
    h, w = height - size + 1, width - size + 1
    taps = [images[:, i : i + h, j : j + w] for i in range(size) for j in range(size)]
    windows = jnp.stack(taps).reshape(size**2 * channels, h * w * batch)
    product = jnp.matmul(kernel.reshape(-1, k).T, windows, precision=precision)
    return _pool_relu(product.reshape(k, h, w, batch), bias, x, kernel)


def convolution(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, *, backend: str, precision: str = "float32"
) -> jax.Array:
    """`ops.conv_pool_relu` as XLA's convolution with the pool of `phase`."""
    del backend
    layout = ("NHWC", "HWIO", "CHWN")
    convolved = lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=layout, precision=precision
    )
    return _pool_relu(convolved, bias, x, kernel)


FORMS = {"im2col": im2col, "convolution": convolution}


@contextlib.contextmanager
def use(form: str) -> Iterator[None]:
    """Has networks that are traced meanwhile take this form, if it is one of FORMS."""
    if form not in FORMS:
        yield
        return
    with mock.patch.object(ops, "conv_pool_relu", FORMS[form]):
        yield


def _pool_relu(convolved: jax.Array, bias: jax.Array, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The maximum of each block of a convolution of x, the bias and ReLU, with PyTorch's ties."""
    k, h, w, batch = convolved.shape
    blocks = convolved.reshape(k, h // 2, 2, w // 2, 2, batch).transpose(2, 4, 0, 1, 3, 5)
    firsts = ops.first_equals(ops.batch_last(x), kernel.shape[0])
    pooled = ops.max_over_phases(blocks.reshape(4, k, h // 2, w // 2, batch), firsts)
    return ops.relu(pooled + bias.reshape(-1, 1, 1, 1)).transpose(3, 1, 2, 0)
