"""Strokes across the image, and stripes beside it."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Key

FADE = 2.3  # pixels above or below a line, where it has faded
DASH = 2  # pixels
WAVE = 2.0  # half a period and the height of the zigzag, in pixels
TILT = 5  # rows that the zigzag rises or falls at most


def stripe(key: Key[Array, ""], image: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """Inverts the left and the right quarter, columns 0–6 and 21–27; nothing is random."""
    width = image.shape[1]
    column = np.arange(width)
    beside = (column < width // 4) | (column >= width - width // 4)
    return jnp.where(beside[None], 1 - image, image)


def dotted_line(key: Key[Array, ""], image: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """Draws a line of dashes of two columns from the left edge to the right, at random rows."""
    height, width = image.shape
    first, last = jax.random.randint(key, (2,), 0, height - 1).astype(jnp.float32)
    zero = jnp.zeros(())
    line = _line(image.shape, (zero, first), (zero + (width - 1), last))
    drawn = np.arange(width) // DASH % 2 == 1
    return jnp.minimum(image + jnp.where(drawn[None], line, 0.0), 1.0)


def zigzag(key: Key[Array, ""], image: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """Draws a zigzag from near the left edge to near the right, at a random row and tilt."""
    height, width = image.shape
    start, tilt = jax.random.split(key)
    row = jax.random.randint(start, (), 0, height - 1).astype(jnp.float32)
    rise = jax.random.randint(tilt, (), -TILT, TILT).astype(jnp.float32)
    run = width - 2 * WAVE - 1
    length = jnp.hypot(run, rise)
    # Corners on either side of the line, and its end, as (along, across).
    count = int((run - WAVE) // (2 * WAVE)) + 1
    turns = np.arange(count)
    end = length - 2 * WAVE * (length // (2 * WAVE))
    aside = (-1.0) ** (count - 1) * WAVE / (2 * jnp.where(end > 0, end, 1.0))
    along = jnp.concatenate([jnp.zeros(1), jnp.float32((2 * turns + 1) * WAVE), length[None]])
    across = jnp.concatenate([jnp.zeros(1), jnp.float32((-1.0) ** turns * WAVE), aside[None]])
    sine, cosine = rise / length, run / length
    columns = WAVE + cosine * along - sine * across
    rows = row + sine * along + cosine * across
    for n in range(count + 1):
        line = _line(image.shape, (columns[n], rows[n]), (columns[n + 1], rows[n + 1]))
        image = jnp.minimum(image + line, 1.0)
    return image


def _line(
    shape: tuple[int, ...],
    start: tuple[Float[Array, ""], Float[Array, ""]],
    end: tuple[Float[Array, ""], Float[Array, ""]],
) -> Float[Array, "h w"]:
    """A line between two points (column, row), the first further left: 1 on it, fading to 0.

    Its strength at a distance of d rows is 1 + log(1 - d / 2.3).
    """
    height, width = shape
    column: Int32[Array, " w"] = jnp.arange(width, dtype=jnp.int32)
    slope = (end[1] - start[1]) / (end[0] - start[0])
    middle = slope * (column.astype(jnp.float32) - start[0]) + start[1]
    distance = jnp.abs(jnp.arange(height, dtype=jnp.float32)[:, None] - middle[None])
    # Where it is 0, the logarithm is -1.
    strength = 1 + jnp.log(jnp.maximum(1 - distance / FADE, jnp.exp(-1.0)))
    inside = (column >= jnp.floor(start[0]).astype(jnp.int32)) & (
        column < jnp.ceil(end[0]).astype(jnp.int32)
    )
    return jnp.where(inside[None], strength, 0.0)
