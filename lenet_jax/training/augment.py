"""Random shift, rotation, scaling and shear of a batch of images, on the device."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key, Num

Scalar = int | float | Num[Array, ""]


def augment(
    key: Key[Array, ""],
    images: Float[Array, "b h w c"],
    *,
    shift: Scalar,
    rotate: Scalar,
    scale: Scalar,
    shear: Scalar,
) -> Float[Array, "b h w c"]:
    """Transforms each image by its own affine map, drawn uniformly within the given strengths.

    An image's map depends only on the key and its position in the batch. Pixels are interpolated
    bilinearly and are 0 outside the image: pass raw intensities, whose background is 0, before
    normalisation. If all strengths are 0, the result is bit-identical to the input.

    Args:
      key: a typed random key.
      images: raw intensities as float32; any finite range.
      shift: translation in pixels, at least 0: uniform in ±shift in height and in width.
      rotate: rotation about the centre in degrees, at least 0: uniform in ±rotate.
      scale: in [0, 1): the image is enlarged by a factor uniform in 1 ± scale.
      shear: shear along the width in degrees, in [0, 90): uniform in ±shear.
    """
    matrices, shifts = draw_affine(
        key, images.shape[0], shift=shift, rotate=rotate, scale=scale, shear=shear
    )
    return apply_affine(images, matrices, shifts)


def draw_affine(
    key: Key[Array, ""], n: int, *, shift: Scalar, rotate: Scalar, scale: Scalar, shear: Scalar
) -> tuple[Float[Array, "n 2 2"], Float[Array, "n 2"]]:
    """Draws n random maps for `apply_affine`; see `augment`."""
    draws = jax.random.uniform(key, (n, 5), minval=-1.0, maxval=1.0)
    angle = jnp.deg2rad(rotate * draws[:, 2])
    factor = 1 + scale * draws[:, 3]
    slope = jnp.tan(jnp.deg2rad(shear * draws[:, 4]))
    # From output to input: undo the scaling, then the rotation, then the shear.
    sine, cosine = jnp.sin(angle) / factor, jnp.cos(angle) / factor
    to_row = jnp.stack([cosine, -sine], axis=1)
    to_column = jnp.stack([sine + slope * cosine, cosine - slope * sine], axis=1)
    return jnp.stack([to_row, to_column], axis=1), shift * draws[:, :2]


def apply_affine(
    images: Float[Array, "b h w c"],
    matrices: Float[Array, "b 2 2"],
    shifts: Float[Array, "b 2"],
) -> Float[Array, "b h w c"]:
    """Samples output pixel p of each image at matrix · (p - centre - shift) + centre of the input.

    Positions are (row, column) in pixels. Sampling is bilinear, and 0 outside the image.
    """
    # XLA's CPU backend would fuse this into the following convolution and interpolate each pixel
    # again for every window that contains it, even with optimization_barrier. Fusion does not cross
    # a loop.
    return lax.platform_dependent(
        images,
        matrices,
        shifts,
        cpu=lambda *batch: lax.map(lambda single: _apply_affine(*single), batch),
        default=jax.vmap(_apply_affine),
    )


def _apply_affine(
    image: Float[Array, "h w c"], matrix: Float[Array, "2 2"], shift: Float[Array, " 2"]
) -> Float[Array, "h w c"]:
    height, width, _ = image.shape
    middle, center = (height - 1) / 2, (width - 1) / 2
    down = jnp.arange(height, dtype=jnp.float32)[:, None] - middle - shift[0]
    right = jnp.arange(width, dtype=jnp.float32)[None, :] - center - shift[1]
    row = matrix[0, 0] * down + matrix[0, 1] * right + middle
    column = matrix[1, 0] * down + matrix[1, 1] * right + center
    top, left = jnp.floor(row), jnp.floor(column)

    def pixel(row: Float[Array, "h w"], column: Float[Array, "h w"]) -> Float[Array, "h w c"]:
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        i = jnp.clip(row, 0, height - 1).astype(jnp.int32)
        j = jnp.clip(column, 0, width - 1).astype(jnp.int32)
        return jnp.where(inside[:, :, None], image[i, j], 0.0)

    def between(
        start: Float[Array, "h w c"], end: Float[Array, "h w c"], weight: Float[Array, "h w"]
    ) -> Float[Array, "h w c"]:
        return (1 - weight[:, :, None]) * start + weight[:, :, None] * end

    upper = between(pixel(top, left), pixel(top, left + 1), column - left)
    lower = between(pixel(top + 1, left), pixel(top + 1, left + 1), column - left)
    return between(upper, lower, row - top)
