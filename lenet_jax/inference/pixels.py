"""Pixels as people have them in Python: arrays and tensors of any layout and dtype."""

import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.core
import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from lenet_jax.data.arrays import to_numpy
from lenet_jax.data.decode import to_pixels
from lenet_jax.data.fit import fit_images
from lenet_jax.data.form import ImageForm, has_other_ground
from lenet_jax.data.image_sources import Content, Entry
from lenet_jax.errors import UserError
from lenet_jax.inference.layout import ARRAY, AnyArray, channels_last, check_size, is_moved

ITEMS = (str, Path, Entry, Content, Image.Image)  # what is one image, and no array
NO_LISTS = (bytes, bytearray, Mapping)  # though they have a length
SCALE = f"np.interp({ARRAY}, (np.min({ARRAY}), np.max({ARRAY})), (0, 255))"


def items_of(images: Any) -> list[Any] | None:
    """The images of a list, an iterator, or an array of names; None of pixels.

    Raises:
      UserError: it is neither.
    """
    if isinstance(images, ITEMS):
        return [images]
    if hasattr(images, "shape"):
        kind = getattr(getattr(images, "dtype", None), "kind", "")
        if not kind or kind not in "OUT":
            return None
        items = list(np.asarray(images).flat)
        if items and isinstance(items[0], int | float | complex):
            raise _other(np.asarray(images))
        return items
    is_file = hasattr(images, "read")
    if not isinstance(images, Collection | Iterator) or isinstance(images, NO_LISTS) or is_file:
        raise _other(images)
    items = list(images)
    if not items or any(isinstance(item, int | float | complex) for item in items):
        raise _other(images)
    nested = isinstance(images, list | tuple)
    return None if nested and all(isinstance(item, list | tuple) for item in items) else items


def fit_item(
    image: Any, channels: int, form: ImageForm, size: int
) -> UInt8[np.ndarray, "1 size size c"]:
    """Fits an array of a list, which must be one image.

    Raises:
      UserError: as `fit_array`; or it is several images.
    """
    try:
        fitted = fit_array(image, channels, form, size)
    except UserError as error:
        first, *rest = str(error).split("\n")
        if rest:  # a remedy is for each image of the list
            why, _, code = rest[0].partition(": ")
            code = re.sub(r"\bimages\b", "image", code)
            first += f"\n{why}: [{code} for image in images]"
        raise UserError(first) from error
    if len(fitted) != 1:
        shape = np.shape(image)
        raise UserError(
            f"an array in a list must be one image, not {len(fitted)}, of shape {shape}\n"
            "If all are images: np.concatenate(images)"
        )
    return fitted


def fit_array(
    images: Any, channels: int, form: ImageForm, size: int
) -> UInt8[np.ndarray, "n size size c"]:
    """Fits pixels to a network as its data was fitted.

    The last axis is that of channels if it has 1, 3 or 4, otherwise the last but two if there are
    four; or there is none. So (28, 28), (28, 28, 1) and (28, 28, 3) are one image, (28, 28, 28) is
    28 grey ones; (3, 28, 28) is one image for a network of 3 channels, and three for a grey one.
    Colour becomes grey, and grey colour, as it does in files: red, green, blue, and alpha on paper.

    Booleans are black and white. Floats up to 1 are in 0..1, others in 0..255, as integers are.
    Handwriting whose ground is light where the data's is dark, or dark where it is light, is
    inverted, with a warning.

    Args:
      images: an array, a tensor or nested lists.
      channels: of the network.
      form: of its data.
      size: of the images that it takes, in pixels.

    Raises:
      UserError: they are of another range or shape, or, to be padded, of another size than the
        data's images.
    """
    array = _to_numpy(images)
    batch = channels_last(array, channels, {form.native, (size, size)}, form.fit == "resize")
    pixels = _to_uint8(batch, channels, moved=is_moved(array, batch))
    if form.fit == "pad":
        check_size(array, batch, form.native, size)
    fitted = fit_images(_to_channels(pixels, channels), size, form.fit)
    return _in_polarity(fitted, form) if form.handwriting and channels == 1 else fitted


def _to_numpy(images: Any) -> AnyArray:
    if isinstance(images, jax.core.Tracer):
        raise UserError(
            "images must be concrete, not traced by jax.jit or jax.grad\n"
            "Inside them, call network.model(network.normalise(images))."
        )
    try:
        array = to_numpy(images)
    except (ValueError, TypeError, RuntimeError) as error:  # lists of unequal lengths
        raise _other(images) from error
    if array.dtype.kind not in "buif":
        raise _other(images)
    return array


