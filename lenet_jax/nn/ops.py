"""The layers as functions of arrays with the batch first, and the choice of backend.

The backends of `conv_pool_relu` and `linear` compute the same values and the same derivatives of
every order, ties included, as long as all values are finite: `plain` is the reference, in JAX's
own convolution and pooling; `native` is C++ for CPUs (`cpu_kernels.py`); `phase` is for
accelerators, and for CPUs without a C++ compiler (`phase.py`); `pallas` is for GPUs
(`gpu_kernels.py`).

Inside all but `plain` the batch is the last axis: every copy, comparison and sum then runs
over contiguous memory. `batch_last` moves it there and back; XLA cancels the pair between two
layers.

`precision` is that of matrix products and convolutions, by JAX's names: `float32`, or
`tensorfloat32` and `bfloat16`, with which GPUs and TPUs are faster and less precise. A CPU computes
in float32 in any case, but for one layer: with `bfloat16`, `native` rounds what `conv_pool_relu`
multiplies, on a processor that has such products (AVX-512 BF16).
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import dtypes, lax
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Integer, UInt8

from lenet_jax import machine
from lenet_jax.device_defaults import defaults_of
from lenet_jax.errors import UserError
from lenet_jax.nn import cpu_kernels, native
from lenet_jax.nn.phase import conv_phases, first_equals, max_over_phases

Backend = Literal["auto", "native", "pallas", "phase", "plain"]
Activation = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid"]
Pool = Literal["max", "avg"]


def conv_pool_relu(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "s s c k"],
    bias: Float[Array, " k"],
    *,
    backend: Backend = "auto",
    precision: str = "float32",
) -> Float[Array, "b h2 w2 k"]:
    """Convolves (valid, stride 1), takes the maximum of each 2×2 block, adds the bias; ReLU.

    Pooling before bias and ReLU gives what PyTorch's conv → ReLU → pool gives, since both are
    monotone, at a quarter of the work. Of equal maxima the first, in row-major order, receives the
    gradient, as in PyTorch.

    Args:
      x: images or feature maps.
      kernel: square, of odd size s, in the layout (height, width, in, out).
      bias: one value per output channel.
      backend: `plain`, `phase`, `native`, `pallas`, or `auto`: the choice of `choose_backend`, or
        `phase` for sizes and dtypes that `native` does not support.
      precision: of the convolution.

    Returns:
      Feature maps of height (h - s + 1) / 2 and width (w - s + 1) / 2.

    Raises:
      ValueError: the arrays' shapes do not fit; kernel and bias differ in dtype; s is even, or the
        convolved height or width is odd or not positive; `native` is requested, and s is not 5; or
        `native` or `pallas` is, and the promoted dtype is not float32.
      UserError: `native` or `pallas` is requested, and not available.
    """
    x, kernel, bias = _promote(x, kernel, bias, rank=4)
    _check_sizes(x, kernel)
    chosen = _choose(backend, x, kernel, kernel.shape[0] == cpu_kernels.SIZE)
    if chosen == "native":
        return batch_last(cpu_kernels.conv_pool_relu(batch_last(x), kernel, bias, precision))
    if chosen == "pallas":
        from lenet_jax.nn import gpu_kernels  # late: no other backend needs Pallas

        return batch_last(gpu_kernels.conv_pool_relu(batch_last(x), kernel, bias, precision))
    if chosen == "plain":
        pooled = _max_pool(_convolve(x, kernel, precision))
        return relu(pooled + bias.reshape(1, 1, 1, -1))
    x = batch_last(x)
    pooled = max_over_phases(conv_phases(x, kernel, precision), first_equals(x, kernel.shape[0]))
    return batch_last(relu(pooled + bias.reshape(-1, 1, 1, 1)))


def conv_activate_pool(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "s s c k"],
    bias: Float[Array, " k"],
    activation: Activation,
    pool: Pool,
    *,
    backend: Backend = "auto",
    precision: str = "float32",
) -> Float[Array, "b h2 w2 k"]:
    """Convolves (valid, stride 1), adds the bias, activates, then pools 2×2 blocks.

    The general form of `conv_pool_relu`, for every activation and both ways of pooling: four times
    the activations, and no C++.

    Args:
      x: images or feature maps.
      kernel: square, of odd size s, in the layout (height, width, in, out).
      bias: one value per output channel.
      activation: one of `ACTIVATIONS`.
      pool: `max` or `avg`.
      backend: `plain`; every other is `phase`.
      precision: of the convolution.

    Raises:
      ValueError: the arrays' shapes do not fit; kernel and bias differ in dtype; s is even, or the
        convolved height or width is odd or not positive.
    """
    x, kernel, bias = _promote(x, kernel, bias, rank=4)
    _check_sizes(x, kernel)
    activate = ACTIVATIONS[activation]
    if backend == "plain" or 0 in x.shape:
        convolved = activate(_convolve(x, kernel, precision) + bias.reshape(1, 1, 1, -1))
        return _max_pool(convolved) if pool == "max" else avg_pool(convolved)
    x = batch_last(x)
    phases = activate(conv_phases(x, kernel, precision) + bias.reshape(1, -1, 1, 1, 1))
    if pool == "avg":
        return batch_last(jnp.mean(phases, axis=0))
    return batch_last(max_over_phases(phases, first_equals(x, kernel.shape[0])))


def linear(
    x: Float[Array, "b n"],
    kernel: Float[Array, "n k"],
    bias: Float[Array, " k"],
    *,
    backend: Backend = "auto",
    precision: str = "float32",
) -> Float[Array, "b k"]:
    """X @ kernel + bias.

    Args:
      x: rows of features.
      kernel: one column per unit.
      bias: one value per unit.
      backend: as for `conv_pool_relu`; all but `native` are the same.
      precision: of the product.

    Raises:
      ValueError: the arrays' shapes do not fit; kernel and bias differ in dtype; or `native` or
        `pallas` is requested, and the promoted dtype is not float32.
      UserError: `native` or `pallas` is requested, and not available.
    """
    x, kernel, bias = _promote(x, kernel, bias, rank=2)
    if _choose(backend, x, kernel) == "native":
        return batch_last(cpu_kernels.linear(batch_last(x), kernel, bias))
    return jnp.matmul(x, kernel, precision=precision) + bias.reshape(1, -1)


def choose_backend(backend: Backend, device: Any = None) -> Backend:
    """Resolves `auto` to the first backend of `device_defaults` that is available.

    Args:
      backend: as requested.
      device: the one that computes; None: the first of `machine.devices`.

    Raises:
      UserError: `native` or `pallas` is requested, and not available.
    """
    device = device or machine.devices()[0]
    if backend == "auto":
        backends = defaults_of(device).backends
        return next(name for name in backends if name != "native" or native.missing() is None)
    if backend == "native":
        if device.platform != "cpu":
            raise UserError(
                "config.model.backend=native is for CPUs\nLeave it out: the fastest is taken."
            )
        native.load()
    if backend == "pallas" and device.platform == "tpu":
        raise UserError(
            "config.model.backend=pallas is for GPUs\nLeave it out: the fastest is taken."
        )
    return backend


def _choose(backend: Backend, x: Array, kernel: Array, has_size: bool = True) -> Backend:
    """`choose_backend` for arrays; `native` supports one kernel size, it and `pallas` float32."""
    chosen = choose_backend(backend, _device(x) or _device(kernel))
    if 0 in x.shape:  # of which there is nothing to gain
        return "plain"
    of_float32 = x.dtype == kernel.dtype == jnp.float32
    if chosen not in ("native", "pallas") or (of_float32 and (has_size or chosen == "pallas")):
        return chosen
    if backend == "auto":
        return "phase"
    if chosen == "pallas":
        raise ValueError(f"`pallas` takes float32, not {kernel.dtype}")
    size = "×".join(map(str, kernel.shape[:2]))
    raise ValueError(f"`native` takes float32, and 5×5 kernels, not {size} of {kernel.dtype}")


def _device(array: Array) -> Any:
    """A device that an array is bound to; None while it is traced, or may be moved."""
    if not isinstance(array, jax.Array) or isinstance(array, Tracer):
        return None
    return next(iter(array.devices())) if array.committed else None


def compiler_options(device: Any = None) -> dict[str, Any]:
    """Options for `jax.jit` under which `phase` adds the terms of its sums in one order.

    On a CPU they choose Eigen's matrix product over YNNPACK's, on one thread. Equal windows tie
    under any product (`phase.first_equals`). Unequal windows that differ only where a pruned kernel
    is 0 have equal sums only if the terms of every phase are added in the same order. With these
    options they are, for up to 8 input channels of a 5×5 kernel; on four or more threads a product
    of few columns may still be split within a phase.

    Args:
      device: the one that computes; None: the first of `machine.devices`.
    """
    defaults = defaults_of(device or machine.devices()[0])
    return dict(defaults.compiler_options + defaults.lenet_options)


def _promote(x: Array, kernel: Array, bias: Array, rank: int) -> tuple[Array, Array, Array]:
    """The arrays in one dtype, by JAX's rules. Checks their shapes, which the C++ trusts."""
    square = kernel.shape[:1] * (rank - 2)
    ranks_fit = x.ndim == kernel.ndim == rank
    if not (ranks_fit and kernel.shape == (*square, x.shape[-1], *bias.shape)):
        layout = "(b, h, w, c), (s, s, c, k) and (k,)" if rank == 4 else "(b, n), (n, k) and (k,)"
        raise ValueError(
            f"the shapes of the input, {x.shape}, of the kernel, {kernel.shape}, and of the bias,"
            f" {bias.shape}, do not fit: they must be {layout}"
        )
    of_kernel, of_bias = (dtypes.canonicalize_dtype(array.dtype) for array in (kernel, bias))
    if of_kernel != of_bias:
        raise ValueError(
            f"the kernel is {of_kernel} and the bias {of_bias}; both must have one dtype"
        )
    dtype = jnp.result_type(x, kernel)
    return x.astype(dtype), kernel.astype(dtype), bias.astype(dtype)


