"""Convolution, 2×2 max-pool, bias and ReLU as Pallas kernels for GPUs, differentiable to any order.

The forward kernel writes the pooled map and one byte for each of its pixels: which of the block's
four pixels was the maximum, or that ReLU cut it. The gradients need no more than these bytes, the
input and the cotangent. Windows exist only in registers and in shared memory.

Arrays have the batch last. Each kernel is a matrix product whose columns are the pooled pixels of
all images, and whose rows are features, or taps (a pixel of the window in one channel). The four
pixels of a block come from four products of the same matrix, with windows that are a pixel apart.
Equal windows are therefore equal columns, whose terms are added in one order: they tie without
being compared.

Tiles have sides that are powers of two, at least 16, as tensor cores need. Triton's compiler for an
H100 gives the largest program, the forward kernel in float32, 245 of the 255 registers that each of
its 256 threads may have, and 18 of the 227 KiB of shared memory; nothing is spilled to memory.
Pallas compiles them by Triton, which JAX 0.12 deprecates.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.interpreters import ad
from jaxtyping import Array, Float

from lenet_jax.nn.phase import OFFSETS, at_winner, conv_phases
from lenet_jax.nn.primitives import Trilinear, make_primitive, map_networks

COLUMNS, TAPS, ROWS = 128, 32, 16  # of a tile
SUMMED, BLOCKS = 32, 32  # columns that a product of the kernel's gradient sums; products a program
CUT = 4  # instead of the winner's phase, where ReLU gives 0


def conv_pool_relu(
    x: Float[Array, "c h w b"],
    kernel: Float[Array, "s s c k"],
    bias: Float[Array, " k"],
    precision: str = "float32",
) -> Float[Array, "k h2 w2 b"]:
    """`ops.conv_pool_relu` of float32 arrays that have the batch last.

    A CPU interprets the kernels, slowly. On a TPU they do not compile.
    """
    return _layer(precision)(x, kernel, bias)


class Sizes(NamedTuple):
    """The sizes of a layer."""

    channels: int
    height: int
    width: int
    batch: int
    size: int
    features: int

    @property
    def taps(self) -> int:
        """The pixels of a window, in all channels."""
        return self.size**2 * self.channels

    @property
    def pooled(self) -> tuple[int, int, int, int]:
        """The shape of the pooled map."""
        h, w = ((side - self.size + 1) // 2 for side in (self.height, self.width))
        return self.features, h, w, self.batch

    @property
    def columns(self) -> int:
        """The pixels of a pooled feature, in all images."""
        return math.prod(self.pooled[1:])


@functools.cache
def _layer(precision: str) -> Callable[..., Array]:
    """The layer with products of this precision."""

    def forward(x: Array, kernel: Array, bias: Array) -> list[Array]:
        sizes = Sizes._make((*x.shape, kernel.shape[0], kernel.shape[-1]))
        grid = pl.cdiv(sizes.columns, COLUMNS), pl.cdiv(sizes.features, ROWS)
        outs = (sizes.pooled, jnp.float32), (sizes.pooled, jnp.int8)
        run = functools.partial(_forward_kernel, sizes=sizes, precision=precision)
        return _call(run, grid, (x, kernel, bias), outs, warps=8)

    def kernel_gradient(
        x: Array, cotangent: Array, winners: Array, *, groups: int = 1
    ) -> list[Array]:
        assert groups == 1  # many networks are mapped
        size = x.shape[1] - 2 * cotangent.shape[1] + 1
        sizes = Sizes._make((*x.shape, size, cotangent.shape[0]))
        parts = pl.cdiv(sizes.columns, SUMMED * BLOCKS)
        # The bias is the weight of one more tap, in which every window has a 1.
        shape = parts, sizes.taps + 1, sizes.features
        grid = parts, pl.cdiv(sizes.taps + 1, TAPS), pl.cdiv(sizes.features, ROWS)
        run = functools.partial(_kernel_gradient_kernel, sizes=sizes, precision=precision)
        outs = [(shape, jnp.float32)]
        (gradient,) = _call(run, grid, (x, cotangent, winners), outs, warps=4)
        gradient = jnp.sum(gradient, axis=0)
        kernel = gradient[:-1].reshape(size, size, sizes.channels, sizes.features)
        return [kernel[None], gradient[-1:]]

    def input_gradient(kernel: Array, cotangent: Array, winners: Array) -> Array:
        size, _, channels, features = kernel.shape
        _, h, w, batch = cotangent.shape
        sizes = Sizes(channels, 2 * h + size - 1, 2 * w + size - 1, batch, size, features)
        blocks = sizes.height // 2 * (sizes.width // 2) * batch
        grid = pl.cdiv(blocks, COLUMNS), pl.cdiv(4 * channels, ROWS)
        run = functools.partial(_input_gradient_kernel, sizes=sizes, precision=precision)
        outs = [(sizes[:4], jnp.float32)]
        return _call(run, grid, (kernel, cotangent, winners), outs, warps=8)[0]

    def read_winners(x: Array, kernel: Array, bias: Array, winners: Array) -> Array:
        phases = conv_phases(x, kernel, precision) + bias.reshape(1, -1, 1, 1, 1)
        return at_winner(phases, winners)

    name = f"pallas_{precision}"
    at_winners = Trilinear(
        f"{name}_at_winners", read_winners, kernel_gradient, input_gradient, together=True
    )
    layer = make_primitive(name, forward)
    map_networks(layer, forward)

    def differentiate(primals: Sequence[Array], tangents: Sequence[Any]) -> Any:
        outs = layer.bind(*primals)
        tangent = at_winners.tangent((*primals, outs[1]), tangents, outs[0])
        return outs, [tangent, ad.Zero(jax.typeof(outs[1]).to_tangent_aval())]

    ad.primitive_jvps[layer] = differentiate
    return lambda *args: layer.bind(*args)[0]


def _forward_kernel(
    x: Any, kernel: Any, bias: Any, pooled: Any, winners: Any, *, sizes: Sizes, precision: str
) -> None:
    """Writes a tile of the pooled features and their winners."""
    column, feature = _indices(0, COLUMNS), _indices(1, ROWS)[:, None]
    window = _window(sizes, column)

    def add(block: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        tap = block * TAPS + jnp.arange(TAPS, dtype=jnp.int32)
        known = (tap < sizes.taps)[None] & (feature < sizes.features)
        weights = _load(kernel, tap[None] * sizes.features + feature, known)
        inside = (tap < sizes.taps)[:, None] & (column < sizes.columns)[None]
        at = _tap(sizes, tap)[:, None] + window[None]
        return tuple(
            total + _dot(weights, _load(x, at + _offset(sizes, phase), inside), precision)
            for phase, total in enumerate(sums)
        )

    zeros = jnp.zeros((ROWS, COLUMNS), jnp.float32)
    sums = lax.fori_loop(0, pl.cdiv(sizes.taps, TAPS), add, (zeros,) * 4)
    best, winner = sums[0], jnp.zeros((ROWS, COLUMNS), jnp.int32)
    for phase, value in enumerate(sums[1:], 1):
        larger = (value > best) | (value != value)  # a NaN remains
        best, winner = jnp.where(larger, value, best), jnp.where(larger, phase, winner)
    best += _load(bias, feature, feature < sizes.features)
    cut = best <= 0
    inside = (feature < sizes.features) & (column < sizes.columns)[None]
    at = feature * sizes.columns + column[None]
    _store(pooled, at, jnp.where(cut, 0.0, best), inside)
    _store(winners, at, jnp.where(cut, CUT, winner).astype(jnp.int8), inside)


def _kernel_gradient_kernel(
    x: Any, cotangent: Any, winners: Any, gradient: Any, *, sizes: Sizes, precision: str
) -> None:
    """Writes the share of some columns in a tile of the gradients of kernel and bias."""
    tap, feature = _indices(1, TAPS)[:, None], _indices(2, ROWS)[None]
    part, is_bias = pl.program_id(0), tap == sizes.taps

    def add(block: Array, total: Array) -> Array:
        column = (part * BLOCKS + block) * SUMMED + jnp.arange(SUMMED, dtype=jnp.int32)
        inside = column < sizes.columns
        at = feature * sizes.columns + column[:, None]
        known = inside[:, None] & (feature < sizes.features)
        values, winner = _load(cotangent, at, known), _load(winners, at, known, CUT)
        window = _tap(sizes, tap) + _window(sizes, column)[None]
        known = inside[None] & (tap < sizes.taps)
        for phase in range(4):
            pixels = _load(x, window + _offset(sizes, phase), known)
            won = jnp.where(winner.astype(jnp.int32) == phase, values, 0.0)
            total += _dot(jnp.where(is_bias, 1.0, pixels), won, precision)
        return total

    zeros = jnp.zeros((TAPS, ROWS), jnp.float32)
    total = lax.fori_loop(0, BLOCKS, add, zeros)
    at = (part * (sizes.taps + 1) + tap) * sizes.features + feature
    _store(gradient, at, total, (tap <= sizes.taps) & (feature < sizes.features))


def _input_gradient_kernel(
    kernel: Any, cotangent: Any, winners: Any, gradient: Any, *, sizes: Sizes, precision: str
) -> None:
    """Writes a tile of the input's gradient.

    A column is a 2×2 block of the input's pixels, in one image; a row, one of the four, in one
    channel. The terms are those of the features of the blocks above and to the left, whose windows
    hold this block; in each of them one of four weights counts, by the winner.
    """
    features, h, w, batch = sizes.pooled
    across = (sizes.size + 1) // 2  # blocks, so far apart that windows still overlap
    column, row = _indices(0, COLUMNS), _indices(1, ROWS)[:, None]
    image, place = lax.rem(column, batch), lax.div(column, batch)
    block_row, block_column = lax.div(place, sizes.width // 2), lax.rem(place, sizes.width // 2)
    # Rows are ordered by channel, then row and column in the block.
    channel, down, right = row // 4, row // 2 % 2, row % 2
    terms = across**2 * features

    def add(block: Array, total: Array) -> Array:
        term = block * TAPS + jnp.arange(TAPS, dtype=jnp.int32)
        feature, apart = lax.rem(term, features), lax.div(term, features)
        above, left = lax.div(apart, across), lax.rem(apart, across)
        pooled_row, pooled_column = (
            block_row[None] - above[:, None],
            block_column[None] - left[:, None],
        )
        known = (term < terms)[:, None] & (block_row < sizes.height // 2)[None]
        known &= (pooled_row >= 0) & (pooled_row < h) & (pooled_column >= 0) & (pooled_column < w)
        at = ((feature[:, None] * h + pooled_row) * w + pooled_column) * batch + image[None]
        values, winner = _load(cotangent, at, known), _load(winners, at, known, CUT)
        for phase, (p, q) in enumerate(OFFSETS):
            i, j = 2 * above[None] + down - p, 2 * left[None] + right - q
            known = (term < terms)[None] & (channel < sizes.channels)
            known &= (i >= 0) & (i < sizes.size) & (j >= 0) & (j < sizes.size)
            at = ((i * sizes.size + j) * sizes.channels + channel) * features + feature[None]
            won = jnp.where(winner.astype(jnp.int32) == phase, values, 0.0)
            total += _dot(_load(kernel, at, known), won, precision)
        return total

    zeros = jnp.zeros((ROWS, COLUMNS), jnp.float32)
    total = lax.fori_loop(0, pl.cdiv(terms, TAPS), add, zeros)
    y, x = 2 * block_row[None] + down, 2 * block_column[None] + right
    at = ((channel * sizes.height + y) * sizes.width + x) * batch + image[None]
    _store(gradient, at, total, (channel < sizes.channels) & (y < sizes.height))


def _indices(axis: int, tile: int) -> Array:
    """The indices of this program's tile along an axis of the grid."""
    return pl.program_id(axis) * tile + jnp.arange(tile, dtype=jnp.int32)


