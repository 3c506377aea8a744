"""Images and labels as files store them, checked and converted to a dataset's arrays."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Shaped, UInt8

from lenet_jax.errors import UserError, show

CHUNK = 1024  # images converted at a time
DEPTHS = (8, 10, 12, 14, 16)  # bits of a pixel
TEST_SHARE = 5  # one image in five is a test image where the source has no test set
UNKNOWN_SIZE = (0, 0)
BITS_REMARK = "pixels of 0 and 1 are scaled to 0 and 255"
TEST_SEED = 5  # draws them; not an option, so that all runs share one test set


class Examples(NamedTuple):
    """Images and their labels as they are stored, and what error messages call them."""

    images: Shaped[np.ndarray, "n ..."]
    labels: Shaped[np.ndarray, "n ..."]
    images_name: str | Path
    labels_name: str | Path


class Source(NamedTuple):
    """A dataset before its training images are split and all images are fitted.

    Attributes:
      remarks: what a user should know about how the data were read, a line each.
      native_size: height and width of the images before they were fitted, if that is done already;
        `UNKNOWN_SIZE` if they differed. None: it is not done.
    """

    train_images: UInt8[np.ndarray, "n h w c"]
    train_labels: Int32[np.ndarray, " n"]
    test_images: UInt8[np.ndarray, "m h w c"]
    test_labels: Int32[np.ndarray, " m"]
    class_names: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    native_size: tuple[int, int] | None = None


def convert(
    train: Examples, test: Examples | None, class_names: Mapping[int, str] | None = None
) -> Source:
    """Converts examples to uint8 images and to labels from 0.

    Integers of up to 255 and floats of more than 1 are taken as pixels in [0, 255]; floats in
    [0, 1], and integers that are all 0 or 1, are multiplied by 255; integers of 10 to 16 bits are
    scaled by their depth. The classes are the labels of train and test in ascending order; where
    these are not 0, 1, 2, …, the classes keep them as names.

    Args:
      train: the training examples.
      test: the test examples. None: a fifth of each class of `train`, the same in every run.
      class_names: the names by label, which must be in ascending order; None, or labels without a
        name: the labels.

    Raises:
      UserError: shapes, counts, pixels or labels are not those of an image classification dataset.
    """
    remarks = []
    train = pair(*train)
    if test is None:
        held_out = hold_out(train.labels, train.labels_name)
        test = train._replace(images=train.images[held_out], labels=train.labels[held_out])
        train = train._replace(images=train.images[~held_out], labels=train.labels[~held_out])
        remarks.append(held_out_remark(train.labels, test.labels))
    else:
        test = pair(*test)
        _check_agreement(train, test)
    train_images, test_images = _to_pixels(train, test, remarks)
    train_labels, test_labels, names = _to_classes(train, test, class_names, remarks)
    return Source(train_images, train_labels, test_images, test_labels, names, tuple(remarks))


def pair(
    images: Shaped[np.ndarray, "..."],
    labels: Shaped[np.ndarray, "..."],
    images_name: str | Path,
    labels_name: str | Path,
) -> Examples:
    """Combines images, (n, h, w) or (n, h, w, c), with their labels.

    Labels are (n,), (n, 1), or one-hot (n, k); floats that are whole numbers count as integers.

    Returns:
      Images of shape (n, h, w, c); labels of shape (n,), integers or text.

    Raises:
      UserError: a shape is not that of images or labels, c is not 1 or 3, or the counts differ.
    """
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim and len(images) == 0:
        raise UserError(f"{show(images_name)} has shape {images.shape}: it is empty")
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.size == 0:
        hint = "; channels come last" if images.ndim == 4 and images.shape[1] in (1, 3) else ""
        side = math.isqrt(images.shape[1]) if images.ndim == 2 else 0
        if side > 1 and side**2 == images.shape[1]:
            hint = f"; if they are square, reshape them to (n, {side}, {side})"
        raise UserError(
            f"{show(images_name)} has shape {images.shape}; images are (n, h, w) or"
            f" (n, h, w, 1 or 3){hint}"
        )
    labels = _flatten(labels, labels_name)
    if len(images) != len(labels):
        raise UserError(
            f"{show(labels_name)} has {len(labels)} labels for the {len(images)} images of"
            f" {show(images_name)}"
        )
    return Examples(images, labels, images_name, labels_name)


def hold_out(labels: Shaped[np.ndarray, " n"], name: str | Path) -> Bool[np.ndarray, " n"]:
    """Draws a fifth of each class for the test set, at least one image of two, always the same.

    Args:
      labels: of the training images.
      name: of the data, for the message.

    Raises:
      UserError: no class has two images, so that the test set would be empty.
    """
    draws = np.random.PCG64(TEST_SEED).random_raw(len(labels))
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.lexsort((draws, classes))
    rank = np.empty(len(labels), np.int64)  # of each image among the draws of its class
    rank[order] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    if counts.max(initial=0) < 2:
        raise UserError(
            f"{show(name)} has too few images to hold out a test set: no class has two;"
            " add images, or a test set"
        )
    return rank < np.where(counts > 1, np.maximum(counts // TEST_SHARE, 1), 0)[classes]


def held_out_remark(
    train_labels: Shaped[np.ndarray, " n"], test_labels: Shaped[np.ndarray, " m"]
) -> str:
    """Says that there is no test set but what was drawn."""
    without = len(np.setdiff1d(train_labels, test_labels))
    few = f"; of {without} with one image, none" if without else ""
    return (
        f"there is no test set: a fifth of each class, {len(test_labels):,} images, is held out as"
        f" one, the same in every run{few}"
    )


def spread_bits(source: Source) -> Source:
    """Multiplies pixels by 255, and says so, where all of train and test are 0 or 1."""
    if not _are_bits(source.train_images) or not _are_bits(source.test_images):
        return source
    return source._replace(
        train_images=source.train_images * np.uint8(255),
        test_images=source.test_images * np.uint8(255),
        remarks=(*source.remarks, BITS_REMARK),
    )


def sort_names(names: Iterable[str]) -> list[str]:
    """Sorts class names: by value if all are numbers, else as text."""
    names = list(names)
    if all(name.isascii() and name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _flatten(labels: Shaped[np.ndarray, "..."], name: str | Path) -> Shaped[np.ndarray, " n"]:
    """Labels (n,) of integers or text."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    elif labels.ndim == 2 and labels.dtype.kind in "iubf" and _is_one_hot(labels):
        labels = labels.argmax(axis=1)
    if labels.ndim != 1:
        raise UserError(f"{show(name)} has shape {labels.shape}; labels are (n,)")
    if labels.dtype.kind == "S":
        return np.char.decode(labels, "utf-8", "backslashreplace")
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all() or (labels != np.rint(labels)).any():
            raise UserError(f"{show(name)} has labels that are not whole numbers")
        if (largest := np.abs(labels).max(initial=0)) >= 2**63:
            raise UserError(f"{show(name)} has label {largest:g}, beyond 64 bits")
        return labels.astype(np.int64)
    if labels.dtype.kind not in "iubU":
        raise UserError(f"{show(name)} has labels of type {labels.dtype}; integers or text")
    if labels.dtype.kind != "U" and labels.size and labels.max() > np.iinfo(np.int64).max:
        raise UserError(f"{show(name)} has label {labels.max()}, beyond 64 bits")
    return labels if labels.dtype.kind == "U" else labels.astype(np.int64)


