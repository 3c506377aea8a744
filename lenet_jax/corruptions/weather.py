"""Light, fog and mud."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lenet_jax.corruptions.blur import smooth

BRIGHTER = 0.5
FOG, DECAY = 3.0, 1.4  # its strength, and the factor between the heights of two levels' roots
LEVELS = 8  # of the plasma, a map of 256×256 pixels
SPLASH_MEAN, SPLASH_SD = 0.65, 0.3  # of the random field that splashes are cut from
SPLASH_SIGMA, EDGE_SIGMA = 1.0, 1.5  # pixels
SPLASH_FROM, EDGE_FROM = 0.65, 0.8
MUD = 63 / 255  # the grey of the splashes


def brightness(key: Key[Array, ""], image: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """Adds half the range; nothing is random."""
    return jnp.minimum(image + BRIGHTER, 1.0)


def fog(key: Key[Array, ""], image: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """Adds three times the corner of a plasma, and scales what was white back to white."""
    height, width = image.shape
    most, cloud = jnp.max(image), plasma(key)
    repeats = [-(-side // len(cloud)) for side in image.shape]
    foggy = image + FOG * jnp.tile(cloud, repeats)[:height, :width]
    return jnp.clip(foggy * most / (most + FOG), 0.0, 1.0)


def plasma(key: Key[Array, ""]) -> Float[Array, "256 256"]:
    """A fractal in [0, 1] that continues over its edges, by the diamond-square algorithm.

    Each level halves the distance of the points, which get the mean of their four neighbours and
    noise, uniform in ± 1.4⁻² of the level above.
    """
    heights = jnp.zeros((1, 1))
    draws = jax.random.uniform(key, (4**LEVELS - 1,), minval=-1.0, maxval=1.0)
    for level in range(LEVELS):
        side = 2**level  # of the map so far, whose level begins after 3 · (1 + 4 + 16 + …) draws
        own = draws[side**2 - 1 : 4 * side**2 - 1]
        noise = DECAY ** (-2 * level) * own.reshape(3, side, side)
        down, right = (heights + jnp.roll(heights, -1, axis) for axis in (0, 1))
        squares = (down + jnp.roll(down, -1, 1)) / 4 + noise[0]
        on_rows = (squares + jnp.roll(squares, 1, 0) + right) / 4 + noise[1]
        on_columns = (squares + jnp.roll(squares, 1, 1) + down) / 4 + noise[2]
        upper = jnp.stack([heights, on_rows], axis=-1).reshape(side, 2 * side)
        lower = jnp.stack([on_columns, squares], axis=-1).reshape(side, 2 * side)
        heights = jnp.stack([upper, lower], axis=1).reshape(2 * side, 2 * side)
    low, high = jnp.min(heights), jnp.max(heights)
    return (heights - low) / (high - low)


def spatter(key: Key[Array, ""], image: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """Splashes of grey mud, opaque in their middle."""
    field = SPLASH_MEAN + SPLASH_SD * jax.random.normal(key, image.shape)
    wet = smooth(field, SPLASH_SIGMA) > SPLASH_FROM
    cover = smooth(wet.astype(image.dtype), EDGE_SIGMA)
    cover = jnp.where(cover < EDGE_FROM, 0.0, cover)
    return image * (1 - cover) + MUD * cover
