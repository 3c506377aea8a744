"""Affine maps about the middle of the image, bilinear, with black outside."""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Key

SHEAR, TURN = 0.4, 0.4  # radians
SHRINK = 0.7
SHIFT = 3.0  # pixels


def warp(
    image: Float[Array, "h w"], matrix: Float[Array, "2 2"], shift: Float[Array, " 2"]
) -> Float[Array, "h w"]:
    """Samples output pixel p at matrix · (p - middle) + middle + shift, as (row, column)."""
    middle = jnp.array([(side - 1) / 2 for side in image.shape])
    rows, columns = (jnp.arange(side, dtype=jnp.float32) for side in image.shape)
    grid = jnp.stack(jnp.meshgrid(rows, columns, indexing="ij")) - middle[:, None, None]
    places = jnp.tensordot(matrix, grid, 1, precision="highest") + (middle + shift)[:, None, None]
    return map_coordinates(image, list(places), order=1, mode="constant")


def shear(key: Key[Array, ""], image: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """Shears to the left or to the right by 0.4 radians.

    As scikit-image did when MNIST-C was made: rows move by their height times the sine, and the
    height is divided by the cosine.
    """
    angle = SHEAR * _sign(key)
    zero, one = jnp.zeros(()), jnp.ones(())
    return warp(image, _matrix(jnp.cos(angle), zero, -jnp.sin(angle), one), jnp.zeros(2))


def rotate(key: Key[Array, ""], image: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """Turns to the left or to the right by 0.4 radians."""
    angle = TURN * _sign(key)
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    return warp(image, _matrix(cosine, -sine, sine, cosine), jnp.zeros(2))


def scale(key: Key[Array, ""], image: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """Shrinks to 70 % of the size; nothing is random."""
    return warp(image, jnp.eye(2) / SHRINK, jnp.zeros(2))


def translate(key: Key[Array, ""], image: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """Moves by 3 pixels up or down, and by 3 to the left or to the right."""
    return warp(image, jnp.eye(2), SHIFT * jax.random.rademacher(key, (2,), jnp.float32))


def _sign(key: Key[Array, ""]) -> Float[Array, ""]:
    return jax.random.rademacher(key, (), jnp.float32)


def _matrix(*entries: Float[Array, ""]) -> Float[Array, "2 2"]:
    return jnp.stack(entries).reshape(2, 2)
