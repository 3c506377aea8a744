"""Image-classification datasets as arrays in host memory: the embedded MNIST, idx files, or TFDS.

TFDS and Pillow are imported only when a dataset needs them; TensorFlow never is.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib

import numpy as np
from jaxtyping import Int32, UInt8

from lenet_jax.data.idx import read_idx_folder
from lenet_jax.data.tfds import digest, load_tfds_arrays
from lenet_jax.errors import UserError, expand

EMBEDDED_MNIST = pathlib.Path(__file__).parent / "embedded" / "mnist"
FITS = ("pad", "resize")
RULES_VERSION = 1  # of the fit and split rules below; part of every fingerprint


@dataclasses.dataclass(frozen=True)
class Split:
    """Images (n, h, w, c) in [0, 255] and labels (n,) in [0, num_classes)."""

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The training, validation and test splits of one dataset.

    Attributes:
      name: as requested.
      fingerprint: SHA-256, in hex, of everything that determines the arrays: the source's content,
        the class names, the fit and the split. It does not depend on where the source is stored or
        whether it is gzipped.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    class_names: tuple[str, ...]
    fingerprint: str

    @property
    def num_classes(self) -> int:
        """The number of classes, including those without examples."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int = 32,
    fit: str = "pad",
    valid_examples: int = 5000,
    split_seed: int = 0,
    train_examples: int | None = None,
) -> Dataset:
    """Loads a dataset and splits its training images into train and validation.

    NumPy's PCG64, seeded with `split_seed`, draws a 64-bit number for each training image in file
    order. The images with the smallest numbers are the validation split; `train_examples` keeps
    those that come next. Both splits stay in file order. The rule does not depend on NumPy's
    version, and a smaller `train_examples` gives a subset of a larger one.

    Args:
      name: `mnist` for the embedded copy; a folder of idx files (see `idx.read_idx_folder`), that
        is, any name that exists as a folder or starts like a path (`/`, `./`, `../`, `~`); or a
        TFDS name, optionally with config and version: `fashion_mnist`, `emnist/letters`. The prefix
        `tfds:` forces TFDS: `tfds:mnist` is TFDS's own copy. The MNIST family is downloaded and
        prepared on first use; any other TFDS dataset must already be prepared as array_record. The
        test split is `test`, or `validation` if there is none.
      data_dir: folder of prepared TFDS datasets and, under `lenet_jax`, of their decoded arrays.
        None: TFDS's default, `$TFDS_DATA_DIR` or `~/tensorflow_datasets`.
      image_size: height and width of the returned images, in pixels.
      fit: how images of another size are fitted: `pad` centres them on zeros, `resize` scales both
        sides (bilinear, antialiased).
      valid_examples: number of training images held out for validation; may be 0.
      split_seed: seed of the validation split; not negative.
      train_examples: number of the remaining images to train on; None: all.

    Raises:
      UserError: the data do not exist, are damaged, are not image classification, or cannot be
        fitted or split as requested.
    """
    if fit not in FITS:
        raise UserError(f"data.fit is {fit!r}; it must be one of {', '.join(FITS)}")
    if image_size < 1:
        raise UserError(f"data.image_size is {image_size}; it must be at least 1")
    fit_all = functools.partial(fit_images, size=image_size, fit=fit)
    if name == "mnist":
        _verify_embedded_mnist()
        train, test, class_names, digests = _load_folder(EMBEDDED_MNIST)
    elif _is_folder(name):
        train, test, class_names, digests = _load_folder(expand(name))
    else:
        arrays, class_names, digests = load_tfds_arrays(
            name.removeprefix("tfds:"),
            expand(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"),
            fit_all,
            f"{fit}-{image_size}-v{RULES_VERSION}",
        )
        train = Split(arrays["train_images"], arrays["train_labels"])
        test = Split(arrays["test_images"], arrays["test_labels"])

    train_index, valid_index = split_indices(len(train), valid_examples, split_seed, train_examples)
    rules = (RULES_VERSION, image_size, fit, len(valid_index), split_seed, len(train_index))
    fingerprint = hashlib.sha256(json.dumps([digests, class_names, rules]).encode()).hexdigest()
    return Dataset(
        name=name,
        train=Split(fit_all(train.images[train_index]), train.labels[train_index]),
        valid=Split(fit_all(train.images[valid_index]), train.labels[valid_index]),
        test=Split(fit_all(test.images), test.labels),
        class_names=class_names,
        fingerprint=fingerprint,
    )


def split_indices(
    num_examples: int, valid_examples: int, split_seed: int, train_examples: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the training and of the validation examples; see `load`.

    Raises:
      UserError: there are too few examples, or an argument is out of range.
    """
    if split_seed < 0:
        raise UserError(f"data.split_seed is {split_seed}; it must not be negative")
    if not 0 <= valid_examples < num_examples:
        raise UserError(
            f"data.valid_examples is {valid_examples}; it must be 0 to {num_examples - 1}, "
            f"fewer than the {num_examples} training images"
        )
    left = num_examples - valid_examples
    if train_examples is None:
        train_examples = left
    if not 1 <= train_examples <= left:
        raise UserError(
            f"data.train_examples is {train_examples}; it must be 1 to {left}, "
            f"the images that valid_examples={valid_examples} leaves of {num_examples}"
        )
    # NumPy guarantees the raw stream of a bit generator across versions, but not permutations.
    draws = np.random.PCG64(split_seed).random_raw(num_examples)
    order = np.argsort(draws, kind="stable")
    valid, train = np.split(order[: valid_examples + train_examples], [valid_examples])
    return np.sort(train), np.sort(valid)


def fit_images(
    images: UInt8[np.ndarray, "n h w c"], size: int, fit: str
) -> UInt8[np.ndarray, "n size size c"]:
    """Fits images to size × size pixels by `pad` or `resize`; see `load`.

    If the padding is odd, the extra pixel is at the bottom or at the right.

    Raises:
      UserError: the images are too large to be padded.
    """
    count, height, width, channels = images.shape
    if height == width == size:
        return images
    fitted = np.zeros((count, size, size, channels), np.uint8)
    if fit == "pad":
        if max(height, width) > size:
            raise UserError(
                f"images of {height}×{width} cannot be padded to data.image_size={size}; "
                "try data.fit=resize"
            )
        top, left = (size - height) // 2, (size - width) // 2
        fitted[:, top : top + height, left : left + width] = images
    else:
        from PIL import Image

        for target, image in zip(fitted, images, strict=True):
            pixels = Image.fromarray(image[..., 0] if channels == 1 else image)
            resized = pixels.resize((size, size), Image.Resampling.BILINEAR)
            target[...] = np.asarray(resized).reshape(target.shape)
    return fitted


def _is_folder(name: str) -> bool:
    looks_like_a_path = name.startswith(("/", "./", "../", "~")) or name.count("/") > 1
    return looks_like_a_path or (name != "" and pathlib.Path(name).is_dir())


def _verify_embedded_mnist() -> None:
    for line in (EMBEDDED_MNIST / "SHA256SUMS").read_text().splitlines():
        expected, file_name = line.split()
        path = EMBEDDED_MNIST / file_name
        if path.suffix != ".gz":
            continue  # the hash of an archive's content, implied by the archive's own
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise UserError(f"the embedded {path} is missing or damaged; reinstall lenet-jax")


def _load_folder(folder: pathlib.Path) -> tuple[Split, Split, tuple[str, ...], tuple[str, ...]]:
    if not folder.is_dir():
        raise UserError(f"data.name: there is no folder {folder}")
    train, test = (
        Split(images, labels.astype(np.int32)) for images, labels in read_idx_folder(folder)
    )
    class_names = tuple(map(str, range(train.labels.max() + 1)))
    arrays = (train.images, train.labels, test.images, test.labels)
    return train, test, class_names, tuple(map(digest, arrays))
