"""Convolution, max-pool, ReLU and flatten as functions on arrays, in a plain and in fast forms.

The backends of `conv_pool_relu` compute the same numbers and the same gradients, ties included, as
long as all are finite. `plain` says what is meant. `native` is what runs on a CPU: C++ that keeps
its sums in registers. Where there is no compiler for it, and on accelerators, `phase` runs:

    A 5×5 convolution followed by a 2×2 max-pool reads, for each pooled pixel, one 6×6 window at
    stride 2. Four copies of the kernel, zero-padded to 6×6 at the four offsets, turn that window
    into the four values (the phases) that the pool compares. So both layers are one matrix
    product, (4·k, 36·c) @ (36·c, h/2·w/2·b), and a maximum over its four groups of rows.

Inside `native` and `phase` the batch is the last axis: every copy, comparison and sum then runs
over contiguous numbers. `batch_last` moves it there and back; XLA cancels the pair between two
layers. There is no convolution in `phase`, which XLA's CPU backend compiles badly in loops.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int, Int8, UInt8

from lenet_jax.errors import UserError
from lenet_jax.nn import native

Backend = Literal["auto", "native", "phase", "plain"]


def conv_pool_relu(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "s s c k"],
    bias: Float[Array, " k"],
    *,
    backend: Backend = "auto",
) -> Float[Array, "b h2 w2 k"]:
    """Convolves (valid, stride 1), takes the maximum of each 2×2 block, adds the bias, cuts at 0.

    Pooling before bias and ReLU gives what PyTorch's conv → ReLU → pool gives, since both are
    monotone, and leaves them a quarter of the work. Of equal maxima the first, in reading order,
    receives the gradient, as in PyTorch.

    Args:
      x: images or feature maps.
      kernel: square, of odd size s, in the layout (height, width, in, out).
      bias: one number per output channel.
      backend: `plain`, `phase`, `native`, or `auto`: what `choose_backend` says, but `phase`
        for what `native` is not written for.

    Returns:
      Feature maps of height (h - s + 1) / 2 and width (w - s + 1) / 2.

    Raises:
      ValueError: s is even, or the convolved height or width is odd or not positive; or `native` is
        asked for, and s is not 5 or the numbers are not float32.
      UserError: `native` is asked for, and cannot be had.
    """
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
    lower = {
        "plain": _conv_pool_relu_plain,
        "phase": _conv_pool_relu_phase,
        "native": _conv_pool_relu_native,
    }
    return lower[_choose(backend, x, kernel, size == native.SIZE)](x, kernel, bias)


def linear(
    x: Float[Array, "b n"],
    kernel: Float[Array, "n k"],
    bias: Float[Array, " k"],
    *,
    backend: Backend = "auto",
) -> Float[Array, "b k"]:
    """X @ kernel + bias.

    Args:
      x: rows of features.
      kernel: one column per unit.
      bias: one number per unit.
      backend: as for `conv_pool_relu`; `phase` and `plain` are the same.

    Raises:
      ValueError: `native` is asked for, and the numbers are not float32.
      UserError: `native` is asked for, and cannot be had.
    """
    if _choose(backend, x, kernel) == "native":
        return batch_last(native.linear(batch_last(x), kernel, bias))
    return x @ kernel + bias.reshape(1, -1)


def choose_backend(backend: Backend) -> Backend:
    """What `auto` stands for here: `native` on a CPU with a C++ compiler, else `phase`.

    Raises:
      UserError: `native` is asked for, and cannot be had.
    """
    on_cpu = jax.default_backend() == "cpu"
    if backend == "auto":
        return "native" if on_cpu and native.missing() is None else "phase"
    if backend == "native":
        if not on_cpu:
            raise UserError(
                "config.model.backend=native is for CPUs\nLeave it out: the fastest is taken."
            )
        native.load()
    return backend


def _choose(backend: Backend, x: Array, kernel: Array, is_written: bool = True) -> Backend:
    """`choose_backend`, where `native` may not be written for what is given."""
    chosen = choose_backend(backend)
    if chosen != "native" or (is_written and x.dtype == kernel.dtype == jnp.float32):
        return chosen
    if backend == "auto":
        return "phase"
    size = "×".join(map(str, kernel.shape[:2]))
    raise ValueError(f"`native` takes float32, and 5×5 kernels, not {size} of {kernel.dtype}")


def compiler_options() -> dict[str, Any]:
    """Options for `jax.jit` under which `phase` keeps ties exactly.

    Of XLA's two matrix products on the CPU, Eigen's adds the terms of every row in the same order;
    YNNPACK's does not, and so tells equal phases apart by their last bit. Eigen does so on one and
    two threads; on four or more it may cut a product of few columns within a phase (seen with 6→6
    maps and batches of 17 and 32, not with the sizes of the configs).
    """
    if jax.default_backend() != "cpu":
        return {}
    return {"xla_cpu_experimental_ynn_fusion_type": "", "xla_cpu_multi_thread_eigen": False}


def batch_last(x: Float[Array, "first *middle last"]) -> Float[Array, "last *middle first"]:
    """(b, h, w, c) ↔ (c, h, w, b), or (b, n) ↔ (n, b): the layout of the fast backends and back."""
    return x.swapaxes(0, -1)


def relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """max(x, 0), with gradient 0 at 0: [-3, 5, -1, 2] → [0, 5, 0, 2]."""
    return jax.nn.relu(x)


def flatten(x: Float[Array, "b h w c"]) -> Float[Array, "b n"]:
    """Rows of h·w·c numbers, channels fastest.

    PyTorch's `flatten` of (c, h, w) has channels slowest, so the first linear layer after it has
    its input rows in another order; `torch_bridge` permutes them.
    """
    # Written with the batch last, so that no copy comes between `phase` and the linear layers.
    return x.transpose(1, 2, 3, 0).reshape(-1, x.shape[0]).T


def _conv_pool_relu_plain(
    x: Float[Array, "b h w c"], kernel: Float[Array, "s s c k"], bias: Float[Array, " k"]
) -> Float[Array, "b h2 w2 k"]:
    layout = ("NHWC", "HWIO", "NHWC")
    convolved = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=layout)
    pooled = lax.reduce_window(convolved, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return relu(pooled + bias.reshape(1, 1, 1, -1))


def _conv_pool_relu_native(
    x: Float[Array, "b h w c"], kernel: Float[Array, "s s c k"], bias: Float[Array, " k"]
) -> Float[Array, "b h2 w2 k"]:
    return batch_last(native.conv_pool_relu(batch_last(x), kernel, bias))


def _conv_pool_relu_phase(
    x: Float[Array, "b h w c"], kernel: Float[Array, "s s c k"], bias: Float[Array, " k"]
) -> Float[Array, "b h2 w2 k"]:
    windows: Array = pooling_windows(batch_last(x), (kernel.shape[0] + 1) // 2)
    *_, h, w, b = windows.shape
    phases = phase_kernels(kernel).T @ windows.reshape(-1, h * w * b)
    pooled = max_over_phases(phases.reshape(4, -1, h, w, b))
    return batch_last(relu(pooled + bias.reshape(-1, 1, 1, 1)))


def phase_kernels(kernel: Float[Array, "s s c k"]) -> Float[Array, "window_c phases_k"]:
    """The kernel at the four offsets of a 2×2 block, as the columns of one matrix.

    Row (row, column, channel) of the (s+1)×(s+1) window; column (phase, k), phases in reading
    order. Every phase meets its terms in the same order, so that equal windows give equal sums to
    the last bit and ties stay ties.
    """
    size, _, c, k = kernel.shape
    offsets = [(0, 0), (0, 1), (1, 0), (1, 1)]
    padded = [jnp.pad(kernel, ((p, 1 - p), (q, 1 - q), (0, 0), (0, 0))) for p, q in offsets]
    return jnp.stack(padded, axis=3).reshape((size + 1) ** 2 * c, 4 * k)


@jax.custom_vjp
def max_over_phases(phases: Float[Array, "4 ..."]) -> Float[Array, "..."]:
    """The maximum of the four pooling phases; the first maximum receives the gradient.

    This is JAX's form of a `torch.autograd.Function`: the function, a forward that also returns
    what backward needs (`ctx.save_for_backward`), and a backward from cotangent to gradients.
    """
    return _max_over_phases_forward(phases)[0]


def _max_over_phases_forward(
    phases: Float[Array, "4 ..."],
) -> tuple[Float[Array, "..."], Int8[Array, "..."]]:
    top, bottom = jnp.maximum(phases[0], phases[1]), jnp.maximum(phases[2], phases[3])
    winner_of_top = jnp.where(phases[0] >= phases[1], 0, 1)
    winner_of_bottom = jnp.where(phases[2] >= phases[3], 2, 3)
    winner = jnp.where(top >= bottom, winner_of_top, winner_of_bottom).astype(jnp.int8)
    return jnp.maximum(top, bottom), winner


def _max_over_phases_backward(
    winner: Int8[Array, "..."], cotangent: Float[Array, "..."]
) -> tuple[Float[Array, "4 ..."]]:
    return (jnp.stack([jnp.where(winner == phase, cotangent, 0) for phase in range(4)]),)


max_over_phases.defvjp(_max_over_phases_forward, _max_over_phases_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def pooling_windows(
    x: Float[Array, "c h w b"], taps: int
) -> Float[Array, "taps 2 taps 2 c h2 w2 b"]:
    """For every 2×2 block, the 2·taps × 2·taps window that starts there.

    The rows and columns of a window are split into (tap, parity): with the pixels sorted by parity
    first, a window is taps × taps plain slices.
    """
    c, height, width, b = x.shape
    h, w = height // 2 - taps + 1, width // 2 - taps + 1
    by_parity = x.reshape(c, height // 2, 2, width // 2, 2, b).transpose(2, 4, 0, 1, 3, 5)
    rows = [
        jnp.stack([by_parity[:, :, :, i : i + h, j : j + w] for j in range(taps)], axis=1)
        for i in range(taps)
    ]
    return jnp.stack(rows)


def _pooling_windows_forward(
    x: Float[Array, "c h w b"], taps: int
) -> tuple[Float[Array, "taps 2 taps 2 c h2 w2 b"], None]:
    return pooling_windows(x, taps), None


def _pooling_windows_backward(
    taps: int, residuals: None, cotangent: Float[Array, "taps 2 taps 2 c h2 w2 b"]
) -> tuple[Float[Array, "c h w b"]]:
    # The sum over taps² shifted copies, columns first and then rows: 2·taps terms a pixel.
    columns = _sum_shifted(cotangent.transpose(2, 0, 1, 3, 4, 5, 6, 7), axis=5)
    by_parity = _sum_shifted(columns, axis=3)
    *_, c, h, w, b = by_parity.shape
    return (by_parity.transpose(2, 3, 0, 4, 1, 5).reshape(c, 2 * h, 2 * w, b),)


def _sum_shifted(copies: Float[Array, "taps ..."], axis: int) -> Float[Array, "..."]:
    """Σ over i of copy i, moved by i along `axis` in an extent that is larger by taps - 1."""
    taps = copies.shape[0]
    padding = [(0, 0)] * (copies.ndim - 1)
    shifted = []
    for i in range(taps):
        padding[axis] = (i, taps - 1 - i)
        shifted.append(jnp.pad(copies[i], padding))
    return sum(shifted[1:], start=shifted[0])


pooling_windows.defvjp(_pooling_windows_forward, _pooling_windows_backward)


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
    logits: Float[Array, "b k"], labels: Int[Array, " b"], *, label_smoothing: ArrayLike = 0.0
) -> Float[Array, " b"]:
    """Cross-entropy of each example, in nats; PyTorch's with `reduction='none'`.

    Args:
      logits: unnormalised log-probabilities.
      labels: classes, 0 to k - 1.
      label_smoothing: the share of the target spread evenly over all classes, in [0, 1).
    """
    log_probabilities = jax.nn.log_softmax(logits)
    target = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    smoothing = jnp.asarray(label_smoothing, logits.dtype)
    target = (1 - smoothing) * target + smoothing / logits.shape[-1]
    return -jnp.sum(target * log_probabilities, axis=-1)
