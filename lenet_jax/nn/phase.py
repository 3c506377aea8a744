"""Convolution and 2×2 max-pool as one matrix product, for machines without the C++ kernels.

A convolution followed by a 2×2 max-pool reads, for each pooled pixel, one window at stride 2. Four
copies of the kernel, zero-padded at the four offsets, turn that window into the four values (the
phases) that the pool compares. So both layers are one product, (4·k, (s+1)²·c) @ ((s+1)²·c,
h/2·w/2·b), and a maximum over its four groups of rows. There is no convolution in it, which XLA's
CPU backend compiles badly in loops.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int8, Shaped

from lenet_jax.nn.primitives import make_linear

OFFSETS = ((0, 0), (0, 1), (1, 0), (1, 1))  # of the phases in a block: row, column


def conv_phases(
    x: Float[Array, "c h w b"], kernel: Float[Array, "s s c k"], precision: str = "float32"
) -> Float[Array, "4 k h2 w2 b"]:
    """The four pixels of the convolution that each 2×2 block of the pool compares."""
    windows: Array = pooling_windows(x, (kernel.shape[0] + 1) // 2)
    *_, h, w, b = windows.shape
    columns = windows.reshape(-1, h * w * b)
    phases = jnp.matmul(phase_kernels(kernel).T, columns, precision=precision)
    return phases.reshape(4, -1, h, w, b)


def phase_kernels(kernel: Float[Array, "s s c k"]) -> Float[Array, "window_c phases_k"]:
    """The kernel at the four offsets of a 2×2 block, as the columns of one matrix.

    Row (row, column, channel) of the (s+1)×(s+1) window; column (phase, k), phases in reading
    order.
    """
    size, _, c, k = kernel.shape
    padded = [jnp.pad(kernel, ((p, 1 - p), (q, 1 - q), (0, 0), (0, 0))) for p, q in OFFSETS]
    return jnp.stack(padded, axis=3).reshape((size + 1) ** 2 * c, 4 * k)


def first_equals(x: Float[Array, "c h w b"], size: int) -> Int8[Array, "4 h2 w2 b"]:
    """For each phase, the first phase of its block whose window has the same values.

    A matrix product may add the terms of each phase in another order, or round them differently, so
    that the sums of equal windows differ in the last bits. The windows themselves do not.
    """
    *_, height, width, _ = x.shape
    pixels = [x[:, p : p + height - 1, q : q + width - 1] for p, q in OFFSETS]
    pairs = [(other, phase) for phase in range(4) for other in range(phase)]
    # One bit for each pair of phases, so that six comparisons are reduced as one array.
    equal = jnp.stack([jnp.all(pixels[a] == pixels[b], axis=0) for a, b in pairs])
    shift = jnp.arange(len(pairs), dtype=jnp.uint8).reshape(-1, 1, 1, 1)
    bits = jnp.sum(equal.astype(jnp.uint8) << shift, axis=0, dtype=jnp.uint8)
    for axis in (0, 1):
        last = bits.shape[axis] - size + 1
        taps = (lax.slice_in_dim(bits, i, last + i, stride=2, axis=axis) for i in range(size))
        bits = functools.reduce(jnp.bitwise_and, taps)
    firsts = [jnp.full_like(bits, phase, jnp.int8) for phase in range(4)]
    for n, (other, phase) in reversed(list(enumerate(pairs))):
        firsts[phase] = jnp.where(bits >> n & 1, jnp.int8(other), firsts[phase])
    return jnp.stack(firsts)


@jax.custom_jvp
def max_over_phases(
    phases: Float[Array, "4 k h w b"], firsts: Int8[Array, "4 h w b"]
) -> Float[Array, "k h w b"]:
    """The maximum of the four pooling phases; the first maximum receives the gradient.

    This is JAX's form of a `torch.autograd.Function`, written forward: the rule gives the tangent,
    and JAX transposes it for the backward pass.

    Args:
      phases: the values that the pool compares.
      firsts: see `first_equals`.
    """
    return jnp.max(phases, axis=0)


@max_over_phases.defjvp
def _max_over_phases_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> Any:
    (phases, firsts), (tangent, _) = primals, tangents
    top, bottom = jnp.maximum(phases[0], phases[1]), jnp.maximum(phases[2], phases[3])
    winner_of_top = jnp.where(phases[0] >= phases[1], 0, 1)
    winner_of_bottom = jnp.where(phases[2] >= phases[3], 2, 3)
    winner = jnp.where(top >= bottom, winner_of_top, winner_of_bottom).astype(jnp.int8)
    winner = at_winner(firsts[:, None], winner)
    return jnp.maximum(top, bottom), at_winner(tangent, winner)


def at_winner(phases: Shaped[Array, "4 ..."], winner: Int8[Array, "..."]) -> Shaped[Array, "..."]:
    """The phase that won; 0 where the winner is none of the four."""
    # One comparison with all four, whose transpose is one select: a slice of each phase would be
    # transposed to four padded copies, which makes a training step half as slow again.
    number = jnp.arange(4, dtype=winner.dtype).reshape(4, *[1] * winner.ndim)
    return jnp.sum(jnp.where(winner[None] == number, phases, 0), axis=0, dtype=phases.dtype)


def pooling_windows(
    x: Float[Array, "c h w b"], taps: int
) -> Float[Array, "taps 2 taps 2 c h2 w2 b"]:
    """For every 2×2 block, the 2·taps × 2·taps window that starts there.

    The rows and columns of a window are split into (tap, parity): with the pixels sorted by parity
    first, a window is taps × taps plain slices.
    """
    return _windows(taps)[0](x)


@functools.cache
def _windows(taps: int) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    return make_linear(
        "pooling_windows", functools.partial(_gather, taps=taps), functools.partial(_add, taps=taps)
    )


def _gather(x: Float[Array, "c h w b"], taps: int) -> Float[Array, "taps 2 taps 2 c h2 w2 b"]:
    c, height, width, b = x.shape
    h, w = height // 2 - taps + 1, width // 2 - taps + 1
    by_parity = x.reshape(c, height // 2, 2, width // 2, 2, b).transpose(2, 4, 0, 1, 3, 5)
    rows = [
        jnp.stack([by_parity[:, :, :, i : i + h, j : j + w] for j in range(taps)], axis=1)
        for i in range(taps)
    ]
    return jnp.stack(rows)


def _add(windows: Float[Array, "taps 2 taps 2 c h2 w2 b"], taps: int) -> Float[Array, "c h w b"]:
    """The transpose: every window is added to where it was read."""
    # The sum over taps² shifted copies, columns first and then rows: 2·taps terms a pixel.
    columns = _sum_shifted(windows.transpose(2, 0, 1, 3, 4, 5, 6, 7), axis=5)
    by_parity = _sum_shifted(columns, axis=3)
    *_, c, h, w, b = by_parity.shape
    return by_parity.transpose(2, 3, 0, 4, 1, 5).reshape(c, 2 * h, 2 * w, b)


def _sum_shifted(copies: Float[Array, "taps ..."], axis: int) -> Float[Array, "..."]:
    """Σ over i of copy i, moved by i along `axis` in an extent that is larger by taps - 1."""
    taps = copies.shape[0]
    padding = [(0, 0)] * (copies.ndim - 1)
    shifted = []
    for i in range(taps):
        padding[axis] = (i, taps - 1 - i)
        shifted.append(jnp.pad(copies[i], padding))
    return sum(shifted[1:], start=shifted[0])
