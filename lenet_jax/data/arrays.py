"""Datasets of arrays in memory: NumPy's, JAX's, PyTorch's and lists."""

import dataclasses
import hashlib
import json
import os
import shutil
import sys
from typing import Any

import numpy as np
from jaxtyping import Shaped

from lenet_jax.data.dataset import GIVEN, Dataset, Rules, Split, digests_of, split
from lenet_jax.data.examples import CHUNK, Examples, Source, convert
from lenet_jax.data.files import kind
from lenet_jax.data.idx import encode_idx
from lenet_jax.data.tfds import digest
from lenet_jax.drafts import name_draft
from lenet_jax.errors import UserError, expand, show, writing

FORMS = "a lenet_jax.data.Dataset, (x, y) or (x, y, x_test, y_test)"


def from_arrays(x: Any, y: Any, x_test: Any = None, y_test: Any = None, **rules: Any) -> Dataset:
    """A dataset of arrays, tensors or lists.

    Args:
      x: images, (n, h, w) or (n, h, w, c) with 1 or 3 channels, which may come first as PyTorch has
        them: integers of 0 to 255 (deeper ones are scaled), floats of 0 to 1, or booleans.
      y: a label for each: integers, not necessarily from 0, or names, which the classes keep.
      x_test: the test images. None: a fifth of each class of `x`, the same in every run.
      y_test: their labels.
      **rules: `image_size`, `fit`, `valid_examples`, `split_seed` and `train_examples` of `load`.

    Raises:
      TypeError: there is no such rule.
      UserError: shapes, counts, pixels or labels are not those of an image classification dataset,
        or the images cannot be fitted or split as requested.
    """
    checked = Rules(**rules)
    checked.check()
    source = _source(x, y, x_test, y_test)
    return split(GIVEN, source, digests_of(source), checked)


def given(data: Any, **settings: Any) -> Dataset:
    """The dataset that is given to `lenet_jax.train`.

    Args:
      data: arrays, see `from_arrays`; or a `Dataset`, whose images were fitted and split already.
      **settings: those of `config.data`, of which all but `name` and `data_dir` apply to arrays.

    Raises:
      UserError: it is neither, or not as required.
    """
    if isinstance(data, Dataset):
        return _checked(data, settings["image_size"])
    if isinstance(data, str | os.PathLike):
        raise UserError(f"data must be {FORMS}; data that have a name are config.data.name={data}")
    if not isinstance(data, tuple | list) or len(data) not in (2, 4):
        of = f" of {len(data)}" if isinstance(data, tuple | list) else ""
        raise UserError(f"data must be {FORMS}, not a {type(data).__name__}{of}")
    if all(isinstance(pair, tuple) and len(pair) == 2 for pair in data):  # as Keras returns it
        data = [array for pair in data for array in pair]
    return from_arrays(*data, **{key: settings[key] for key in Rules._fields})


def write_idx(
    folder: str | os.PathLike[str], x: Any, y: Any, x_test: Any = None, y_test: Any = None
) -> None:
    """Writes a dataset as idx files, which `data.name=FOLDER` reads.

    The folder appears with all files or not at all. One that has these files already is left alone.

    Args:
      folder: where to; it must not exist, or be empty.
      x: images, as for `from_arrays`.
      y: a label for each; integers.
      x_test: the test images; None: no files of a test set are written.
      y_test: their labels.

    Raises:
      UserError: the arrays are not as required, the labels are names, or the folder has other
        files or cannot be written.
    """
    files = _encode(x, y, x_test, y_test)
    path = expand(folder).absolute()
    if kind(path) == "file":
        raise UserError(f"{show(path)} is a file; choose another name for the folder")
    with writing(path):
        if path.exists() and any(path.iterdir()):
            present = {entry.name: entry for entry in path.iterdir()}
            same = present.keys() == files.keys() and all(
                present[name].is_file() and present[name].read_bytes() == content
                for name, content in files.items()
            )
            if not same:
                raise UserError(f"{show(path)} has other files; choose another folder")
            return
        draft = name_draft(path)
        draft.mkdir(parents=True)
        try:
            for name, content in files.items():
                with (draft / name).open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            if path.exists():
                path.rmdir()  # which is empty; Windows does not rename over it
            draft.rename(path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)  # which was renamed if all went well


def to_numpy(array: Any) -> Shaped[np.ndarray, "..."]:
    """The array of a tensor, of PyTorch's or another's, or of lists; short floats become float32.

    Raises:
      ValueError, TypeError, RuntimeError: it is none, or lists of several lengths.
    """
    torch = sys.modules.get("torch")  # whoever has a tensor has imported it
    if torch is not None and isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()
    values = np.asarray(array)
    is_short = values.dtype.itemsize < 4 and "float" in values.dtype.name  # float16, bfloat16, …
    return values.astype(np.float32) if is_short else values


def _source(x: Any, y: Any, x_test: Any, y_test: Any) -> Source:
    train = _examples(x, y, "x", "y")
    if x_test is None and y_test is None:
        return convert(train, None)
    if x_test is None or y_test is None:
        missing, there = ("x_test", "y_test") if x_test is None else ("y_test", "x_test")
        raise UserError(f"there is {there}, but no {missing}; give both, or none")
    return convert(train, _examples(x_test, y_test, "x_test", "y_test"))


def _examples(x: Any, y: Any, images_name: str, labels_name: str) -> Examples:
    return Examples(_images(x, images_name), _labels(y, labels_name), images_name, labels_name)