def _is_one_hot(labels: Shaped[np.ndarray, "n k"]) -> bool:
    return bool(((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all())


def _check_agreement(train: Examples, test: Examples) -> None:
    if test.images.shape[1:] != train.images.shape[1:]:
        raise UserError(
            f"{show(test.images_name)} has images of {_by(test.images)}, "
            f"{_short(train.images_name)} of {_by(train.images)}"
        )
    if (test.labels.dtype.kind == "U") != (train.labels.dtype.kind == "U"):
        raise UserError(
            f"{show(test.labels_name)} and {_short(train.labels_name)} are of two types"
        )
    unknown = np.setdiff1d(test.labels, train.labels)
    if train.labels.dtype.kind == "U":
        if len(unknown):
            raise UserError(
                f"{show(test.labels_name)} has label {show(unknown[0])}, which"
                f" {_short(train.labels_name)} has not"
            )
    elif len(unknown) and unknown.max() > train.labels.max():
        raise UserError(
            f"{show(test.labels_name)} has label {unknown.max()}; "
            f"the largest in {_short(train.labels_name)} is {train.labels.max()}"
        )


def _are_bits(images: UInt8[np.ndarray, "n h w c"]) -> bool:
    """Whether no pixel is more than 1; mostly the first images decide."""
    return all(images[i : i + CHUNK].max() <= 1 for i in range(0, len(images), CHUNK))


def _short(name: str | Path) -> str:
    return show(name.name if isinstance(name, Path) else name)


def _by(images: Shaped[np.ndarray, "n h w c"]) -> str:
    return "×".join(map(str, images.shape[1:]))


def _to_pixels(
    train: Examples, test: Examples, remarks: list[str]
) -> tuple[UInt8[np.ndarray, "n h w c"], UInt8[np.ndarray, "m h w c"]]:
    """Converts both sets, by one factor if they are of one type."""
    highest = [_highest(images, name) for images, _, name, _ in (train, test)]
    if train.images.dtype == test.images.dtype:
        highest = [max(highest)] * 2
    are_bits = 0 < max(highest) <= 1
    if are_bits and any(examples.images.dtype.kind in "iu" for examples in (train, test)):
        remarks.append(BITS_REMARK)
    pixels = []
    for examples, high in zip((train, test), highest, strict=True):
        scale = 1.0
        if are_bits or (examples.images.dtype.kind in "bf" and high <= 1):
            scale = 255.0
        elif high > 255:
            depth = next(bits for bits in DEPTHS if high < 2**bits)
            scale = 255 / (2**depth - 1)
            remark = f"pixels of 0 to {high:.0f} are taken as {depth} bits and scaled to 0 to 255"
            if remark not in remarks:
                remarks.append(remark)
        pixels.append(_scale(examples.images, scale))
    return pixels[0], pixels[1]


def _highest(images: Shaped[np.ndarray, "n h w c"], name: str | Path) -> float:
    """The largest pixel; raises `UserError` if a pixel is out of range."""
    if images.dtype.kind not in "iubf":
        raise UserError(f"{show(name)} has images of type {images.dtype}, not of numbers")
    low, high = float(images.min()), float(images.max())
    limit = 255 if images.dtype.kind == "f" else 65535
    if not (low >= 0 and high <= limit):  # neither holds of NaN
        raise UserError(
            f"{show(name)} has pixels of {low:g} to {high:g}; supported are floats of 0 to 1 or"
            " 0 to 255, and integers of 0 to 65535"
        )
    return high


def _scale(images: Shaped[np.ndarray, "n h w c"], scale: float) -> UInt8[np.ndarray, "n h w c"]:
    if images.dtype == np.uint8 and scale == 1:
        return np.ascontiguousarray(images)
    pixels = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), CHUNK):
        block = slice(start, start + CHUNK)
        pixels[block] = np.rint(images[block] * np.float64(scale))
    return pixels


