"""The distributions of initial weights and biases, and how they are drawn."""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Float32, Key, UInt32

Init = Literal["torch", "flax", "lecun_1998"]


def initializers(init: Init, fan_in: int) -> dict[str, Any]:
    """The arguments of a Flax layer that say how it is initialised.

    Args:
      init: `torch` draws weights and biases uniformly in ±1/√fan_in, as PyTorch's layers do; `flax`
        draws weights from LeCun's normal distribution and sets biases to 0; `lecun_1998` draws
        both uniformly in ±2.4/fan_in, as in appendix A of the paper of LeNet-5.
      fan_in: how many inputs a unit of the layer has.
    """
    bound = _bound(init, fan_in)
    if bound is None:
        return {}

    def uniform(key: Array, shape: Sequence[int], dtype: jax.typing.DTypeLike) -> Array:
        return jax.random.uniform(key, shape, dtype, minval=-bound, maxval=bound)

    return {"kernel_init": uniform, "bias_init": uniform}


class Draw(NamedTuple):
    """Uniform values in ±`bound`."""

    key: Key[Array, ""]
    shape: Sequence[int]
    bound: float


class Draws:
    """Gives the layers of a network the values of `initializers`, all at once.

    XLA compiles random bits once for each shape, which for a LeNet takes longer than all else that
    its first state needs.
    """

    def __init__(self, init: Init):
        """Draws as `initializers` does."""
        self._init: Init = init
        self._draws: list[Draw] = []

    def initializers(self, fan_in: int) -> dict[str, Any]:
        """As `initializers`; a layer has zeros until `fill`."""
        bound = _bound(self._init, fan_in)
        if bound is None:
            return {}

        def later(key: Array, shape: Sequence[int], dtype: jax.typing.DTypeLike) -> Array:
            self._draws.append(Draw(key, shape, bound))
            return jnp.zeros(shape, dtype)

        return {"kernel_init": later, "bias_init": later}

    def fill(self, layers: Iterable[nnx.Conv | nnx.Linear]) -> None:
        """Draws the values of these layers, which are in the order of their creation."""
        if not self._draws:
            return
        values = iter(draw_uniform(self._draws))
        for layer in layers:
            layer.kernel[...] = next(values)
            if layer.bias is not None:
                layer.bias[...] = next(values)


def draw_uniform(draws: Sequence[Draw]) -> list[Float32[Array, "..."]]:
    """What `jax.random.uniform` gives for each, to the bit, from one call of the generator."""
    partitionable = jax.config.jax_threefry_partitionable  # pyright: ignore
    if not partitionable or any(jax.random.key_impl(d.key) != "threefry2x32" for d in draws):
        return [
            jax.random.uniform(key, shape, jnp.float32, minval=-bound, maxval=bound)
            for key, shape, bound in draws
        ]
    keys = jnp.stack([jax.random.key_data(draw.key) for draw in draws])
    _, shapes, bounds = zip(*draws, strict=True)
    return _draw(keys, tuple(map(tuple, shapes)), bounds)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _draw(
    keys: UInt32[Array, "draws 2"], shapes: Sequence[tuple[int, ...]], bounds: Sequence[float]
) -> list[Float32[Array, "..."]]:
    sizes = [math.prod(shape) for shape in shapes]
    ends = np.cumsum(sizes)
    # Everything is computed from a value's place: each array of a single draw would be one more
    # kernel to compile.
    place = jnp.arange(ends[-1], dtype=jnp.uint32)
    draw = jnp.sum(place[:, None] >= ends[None, :-1].astype(np.uint32), axis=1)
    number = place - jnp.asarray(ends - sizes, jnp.uint32)[draw]
    counts = jnp.stack([jnp.zeros_like(number), number], axis=1)
    high, low = jax.vmap(threefry_2x32, out_axes=1)(keys[draw], counts)
    # 23 of the bits are the fraction of a number from 1 to 2.
    numbers = jax.lax.bitcast_convert_type(
        (high ^ low) >> jnp.uint32(9) | jnp.uint32(0x3F800000), jnp.float32
    )
    bound = jnp.asarray(bounds, jnp.float32)[draw]
    values = jnp.maximum(-bound, (numbers - 1) * (2 * bound) - bound)
    parts = jnp.split(values, ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _bound(init: Init, fan_in: int) -> float | None:
    """Of a uniform distribution; None: it is another one."""
    if init == "flax":
        return None
    return 2.4 / fan_in if init == "lecun_1998" else 1 / math.sqrt(fan_in)
