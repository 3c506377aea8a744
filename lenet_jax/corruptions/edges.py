"""The edges of the image, white on black, in place of the image."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Key
from scipy import ndimage

from lenet_jax.corruptions.blur import along, smooth

SIGMA = 1.0  # pixels
WEAK, STRONG = 0.1, 0.2  # slopes, in units of Sobel's operator


def canny_edges(key: Key[Array, ""], image: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """Where the slope is steepest across an edge; nothing is random.

    Weak edges count where they touch strong ones, over other weak ones too. The outermost pixels
    are no edges. As in scikit-image, what is outside is left out of the smoothing.

    Source: Canny, "A computational approach to edge detection", 1986.
    """
    inside = smooth(jnp.ones_like(image), SIGMA, "constant")
    smoothed = smooth(image, SIGMA, "constant") / inside
    rise, run = (_sobel(smoothed, axis) for axis in (0, 1))
    slope = jnp.hypot(rise, run)
    ridge = _is_ridge(slope, rise, run)
    weak, strong = ridge & (slope >= WEAK), ridge & (slope >= STRONG)

    def grow(edges: Bool[Array, "2 h w"]) -> Bool[Array, "2 h w"]:
        return jnp.stack([edges[1], weak & _spread(edges[1])])

    grown = lax.while_loop(
        lambda edges: jnp.any(edges[0] != edges[1]), grow, jnp.stack([~strong, strong])
    )
    return grown[1].astype(image.dtype)


def _sobel(image: Float[Array, "h w"], axis: int) -> Float[Array, "h w"]:
    """As `scipy.ndimage.sobel`."""
    matrices = []
    for place, side in enumerate(image.shape):
        taps = [-1.0, 0.0, 1.0] if place == axis else [1.0, 2.0, 1.0]
        matrices.append(ndimage.correlate1d(np.eye(side), taps, axis=0, mode="reflect"))
    return along(image, *matrices)


def _is_ridge(
    slope: Float[Array, "h w"], rise: Float[Array, "h w"], run: Float[Array, "h w"]
) -> Bool[Array, "h w"]:
    """Whether the slope is not smaller than on either side, in the gradient's direction.

    Between pixels it is interpolated linearly.
    """
    height, width = slope.shape
    padded = jnp.pad(slope, 1)

    def at(down: int, right: int) -> Float[Array, "h w"]:
        return padded[1 + down : 1 + down + height, 1 + right : 1 + right + width]

    steep, same = jnp.abs(rise) >= jnp.abs(run), rise * run >= 0
    small, large = (pick(jnp.abs(rise), jnp.abs(run)) for pick in (jnp.minimum, jnp.maximum))
    share = small / jnp.where(large > 0, large, 1.0)
    ridge = slope > 0
    for side in (-1, 1):
        diagonal = jnp.where(same, at(side, side), at(-side, side))
        vertical = jnp.where(same, at(side, 0), at(-side, 0))
        straight = jnp.where(steep, vertical, at(0, side))
        ridge &= share * diagonal + (1 - share) * straight <= slope
    border = np.zeros((height, width), bool)
    border[1:-1, 1:-1] = True
    return ridge & border


def _spread(edges: Bool[Array, "h w"]) -> Bool[Array, "h w"]:
    """The edges and the eight neighbours of each."""
    for axis in (0, 1):
        nothing = jnp.zeros_like(lax.slice_in_dim(edges, 0, 1, axis=axis))
        before = jnp.concatenate([nothing, lax.slice_in_dim(edges, 0, -1, axis=axis)], axis)
        after = jnp.concatenate([lax.slice_in_dim(edges, 1, None, axis=axis), nothing], axis)
        edges = edges | before | after
    return edges
