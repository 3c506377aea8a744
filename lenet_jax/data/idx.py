"""Reader for idx files, the format in which the MNIST family is published.

An idx file consists of two zero bytes, a type code (8 for uint8), the number of dimensions, one
big-endian 32-bit size per dimension, and the values in C order. Only uint8 values are supported, in
plain or gzipped files, regardless of the file name.

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
MAX_DEFLATE_RATIO = 1032  # deflate encodes at most 258 bytes in two bits
CHUNK_BYTES = 1 << 20


class Labelled(NamedTuple):
    """Images and their labels, as stored on disk."""

    images: UInt8[np.ndarray, "n h w c"]
    labels: UInt8[np.ndarray, " n"]


def read_idx(path: pathlib.Path) -> UInt8[np.ndarray, "..."]:
    """Reads one idx file, gzipped or not.

    Returns:
      The values, in one to four dimensions, none of them empty.

    Raises:
      UserError: the file cannot be read, or is not exactly one idx array of uint8. A header that
        claims more than the file can hold is refused before any memory is allocated.
    """
    try:
        with path.open("rb") as file:
            return read_idx_stream(file, os.fstat(file.fileno()).st_size, str(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def read_idx_stream(file: io.BufferedIOBase, size: int, where: str) -> UInt8[np.ndarray, "..."]:
    """Reads an open idx file, gzipped or not.

    Args:
      file: seekable, at its start.
      size: its size in bytes.
      where: its name in error messages.

    Raises:
      UserError: as for `read_idx`.
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
        raise UserError(f"{where} has idx type 0x{code:02x}; only uint8 (0x08) is supported")
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
    """Reads a folder of idx files named as in MNIST.

    The names are `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, and the same with `t10k`
    or `test` instead of `train`. They may end in `.gz`, have `idx4` instead of `idx3`, and a dot
    instead of the dash before `idx`. A plain file takes precedence over its gzipped copy.

    Returns:
      The training and the test set. All images have the same shape (h, w, c), with c 1 or 3.

    Raises:
      UserError: a file is missing or damaged, or two files are inconsistent.
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
            f"the largest in {labels_path.name} is {train.labels.max()}"
        )
    return train, test


def pair(
    images: UInt8[np.ndarray, "..."],
    labels: UInt8[np.ndarray, "..."],
    images_name: str | pathlib.Path,
    labels_name: str | pathlib.Path,
) -> Labelled:
    """Combines images, (n, h, w) or (n, h, w, c), with their labels; names are for error messages.

    Raises:
      UserError: a shape is not that of images or labels, c is not 1 or 3, or the counts differ.
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
    existing = [path for path in paths if path.is_file()]
    if not existing:
        names = " or ".join(f"{prefix}-{kind}-{idx_names[0]}-ubyte" for prefix in prefixes)
        raise UserError(f"{folder} has no file {names}, plain or with .gz")
    if len({path.name.removesuffix(".gz") for path in existing}) > 1:
        raise UserError(f"{folder} has both {existing[0].name} and {existing[-1].name}; keep one")
    return existing[0]


def _by(images: UInt8[np.ndarray, "n h w c"]) -> str:
    return "×".join(map(str, images.shape[1:]))
