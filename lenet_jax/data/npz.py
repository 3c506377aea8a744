"""NumPy's files: the arrays of `.npz` archives and `.npy` files, read without pickle.

An archive's arrays are recognised by their names: Keras' `x_train, y_train, x_test, y_test`;
`train_images, train_labels, val_images, …` as in MedMNIST; or `images, labels` without a split.
"""

import contextlib
import io
import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tokenize import TokenError
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped
from numpy.lib import format as npy

from lenet_jax.data import signatures
from lenet_jax.data.examples import Examples, Source, convert, pair
from lenet_jax.data.files import DEFLATE_RATIO, check_size, open_file
from lenet_jax.errors import UserError, show

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
}
KINDS = {
    **dict.fromkeys(("x", "image", "images", "img", "imgs", "data", "features"), "images"),
    **dict.fromkeys(("y", "label", "labels", "target", "targets"), "labels"),
}
NEEDED = "x_train, y_train, x_test and y_test, or train_images, train_labels, …"


class Part(NamedTuple):
    """What an array holds: `train`, `test`, `val` or `all`; `images` or `labels`."""

    split: str
    kind: str


def load_npz(path: Path) -> Source:
    """Loads a dataset from an `.npz` archive.

    Validation images are added to the training images, from which `load` holds out its own; they
    are the test set if there is no other.

    Raises:
      UserError: the archive cannot be read, or lacks images or labels.
    """
    with _archive(path) as archive:
        members = {
            info.filename.removesuffix(".npy"): info
            for info in archive.infolist()
            if info.filename.endswith(".npy")
        }
        parts: dict[Part, str] = {}
        for name in members:
            part = part_of(name)
            if part is None:
                continue
            if part in parts:
                raise UserError(f"{show(path)} has both {show(parts[part])} and {show(name)}")
            parts[part] = name
        splits = [
            split for split in ("train", "all", "val", "test") if Part(split, "images") in parts
        ]
        if not {"train", "all"} & set(splits):
            names = ", ".join(map(show, list(members)[:8])) or "none"
            raise UserError(f"{show(path)} has the arrays {names}; needed are {NEEDED}")
        examples = {}
        for split in splits:
            images, labels = parts[Part(split, "images")], parts.get(Part(split, "labels"))
            if labels is None:
                raise UserError(f"{show(path)} has {show(images)}, but no labels for it")
            images_name, labels_name = (f"{show(path)}, {show(name)}," for name in (images, labels))
            examples[split] = Examples(
                _read_member(archive, members[images], images_name),
                _read_member(archive, members[labels], labels_name),
                images_name,
                labels_name,
            )
    return combine(examples)


def combine(examples: dict[str, Examples], class_names: Mapping[int, str] | None = None) -> Source:
    """Converts the splits `train`, or `all`, and, if there are any, `test` and `val`."""
    train = examples.get("train") or examples["all"]
    test, val = examples.get("test"), examples.get("val")
    if val is None or test is None:
        source = convert(train, test or val, class_names)
        if val is None:
            return source
        remark = val_is_test_remark(len(val.labels))
        return source._replace(remarks=(*source.remarks, remark))
    train, val = pair(*train), pair(*val)
    if train.images.shape[1:] != val.images.shape[1:] or train.images.dtype != val.images.dtype:
        raise UserError(f"{val.images_name} has images of another form than {train.images_name}")
    joined = train._replace(
        images=np.concatenate([train.images, val.images]),
        labels=np.concatenate([train.labels, val.labels]),
    )
    source = convert(joined, test, class_names)
    return source._replace(remarks=(*source.remarks, val_remark(len(val.labels))))


def val_remark(count: int) -> str:
    """Says what became of the validation images of a source that has a test set too."""
    return f"its {count:,} validation images are added to the training images"


def val_is_test_remark(count: int) -> str:
    """Says what became of the validation images of a source that has no test set."""
    return f"there is no test set: its {count:,} validation images are taken as one"


def read_npy(path: Path) -> Shaped[np.ndarray, "..."]:
    """Reads an `.npy` file, or the only array of an `.npz` archive.

    Raises:
      UserError: the file cannot be read, is damaged, or has objects or several arrays.
    """
    if path.suffix.lower() == ".npz":
        with _archive(path) as archive:
            members = archive.infolist()
            if len(members) != 1:
                raise UserError(f"{show(path)} has {len(members)} arrays; expected is one")
            return _read_member(archive, members[0], show(path))
    with _errors(show(path)), open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        return _read_array(file.read, size, size, show(path))


def part_of(name: str) -> Part | None:
    """What an array called `x_train`, `trainX`, `train_images` or `labels` stands for."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", name)]
    for split_at in (0, -1):
        rest = words[1:] if split_at == 0 else words[:-1]
        if words and words[split_at] in SPLITS and len(rest) == 1 and rest[0] in KINDS:
            return Part(SPLITS[words[split_at]], KINDS[rest[0]])
    return Part("all", KINDS[words[0]]) if len(words) == 1 and words[0] in KINDS else None


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    with _errors(show(path)), open_file(path) as file:
        if reason := signatures.describe_download(file.read(signatures.HEAD)):
            raise UserError(f"{show(path)} {reason}")
        with zipfile.ZipFile(file) as archive:
            yield archive


@contextlib.contextmanager
def _errors(where: str) -> Iterator[None]:
    """Turns what zipfile, zlib and NumPy raise over a damaged file into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {where}: {error.strerror or error}") from error
    except MemoryError as error:
        raise UserError(f"{where} does not fit into memory") from error
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError),
        *(ValueError, SyntaxError, TokenError, LookupError),
    ) as error:
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise UserError(f"{where} is damaged, or no NumPy file: {reason}") from error


def _read_member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str
) -> Shaped[np.ndarray, "..."]:
    size = min(info.file_size, info.compress_size * DEFLATE_RATIO)
    with _errors(where), archive.open(info) as file:
        return _read_array(file.read, size, info.compress_size, where)


def _read_array(
    read: Callable[[int], bytes], size: int, packed: int, where: str
) -> Shaped[np.ndarray, "..."]:
    """Reads an array of at most `size` bytes, header included, after checking its header."""
    start = read(npy.MAGIC_LEN + 4)
    version = npy.read_magic(io.BytesIO(start))
    # The header's length has two bytes in version 1 and four since; only 1 and 2 have a reader.
    length = int.from_bytes(start[8 : 10 if version[0] == 1 else 12], "little")
    if length > min(size, 1 << 16):
        raise UserError(f"{where} is damaged: its header claims {length} bytes")
    start += read(max(0, length + (10 if version[0] == 1 else 12) - len(start)))
    header = io.BytesIO(start)
    npy.read_magic(header)
    read_header = npy.read_array_header_1_0 if version[0] == 1 else npy.read_array_header_2_0
    shape, fortran_order, dtype = read_header(header)
    if dtype.hasobject:
        raise UserError(f"{where} holds Python objects, which are not read; store numbers instead")
    rest = start[header.tell() :]
    count = math.prod(shape)
    if count * dtype.itemsize > size:
        claim = " × ".join(map(str, shape))
        raise UserError(f"{where} is truncated: its header claims {claim} values of {dtype}")
    check_size(count * dtype.itemsize, packed, where)
    content = bytearray(rest)
    while chunk := read(1 << 20):
        content += chunk
        if len(content) > count * dtype.itemsize:
            raise UserError(f"{where} is longer than its header says")
    if len(content) < count * dtype.itemsize:
        raise UserError(f"{where} is truncated: it ends after {len(content)} bytes")
    values = np.frombuffer(content, dtype, count)
    values = values.reshape(shape[::-1]).T if fortran_order else values.reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)