def _check_sizes(x: Array, kernel: Array) -> None:
    _, height, width, _ = x.shape
    size = kernel.shape[0]
    if size % 2 == 0:
        raise ValueError(f"the kernel's size must be odd, not {size}")
    for name, extent in (("height", height), ("width", width)):
        if extent < size or (extent - size) % 2 == 0:
            raise ValueError(
                f"a {name} of {extent} leaves {extent - size + 1} after a {size}×{size}"
                " convolution; 2×2 pooling needs a positive even number"
            )


def batch_last(x: Float[Array, "first *middle last"]) -> Float[Array, "last *middle first"]:
    """(b, h, w, c) ↔ (c, h, w, b), or (b, n) ↔ (n, b): the layout of the fast backends and back."""
    return x.swapaxes(0, -1)


def relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """max(x, 0), with gradient 0 at 0: [-3, 5, -1, 2] → [0, 5, 0, 2]."""
    return jax.nn.relu(x)


# By the names of PyTorch's functions, with their defaults.
ACTIVATIONS: Mapping[Activation, Callable[[Array], Array]] = {
    "relu": relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
}


def avg_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """The mean of each 2×2 block."""
    b, h, w, c = x.shape
    return jnp.mean(x.reshape(b, h // 2, 2, w // 2, 2, c), axis=(2, 4))


def flatten(x: Float[Array, "b h w c"]) -> Float[Array, "b n"]:
    """Flattens images to rows of h·w·c values, channels fastest.

    PyTorch's `flatten` of (c, h, w) has channels slowest, so the first linear layer after it has
    its input rows in another order; `torch_bridge` permutes them.
    """
    # Written with the batch last, so that no copy comes between `phase` and the linear layers.
    return x.transpose(1, 2, 3, 0).reshape(math.prod(x.shape[1:]), x.shape[0]).T


def _convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "s s c k"], precision: str
) -> Float[Array, "b h2 w2 k"]:
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=layout, precision=precision
    )


