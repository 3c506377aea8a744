"""Small datasets in the file formats that people have."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

IDX_TYPES = {"u1": 0x08, "i1": 0x09, ">i2": 0x0B, ">i4": 0x0C, ">f4": 0x0D, ">f8": 0x0E}
NUM_TRAIN, NUM_TEST = 40, 10


def digits(count: int, seed: int = 0, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Random images of 6×6, no two alike or symmetric, and labels that take turns."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 6, 6), np.uint8)
    return images, (np.arange(count) % classes).astype(np.uint8)


def arrays() -> dict[str, Any]:
    """The four arrays of a dataset as Keras calls them."""
    x_train, y_train = digits(NUM_TRAIN)
    x_test, y_test = digits(NUM_TEST, seed=1)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def write_idx(path: Path, array: np.ndarray) -> None:
    """Writes an idx file of the array's type, gzipped if its name ends so."""
    stored = array.astype(array.dtype.newbyteorder(">"))
    code = IDX_TYPES[stored.dtype.str.replace("|", "")]
    header = struct.pack(f">2xBB{array.ndim}I", code, array.ndim, *array.shape)
    content = header + stored.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


def write_idx_folder(
    folder: Path, names: str = "{split}-{kind}-{idx}-ubyte", test: str = "t10k", **changes
) -> Path:
    """Writes four idx files.

    Args:
      folder: where to.
      names: of the files.
      test: what the test split is called in them.
      **changes: arrays that replace those of `arrays`.
    """
    values = arrays() | changes
    for split, end in (("train", "train"), (test, "test")):
        for kind, idx, key in (("images", "idx3", "x"), ("labels", "idx1", "y")):
            write_idx(
                folder / names.format(split=split, kind=kind, idx=idx), values[f"{key}_{end}"]
            )
    return folder


def write_images(
    folder: Path, images: np.ndarray, labels: np.ndarray, suffix: str = ".png"
) -> Path:
    """Writes each image as a file into the folder of its class."""
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / str(label) / f"{index:03}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder
