"""Noise of single pixels."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

PHOTONS = 3  # of a white pixel, on average
FLIPPED = 0.17  # share of the pixels


def shot_noise(key: Key[Array, ""], image: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """Counts photons: a Poisson variable of mean 3 where a pixel is white; 3 or more are white."""
    mean = PHOTONS * image
    draw = jax.random.uniform(key, image.shape)
    # Its distribution function at 0, 1 and 2: larger counts look alike.
    terms = [jnp.exp(-mean) * mean**count / math.factorial(count) for count in range(PHOTONS)]
    at_most = jnp.cumsum(jnp.stack(terms), axis=0)
    return jnp.mean((draw[None] > at_most).astype(image.dtype), axis=0)


def impulse_noise(key: Key[Array, ""], image: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """Salt and pepper: 17 % of the pixels become white or black, with equal probability."""
    draw = jax.random.uniform(key, image.shape)
    salted = jnp.where(draw < FLIPPED / 2, 1.0, image)
    return jnp.where(draw > 1 - FLIPPED / 2, 0.0, salted)
