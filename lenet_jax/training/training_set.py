"""The training set of one network: which of the training images, and with which labels.

Networks of one dataset may train on subsets of its training images (`data.subset`,
`data.subset_file`), with some labels replaced (`data.label_noise`). A population holds the images
once, and of each member the indices and the labels.
"""

import codecs
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from lenet_jax.config.file import Config
from lenet_jax.config.source import located
from lenet_jax.data.dataset import Dataset, Split
from lenet_jax.data.files import open_file
from lenet_jax.data.npz import read_npy
from lenet_jax.errors import UserError, expand, show
from lenet_jax.training.hyperparameters import seeds
from lenet_jax.training.streams import draw

KEY = "data.subset_file"


class TrainingSet(NamedTuple):
    """A network's own examples.

    Attributes:
      indices: of the images among the dataset's training images, ascending.
      labels: one for each.
    """

    indices: Int32[np.ndarray, " n"]
    labels: Int32[np.ndarray, " n"]


def make_training_set(config: Config, dataset: Dataset) -> TrainingSet:
    """The training set of a config.

    Labels are replaced before a subset is drawn: with one seed an example has the same label in
    every subset. A smaller `data.subset` or `data.label_noise` is part of a larger one with the
    same seed.

    Raises:
      UserError: see `find_indices`.
    """
    indices, labels = find_indices(config, dataset), dataset.train.labels
    if config.data.label_noise:
        labels = _replace_labels(
            labels, dataset.num_classes, config.data.label_noise, seeds(config)["label_noise"]
        )
    return TrainingSet(indices, labels[indices])


def make_split(config: Config, dataset: Dataset) -> Split:
    """The images and labels of a config's training set; raises as `make_training_set`."""
    if not has_own(config):
        return dataset.train
    own = make_training_set(config, dataset)
    return Split(dataset.train.images[own.indices], own.labels)


def has_own(config: Config) -> bool:
    """Whether the training set is not just the dataset's training images."""
    data = config.data
    return not (data.subset is data.subset_file is None and data.label_noise == 0)


def find_indices(config: Config, dataset: Dataset) -> Int32[np.ndarray, " n"]:
    """The indices of the training images that a config trains on, ascending.

    Raises:
      UserError: there are fewer images than `data.subset`, or the file is not as required.
    """
    subset, file, available = config.data.subset, config.data.subset_file, len(dataset.train)
    if file is not None:
        return _read_indices(file, available)
    if subset is None:
        return np.arange(available, dtype=np.int32)
    if subset > available:
        raise UserError(
            f"data.subset is {subset}; it must be 1 to {available}, the training images that are"
            " left after the validation split"
        )
    (draws,) = draw("subset", seeds(config)["subset"], available)
    return np.sort(np.argsort(draws, kind="stable")[:subset]).astype(np.int32)


def sum_of_files(names: Iterable[str | None]) -> str | None:
    """The SHA-256 of the files that `data.subset_file` names; None if it names none.

    Raises:
      UserError: one cannot be read.
    """
    total, files = hashlib.sha256(), [name for name in names if name is not None]
    for name in files:
        with open_file(_find(name)) as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest() if files else None


def _replace_labels(
    labels: Int32[np.ndarray, " n"], num_classes: int, share: float, seed: int
) -> Int32[np.ndarray, " n"]:
    """Labels of which a share, rounded to whole examples, is replaced by one of another class.

    Every other class is equally likely.
    """
    ranks, others = draw("label_noise", seed, len(labels), 2)
    wrong = np.argsort(ranks, kind="stable")[: round(share * len(labels))]
    replaced = labels.copy()
    steps = 1 + others[wrong] % np.uint64(num_classes - 1)
    replaced[wrong] = (labels[wrong] + steps.astype(np.int32)) % num_classes
    return replaced


def _read_indices(name: str, available: int) -> Int32[np.ndarray, " n"]:
    """The indices in a file, in ascending order.

    Raises:
      UserError: the file cannot be read, holds something else than different integers from 0 to
        `available` - 1, or none.
    """
    path = _find(name)
    values = read_npy(path) if path.suffix.lower() in (".npy", ".npz") else _read_text(path)
    where = f"{KEY}: {show(path)}"
    if values.dtype.kind not in "iu" or values.ndim != 1:
        raise UserError(f"{where} has {values.dtype} {values.shape}; needed are integers (n,)")
    if not values.size:
        raise UserError(f"{where} has no indices")
    out = values[(values < 0) | (values >= available)]
    if out.size:
        raise UserError(
            f"{where} has the index {out[0]}; it must be 0 to {available - 1}, the training images"
            " that are left after the validation split"
        )
    ordered, counts = np.unique(values, return_counts=True)
    if len(ordered) < len(values):
        raise UserError(f"{where} has the index {ordered[counts > 1][0]} more than once")
    return ordered.astype(np.int32)


def _find(name: str) -> Path:
    """The file that a name means; refuses what is none."""
    path = expand(located(name), f"{KEY}=")
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise UserError(f"{KEY}: {show(path)} {what}")
    return path


def _read_text(path: Path) -> np.ndarray:
    """The integers of a text file, one a line; empty lines are skipped."""
    with open_file(path) as file:
        lines = file.read().removeprefix(codecs.BOM_UTF8).splitlines()
    indices = []
    for number, line in enumerate(lines, 1):
        item = line.strip()
        if item and not (item.isdigit() and len(item) < 11):  # of bytes: ASCII only
            text = show(item.decode(errors="backslashreplace"), 40)
            raise UserError(
                f"{KEY}: {show(path)}:{number}: {text} is no index\n"
                "Write one integer of at least 0 on each line, or a .npy file of integers."
            )
        indices += [int(item)] if item else []
    return np.array(indices, np.int64)
