"""Pixels as people have them in Python: arrays and tensors of any layout and dtype."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from lenet_jax.data.decode import to_pixels
from lenet_jax.data.fit import fit_images
from lenet_jax.data.form import ImageForm
from lenet_jax.data.image_sources import Content, Entry
from lenet_jax.errors import UserError

ITEMS = (str, Path, Entry, Content, Image.Image)  # what is one image, and no array
ARRAY = "np.asarray(images)"  # what remedies begin with; `images` is what was given
SCALE = f"np.interp({ARRAY}, (np.min({ARRAY}), np.max({ARRAY})), (0, 255))"

AnyArray: TypeAlias = Shaped[np.ndarray, "..."]


def items_of(images: Any) -> list[Any] | None:
    """The images of a list, an iterator, or an array of names; None of pixels.

    Raises:
      UserError: it is neither.
    """
    if isinstance(images, ITEMS):
        return [images]
    if hasattr(images, "shape"):
        kind = getattr(getattr(images, "dtype", None), "kind", "")
        return list(np.asarray(images).flat) if kind in "OUT" and kind else None
    if not isinstance(images, Iterable) or isinstance(images, bytes | dict):
        raise _other(images)
    items = list(images)
    if not items or any(isinstance(item, int | float | complex) for item in items):
        raise _other(images)
    return None if all(isinstance(item, list | tuple) for item in items) else items


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

    Args:
      images: an array, a tensor or nested lists.
      channels: of the network.
      form: of its data.
      size: of the images that it takes, in pixels.

    Raises:
      UserError: they are of another range or shape, or too large to be padded.
    """
    array = _to_numpy(images)
    batch = _channels_last(array, channels)
    if form.fit == "pad":
        _check_size(array, batch, form.size, size)
    pixels = _to_uint8(batch, channels, moved=_is_moved(array, batch))
    return fit_images(_to_channels(pixels, channels), size, form.fit)


def _to_numpy(images: Any) -> AnyArray:
    if isinstance(images, jax.core.Tracer):
        raise UserError(
            "images must be concrete, not traced by jax.jit or jax.grad\n"
            "Inside them, call network.model(network.normalise(images))."
        )
    if type(images).__module__.partition(".")[0] == "torch":
        images = images.detach().cpu()
        images = (images.float() if images.is_floating_point() else images).numpy()
    try:
        array = np.asarray(images)
    except (ValueError, TypeError, RuntimeError) as error:  # lists of unequal lengths
        raise _other(images) from error
    if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4:
        return array.astype(np.float32)
    if array.dtype.kind not in "buif":
        raise _other(images)
    return array


def _channels_last(array: AnyArray, channels: int) -> Shaped[np.ndarray, "n h w c"]:
    kinds, shape = {1, 3, 4, channels}, array.shape
    if array.ndim == 2:
        array = array[None, ..., None]
    elif array.ndim == 3 and shape[-1] in kinds:
        array = array[None]
    elif array.ndim == 3 and channels > 1 and shape[0] == channels:
        array = np.moveaxis(array, 0, -1)[None]
    elif array.ndim == 3:
        array = array[..., None]
    elif array.ndim == 4 and shape[-1] not in kinds and shape[1] in kinds:
        array = np.moveaxis(array, 1, -1)
    if array.ndim != 4 or array.shape[-1] not in kinds or 0 in array.shape[1:]:
        remedy = ""
        if array.ndim > 4 and (shape[-1] in kinds or shape[-3] in kinds):
            remedy = f"\nAs one batch: {ARRAY}.reshape(-1, {', '.join(map(str, shape[-3:]))})"
        raise UserError(
            f"images must be (n, height, width, {channels}), not of shape {shape}{remedy}"
        )
    return array


def _is_moved(array: AnyArray, batch: Shaped[np.ndarray, "n h w c"]) -> bool:
    """Whether the channels were not the last axis."""
    return array.ndim > 2 and batch.shape[-1] != 1 and array.shape[-1] != batch.shape[-1]


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
    if low >= -0.01 and high < 1.5:
        return f"To cut them: {ARRAY}.clip(0, 1)"
    if low >= -1 and high <= 1:
        return f"Of pixels in -1..1: ({ARRAY} + 1) / 2"
    if low >= -20 and high <= 20 and same_channels:
        code = f"np.moveaxis({ARRAY}, -3, -1)" if moved else ARRAY
        return f"Of normalised ones: ({code} * network.std + network.mean).clip(0, 255)"
    return f"To scale them: {SCALE}"


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


def _check_size(
    array: AnyArray, batch: Shaped[np.ndarray, "n h w c"], native: int, size: int
) -> None:
    """Refuses what is too large to be padded, with what to do."""
    height, width, channels = batch.shape[1:]
    if max(height, width) <= size:
        return
    code = f"np.moveaxis({ARRAY}, -3, -1)" if _is_moved(array, batch) else ARRAY
    if array.ndim <= 2 and array.shape[-1] in (native * native, size * size):
        side = native if array.shape[-1] == native * native else size
        remedy = f"Of rows of pixels: {ARRAY}.reshape(-1, {side}, {side})"
    else:
        if array.shape[-1] == 1:
            code += "[..., 0]"
        if array.dtype != np.uint8:
            factor = " * 255" if array.dtype == np.bool_ or array.max() <= 1 else ""
            code = f"({code}{factor}).astype('uint8')"
        remedy = f"To find its character: PIL.Image.fromarray({code})"
        if array.ndim == 4 or (array.ndim == 3 and channels == 1 and array.shape[-1] != 1):
            remedy = f"To find their characters: [PIL.Image.fromarray(i) for i in {code}]"
    raise UserError(
        f"images of {height}×{width} are larger than the {size}×{size} that the network takes\n"
        f"{remedy}"
    )


def _other(images: Any) -> UserError:
    what = "an empty one" if isinstance(images, Sequence) and not images else type(images).__name__
    return UserError(
        "images must be an array of pixels, a PIL image, the name of a file, or a list of arrays,"
        f" PIL images and names of files, not {what}"
    )
