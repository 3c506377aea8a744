"""The layers, their gradients and the loss against float64 NumPy, for many sizes."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.correctness import reference
from experiments.correctness.comparison import Comparison
from lenet_jax.nn import ops

# Images per batch, channels, feature maps, height and width.
SIZES = (
    *((1, 1, 6, 8, 8), (2, 6, 12, 14, 14), (3, 9, 4, 10, 14), (7, 12, 5, 8, 12), (16, 1, 6, 12, 8)),
    *((17, 16, 3, 8, 8), (33, 6, 16, 8, 8), (64, 3, 2, 10, 10), (100, 24, 1, 8, 8)),
    *((128, 2, 3, 12, 12), (200, 40, 2, 8, 8), (5, 40, 17, 8, 10)),
)
ROUNDING = 1e-5
# Nearer to a tie, or to ReLU's kink, than this, rounding may choose otherwise than float64: such
# inputs are drawn again. Ties themselves are exact, and have a comparison of their own.
MARGIN = 2e-6
ORACLE = "NumPy, float64"
Arrays = tuple[np.ndarray, ...]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Arrays]


def describe_sizes() -> str:
    """The range of `SIZES`, in words."""
    batches, channels, maps, *_ = zip(*SIZES, strict=True)
    return (
        f"batches of {min(batches)} to {max(batches)} images with {min(channels)} to"
        f" {max(channels)} channels and {min(maps)} to {max(maps)} feature maps"
    )


def compare(backends: Sequence[ops.Backend]) -> Iterator[Comparison]:
    """Yields the comparisons of every backend, and of what has none."""
    for backend in backends:
        yield from _convolutions(backend)
    for backend in backends:
        yield _linear(backend)
    yield _general_forms()
    yield _losses()
    yield _normalised()


def draw_normal(rng: np.random.Generator, size: tuple[int, ...]) -> Arrays:
    """Images, kernel, bias and cotangent of normally distributed numbers."""
    batch, c, k, height, width = size
    shapes = (
        (batch, height, width, c),
        (5, 5, c, k),
        (k,),
        (batch, height // 2 - 2, width // 2 - 2, k),
    )
    x, kernel, bias, cotangent = (rng.standard_normal(shape, np.float32) for shape in shapes)
    return x, kernel / np.float32(5), bias, cotangent


def draw_constant(rng: np.random.Generator, size: tuple[int, ...]) -> Arrays:
    """The same, but each channel of an image has one value: all pixels of a pool are equal."""
    x, *others = draw_normal(rng, size)
    return np.broadcast_to(x[:, :1, :1], x.shape).copy(), *others


def draw_integers(rng: np.random.Generator, size: tuple[int, ...]) -> Arrays:
    """Integers from -3 to 3, whose sums of products are exact in float32."""
    return tuple(
        rng.integers(-3, 4, array.shape).astype(np.float32) for array in draw_normal(rng, size)
    )


def _convolutions(backend: ops.Backend) -> Iterator[Comparison]:
    layer = functools.partial(ops.conv_pool_relu, backend=backend)
    compiled = with_gradients(layer)
    for draw, inputs, bound in (
        (draw_normal, "random numbers", ROUNDING),
        (draw_constant, "constant images: every window ties, the first maximum wins", ROUNDING),
        (draw_integers, "small integers, whose sums are exact", 0.0),
    ):
        subject = f"`{backend}`: convolution, max-pool, ReLU, and gradients; {inputs}"
        comparison = Comparison(subject, ORACLE, bound)
        for seed, size in enumerate(SIZES):
            arrays, expected = _draw_apart(draw, size, seed)
            comparison.add_each(compiled(*arrays), expected)
        yield comparison


def _draw_apart(draw: Draw, size: tuple[int, ...], seed: int) -> tuple[Arrays, dict[str, Any]]:
    for attempt in itertools.count():
        arrays = draw(np.random.default_rng((seed, attempt)), size)
        expected = reference.conv_pool_relu(*arrays)
        if expected.margin > MARGIN:
            return arrays, expected._asdict()
    raise AssertionError("unreachable")


def with_gradients(layer: Callable[..., jax.Array]) -> Callable[..., dict[str, jax.Array]]:
    """The compiled layer: of (x, kernel, bias, cotangent), its output and the three gradients."""

    def compute(*arrays: jax.Array) -> dict[str, jax.Array]:
        *arguments, cotangent = arrays
        output, vjp = jax.vjp(layer, *arguments)
        names = ("dx", "dkernel", "dbias")[: len(arguments)]
        return {"output": output, **dict(zip(names, vjp(cotangent), strict=True))}

    return jax.jit(compute, compiler_options=ops.compiler_options())


def _linear(backend: ops.Backend) -> Comparison:
    comparison = Comparison(f"`{backend}`: linear layer, and gradients", ORACLE, ROUNDING)
    compiled = with_gradients(functools.partial(ops.linear, backend=backend))
    rng = np.random.default_rng(0)
    for batch, n, k in ((1, 1, 1), (2, 300, 120), (33, 17, 84), (64, 84, 10), (200, 400, 3)):
        shapes = (batch, n), (n, k), (k,), (batch, k)
        arrays = tuple(rng.standard_normal(shape, np.float32) for shape in shapes)
        comparison.add_each(compiled(*arrays), reference.linear(*arrays))
    return comparison


def _general_forms() -> Comparison:
    """Every activation and pool, forward; `pytorch` compares the gradients, which are JAX's own."""
    subject = "convolution, activation and pool, of every kind"
    comparison = Comparison(subject, ORACLE, ROUNDING)
    x, kernel, bias, _ = draw_normal(np.random.default_rng(0), (9, 3, 4, 10, 14))
    convolved = reference.convolve(x, kernel) + bias
    for activation, pool in itertools.product(ops.ACTIVATIONS, ("max", "avg")):
        expected = reference.pool(reference.ACTIVATIONS[activation](convolved), pool)
        for backend in ("phase", "plain"):
            form = functools.partial(
                ops.conv_activate_pool, activation=activation, pool=pool, backend=backend
            )
            comparison.add(jax.jit(form)(x, kernel, bias), expected)
    return comparison