def _window(sizes: Sizes, column: Array) -> Array:
    """Where the window of the first phase of pooled pixels begins in x."""
    _, _, w, batch = sizes.pooled
    image, place = lax.rem(column, batch), lax.div(column, batch)
    return (2 * lax.div(place, w) * sizes.width + 2 * lax.rem(place, w)) * batch + image


def _tap(sizes: Sizes, tap: Array) -> Array:
    """Where the pixels of a window lie in x, from its beginning; taps as rows of the kernel."""
    channel, place = lax.rem(tap, sizes.channels), lax.div(tap, sizes.channels)
    row, column = lax.div(place, sizes.size), lax.rem(place, sizes.size)
    return ((channel * sizes.height + row) * sizes.width + column) * sizes.batch


def _offset(sizes: Sizes, phase: int) -> int:
    """How far the window of a phase is from that of the first, in x."""
    row, column = OFFSETS[phase]
    return (row * sizes.width + column) * sizes.batch


def _load(ref: Any, index: Array, known: Array, other: float | int = 0.0) -> Array:
    index, known = jnp.broadcast_arrays(index, known)
    return triton.load(ref.at[index], mask=known, other=other)


def _store(ref: Any, index: Array, value: Array, known: Array) -> None:
    # Interpreted, an index beyond the end is dropped; another would be written as it was before.
    triton.store(ref.at[jnp.where(known, index, ref.shape[0])], value, mask=known)


def _dot(a: Array, b: Array, precision: str) -> Array:
    return jnp.matmul(a, b, precision=precision)


def _call(
    kernel: Callable[..., None],
    grid: tuple[int, ...],
    args: Sequence[Array],
    outs: Sequence[tuple[Sequence[int], Any]],
    warps: int,
) -> list[Array]:
    """Runs a kernel on flat arrays; returns arrays of the given shapes and dtypes."""
    # One stage: shared memory for more would leave one program on a multiprocessor.
    params = triton.CompilerParams(num_warps=warps, num_stages=1)

    def call(*args: Array, interpret: bool) -> Sequence[Array]:
        return pl.pallas_call(
            kernel,
            out_shape=[jax.ShapeDtypeStruct((math.prod(s),), dtype) for s, dtype in outs],
            grid=grid,
            interpret=interpret,
            compiler_params=params,
        )(*args)

    flat = lax.platform_dependent(
        *(arg.reshape(-1) for arg in args),
        cpu=functools.partial(call, interpret=True),
        default=functools.partial(call, interpret=False),
    )
    return [out.reshape(shape) for out, (shape, _) in zip(flat, outs, strict=True)]
