"""Blurs: Gaussian, through glass, and by motion."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int32, Key
from scipy import ndimage

GLASS_SIGMA = 0.7  # pixels
GLASS_ROUNDS = 2
MOTION_REACH = 21  # pixels: a radius of 10
MOTION_SIGMA = 3.0  # pixels
MOTION_ANGLE = np.pi / 4


def smooth(image: Float[Array, "h w"], sigma: float, mode: str = "nearest") -> Float[Array, "h w"]:
    """As `scipy.ndimage.gaussian_filter`, in whose words `mode` says what is outside the image."""
    # The filter of a unit impulse at each place is the filter as a matrix.
    down, right = (ndimage.gaussian_filter1d(np.eye(n), sigma, 0, mode=mode) for n in image.shape)
    return along(image, down, right)


def along(
    image: Float[Array, "h w"], down: Float[np.ndarray, "h h"], right: Float[np.ndarray, "w w"]
) -> Float[Array, "h w"]:
    """Applies a matrix to the columns of an image, and one to its rows."""
    first, second = (jnp.asarray(matrix, image.dtype) for matrix in (down, right.T))
    return jnp.matmul(jnp.matmul(first, image, precision="highest"), second, precision="highest")


def glass_blur(key: Key[Array, ""], image: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """Blurs, shuffles neighbours, and blurs again (a Gaussian of 0.7 pixels).

    Twice over the image, from its lower right corner, every other pixel on average changes places
    with its left, upper or upper left neighbour, or itself, in turn. The last row and column on the
    other side stay where they are.
    """
    height, width = image.shape
    rows, columns = jnp.meshgrid(
        jnp.arange(height - 1, 1, -1, dtype=jnp.int32),
        jnp.arange(width - 1, 1, -1, dtype=jnp.int32),
        indexing="ij",
    )
    places = jnp.tile((rows * width + columns).ravel(), GLASS_ROUNDS)
    chosen, step = jax.random.split(key)
    swapped = jax.random.bernoulli(chosen, 0.5, places.shape).astype(jnp.int32)
    up, left = jax.random.bernoulli(step, 0.5, (2, *places.shape)).astype(jnp.int32)
    others = places - swapped * (up * width + left)

    def swap(pixels: Float[Array, " n"], pair: Int32[Array, " 2"]) -> tuple[Array, None]:
        return pixels.at[pair].set(pixels[pair[::-1]]), None

    blurred = jnp.floor(255 * smooth(image, GLASS_SIGMA)) / 255  # the published images are bytes
    shuffled, _ = lax.scan(swap, blurred.ravel(), jnp.stack([places, others], axis=1))
    return smooth(shuffled.reshape(image.shape), GLASS_SIGMA)


def motion_blur(key: Key[Array, ""], image: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """Smears along a line at an angle within ±45° of the horizontal.

    The weights are half a Gaussian of 3 pixels over 21 pixels in one direction, as ImageMagick's
    `-motion-blur` of radius 10 has it; pixels outside repeat the edge.
    """
    angle = jax.random.uniform(key, (), minval=-MOTION_ANGLE, maxval=MOTION_ANGLE)
    steps = np.arange(MOTION_REACH, dtype=np.float32)
    weights = np.exp(-0.5 * np.square(steps / MOTION_SIGMA))
    height, width = image.shape

    def shifted(length: int, share: Float[Array, ""]) -> Int32[Array, "m n"]:
        offsets = jnp.ceil(steps * share - 0.5).astype(jnp.int32)
        return jnp.clip(jnp.arange(length, dtype=jnp.int32)[None] + offsets[:, None], 0, length - 1)

    rows, columns = shifted(height, jnp.sin(angle)), shifted(width, jnp.cos(angle))
    copies = image[rows[:, :, None], columns[:, None, :]]
    return jnp.tensordot(jnp.asarray(weights / weights.sum()), copies, 1, precision="highest")
