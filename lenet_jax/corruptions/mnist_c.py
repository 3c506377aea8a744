"""All corruptions by name, and whole sets of images under one of them."""

import functools
import zlib
from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Key, UInt8

from lenet_jax.corruptions.blur import glass_blur, motion_blur
from lenet_jax.corruptions.edges import canny_edges
from lenet_jax.corruptions.noise import impulse_noise, shot_noise
from lenet_jax.corruptions.strokes import dotted_line, stripe, zigzag
from lenet_jax.corruptions.warps import rotate, scale, shear, translate
from lenet_jax.corruptions.weather import brightness, fog, spatter
from lenet_jax.errors import UserError, show

Corruption: TypeAlias = Callable[[Key[Array, ""], Float[Array, "h w"]], Float[Array, "h w"]]

# In the order of the published set.
CORRUPTIONS: Mapping[str, Corruption] = {
    function.__name__: function
    for function in (
        *(shot_noise, impulse_noise, glass_blur, motion_blur, shear, scale, rotate, brightness),
        *(translate, stripe, fog, spatter, dotted_line, zigzag, canny_edges),
    )
}
BATCH = 250  # images at once


def corrupt(
    images: UInt8[np.ndarray, "n h w c"],
    name: str,
    native: tuple[int, int] | None = None,
    seed: int = 0,
) -> UInt8[np.ndarray, "n h w c"]:
    """The images under a corruption.

    What is drawn for an image depends on the name, the seed and its place alone; its channels share
    it.

    Args:
      images: light on dark.
      name: one of `CORRUPTIONS`.
      native: height and width of the images before they were padded, of which the corruption is
        made; it is padded again with black. None: all of each image.
      seed: of the draws, at least 0.

    Raises:
      UserError: there is no such corruption, or the images are of another form.
    """
    if name not in CORRUPTIONS:
        raise UserError(f"{show(name)} is no corruption; there are {', '.join(CORRUPTIONS)}")
    if images.ndim != 4 or images.dtype != np.uint8:
        form = f"{images.dtype} {images.shape}"
        raise UserError(f"images to corrupt must be uint8 (n, h, w, c), not {form}")
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), zlib.crc32(name.encode()))
    size = native or images.shape[1:3]
    batches = []
    for first in range(0, len(images), BATCH):
        batch = images[first : first + BATCH]
        places = np.arange(first, first + BATCH, dtype=np.int32)
        padded = np.pad(batch, [(0, BATCH - len(batch)), (0, 0), (0, 0), (0, 0)])
        batches.append(np.asarray(_corrupt(name, size, key, places, padded))[: len(batch)])
    return np.concatenate(batches) if batches else images


@functools.partial(jax.jit, static_argnums=(0, 1))
def _corrupt(
    name: str,
    size: tuple[int, int],
    key: Key[Array, ""],
    places: Int32[Array, " b"],
    images: UInt8[Array, "b h w c"],
) -> UInt8[Array, "b h w c"]:
    corruption = CORRUPTIONS[name]
    whole = images.shape[1:3]
    top, left = ((side - own) // 2 for side, own in zip(whole, size, strict=True))
    inner = images[:, top : top + size[0], left : left + size[1]].astype(jnp.float32) / 255

    def one(place: Int32[Array, ""], image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        own = jax.random.fold_in(key, place)
        return jax.vmap(lambda channel: corruption(own, channel), -1, -1)(image)

    changed = jnp.round(255 * jax.vmap(one)(places, inner)).astype(jnp.uint8)
    return jnp.zeros_like(images).at[:, top : top + size[0], left : left + size[1]].set(changed)
