"""The axes of arrays of images: which are the height, the width and the channels."""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from jaxtyping import Shaped

from lenet_jax.errors import UserError

ARRAY = "np.asarray(images)"  # what remedies begin with; `images` is what was given

AnyArray: TypeAlias = Shaped[np.ndarray, "..."]
Batch: TypeAlias = Shaped[np.ndarray, "n h w c"]
Size: TypeAlias = tuple[int, int]  # height and width


def channels_last(array: AnyArray, channels: int, sizes: set[Size], any_size: bool) -> Batch:
    """Views an array as a batch; see `pixels.fit_array` for the axes.

    Args:
      array: the images.
      channels: of the network.
      sizes: that images are expected to have.
      any_size: whether they may have any other.

    Raises:
      UserError: its shape is not that of images, or another order of its axes gives images of an
        expected size.
    """
    kinds, shape = _kinds(channels), array.shape
    batch = array
    if array.ndim == 2:
        batch = array[None, ..., None]
    elif array.ndim == 3 and shape[-1] in kinds:
        batch = array[None]
    elif array.ndim == 3 and channels > 1 and shape[0] == channels:
        batch = np.moveaxis(array, 0, -1)[None]
    elif array.ndim == 3:
        batch = array[..., None]
    elif array.ndim == 4 and shape[-1] not in kinds and shape[1] in kinds:
        batch = np.moveaxis(array, 1, -1)
    valid = batch.ndim == 4 and batch.shape[-1] in kinds and 0 not in batch.shape[1:]
    if valid and batch.shape[1:3] in sizes:
        return batch
    are_likely = valid and any_size and shape[:2] not in sizes
    remedy = "" if are_likely else next(_reordered(array, channels, sizes), "")
    if remedy:
        raise UserError(f"images must be (n, height, width), not of shape {shape}\n{remedy}")
    if valid:
        return batch
    if array.ndim > 4 and (shape[-1] in kinds or shape[-3] in kinds):
        remedy = f"\n{_as_batch(array)}"
    raise UserError(f"images must be (n, height, width, {channels}), not of shape {shape}{remedy}")


def is_moved(array: AnyArray, batch: Batch) -> bool:
    """Whether the channels were not the last axis."""
    return array.ndim > 2 and batch.shape[-1] != 1 and array.shape[-1] != batch.shape[-1]


def check_size(array: AnyArray, batch: Batch, native: Size, size: int) -> None:
    """Refuses images that neither have the data's size nor are padded already.

    Args:
      array: the images as given.
      batch: the same by `channels_last`.
      native: height and width of the data's images before they were padded.
      size: of the images that the network takes, in pixels.

    Raises:
      UserError: says how to have them brought to the form of the data's images, as files are.
    """
    height, width, channels = batch.shape[1:]
    if (height, width) in (native, (size, size)) and max(height, width) <= size:
        return
    first_axis = array.shape[0] if array.ndim == 3 and channels == 1 else 0
    code = f"np.moveaxis({ARRAY}, -3, -1)" if is_moved(array, batch) else ARRAY
    if first_axis == 3:  # one colour image, as torchvision reads it
        code = f"np.moveaxis({ARRAY}, 0, -1)"
    elif array.shape[-1] == 1:
        code += "[..., 0]"
    elif first_axis == 1:
        code += "[0]"
    if array.dtype != np.uint8:
        factor = " * 255" if array.dtype == np.bool_ or array.max(initial=0) <= 1 else ""
        code = f"({code}{factor}).astype('uint8')"
    remedy = f"To find its character: PIL.Image.fromarray({code})"
    if array.ndim == 4 or (first_axis not in (0, 1, 3) and array.shape[-1] != 1):
        remedy = f"To find their characters: [PIL.Image.fromarray(i) for i in {code}]"
    what = f"neither {native[0]}×{native[1]}, as the data's, nor {size}×{size}, as padded"
    if max(height, width) > size:
        what = f"larger than the {size}×{size} that the network takes"
    raise UserError(f"images of {height}×{width} are {what}\n{remedy}")


def _kinds(channels: int) -> set[int]:
    return {1, 3, 4, channels}


def _reordered(array: AnyArray, channels: int, sizes: set[Size]) -> Iterator[str]:
    """Remedies that give images of one of the sizes, the likeliest first."""
    if array.ndim > 4 and _are_images((1, *array.shape[-3:]), channels, sizes):
        yield _as_batch(array)
    if array.ndim >= 3:
        for axis in (-1, 1):
            if _are_images(np.moveaxis(array, axis, 0).shape, channels, sizes):
                yield f"If axis {axis} counts the images: np.moveaxis({ARRAY}, {axis}, 0)"
        if _are_images(array.squeeze().shape, channels, sizes):
            yield f"Without axes of length 1: np.squeeze({ARRAY})"
    if array.ndim <= 2 or 1 in array.shape:
        for height, width in sorted(sizes):
            if height * width in array.squeeze().shape[-1:]:
                yield f"Of rows of pixels: {ARRAY}.reshape(-1, {height}, {width})"


def _as_batch(array: AnyArray) -> str:
    return f"As one batch: {ARRAY}.reshape(-1, {', '.join(map(str, array.shape[-3:]))})"


def _are_images(shape: tuple[int, ...], channels: int, sizes: set[Size]) -> bool:
    kinds = _kinds(channels)
    if len(shape) == 4:
        last = shape[-1] in kinds and shape[1:3] in sizes
        return last or (shape[1] in kinds and shape[2:] in sizes)
    return len(shape) in (2, 3) and (shape[-2:] in sizes)
