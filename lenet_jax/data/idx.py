"""Reader of idx files, the format in which the MNIST family is published.

An idx file is two zero bytes, a type code (8 for uint8), the number of dimensions, one big-endian
32-bit size for each, and the values in C order. Read here are values of uint8, from a file that is
plain or gzipped, whatever its name says.

Source: "The IDX file format", at the foot of http://yann.lecun.com/exdb/mnist/.
"""

import gzip
import io
import math
import os
import pathlib
import struct
import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from lenet_jax.errors import UserError

UINT8_CODE = 0x08
MAX_DEFLATE_RATIO = 1032  # deflate packs at most 258 bytes into two bits
CHUNK_BYTES = 1 << 20


class Labelled(NamedTuple):
    """Images and one label for each, as they are on disk."""

    images: UInt8[np.ndarray, "n h w c"]
    labels: UInt8[np.ndarray, " n"]


def read_idx(path: pathlib.Path) -> UInt8[np.ndarray, "..."]:
    """Reads one idx file, gzipped or not.

    Returns:
      The values, in one to four dimensions, none of them empty.

    Raises:
      UserError: the file cannot be read, or is not exactly one idx array of uint8. A header that
        claims more than the file can hold is refused before memory is taken for it.
    """
    try:
        with path.open("rb") as file:
            return read_idx_stream(file, os.fstat(file.fileno()).st_size, str(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def read_idx_stream(file: io.BufferedIOBase, size: int, where: str) -> UInt8[np.ndarray, "..."]:
    """Reads an idx file, gzipped or not, that is already open.

    Args:
      file: seekable, at its start.
      size: the bytes it stores.
      where: what an error calls it.

    Raises:
      UserError: as `read_idx`.
    """
    is_gzip = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    if not is_gzip:
        return _read_array(file, size, where)
    try:
        with gzip.GzipFile(fileobj=file) as unzipped:
            return _read_array(unzipped, size * MAX_DEFLATE_RATIO, where)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{where} is truncated or damaged: {error}") from error


def _read_array(stream: io.BufferedIOBase, max_bytes: int, where: str) -> UInt8[np.ndarray, "..."]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        start = magic.hex(" ") or "nothing"
        raise UserError(f"{where} is not an idx file: it starts with {start}")
    code, ndim = magic[2:]
    if code != UINT8_CODE:
        raise UserError(f"{where} has values of idx type 0x{code:02x}; only uint8 (0x08) is read")
    if not 1 <= ndim <= 4:
        raise UserError(f"{where} claims {ndim} dimensions; images have 3 or 4, labels 1")
    sizes = stream.read(4 * ndim)
    if len(sizes) < 4 * ndim:
        raise UserError(f"{where} is truncated: it ends inside its header")

    shape = struct.unpack(f">{ndim}I", sizes)
    count = math.prod(shape)
    claim = f"its header claims {' × '.join(map(str, shape))} bytes"
    if count == 0:
        raise UserError(f"{where} is empty: {claim}")
    if count > max_bytes:
        raise UserError(f"{where} is truncated: {claim}, more than it can hold")
    try:
        values = np.empty(count, np.uint8)
    except MemoryError as error:
        raise UserError(f"{where} does not fit into memory: {claim}") from error
    filled = 0
    while filled < count:
        read = stream.readinto(values.data[filled : filled + CHUNK_BYTES])
        if not read:
            raise UserError(f"{where} is truncated: {claim}, it holds {filled}")
        filled += read
    if stream.read(1):
        raise UserError(f"{where} is longer than its header says: {claim}")
    return values.reshape(shape)


def read_idx_folder(folder: pathlib.Path) -> tuple[Labelled, Labelled]:
    """Reads a folder of idx files under the names that MNIST gave them.

    The names are `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, and the same with `t10k` or
    `test`. `.gz` may follow, `idx4` stand for `idx3`, and a dot for the dash before `idx`. Of a
    file that lies there both plain and gzipped, the plain one is read.

    Returns:
      Train and test, whatever their count; all images have one shape (h, w, c), with c 1 or 3.

    Raises:
      UserError: a file is missing or broken, or two of them do not fit each other.
    """
    images_path = _find(folder, ("train",), "images", ("idx3", "idx4"))
    labels_path = _find(folder, ("train",), "labels", ("idx1",))
    test_images_path = _find(folder, ("t10k", "test"), "images", ("idx3", "idx4"))
    test_labels_path = _find(folder, ("t10k", "test"), "labels", ("idx1",))
    train = pair(read_idx(images_path), read_idx(labels_path), images_path, labels_path)
    test = pair(
        read_idx(test_images_path), read_idx(test_labels_path), test_images_path, test_labels_path
    )
    if test.images.shape[1:] != train.images.shape[1:]:
        raise UserError(
            f"{test_images_path} has images of {_by(test.images)}, "
            f"{images_path.name} of {_by(train.images)}"
        )
    if test.labels.max() > train.labels.max():
        raise UserError(
            f"{test_labels_path} has label {test.labels.max()}; "
            f"those of {labels_path.name} end at {train.labels.max()}"
        )
    return train, test


def pair(
    images: UInt8[np.ndarray, "..."],
    labels: UInt8[np.ndarray, "..."],
    images_name: str | pathlib.Path,
    labels_name: str | pathlib.Path,
) -> Labelled:
    """Puts images, (n, h, w) or (n, h, w, c), and labels together; an error calls them by name.

    Raises:
      UserError: the shapes are not those of images or labels, c is not 1 or 3, or their counts
        differ.
    """
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise UserError(
            f"{images_name} has shape {images.shape}; images are (n, h, w) or (n, h, w, 1 or 3)"
        )
    if labels.ndim != 1:
        raise UserError(f"{labels_name} has shape {labels.shape}; labels are (n,)")
    if len(images) != len(labels):
        raise UserError(
            f"{labels_name} has {len(labels)} labels for the {len(images)} images of {images_name}"
        )
    return Labelled(images, labels)


def _find(
    folder: pathlib.Path, prefixes: tuple[str, ...], kind: str, idx_names: tuple[str, ...]
) -> pathlib.Path:
    stems = [
        f"{prefix}-{kind}{separator}{idx_name}-ubyte"
        for prefix in prefixes
        for separator in "-."
        for idx_name in idx_names
    ]
    paths = [folder / (stem + suffix) for stem in stems for suffix in ("", ".gz")]
    found = [path for path in paths if path.is_file()]
    if not found:
        names = " or ".join(f"{prefix}-{kind}-{idx_names[0]}-ubyte" for prefix in prefixes)
        raise UserError(f"{folder} has no file {names}, plain or with .gz")
    if len({path.name.removesuffix(".gz") for path in found}) > 1:
        raise UserError(f"{folder} has both {found[0].name} and {found[-1].name}; keep one")
    return found[0]


def _by(images: UInt8[np.ndarray, "n h w c"]) -> str:
    return "×".join(map(str, images.shape[1:]))