def _losses() -> Comparison:
    subject = "cross-entropy with label smoothing, and its gradient"
    comparison = Comparison(subject, ORACLE, ROUNDING)
    rng = np.random.default_rng(0)

    @jax.jit
    def compute(logits: jax.Array, labels: jax.Array, smoothing: jax.Array) -> dict[str, jax.Array]:
        def losses(logits: jax.Array) -> jax.Array:
            return ops.cross_entropy(logits, labels, label_smoothing=smoothing)

        output, vjp = jax.vjp(losses, logits)
        return {"output": output, "dx": vjp(jnp.ones_like(output))[0]}

    for batch, classes in ((1, 2), (7, 10), (64, 47), (200, 1000)):
        for scale, smoothing in itertools.product((0.1, 5, 80), (0.0, 0.1, 0.9)):
            logits = scale * rng.standard_normal((batch, classes), np.float32)
            labels = rng.integers(0, classes, batch).astype(np.int32)
            expected = reference.cross_entropy(logits, labels, smoothing)
            comparison.add_each(compute(logits, labels, np.float32(smoothing)), expected)
    return comparison


def _normalised() -> Comparison:
    comparison = Comparison("normalised pixels", ORACLE, ROUNDING)
    rng = np.random.default_rng(0)
    for channels in (1, 3, 4):
        pixels = rng.integers(0, 256, (5, 8, 8, channels)).astype(np.uint8)
        mean, std = rng.uniform(1, 200, channels), rng.uniform(1, 100, channels)
        ours = ops.normalise(jnp.asarray(pixels), mean.tolist(), std.tolist())
        comparison.add(ours, (pixels.astype(np.float64) - mean) / std)
    return comparison