def _max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def normalise(
    pixels: UInt8[Array, "b h w c"] | Float[Array, "b h w c"],
    mean: Sequence[float],
    std: Sequence[float],
) -> Float[Array, "b h w c"]:
    """(pixels - mean) / std, in float32.

    Args:
      pixels: in 0..255.
      mean: of a pixel, per channel.
      std: likewise.
    """
    shift, scale = (np.asarray(x, np.float32).reshape(1, 1, 1, -1) for x in (mean, std))
    return pixels.astype(jnp.float32) * (1 / scale) - shift / scale


def cross_entropy(
    logits: Float[Array, "b k"], labels: Integer[Array, " b"], *, label_smoothing: ArrayLike = 0.0
) -> Float[Array, " b"]:
    """Cross-entropy of each example, in nats; PyTorch's with `reduction='none'`.

    Args:
      logits: unnormalised log-probabilities; −∞ for classes that are ruled out.
      labels: classes, 0 to k - 1. The loss of any other label is NaN, and so is its
        gradient.
      label_smoothing: the share of the target spread evenly over all classes, in [0, 1).
    """
    labels = jnp.asarray(labels)
    if labels.dtype.itemsize < 4:  # which may not hold k
        labels = labels.astype(jnp.int32)
    log_probabilities = jax.nn.log_softmax(logits)
    target = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    smoothing = jnp.asarray(label_smoothing, logits.dtype)
    target = (1 - smoothing) * target + smoothing / logits.shape[-1]
    is_class = (labels >= 0) & (labels < logits.shape[-1])
    target = jnp.where(is_class[:, None], target, jnp.nan)
    # What the target rules out does not count, not even 0 times −∞.
    return -jnp.sum(target * jnp.where(target != 0, log_probabilities, 0), axis=-1)
