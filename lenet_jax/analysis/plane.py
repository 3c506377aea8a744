"""The loss on a plane through the space of parameters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from lenet_jax.analysis.loss import Loss, Params, combination


class Plane(NamedTuple):
    """The points origin + x · first + y · second.

    Attributes:
      origin: a network.
      first, second: directions, of the same structure.
    """

    origin: Params
    first: Params
    second: Params


def losses_on(
    loss: Loss, plane: Plane, x: Float[Array, " w"], y: Float[Array, " h"]
) -> Float[Array, "h w"]:
    """The loss at each point of a grid."""

    def at(place: Float[Array, " 2"]) -> Float[Array, ""]:
        weights = jnp.concatenate([jnp.ones(1, place.dtype), place])
        return loss(combination(weights, plane))

    grid = jnp.stack(jnp.meshgrid(x, y), axis=-1)
    return lax.map(at, grid.reshape(-1, 2)).reshape(grid.shape[:2])


def random_plane(key: Key[Array, ""], params: Params) -> Plane:
    """A plane of two random directions whose filters are as long as those of a network.

    A filter is all that leads to one unit, the last axis; biases keep their values.

    Source: Li, Xu, Taylor, Studer, Goldstein, "Visualizing the loss landscape of neural nets",
    2018, section 4.
    """
    leaves, structure = jax.tree.flatten(params)

    def direction(key: Key[Array, ""]) -> Params:
        keys = jax.random.split(key, len(leaves))
        return jax.tree.unflatten(structure, list(map(_like_filters, keys, leaves)))

    return Plane(params, *map(direction, jax.random.split(key)))


def _like_filters(key: Key[Array, ""], leaf: Float[Array, "..."]) -> Float[Array, "..."]:
    if leaf.ndim < 2:
        return jnp.zeros_like(leaf)
    axes = tuple(range(leaf.ndim - 1))
    noise = jax.random.normal(key, leaf.shape, leaf.dtype)
    lengths = (jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True)) for x in (leaf, noise))
    own, drawn = lengths
    return noise * (own / drawn)


def plane_through(one: Params, two: Params, three: Params) -> tuple[Plane, Float[Array, "3 2"]]:
    """The plane through three networks, and their places on it.

    Its directions have length 1 and a right angle between them, so that distances are those of the
    space of parameters: `one` lies at (0, 0), `two` on the first axis.

    Source: Garipov et al., "Loss surfaces, mode connectivity, and fast ensembling of DNNs", 2018,
    section 4.
    """
    first, second = (jax.tree.map(jnp.subtract, end, one) for end in (two, three))
    width = jnp.sqrt(_inner(first, first))
    first = jax.tree.map(lambda leaf: leaf / width, first)
    along = _inner(first, second)
    second = jax.tree.map(lambda b, a: b - along * a, second, first)
    height = jnp.sqrt(_inner(second, second))
    second = jax.tree.map(lambda leaf: leaf / height, second)
    zero = jnp.zeros_like(width)
    places = jnp.stack([zero, zero, width, zero, along, height]).reshape(3, 2)
    return Plane(one, first, second), places


def _inner(one: Params, other: Params) -> Float[Array, ""]:
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), one, other)
    return sum(jax.tree.leaves(products), start=jnp.zeros(()))
