"""Image-classification datasets as arrays in host memory: embedded, from files, or from TFDS.

TFDS and Pillow are imported only when a dataset needs them; TensorFlow never is.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Int32, UInt8
from ml_collections import ConfigDict

from lenet_jax.data import emnist, file_set
from lenet_jax.data.examples import UNKNOWN_SIZE, Source, spread_bits
from lenet_jax.data.fit import FITS, fit_images
from lenet_jax.data.paths import is_path, load_path
from lenet_jax.data.tfds import ARRAYS, digest, load_tfds_arrays
from lenet_jax.errors import UserError, expand, show

EMBEDDED = "mnist"  # the name of the data that come with the package
EMBEDDED_MNIST = pathlib.Path(__file__).parent / "embedded" / "mnist"
# What configs have where a user says nothing, `config.base` and its `smoke`, and what therefore
# adapts to fewer images; any other number is taken at its word.
VALID_EXAMPLES = 5000
SMOKE_VALID_EXAMPLES, SMOKE_TRAIN_EXAMPLES = 500, 3000
RULES_VERSION = 1  # of the fit and split rules below; part of every fingerprint
GIVEN = "given in Python"  # the name of data that `lenet_jax.train` was given as arrays
# Mean and standard deviation of a pixel per channel.
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


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
      remarks: what a user should know about how the data were read, a line each.
      native_size: height and width of the images before they were fitted; None: not known.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    class_names: tuple[str, ...]
    fingerprint: str
    remarks: tuple[str, ...] = ()
    native_size: tuple[int, int] | None = None

    @property
    def num_classes(self) -> int:
        """The number of classes, including those without examples."""
        return len(self.class_names)

    def describe(self, train_examples: int) -> str:
        """What it is in a line, with how many of its images train a network."""
        height, width, channels = self.image_shape
        counts = f"{train_examples:,} train, {len(self.valid):,} validation"
        return (
            f"{self.name}: {counts}, {len(self.test):,} test images of"
            f" {height}×{width}×{channels}, {self.num_classes} classes"
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels


class Rules(NamedTuple):
    """How a dataset's images are fitted and split; the arguments of `load` of these names."""

    image_size: int = 32
    fit: str = "pad"
    valid_examples: int = VALID_EXAMPLES
    split_seed: int = 0
    train_examples: int | None = None

    def fit_all(
        self, images: UInt8[np.ndarray, "n h w c"], chosen: Int[np.ndarray, " m"] | None = None
    ) -> UInt8[np.ndarray, "m size size c"]:
        """Fits images, all or the chosen ones, to the size of the network's input."""
        return fit_images(images, self.image_size, self.fit, chosen)

    def check(self) -> None:
        """Raises `UserError` if images cannot be fitted so, whatever they are."""
        if self.fit not in FITS:
            raise UserError(f"data.fit is {self.fit!r}; it must be one of {', '.join(FITS)}")
        if self.image_size < 1:
            raise UserError(f"data.image_size is {self.image_size}; it must be at least 1")


# The keys of a config's `data` that determine the dataset; others concern single networks.
SECTION = ("name", "data_dir", *Rules._fields)


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int = 32,
    fit: str = "pad",
    valid_examples: int = VALID_EXAMPLES,
    split_seed: int = 0,
    train_examples: int | None = None,
) -> Dataset:
    """Loads a dataset and splits its training images into train and validation.

    NumPy's PCG64, seeded with `split_seed`, draws a 64-bit number for each training image in file
    order. The images with the smallest numbers are the validation split; `train_examples` keeps
    those that come next. Both splits stay in file order. The rule does not depend on NumPy's
    version, and a smaller `train_examples` gives a subset of a larger one.

    Args:
      name: one of
        - `mnist`: the embedded copy;
        - a path, that is, a name that exists or starts like one (`/`, `./`, `../`, `~`): a folder
          of idx files named as MNIST's are, or of folders with these, such as torchvision's root
          (`file_set`); one of several in a folder, `ROOT/FashionMNIST`, `FOLDER/emnist-letters`;
          an `.npz` (`npz`); a `.csv`, or a folder with `train.csv` and `test.csv` (`csv_files`); a
          `.parquet`, or a folder with those of the Hugging Face hub (`parquet`); or a folder with a
          folder of images for each class (`class_folders`);
        - a TFDS name, optionally with config and version: `fashion_mnist`, `emnist/letters`. The
          prefix `tfds:` forces TFDS: `tfds:mnist` is TFDS's own copy. The MNIST family is
          downloaded and prepared on first use; any other TFDS dataset must already be prepared as
          array_record. The test split is `test`, or `validation` if there is none.
        EMNIST's images, published transposed, are upright, and its classes are its characters.
      data_dir: folder of prepared TFDS datasets and, under `lenet_jax`, of their decoded arrays.
        None: TFDS's default, `$TFDS_DATA_DIR` or `~/tensorflow_datasets`.
      image_size: height and width of the returned images, in pixels.
      fit: how images of another size are fitted: `pad` centres them on zeros, `resize` scales both
        sides (bilinear, antialiased).
      valid_examples: number of training images held out for validation; may be 0. The defaults of
        configs, 5000 and 500, stand for a tenth of the images where these are fewer than twice as
        many.
      split_seed: seed of the validation split; not negative.
      train_examples: number of the remaining images to train on; None, or the default of a smoke
        run, 3000, where fewer are left: all.

    Raises:
      UserError: the data do not exist, are damaged, are not image classification, or cannot be
        fitted or split as requested.
    """
    rules = Rules(image_size, fit, valid_examples, split_seed, train_examples)
    rules.check()
    if name == GIVEN:
        raise UserError(
            "these data were given to lenet_jax.train in Python, and are not stored\n"
            "Pass them again: lenet_jax.train(config, workdir, data=(x, y))."
        )
    if name == EMBEDDED:
        _verify_embedded_mnist()
        source = file_set.load(EMBEDDED_MNIST)
        digests = digests_of(source)
    elif is_path(name):
        source = spread_bits(load_path(expand(name), rules.fit_all, resizes=fit == "resize"))
        digests = digests_of(source)
    else:
        source, digests = _load_tfds(name.removeprefix("tfds:"), data_dir, rules)
    if not len(source.test_labels):
        raise UserError(f"data.name={show(name)} has no test images")
    return split(name, source, digests, rules)


