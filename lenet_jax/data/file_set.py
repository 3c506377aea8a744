"""The files of a dataset that is published as MNIST is: images and labels of train and of test.

The names are `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, and the same with `t10k` or
`test`: plain or with `.gz`, in any case, with a dot for the dash, after the dataset's name
(`emnist-letters-train-images-idx3-ubyte.gz`, `qmnist-test-labels-idx2-int`), or as NumPy files
(`k49-train-imgs.npz`).
"""

import re
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from lenet_jax.data import emnist, npz
from lenet_jax.data.examples import Examples, Source, convert
from lenet_jax.data.files import DEPTH, is_folder, open_file, walk
from lenet_jax.data.idx import read_idx
from lenet_jax.data.npz import Part
from lenet_jax.errors import UserError, show

SEPARATORS = "-._"
NAME = re.compile(
    r"(?P<prefix>(?:.*[-._])?)(?P<split>train|test|t10k)[-._]?(?P<kind>images?|imgs?|labels?)"
    r"(?:[-._]?idx\d?)?(?:[-._](?:ubyte|byte|short|int|float|double))?(?:\.npy|\.npz|\.gz)?",
    re.IGNORECASE,
)
PLAIN_FOLDERS = {"raw", "gzip", "processed"}  # of torchvision and EMNIST; no dataset's name
MAX_NAMES = 12  # listed in a message


class FileSet(NamedTuple):
    """The files of one dataset in one folder.

    Attributes:
      folder: where they are.
      prefix: what their names start with, `emnist-letters`; may be empty.
      files: those found, by what they hold.
    """

    folder: Path
    prefix: str
    files: dict[Part, list[Path]]

    def is_called(self, name: str) -> bool:
        """Whether a user may mean it by `emnist-letters`, `letters` or `EMNIST`."""
        folder = self.folder.parent if self.folder.name in PLAIN_FOLDERS else self.folder
        names = (self.prefix, self.prefix.rpartition("-")[2], folder.name)
        return _reduce(name) in {_reduce(name) for name in names} - {""}


def part_of(name: str) -> tuple[str, Part] | None:
    """The prefix, and the split and kind, of a file of this name; None: it is of no file set."""
    match = NAME.fullmatch(name)
    if match is None:
        part = npz.part_of(Path(name).stem) if name.lower().endswith(".npy") else None
        return None if part is None or part.split not in ("train", "test") else ("", part)
    split = "train" if match["split"].lower() == "train" else "test"
    kind = "labels" if match["kind"].lower().startswith("label") else "images"
    return match["prefix"].rstrip(SEPARATORS), Part(split, kind)


def find(folder: Path, depth: int = DEPTH) -> list[FileSet]:
    """The file sets in a folder; if it has none, those in folders below it, down to a depth.

    Raises:
      UserError: a folder cannot be read.
    """
    sets: dict[tuple[Path, str], FileSet] = {}
    for inside, entries in walk(folder, depth):
        for entry in entries:
            part = part_of(entry.name)
            if part is None or is_folder(entry):
                continue
            prefix, key = part
            # Unpacked one by one, each file may be in a folder of its own name.
            home = inside.parent if inside != folder and part_of(inside.name) else inside
            found = sets.setdefault((home, prefix.lower()), FileSet(home, prefix, {}))
            found.files.setdefault(key, []).append(Path(entry.path))
        if inside == folder and sets:
            break
    return list(sets.values())


def choose(sets: Sequence[FileSet], root: Path, name: str | None = None) -> FileSet:
    """The only one of the sets, or the only one called `name`.

    Raises:
      UserError: there are several, or none; the message lists them.
    """
    called = [files for files in sets if name is None or files.is_called(name)]
    complete = [s for s in called if len(s.files) == 4]
    if len(called) == 1 or len(complete) == 1:
        return (complete or called)[0]
    names = sorted(_labels(root, complete or called or sets))
    shown = ", ".join(map(show, names[:MAX_NAMES])) + (", …" if len(names) > MAX_NAMES else "")
    if not called:
        path = show(root / (name or ""))
        raise UserError(f"data.name: there is no file or folder {path}; {show(root)} has {shown}")
    raise UserError(
        f"data.name: {show(root)} has several datasets; add the name of one to the path: {shown}"
    )