def _images(x: Any, name: str) -> Shaped[np.ndarray, "..."]:
    """Images with channels last, whose floats are in 0..1, or 0, 1, 2, … 255."""
    if np.ma.is_masked(x):
        raise UserError(f"{name} has masked pixels\nFill them: {name}.filled(0)")
    try:
        images = to_numpy(x)
    except (ValueError, TypeError, RuntimeError) as error:
        raise _no_array(x, name) from error
    if images.dtype == object:
        raise _no_array(x, name)
    if images.ndim == 4 and images.shape[-1] not in (1, 3) and images.shape[1] in (1, 3):
        images = np.moveaxis(images, 1, -1)
    if images.dtype.kind != "f" or not images.size:
        return images
    low, high = float(images.min()), float(images.max())
    if not np.isfinite([low, high]).all():
        raise UserError(f"{name} has pixels that are NaN or infinite")
    if low < 0 or high > 255 or (high > 1 and not _are_whole(images)):
        hint = "Scale them as those of x."
        if name == "x":
            hint = "To scale them: (x - x.min()) / (x.max() - x.min()), x_test by the same numbers"
        raise UserError(
            f"{name} has pixels of {low:g} to {high:g}; floats are in 0 to 1, or 0, 1, 2, … 255\n"
            f"{hint}"
        )
    return images


def _are_whole(images: Shaped[np.ndarray, "n ..."]) -> bool:
    blocks = (images[start : start + CHUNK] for start in range(0, len(images), CHUNK))
    return all(bool((block == np.rint(block)).all()) for block in blocks)


def _no_array(x: Any, name: str) -> UserError:
    try:
        shapes = sorted({np.shape(image) for image in x})
    except (ValueError, TypeError, RuntimeError):
        shapes = []
    if len(shapes) < 2:
        what = f"a {type(x).__name__}"
        if isinstance(x, np.ndarray):
            what = f"an array of objects; of numbers: np.stack({name}).astype(float)"
        return UserError(f"{name} is no array of pixels, but {what}")
    sizes = " and ".join("×".join(map(str, shape)) or "a number" for shape in shapes[:2])
    return UserError(
        f"{name} has images of {len(shapes)} sizes, such as {sizes}; they must be of one\n"
        "Files in a folder for each class may differ, with data.fit=resize."
    )


def _labels(y: Any, name: str) -> Shaped[np.ndarray, "..."]:
    try:
        labels = to_numpy(y)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{name} is no array of labels, but a {type(y).__name__}") from error
    if (
        labels.dtype.kind in "OT" and labels.ndim == 1
    ):  # of a list with numbers of any size, or of pandas
        items = labels.tolist()
        if any(all(isinstance(item, of) for item in items) for of in (str, int | np.integer)):
            return np.array(items)
    return labels


def _checked(data: Dataset, image_size: int) -> Dataset:
    """A dataset whose arrays may have been made by hand, with the fingerprint of its content."""
    names, shape = data.class_names, data.train.images.shape[1:]
    if len(shape) != 3 or shape[0] != shape[1] or shape[2] not in (1, 3):
        raise UserError(f"the dataset has images of {shape}; they are (size, size, 1 or 3)")
    if shape[0] != image_size:
        raise UserError(
            f"the dataset has images of {shape[0]}×{shape[0]}, but data.image_size is {image_size}"
        )
    if len(names) < 2:
        raise UserError(f"the dataset has {len(names)} classes; at least two are needed")
    splits = {"train": data.train, "valid": data.valid, "test": data.test}
    for name, examples in splits.items():
        _check_split(name, examples, shape, len(names))
    digests = [
        digest(array)
        for examples in splits.values()
        for array in (examples.images, examples.labels)
    ]
    fingerprint = hashlib.sha256(json.dumps([digests, names]).encode()).hexdigest()
    return dataclasses.replace(data, name=GIVEN, fingerprint=fingerprint)


def _check_split(name: str, split: Split, shape: tuple[int, ...], classes: int) -> None:
    images, labels = split.images, split.labels
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        raise UserError(
            f"the dataset's {name}.images are {images.dtype} of shape {images.shape};"
            f" they must be uint8 of shape (n, {', '.join(map(str, shape))})"
        )
    if labels.dtype != np.int32 or labels.shape != (len(images),):
        raise UserError(
            f"the dataset's {name}.labels are {labels.dtype} of shape {labels.shape};"
            f" they must be int32 of shape ({len(images)},)"
        )
    if not len(images) and name != "valid":
        raise UserError(f"the dataset's {name} has no images")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise UserError(
            f"the dataset's {name}.labels are {labels.min()} to {labels.max()};"
            f" for its {classes} class names they must be 0 to {classes - 1}"
        )


def _encode(x: Any, y: Any, x_test: Any, y_test: Any) -> dict[str, bytes]:
    """The idx files of a dataset by name."""
    has_test = x_test is not None or y_test is not None
    source = _source(x, y, x_test, y_test) if has_test else _source(x, y, x, y)
    try:
        values = np.array([int(name) for name in source.class_names], np.int32)
    except (ValueError, OverflowError) as error:
        raise UserError(
            f"idx files have integers of 32 bits as labels, not {show(source.class_names[0])}, …\n"
            "np.unique(y, return_inverse=True) gives the names, and a number for each label."
        ) from error
    if values.min() >= 0 and values.max() <= 255:
        values = values.astype(np.uint8)
    files = {}
    splits = (
        ("train", source.train_images, source.train_labels),
        ("t10k", source.test_images, source.test_labels),
    )
    for name, images, labels in splits if has_test else splits[:1]:
        pixels = images[..., 0] if images.shape[-1] == 1 else images
        files[f"{name}-images-idx{pixels.ndim}-ubyte"] = encode_idx(pixels)
        type_name = "ubyte" if values.dtype == np.uint8 else "int"
        files[f"{name}-labels-idx1-{type_name}"] = encode_idx(values[labels])
    return files