def _to_uint8(
    array: Shaped[np.ndarray, "n h w c"], channels: int, *, moved: bool
) -> UInt8[np.ndarray, "n h w c"]:
    """Pixels in 0..255.

    Raises:
      UserError: they have another range.
    """
    if array.dtype == np.bool_:
        return np.where(array, np.uint8(255), np.uint8(0))
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if array.dtype.kind in "ui":
        remedy = _remedy_of_integers(int(low), int(high))
        kind = "integers must be in 0..255"
    elif not (np.isfinite(low) and np.isfinite(high)):
        raise UserError(
            "pixels must be finite, but some are NaN or infinite\n"
            f"To make them black: np.nan_to_num({ARRAY}, nan=0, posinf=0, neginf=0)"
        )
    else:
        remedy = _remedy_of_floats(float(low), float(high), array.shape[-1] == channels, moved)
        kind = "floats must be in 0..1 or 0..255"
    if remedy:
        raise UserError(f"pixels are in {low:.5g}..{high:.5g}; {kind}\n{remedy}")
    values = np.rint(array * 255 if high <= 1 else array) if array.dtype.kind == "f" else array
    return values.astype(np.uint8)


def _remedy_of_integers(low: int, high: int) -> str:
    if low >= 0 and high <= 255:
        return f"If they are black and white: {ARRAY} > 0" if high == 1 else ""
    if low >= 0 and high < 1 << 16:
        divisor = next(d for d in (4, 16, 64, 256) if high // d <= 255)
        return f"Of {(256 * divisor).bit_length() - 1} bits: {ARRAY} // {divisor}"
    return f"To scale them: {SCALE}"


def _remedy_of_floats(low: float, high: float, same_channels: bool, moved: bool) -> str:
    if low >= 0 and (high <= 1 or 2 <= high <= 255):
        return ""
    if low >= -0.25 and high < 1.5:  # interpolation overshoots
        return f"To cut them: {ARRAY}.clip(0, 1)"
    if low >= -0.51 and high <= 0.51:
        return f"Of pixels in -0.5..0.5: ({ARRAY} + 0.5).clip(0, 1)"
    if low >= -1.25 and high <= 1.25:
        return f"Of pixels in -1..1: (({ARRAY} + 1) / 2).clip(0, 1)"
    if low >= -20 and high <= 20 and same_channels:
        code = f"np.moveaxis({ARRAY}, -3, -1)" if moved else ARRAY
        return f"Of normalised ones: ({code} * network.std + network.mean).clip(0, 255)"
    if low >= -64 and 64 <= high < 320:
        return f"To cut them: {ARRAY}.clip(0, 255)"
    return f"To scale them: {SCALE}"


def _in_polarity(
    images: UInt8[np.ndarray, "n size size 1"], form: ImageForm
) -> UInt8[np.ndarray, "n size size 1"]:
    """Inverts those whose ground is light where the data's is dark, or the reverse."""
    (height, width), size = form.native, images.shape[1]
    top, left = (size - height) // 2, (size - width) // 2
    within = np.s_[:, top : top + height, left : left + width]  # what is not padding, which is 0
    inverted = has_other_ground(images[within], form)
    if not inverted.any():
        return images
    known, given = ("dark on light", "light on dark")[:: 1 if form.dark_on_light else -1]
    warnings.warn(f"images that are {given} were inverted: the network knows {known}", stacklevel=7)
    turned = 255 - images[within][inverted]
    images[inverted] = 0
    images[within][inverted] = turned
    return images


def _to_channels(
    images: UInt8[np.ndarray, "n h w k"], channels: int
) -> UInt8[np.ndarray, "n h w c"]:
    if images.shape[-1] == channels:
        return images
    converted = [np.zeros((0, *images.shape[1:3], channels), np.uint8)]
    for image in images:
        pixels = np.ascontiguousarray(image[..., 0] if image.shape[-1] == 1 else image)
        converted.append(to_pixels(Image.fromarray(pixels), channels)[None])
    return np.concatenate(converted)


def _other(images: Any) -> UserError:
    what = "an empty one" if isinstance(images, Sequence) and not images else type(images).__name__
    if isinstance(images, np.ndarray):
        what = f"an array of {images.dtype}"
        if images.dtype.kind == "O" and all(isinstance(v, int | float) for v in images.flat):
            what += f"; of numbers: {ARRAY}.astype(float)"
    elif isinstance(images, bytes | bytearray):
        what += "; of an encoded image: PIL.Image.open(io.BytesIO(data))"
    elif hasattr(images, "read"):
        what += "; of an image file: PIL.Image.open(file)"
    elif isinstance(images, Iterable) and not isinstance(images, Collection):
        what += "; give its batches one by one"
    return UserError(
        "images must be an array of pixels, a PIL image, the name of a file, or a list of arrays,"
        f" PIL images and names of files, not {what}"
    )
