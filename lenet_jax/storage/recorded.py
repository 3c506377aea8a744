"""What the members of a chunk leave beside their results: logits and weights, one file for all.

    logits_test.npy, logits_train.npy        (members, n, k), of the networks that results.csv is of
    logits_test_0003.npy                     those after the third epoch
    weights.safetensors                      of the networks that results.csv is of
    weights_0003.safetensors                 after the third epoch: (members, …), of each name
    weights_0000.safetensors                 before the first

They are read by mapping them into memory, so an array may be larger than that.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from lenet_jax.errors import UserError, printable, show
from lenet_jax.storage.chunk import UNREADABLE, DamagedError
from lenet_jax.storage.sums import MANIFEST, is_intact
from lenet_jax.storage.weights import map_arrays

WEIGHTS = "weights.safetensors"
MAX_LISTED = 8  # files in one message
HOW = (
    "A sweep records with --record=logits,weights, of more images with --record_split=test,train,"
    " and over the epochs with --record_every=1."
)
RECORDED = re.compile(r"logits_(test|train|valid)(_\d{4,})?\.npy|weights_\d{4,}\.safetensors")

Folders: TypeAlias = Sequence[tuple[Path, Sequence[int]]]


def logits_file(split: str, epoch: int | None = None) -> str:
    """The name of the file of a split's logits after an epoch, or of the final ones."""
    return f"logits_{split}{_suffix(epoch)}.npy"


def weights_file(epoch: int | None = None) -> str:
    """The name of the file of the weights after an epoch, or of the final ones."""
    return f"weights{_suffix(epoch)}.safetensors"


def is_recorded(name: str) -> bool:
    """Whether a chunk's file of this name is verified only when it is read, as it may be large."""
    return RECORDED.fullmatch(name) is not None


def recorded_epochs(folders: Iterable[Path], kind: str) -> list[int]:
    """The epochs after which all of these chunks have `logits` or `weights`; 0: initial ones."""
    name = re.compile(rf"{kind}(?:_[a-z]+)?_(\d{{4,}})\.\w+")
    found = []
    for folder in folders:
        matches = (name.fullmatch(file.name) for file in folder.iterdir())
        found.append({int(match[1]) for match in matches if match})
    return sorted(set.intersection(*found)) if found else []


def write_logits(
    path: Path,
    shape: tuple[int, int, int],
    dtype: Any,
    blocks: Iterable[Float[np.ndarray, "members _ k"]],
) -> None:
    """Writes an array (members, n, k) as .npy, from blocks of consecutive images.

    Args:
      path: the file.
      shape: of the array.
      dtype: what to write; numbers too large for it become infinite.
      blocks: those of all images, in order.

    Raises:
      OSError: it cannot be written.
    """
    dtype = np.dtype(dtype)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    _, images, classes = shape
    first = 0
    with path.open("xb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        start = stream.tell()
        for block in blocks:
            with np.errstate(over="ignore"):
                converted = block.astype(dtype)
            for member, rows in enumerate(converted):
                stream.seek(start + (member * images + first) * classes * dtype.itemsize)
                stream.write(rows.tobytes())
            first += block.shape[1]


def load_logits(folders: Folders, split: str, epoch: int | None = None) -> "RecordedArray":
    """The logits of a split, (members, n, k), a row for each member in the order of the numbers.

    Args:
      folders: of finished chunks, and their members in order.
      split: `test`, `train` or `valid`.
      epoch: after which, counted from 1; None: of the networks that results.csv is of. Weights also
        have 0, before the first.

    Raises:
      UserError: they are not recorded, of several shapes, or damaged.
    """

    def read(path: Path) -> tuple[dict[str, np.ndarray], Sequence[int] | None]:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray) or array.ndim != 3:
            raise ValueError(f"{path.name} has no array (members, n, k)")
        return {"logits": array}, None

    return _join(folders, logits_file(split, epoch), read)["logits"]


def load_weights(folders: Folders, epoch: int | None = None) -> dict[str, "RecordedArray"]:
    """The weights by name, each (members, …); for the arguments and errors see `load_logits`."""

    def read(path: Path) -> tuple[dict[str, np.ndarray], Sequence[int] | None]:
        arrays, metadata = map_arrays(path)
        return arrays, members_of(metadata)

    return _join(folders, weights_file(epoch), read)


def members_of(metadata: Mapping[str, str]) -> list[int]:
    """The numbers of the members whose weights a file has."""
    return [int(m) for m in re.findall(r"\b[0-9]{1,9}\b", metadata.get("members", ""))]


def unrounded(array: np.ndarray) -> np.ndarray:
    """Weights after an epoch, in float32 where they were recorded in float16."""
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _join(
    folders: Folders,
    name: str,
    read: Callable[[Path], tuple[dict[str, np.ndarray], Sequence[int] | None]],
) -> dict[str, "RecordedArray"]:
    """The arrays of the files of this name, each of all members."""
    row_of = {m: row for row, m in enumerate(sorted(m for _, own in folders for m in own))}
    parts: dict[str, list[Part]] = {}
    for folder, members in folders:
        if not (folder / name).is_file():
            raise UserError(f"{show(folder, 120)} has no {name}: {_recorded_in(folder)}\n{HOW}")
        try:
            arrays, stated = read(folder / name)
        except (*UNREADABLE, UserError) as error:
            raise DamagedError(folder, printable(error)) from error
        if stated is not None and stated != list(members):
            raise UserError(
                f"{show(folder / name, 120)} does not have the weights of every member\n"
                "A sweep with --save=all or --record=weights writes them."
            )
        if any(array.shape[:1] != (len(members),) for array in arrays.values()):
            raise DamagedError(folder, f"{name} is not of its members")
        file, rows = File(folder, name), np.array([row_of[member] for member in members])
        for key, array in arrays.items():
            parts.setdefault(key, []).append(Part(array, file, rows))
    for key, own in parts.items():
        kinds = {(part.array.shape[1:], part.array.dtype) for part in own}
        if len(kinds) > 1 or len(own) < len(folders):
            raise UserError(
                f"{key} has another shape in {show(folders[0][0], 60)} than in other chunks, so it"
                " is no one array of all members\nSweep networks of one shape and one data set."
            )
    return {key: RecordedArray(own) for key, own in parts.items()}


def _recorded_in(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    found = [name for name in names if name == WEIGHTS or is_recorded(name)]
    more = f" and {len(found) - MAX_LISTED} more" if len(found) > MAX_LISTED else ""
    return f"it has {', '.join(found[:MAX_LISTED]) or 'neither logits nor weights'}{more}"


class File:
    """A file of a chunk, whose sum is compared once."""

    def __init__(self, folder: Path, name: str):
        self._folder, self._name, self._is_intact = folder, name, False

    def verify(self) -> None:
        """Compares the file with its sum, unless it was before.

        Raises:
          UserError: it differs, or cannot be read.
        """
        if self._is_intact:
            return
        try:
            self._is_intact = is_intact(self._folder, self._name)
        except OSError as error:
            raise DamagedError(self._folder, printable(error)) from error
        if not self._is_intact:
            raise DamagedError(self._folder, f"{self._name} differs from {MANIFEST}")


class Part(NamedTuple):
    """The rows of one file.

    Attributes:
      array: the file's, mapped.
      file: to be verified before something of it is read.
      rows: of the whole array, which those of the file are.
    """

    array: np.ndarray
    file: File
    rows: Int[np.ndarray, " members"]


class RecordedArray:
    """An array with a row for each member, which stays on the disk, in the files of many chunks.

    An index reads what it asks for, as of a NumPy array: `array[3]`, `array[:, 0]`,
    `array[members]`, `array[mask, :100]`. `np.asarray(array)` reads all. A file is verified when
    something of it is read first.

    Attributes:
      shape: (members, …).
      dtype: of the files.
    """

    def __init__(self, parts: Sequence[Part]):
        """Joins parts whose rows are all of the array's, and whose other axes are alike."""
        self._parts = parts
        count = sum(len(part.rows) for part in parts)
        self.shape: tuple[int, ...] = (count, *parts[0].array.shape[1:])
        self.dtype = parts[0].array.dtype
        self._part_of, self._place = np.empty((2, count), np.int64)
        for number, part in enumerate(parts):
            self._part_of[part.rows] = number
            self._place[part.rows] = np.arange(len(part.rows))

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """The size of all, in bytes."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"RecordedArray(shape={self.shape}, dtype={self.dtype}, files={len(self._parts)})"

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self._row, range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("an array in several files cannot be had without a copy")
        return np.asarray(self[:], dtype)

    def __getitem__(self, key: Any) -> Any:
        """What NumPy gives, but for an array of members together with one of something else.

        Raises:
          IndexError: there is no such row, or the key has two arrays.
          UserError: a file is damaged.
        """
        first, *rest = key if isinstance(key, tuple) else (key,)
        if first is Ellipsis:
            first, rest = slice(None), [Ellipsis, *rest]
        if first is None or any(item is None for item in rest):
            raise IndexError("a new axis needs an array in memory: np.asarray(…)")
        rows = np.arange(len(self))[first]
        if rows.ndim == 0:
            return self._row(int(rows))[tuple(rest)]
        if not isinstance(first, slice) and any(isinstance(i, list | np.ndarray) for i in rest):
            raise IndexError("members and another axis cannot both be given as arrays")
        inner = np.empty(self.shape[1:], np.bool_)[tuple(rest)].shape
        result = np.empty((rows.size, *inner), self.dtype)
        for place, row in enumerate(rows.ravel()):
            result[place] = self._row(int(row))[tuple(rest)]
        return result.reshape(*rows.shape, *inner)

    def _row(self, row: int) -> np.ndarray:
        part = self._parts[int(self._part_of[row])]
        part.file.verify()
        return np.asarray(part.array[int(self._place[row])])


def _suffix(epoch: int | None) -> str:
    return "" if epoch is None else f"_{epoch:04d}"
