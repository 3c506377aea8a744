"""How images are brought to the size of the network's input."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from jaxtyping import Int, UInt8

from lenet_jax.errors import UserError
from lenet_jax.machine import free_memory

UNCHECKED = 1 << 28  # bytes that any machine has
BLOCK = 16384  # images that are padded at a time
FITS = ("pad", "resize")

Fit: TypeAlias = Callable[[UInt8[np.ndarray, "n h w c"]], UInt8[np.ndarray, "n size size c"]]


def fit_images(
    images: UInt8[np.ndarray, "n h w c"],
    size: int,
    fit: str,
    chosen: Int[np.ndarray, " m"] | None = None,
) -> UInt8[np.ndarray, "m size size c"]:
    """Fits images to size × size pixels by `pad` or `resize`; see `dataset.load`.

    If the padding is odd, the extra pixel is at the bottom or at the right.

    Args:
      images: of any height and width.
      size: in pixels.
      fit: how.
      chosen: indices of the images to fit; None: all, which are not copied if they fit.

    Raises:
      UserError: the images are too large to be padded.
    """
    count, height, width, channels = images.shape
    if height == width == size:
        return images if chosen is None else images[chosen]
    chosen = np.arange(count) if chosen is None else chosen
    count = len(chosen)
    need = count * size**2 * channels
    if need > UNCHECKED and need > (free := free_memory()):
        raise UserError(
            f"data.image_size={size}: {count:,} images of this size need {need / 1e9:,.1f} GB of"
            f" memory; {free / 1e9:,.1f} GB are free"
        )
    fitted = np.zeros((count, size, size, channels), np.uint8)
    if fit == "pad":
        if max(height, width) > size:
            raise UserError(
                f"images of {height}×{width} cannot be padded to data.image_size={size}; "
                "try data.fit=resize"
            )
        top, left = (size - height) // 2, (size - width) // 2
        inner = fitted[:, top : top + height, left : left + width]
        for start in range(0, count, BLOCK):  # not all at once: a copy of its own would take longer
            inner[start : start + BLOCK] = images[chosen[start : start + BLOCK]]
    else:
        from PIL import Image

        for target, image in zip(fitted, images[chosen], strict=True):
            pixels = Image.fromarray(image[..., 0] if channels == 1 else image)
            resized = pixels.resize((size, size), Image.Resampling.BILINEAR)
            target[...] = np.asarray(resized).reshape(target.shape)
    return fitted
