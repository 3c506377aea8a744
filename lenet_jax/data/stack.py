"""Image files as one array: of one size, or resized to one."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lenet_jax.data.fit import Fit
from lenet_jax.data.image_files import read
from lenet_jax.data.image_sources import ImageSource, label, open_source
from lenet_jax.errors import UserError, show


def read_stack(
    files: Sequence[ImageSource], fit: Fit, shapes: set[tuple[int, int]], *, resizes: bool
) -> UInt8[np.ndarray, "n h w c"]:
    """Decodes images; they have one channel if all are grey.

    Adds the images' own heights and widths to `shapes`. Where these are several and `fit` does not
    resize, the images cannot be one array, and the rest is not read.
    """
    images = np.empty((0, 0, 0, 0), np.uint8)
    for index, file in enumerate(files):
        try:
            pixels = read(file, 3).pixels
            height, width, _ = pixels.shape
            shapes.add((height, width))
            if resizes or index == 0:
                fitted = fit(pixels[None])[0]  # may raise: images are too large to be padded
                pixels = fitted if resizes else pixels
            elif len(shapes) > 1:
                break
            if index == 0:
                images = np.empty((len(files), *pixels.shape[:2], 1), np.uint8)
            if images.shape[-1] == 1 and not (pixels == pixels[..., :1]).all():
                images = expand(images, 3)
        except MemoryError as error:
            like = f"{len(files):,} images like {label(file)}"
            raise UserError(f"{like} exceed the memory") from error
        images[index] = pixels[..., : images.shape[-1]]
    return images


def several_sizes(files: Sequence[ImageSource], where: Path) -> UserError:
    """The error over images of several sizes, with a count of each."""
    sizes = Counter(map(_size, files))
    if len(sizes) == 1:  # in the files' headers
        return UserError(
            f"{show(where)} has images that are turned by their EXIF orientation;"
            " --config.data.fit=resize takes them"
        )
    counts = ", ".join(f"{count:,} of {h}×{w}" for (h, w), count in sizes.most_common(3))
    more = f" and {len(sizes) - 3} more" if len(sizes) > 3 else ""
    return UserError(
        f"{show(where)} has images of {len(sizes)} sizes: {counts}{more};"
        " --config.data.fit=resize takes them"
    )


def _size(file: ImageSource) -> tuple[int, int]:
    """Height and width of an image, from its header."""
    try:
        with open_source(file) as stream, Image.open(stream) as image:
            return image.height, image.width
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        pixels = read(file, 3).pixels  # raises with the reason
        return len(pixels), len(pixels[0])


def expand(
    images: UInt8[np.ndarray, "n h w c"], channels: int
) -> UInt8[np.ndarray, "n h w channels"]:
    """Repeats the channel of grey images, unless one is wanted, or there are more."""
    if images.shape[-1] == channels:
        return images
    return np.repeat(images, channels, axis=-1)