def load_section(section: Mapping[str, Any] | ConfigDict) -> Dataset:
    """Loads the dataset that a config names.

    Args:
      section: the config's `data`, of which the keys `SECTION` count.

    Raises:
      UserError: as `load`.
    """
    arguments: dict[str, Any] = {key: section[key] for key in SECTION}
    return load(**arguments)


def split(name: str, source: Source, digests: tuple[str, ...], rules: Rules) -> Dataset:
    """Splits a source's training images into train and validation, and fits all images.

    Args:
      name: of the dataset.
      source: with test images.
      digests: of the source's arrays, for the fingerprint.
      rules: how to fit and split.

    Raises:
      UserError: the images cannot be fitted or split as requested.
    """
    train = Split(source.train_images, source.train_labels)
    test = Split(source.test_images, source.test_labels)
    class_names, remarks = source.class_names, source.remarks
    image_size, fit, valid_examples, split_seed, train_examples = rules
    if valid_examples in (VALID_EXAMPLES, SMOKE_VALID_EXAMPLES) and len(train) < 2 * valid_examples:
        valid_examples = max(1, len(train) // 10)
        held_out = f"{valid_examples:,} of the {len(train):,} training images, a tenth,"
        remarks += (f"{held_out} are held out for validation",)
    if train_examples == SMOKE_TRAIN_EXAMPLES and len(train) < train_examples + valid_examples:
        train_examples = None

    native_size = source.native_size or train.images.shape[1:3]
    train_index, valid_index = split_indices(len(train), valid_examples, split_seed, train_examples)
    applied = (RULES_VERSION, image_size, fit, len(valid_index), split_seed, len(train_index))
    fingerprint = hashlib.sha256(json.dumps([digests, class_names, applied]).encode()).hexdigest()
    return Dataset(
        name=name,
        train=Split(rules.fit_all(train.images, train_index), train.labels[train_index]),
        valid=Split(rules.fit_all(train.images, valid_index), train.labels[valid_index]),
        test=Split(rules.fit_all(test.images), test.labels),
        class_names=class_names,
        fingerprint=fingerprint,
        remarks=remarks,
        native_size=None if native_size == UNKNOWN_SIZE else native_size,
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


def pixel_statistics(dataset: Dataset) -> Statistics:
    """Mean and standard deviation of the training pixels per channel, in 0..255.

    A constant channel gets the standard deviation 1, since images are divided by it.
    """
    count, total, squares = 0, np.zeros(()), np.zeros(())
    for start in range(0, len(dataset.train), 1024):
        pixels = dataset.train.images[start : start + 1024].reshape(-1, dataset.image_shape[2])
        values = np.arange(256.0)
        histogram = np.stack([_count_values(channel) for channel in pixels.T])
        count += len(pixels)
        total = total + histogram @ values
        squares = squares + histogram @ values**2
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())


def _count_values(pixels: UInt8[np.ndarray, " n"]) -> Int[np.ndarray, " values"]:
    """How often each value from 0 to 255 occurs. Counting pairs takes half the time."""
    even = len(pixels) // 2 * 2
    pairs = np.ascontiguousarray(pixels[:even]).view(np.uint16)
    counts = np.bincount(pairs, minlength=1 << 16).reshape(256, 256)
    return counts.sum(0) + counts.sum(1) + np.bincount(pixels[even:], minlength=256)


def digests_of(source: Source) -> tuple[str, ...]:
    """The digests of a source's arrays."""
    return tuple(map(digest, source[:4]))


def _verify_embedded_mnist() -> None:
    for line in (EMBEDDED_MNIST / "SHA256SUMS").read_text().splitlines():
        expected, file_name = line.split()
        path = EMBEDDED_MNIST / file_name
        if path.suffix != ".gz":
            continue  # the hash of an archive's content, implied by the archive's own
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise UserError(f"the embedded {path} is missing or damaged; reinstall lenet-jax")


def _load_tfds(
    name: str, data_dir: str | os.PathLike[str] | None, rules: Rules
) -> tuple[Source, tuple[str, ...]]:
    """A TFDS dataset, and the digests of its arrays."""
    loaded = load_tfds_arrays(
        name,
        expand(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"),
        rules.fit_all,
        f"{rules.fit}-{rules.image_size}-v{RULES_VERSION}",
    )
    arrays = (loaded.arrays[key] for key in ARRAYS)
    stored = Source(*arrays, class_names=loaded.class_names, native_size=UNKNOWN_SIZE)
    source, digests = spread_bits(stored), loaded.digests
    if source is not stored:
        digests = (*digests, "bits")
    variant = emnist.variant(name)
    if variant is None:
        return source, digests
    return emnist.upright(emnist.rename(source, variant)), (*digests, "upright")