def _to_classes(
    train: Examples,
    test: Examples,
    class_names: Mapping[int, str] | None,
    remarks: list[str],
) -> tuple[Int32[np.ndarray, " n"], Int32[np.ndarray, " m"], tuple[str, ...]]:
    """Numbers the labels from 0; adds a remark where that changes them."""
    values = np.unique(np.concatenate([train.labels, test.labels]))
    if values.dtype.kind == "U":
        values = np.array(sort_names(values.tolist()))
        names = tuple(values.tolist())
    elif class_names is not None and set(values.tolist()) <= class_names.keys():
        values = np.array(list(class_names))
        names = tuple(class_names.values())
    else:
        names = tuple(map(str, values.tolist()))
        if names != tuple(map(str, range(len(names)))):
            remarks.append(
                f"the labels are {_shorten(names)}: classes 0 to {len(names) - 1}, which keep"
                " them as names"
            )
    if len(names) < 2:
        raise UserError(
            f"{show(train.labels_name)} has the one label {show(values[0])}; at least two are"
            " needed"
        )
    order = np.argsort(values, kind="stable")
    train_labels, test_labels = (
        order[np.searchsorted(values, labels, sorter=order)].astype(np.int32)
        for labels in (train.labels, test.labels)
    )
    seen = set(train_labels.tolist())
    if len(seen) < len(names):
        missing = [name for index, name in enumerate(names) if index not in seen]
        remarks.append(f"no training image is of class {_shorten(missing)}")
    return train_labels, test_labels, names


def _shorten(names: Iterable[str]) -> str:
    """At most six names, consecutive numbers as their first and last."""
    names = list(names)
    try:
        numbers = list(map(int, names))
    except ValueError:
        numbers = []
    if len(numbers) > 2 and all(n - numbers[0] == i for i, n in enumerate(numbers)):
        return f"{names[0]} to {names[-1]}"
    shown = ", ".join(map(show, names[:6]))
    return shown if len(names) <= 6 else f"{shown}, … {show(names[-1])}"