def load(folder: Path, name: str | None = None) -> Source:
    """Reads the only file set of a folder, or the one called `name`.

    Raises:
      UserError: as `find`, `choose` and `read` do.
    """
    return read(choose(find(folder), folder, name))


def read(files: FileSet) -> Source:
    """Reads a file set. EMNIST's images, which are published transposed, are turned upright.

    Where both files of the test set are missing, a fifth of each class is held out as one.

    Raises:
      UserError: a file is missing or damaged, or two files are inconsistent.
    """
    has_test = any(part.split == "test" for part in files.files)
    paths = {
        Part(split, kind): _only(files, split, kind)
        for split in (("train", "test") if has_test else ("train",))
        for kind in ("images", "labels")
    }
    train = _read_split(paths, "train")
    test = _read_split(paths, "test") if has_test else None
    variant = emnist.variant(files.prefix)
    names = None if variant is None else emnist.class_names(variant)
    source = convert(train, test, names)
    source = source._replace(remarks=(*_differing_copies(paths.values()), *source.remarks))
    return source if variant is None else emnist.upright(source)


def _differing_copies(paths: Iterable[Path]) -> list[str]:
    """A remark for each plain file beside which a gzipped one holds something else."""
    remarks = []
    for path in paths:
        packed = path.with_name(f"{path.name}.gz")
        if packed.is_file() and not _is_packed_copy(packed, path):
            remarks.append(f"{path.name} is read, not {packed.name}, whose content differs")
    return remarks


def _is_packed_copy(packed: Path, plain: Path) -> bool:
    """Whether a gzipped file has the CRC-32 and the size of a plain one."""
    with open_file(packed) as file:
        header = file.read(2)
        file.seek(max(0, packed.stat().st_size - 8))
        trailer = file.read(8)
    crc, size = 0, 0
    with open_file(plain) as file:
        while chunk := file.read(1 << 20):
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
    return header == b"\x1f\x8b" and trailer == struct.pack("<II", crc, size % 2**32)


def _read_split(paths: Mapping[Part, Path], split: str) -> Examples:
    images, labels = paths[Part(split, "images")], paths[Part(split, "labels")]
    return Examples(_read(images), _read_labels(labels), images, labels)


def _labels(root: Path, sets: Sequence[FileSet]) -> list[str]:
    """What to add to `root` for each of the sets."""
    labels = []
    for files in sets:
        folder = files.folder
        if folder != root and folder.name in PLAIN_FOLDERS:
            folder = folder.parent
        label = folder.relative_to(root)
        if files.prefix and sum(other.folder == files.folder for other in sets) > 1:
            label /= files.prefix
        labels.append(str(label))
    return labels


def _only(files: FileSet, split: str, kind: str) -> Path:
    """The file of a split and kind; a plain file takes precedence over its gzipped copy."""
    found = sorted(files.files.get(Part(split, kind), ()))
    if not found:
        start = f"{files.prefix}-" if files.prefix else ""
        idx = "idx3" if kind == "images" else "idx1"
        names = [f"{start}{s}-{kind}-{idx}-ubyte" for s in ("t10k", "test")]
        if split == "train" or files.prefix:
            names = [f"{start}{split}-{kind}-{idx}-ubyte"]
        raise UserError(f"{show(files.folder)} has no file {' or '.join(names)}, plain or with .gz")
    if len({path.name.removesuffix(".gz") for path in found}) > 1:
        raise UserError(
            f"{show(files.folder)} has both {found[0].name} and {found[-1].name}; keep one"
        )
    return found[0]


def _read(path: Path) -> Shaped[np.ndarray, "..."]:
    return npz.read_npy(path) if path.suffix.lower() in (".npy", ".npz") else read_idx(path)


def _read_labels(path: Path) -> Shaped[np.ndarray, "..."]:
    labels = _read(path)
    # QMNIST's files have eight numbers an image, of which the class is the first.
    is_qmnist = labels.ndim == 2 and labels.shape[1] == 8 and "idx2-int" in path.name
    return labels[:, 0] if is_qmnist else labels


def _reduce(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()
