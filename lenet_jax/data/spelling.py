"""Datasets' names as other libraries spell them, and what they are called here."""

import difflib
import re
from collections.abc import Iterable

# Names that need nothing but this package, or a download.
DATASETS = (
    *("mnist", "fashion_mnist", "kmnist", "emnist/balanced", "emnist/byclass", "emnist/bymerge"),
    *("emnist/digits", "emnist/letters", "emnist/mnist", "emnist"),
)
ALIASES = {
    "fashion": "fashion_mnist",
    "fmnist": "fashion_mnist",
    "kuzushijimnist": "kmnist",
    "mnist784": "mnist",
    "svhn": "svhn_cropped",
}
# Datasets of their own, although they are spelled almost like another.
OTHERS = {"qmnist", "notmnist", "medmnist", "mnistm", "mnistc", "pmnist"}
CUTOFF = 0.75  # of difflib's similarity


def suggest(name: str, known: Iterable[str] = ()) -> str | None:
    """The dataset that a wrong name most probably means; None if there is none.

    Case, `-`, `_` and what comes before the last `/` or `.` do not count: `FashionMNIST`,
    `cifar-10`, `ylecun/mnist`, `torchvision.datasets.KMNIST`.

    Args:
      name: as given.
      known: names that exist, beside those of `DATASETS`.
    """
    names = [*DATASETS, *known]
    by_letters = {_reduce(name): name for name in reversed(names)}
    by_letters |= {letters: name for letters, name in ALIASES.items() if name in names}
    parts = [part for part in re.split(r"[/.:\\]", name) if part]
    for letters in map(_reduce, (name, *reversed(parts))):
        if letters in by_letters:
            return by_letters[letters]
    letters = _reduce(parts[-1]) if parts else ""
    if letters in OTHERS:
        return None
    near = difflib.get_close_matches(letters, by_letters, n=1, cutoff=CUTOFF)
    return by_letters[near[0]] if near else None


def _reduce(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()
