"""Random affine and elastic distortions of a batch of images, on the device."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32, Key, Num

Scalar = int | float | Num[Array, ""]
SQUEEZE, ELASTIC = 1, 2  # what the keys of their draws are folded with


def augment(
    key: Key[Array, ""],
    images: Float[Array, "b h w c"],
    *,
    shift: Scalar,
    rotate: Scalar,
    scale: Scalar,
    shear: Scalar,
    squeeze: Scalar = 0.0,
    elastic_alpha: Scalar = 0.0,
    elastic_sigma: Scalar = 4.0,
) -> Float[Array, "b h w c"]:
    """Transforms each image by its own map, drawn within the given strengths.

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
      squeeze: in [0, 1): the width is multiplied by a factor uniform in 1 ± squeeze, and the height
        divided by it.
      elastic_alpha: scale of the elastic distortion, at least 0, see `draw_displacements`.
      elastic_sigma: width of its smoothing in pixels, above 0.
    """
    n, height, width, _ = images.shape
    matrices, shifts = draw_affine(
        key, n, shift=shift, rotate=rotate, scale=scale, shear=shear, squeeze=squeeze
    )
    displacements = None
    if not (isinstance(elastic_alpha, int | float) and elastic_alpha == 0):
        places = jnp.arange(n)
        displacements = draw_displacements(
            key, places, (height, width), elastic_alpha, elastic_sigma
        )
    return apply_affine(images, matrices, shifts, displacements)


def draw_affine(
    key: Key[Array, ""],
    n: int,
    *,
    shift: Scalar,
    rotate: Scalar,
    scale: Scalar,
    shear: Scalar,
    squeeze: Scalar = 0.0,
) -> tuple[Float[Array, "n 2 2"], Float[Array, "n 2"]]:
    """Draws n random maps for `apply_affine`; see `augment`."""
    draws = jax.random.uniform(key, (n, 5), minval=-1.0, maxval=1.0)
    angle = jnp.deg2rad(rotate * draws[:, 2])
    factor = 1 + scale * draws[:, 3]
    slope = jnp.tan(jnp.deg2rad(shear * draws[:, 4]))
    wider = 1 + squeeze * jax.random.uniform(
        jax.random.fold_in(key, SQUEEZE), (n, 1), minval=-1.0, maxval=1.0
    )
    # From output to input: undo the scaling, then the rotation, the shear, and the squeeze.
    sine, cosine = jnp.sin(angle) / factor, jnp.cos(angle) / factor
    to_row = jnp.stack([cosine, -sine], axis=1)
    to_column = jnp.stack([sine + slope * cosine, cosine - slope * sine], axis=1)
    return jnp.stack([to_row * wider, to_column / wider], axis=1), shift * draws[:, :2]


def draw_displacements(
    key: Key[Array, ""],
    places: Int32[Array, " b"],
    size: tuple[int, int],
    alpha: Scalar,
    sigma: Scalar,
) -> Float[Array, "b h w 2"]:
    """Draws random smooth fields of displacements in pixels, (row, column), for `apply_affine`.

    Values uniform in ±1, and 0 outside the image, are smoothed by a Gaussian whose weights sum to 1
    and scaled. Well inside the image their standard deviation is about 0.16 · alpha / sigma.

    Args:
      key: a typed random key.
      places: of the images in the batch; an image's field depends on the key and its place.
      size: height and width.
      alpha: the scale, at least 0.
      sigma: standard deviation of the Gaussian in pixels, above 0.

    Source: Simard, Steinkraus, Platt, "Best practices for convolutional neural networks applied to
    visual document analysis" (2003), section 2, with alpha 34 and sigma 4 for digits.
    """
    down, right = (_gaussian(side, sigma) for side in size)

    def draw(place: Int32[Array, ""]) -> Float[Array, "h w 2"]:
        own = jax.random.fold_in(jax.random.fold_in(key, ELASTIC), place)
        noise = jax.random.uniform(own, (2, *size), minval=-1.0, maxval=1.0)
        field = jnp.matmul(jnp.matmul(down, noise, precision="float32"), right, precision="float32")
        return alpha * jnp.moveaxis(field, 0, -1)

    return _of_each(draw, places)


def _gaussian(side: int, sigma: Scalar) -> Float[Array, "side side"]:
    """The matrix that smooths a signal of this length, which is 0 outside."""
    taps = jnp.arange(-side, side + 1, dtype=jnp.float32)
    weights = jnp.exp(-0.5 * jnp.square(taps / sigma))
    pixels = jnp.arange(side)
    return (weights / jnp.sum(weights))[side + pixels[:, None] - pixels[None, :]]


def apply_affine(
    images: Float[Array, "b h w c"],
    matrices: Float[Array, "b 2 2"],
    shifts: Float[Array, "b 2"],
    displacements: Float[Array, "b h w 2"] | None = None,
) -> Float[Array, "b h w c"]:
    """Samples output pixel p of each image at matrix · (p - centre - shift) + centre of the input.

    The displacement of p is added to that, if there are any. Positions are (row, column) in pixels.
    Sampling is bilinear, and 0 outside the image.
    """
    maps = (matrices, shifts) if displacements is None else (matrices, shifts, displacements)
    return _of_each(_apply_affine, images, *maps)


def _of_each(function: Callable[..., Array], *batch: Array) -> Array:
    """The function of each image of a batch."""
    # XLA's CPU backend would fuse this into the following convolution and interpolate each pixel
    # again for every window that contains it, even with optimization_barrier. Fusion does not cross
    # a loop.
    return lax.platform_dependent(
        *batch,
        cpu=lambda *batch: lax.map(lambda single: function(*single), batch),
        default=jax.vmap(function),
    )


def _apply_affine(
    image: Float[Array, "h w c"],
    matrix: Float[Array, "2 2"],
    shift: Float[Array, " 2"],
    displacement: Float[Array, "h w 2"] | None = None,
) -> Float[Array, "h w c"]:
    height, width, _ = image.shape
    middle, center = (height - 1) / 2, (width - 1) / 2
    down = jnp.arange(height, dtype=jnp.float32)[:, None] - middle - shift[0]
    right = jnp.arange(width, dtype=jnp.float32)[None, :] - center - shift[1]
    row = matrix[0, 0] * down + matrix[0, 1] * right + middle
    column = matrix[1, 0] * down + matrix[1, 1] * right + center
    if displacement is not None:
        row, column = row + displacement[..., 0], column + displacement[..., 1]
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
