"""Folders of images by class: `train/3/*.png`, with `test/` and `val/` beside `train/` or without.

A class is called as its folder is, and its images may lie in folders below. Images whose channels
are all equal are grey; if all are, they have one channel, else three.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Int32

from lenet_jax.data import signatures
from lenet_jax.data.decode import suffixes
from lenet_jax.data.examples import UNKNOWN_SIZE, Source, held_out_remark, hold_out, sort_names
from lenet_jax.data.files import DEPTH, entries, is_folder, walk
from lenet_jax.data.fit import Fit
from lenet_jax.data.npz import SPLITS, val_is_test_remark, val_remark
from lenet_jax.data.stack import expand, read_stack, several_sizes
from lenet_jax.errors import UserError, show

MAX_NAMES = 8  # listed in a message

Classes: TypeAlias = dict[str, list[Path]]  # the images of each class


class Layout(NamedTuple):
    """The folders with the classes of each split; None where there is none.

    Attributes:
      ignored: folders of images beside these, which belong to no split.
    """

    train: Path
    test: Path | None = None
    val: Path | None = None
    ignored: tuple[Path, ...] = ()


def find(folder: Path) -> Layout | None:
    """Finds where the classes are, in a folder or in the only one below; None if nowhere.

    Given `train`, what lies beside it counts too.

    Raises:
      UserError: a folder cannot be read, or holds several datasets.
    """
    if SPLITS.get(folder.name.lower()) == "train":
        layout = _splits(folder.parent)
        if layout is not None and layout.train == folder and _has_classes(folder):
            return _with_ignored(layout)
    for _ in range(3):
        layout = _splits(folder)
        if layout is not None and _has_classes(layout.train):
            return _with_ignored(layout)
        below = _folders(folder)
        datasets = [inside for inside in below if _splits(inside) is not None]
        if len(datasets) > 1:
            names = ", ".join(show(inside.name) for inside in datasets[:MAX_NAMES])
            raise UserError(
                f"data.name: {show(folder)} has several datasets; give the folder of one: {names}"
            )
        if layout is None and not datasets and len(below) > 1 and _has_classes(folder, 0):
            return Layout(folder)
        if len(below) != 1:
            if layout is None:
                _check_depth(folder, below)
            return None
        if layout is None and _has_images(below[0], 0):
            raise _one_class(folder, below[0].name)
        folder = below[0]
    return None


def load_class_folders(layout: Layout, fit: Fit, *, resizes: bool) -> Source:
    """Reads the images of a layout.

    Args:
      layout: from `find`.
      fit: fits images of one height and width to the requested size.
      resizes: whether `fit` resizes, so that images may be of several sizes.

    Raises:
      UserError: an image is damaged, the sizes differ, or a class has no image.
    """
    train, test, remarks = _list_splits(layout)
    names = sort_names(train)
    train_paths, train_labels = _flatten(train, names)
    test_paths, test_labels = _flatten(test, names)
    shapes: set[tuple[int, int]] = set()
    train_images = read_stack(train_paths, fit, shapes, resizes=resizes)
    test_images = read_stack(test_paths, fit, shapes, resizes=resizes)
    if len(shapes) > 1 and not resizes:
        raise several_sizes([*train_paths, *test_paths], layout.train)
    if test_paths:
        channels = max(train_images.shape[-1], test_images.shape[-1])
        train_images, test_images = (expand(s, channels) for s in (train_images, test_images))
        if layout.test is None or not _has_classes(layout.test):
            remarks.append(val_is_test_remark(len(test_labels)))
    else:
        held_out = hold_out(train_labels, layout.train)
        train_images, test_images = train_images[~held_out], train_images[held_out]
        train_labels, test_labels = train_labels[~held_out], train_labels[held_out]
        remarks.append(held_out_remark(train_labels, test_labels))
    size = next(iter(shapes)) if len(shapes) == 1 else UNKNOWN_SIZE
    classes = tuple(names)
    return Source(
        train_images, train_labels, test_images, test_labels, classes, tuple(remarks), size
    )


def _folders(folder: Path) -> list[Path]:
    return [Path(entry.path) for entry in entries(folder) if is_folder(entry)]


def _splits(folder: Path) -> Layout | None:
    """The splits in a folder by their names, in any case; None without one for training.

    Raises:
      UserError: two folders are called as the same split.
    """
    splits: dict[str, Path] = {}
    for inside in _folders(folder):
        split = SPLITS.get(inside.name.lower())
        if split is None:
            continue
        if split in splits:
            raise UserError(
                f"{show(folder)} has both {show(splits[split].name)} and {show(inside.name)};"
                " keep one"
            )
        splits[split] = inside
    if "train" not in splits:
        return None
    return Layout(splits["train"], splits.get("test"), splits.get("val"))


def _with_ignored(layout: Layout) -> Layout:
    siblings = [f for f in _folders(layout.train.parent) if f.name.lower() not in SPLITS]
    return layout._replace(ignored=tuple(f for f in siblings if _has_images(f)))


def _check_depth(folder: Path, below: Sequence[Path]) -> None:
    """Raises `UserError` if the folders below have the classes of a dataset each."""
    deeper = [inside.name for inside in below if _has_classes(inside, 0)]
    if deeper:
        shown = ", ".join(map(show, deeper[:MAX_NAMES]))
        raise UserError(
            f"data.name: {show(folder)} has its folders of images a level deeper; give the folder"
            f" of one dataset, or move the classes into one: {shown}"
        )


def _one_class(folder: Path, name: str) -> UserError:
    return UserError(f"{show(folder)} has the one class {show(name)}; at least two are needed")


def _has_classes(folder: Path, depth: int = DEPTH) -> bool:
    """Whether an image lies in a folder of this folder, or so many folders further down."""
    return any(_has_images(inside, depth) for inside in _folders(folder))


def _has_images(folder: Path, depth: int = DEPTH) -> bool:
    """Whether an image lies in a folder, or so many folders further down."""
    return any(is_image(Path(entry.path)) for _, found in walk(folder, depth) for entry in found)


def is_image(path: Path) -> bool:
    """Whether a file is read as an image: by its suffix, or else by its first bytes."""
    try:
        if not path.is_file():
            return False
        if path.suffix.lower() in suffixes():
            return True
        with path.open("rb") as file:
            return signatures.is_image(file.read(signatures.HEAD))
    except OSError:  # to be refused where it is read
        return False


def _list_splits(layout: Layout) -> tuple[Classes, Classes, list[str]]:
    """The images to train on and to test on, and remarks on what they are."""
    remarks: list[str] = []
    left_out: list[Path] = []
    train = _list_classes(layout.train, left_out)
    if len(train) < 2:
        raise _one_class(layout.train, next(iter(train)))
    others = {}
    for folder in (layout.test, layout.val):
        if folder is None:
            continue
        if not _has_classes(folder):
            remarks.append(f"{show(folder)} is left out: it has no folders of images by class")
            continue
        others[folder] = _list_classes(folder, left_out)
        if unknown := sorted(others[folder].keys() - train.keys()):
            raise UserError(
                f"{show(folder)} has a class {show(unknown[0])}, which {show(layout.train)} has not"
            )
    remarks += [
        f"{show(folder)} is left out: it is neither train, test nor val"
        for folder in layout.ignored[:MAX_NAMES]
    ]
    outside = [path for path in left_out if is_image(path)]
    no_images = [path for path in left_out if not is_image(path)]
    if outside:
        remarks.append(f"left out as in no folder of a class: {_count(outside, 'image')}")
    if no_images:
        remarks.append(f"left out as no images: {_count(no_images, 'file')}")
    if len(others) == 2 and layout.val is not None:
        val = others.pop(layout.val)
        remarks.append(val_remark(sum(map(len, val.values()))))
        train = {name: paths + val.get(name, []) for name, paths in train.items()}
    return train, next(iter(others.values()), {}), remarks


def _list_classes(folder: Path, left_out: list[Path]) -> Classes:
    """The images of each class, in the order of their names; adds the other files to `left_out`."""
    classes: Classes = {}
    for inside in _folders(folder):
        files = [Path(e.path) for _, found in walk(inside, None) for e in found if not is_folder(e)]
        images = [file for file in files if is_image(file)]
        if not images:
            raise UserError(f"{show(inside)} has no image; remove the folder, or add the images")
        classes[inside.name] = images
        left_out += sorted(set(files) - set(images))
    left_out += [Path(entry.path) for entry in entries(folder) if not is_folder(entry)]
    return classes


def _count(paths: Sequence[Path], noun: str) -> str:
    """`1 file, a.txt`; `7 files, such as a.txt, b.txt, c.txt`."""
    if len(paths) == 1:
        return f"1 {noun}, {show(paths[0].name)}"
    return f"{len(paths):,} {noun}s, such as {', '.join(show(path.name) for path in paths[:3])}"


def _flatten(classes: Classes, names: Sequence[str]) -> tuple[list[Path], Int32[np.ndarray, " n"]]:
    paths = [path for name in names for path in classes.get(name, ())]
    counts = [len(classes.get(name, ())) for name in names]
    return paths, np.repeat(np.arange(len(names), dtype=np.int32), counts)
