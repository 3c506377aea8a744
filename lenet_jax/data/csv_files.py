"""CSV files with a label and the pixels of a square image in each line, plain or gzipped.

With a header, the label may be in any column called `label`, `class` or `target`; a file without
such a column has no labels, as the test file of Kaggle's digit recogniser. Without one, it is the
first column, or the only one with names.
"""

import contextlib
import csv
import gzip
import itertools
import math
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from lenet_jax.data import csv_cells, emnist, signatures
from lenet_jax.data.examples import Examples, Source
from lenet_jax.data.files import check_size, entries, is_folder, open_file
from lenet_jax.data.npz import SPLITS, combine
from lenet_jax.errors import UserError, show

NAME = re.compile(
    rf"(?P<prefix>(?:.*[-._])?)(?P<split>{'|'.join(SPLITS)})\.csv(?:\.gz)?", re.IGNORECASE
)
LABELS = ("label", "labels", "class", "target", "digit", "category", "y")
NUMBERS = ("", "unnamed: 0", "id", "index", "imageid")  # columns that number the lines
DELIMITERS = (b";", b"\t", b",")
LONGEST_LINE = 1 << 24  # bytes
BLOCK = 1 << 20  # bytes from one check of the memory to the next


class Columns(NamedTuple):
    """What the columns of a file hold.

    Attributes:
      label: the column of the label; None: there is none.
      pixels: those of pixels, in order.
      left_out: what those that are neither are called.
      header: whether the first line names them.
    """

    label: int | None
    pixels: list[int]
    left_out: list[str]
    header: bool


class Table(NamedTuple):
    """The images and labels of a file; None if it has no labels.

    Attributes:
      left_out: what columns are called that are neither.
    """

    images: Shaped[np.ndarray, "n side side *c"] | None
    labels: list[str]
    left_out: list[str]


def is_csv(name: str) -> bool:
    """Whether a file of this name is a CSV, plain or gzipped."""
    return name.lower().endswith((".csv", ".csv.gz"))


def find(folder: Path) -> list[dict[str, Path]]:
    """The datasets of CSV files in a folder, by split; `all` where a file's name has none.

    Of several files only those are datasets that are called `train`, and what belongs to them.

    Raises:
      UserError: the folder cannot be read.
    """
    names = [e.name for e in entries(folder) if is_csv(e.name) and not is_folder(e)]
    if len({name.lower().removesuffix(".gz") for name in names}) == 1:
        return [{"all": folder / names[0]}]  # which is the plain one, if both are there
    sets: dict[str, dict[str, Path]] = {}
    for name in names:
        if match := NAME.fullmatch(name):
            files = sets.setdefault(match["prefix"].lower(), {})
            files.setdefault(SPLITS[match["split"].lower()], folder / name)
    return [files for files in sets.values() if "train" in files]


def beside(path: Path) -> dict[str, Path]:
    """A CSV file as a dataset; of one that is called `train` with its test and validation files."""
    match = NAME.fullmatch(path.name)
    if match is not None and SPLITS[match["split"].lower()] == "train":
        for files in find(path.parent):
            if files.get("train") == path:
                return files
    return {"all": path}


def load_csv(files: Mapping[str, Path], others: Sequence[str] = ()) -> Source:
    """Loads a dataset from its files by split; one without labels is left out.

    Args:
      files: from `find` or `beside`.
      others: the names of files beside these, which are left out.

    Raises:
      UserError: a file cannot be read, is no CSV of a label and the pixels of a square image, or
        has no label where one is needed.
    """
    first = next(split for split in ("train", "all") if split in files)
    examples: dict[str, Examples] = {}
    remarks = [f"{show(name)} is left out: it is neither train, test nor val" for name in others]
    width = None
    for split in (first, *sorted(files.keys() - {first})):
        path = files[split]
        with _errors(path):
            images, labels, left_out = _read(path, width)
        remarks += [f"{show(path)}: column {name} is left out" for name in left_out]
        if images is not None:
            width = images[0].size
            examples[split] = Examples(images, csv_cells.to_labels(labels), path, path)
        elif split == first:
            raise UserError(f"{show(path)} has no column label, nor class or target")
        else:
            remarks.append(f"{show(path)} is left out: it has no labels")
    images = examples[first].images
    if images.ndim == 4:
        side = images.shape[1]
        remarks.append(f"each line is {side}×{side} pixels, each of red, green and blue in turn")
    match = NAME.fullmatch(files[first].name)
    name = match["prefix"].rstrip("-._") if match else files[first].name.partition(".")[0]
    variant = emnist.variant(name)
    source = combine(examples, None if variant is None else emnist.class_names(variant))
    source = source._replace(remarks=(*remarks, *source.remarks))
    return source if variant is None else emnist.upright(source)


def _read(path: Path, width: int | None) -> Table:
    """Reads a file.

    Args:
      path: the file.
      width: how many pixels the images of the dataset have, if that is known: a file without a
        header that has no more columns has no labels.
    """
    lines: Iterator[tuple[int, bytes]] = _lines(path)
    number, first = next(lines, (0, b""))
    if not number:
        raise UserError(f"{show(path)} is empty")
    delimiter = max(DELIMITERS, key=lambda each: _cells(first, each))
    cells = _split(first, delimiter, path, number)
    columns = _columns([csv_cells.decode(cell) for cell in cells], width)
    if columns.label is None:
        return Table(None, [], columns.left_out)
    shape = _shape(len(columns.pixels), path)
    labels: list[str] = []
    rows: list[np.ndarray] = []
    if not columns.header:
        lines = itertools.chain([(number, first)], lines)
    for number, line in lines:
        found = _split(line, delimiter, path, number)
        if len(found) != len(cells):
            raise UserError(
                f"{show(path)}, line {number}: {len(found)} cells, the first line has {len(cells)}"
            )
        where = f"{show(path)}, line {number}"
        labels.append(csv_cells.label(found[columns.label], where))
        rows.append(csv_cells.pixels([found[i] for i in columns.pixels], columns.pixels, where))
    if not rows:
        raise UserError(f"{show(path)} has a header, but no images")
    return Table(np.stack(rows).reshape(-1, *shape), labels, columns.left_out)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not blank, with their numbers from 1."""
    with open_file(path) as file:
        head, size = file.peek(signatures.HEAD), os.fstat(file.fileno()).st_size
        if reason := signatures.describe_download(head):
            raise UserError(f"{show(path)} {reason}")
        stream = gzip.GzipFile(fileobj=file) if head.startswith(b"\x1f\x8b") else file
        total = checked = 0
        for number in itertools.count(1):
            line = stream.readline(LONGEST_LINE)
            if not line:
                return
            total += len(line)
            if len(line) == LONGEST_LINE:
                raise UserError(
                    f"{show(path)}, line {number} is longer than {LONGEST_LINE:,} bytes"
                )
            if b"\0" in line:
                raise UserError(
                    f"{show(path)}, line {number} has a null character: it is no CSV; or it is"
                    " UTF-16, and must be saved as UTF-8"
                )
            if total >= checked + BLOCK:
                check_size(total, size, show(path))
                checked = total
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip():
                yield number, line.rstrip(b"\r\n")


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{show(path)} is truncated or damaged: {error}") from error
    except MemoryError as error:
        raise UserError(f"{show(path)} does not fit into memory") from error
    except OSError as error:
        raise UserError(f"cannot read {show(path)}: {error.strerror or error}") from error


def _cells(line: bytes, delimiter: bytes) -> int:
    """How many cells a delimiter makes of a line; one of the others makes commas decimal ones."""
    count = line.count(delimiter)
    return count + 1 if delimiter != b"," and count else count


def _split(line: bytes, delimiter: bytes, path: Path, number: int) -> Sequence[bytes]:
    """The cells of a line."""
    if b'"' not in line:
        return line.split(delimiter)
    try:
        (cells,) = csv.reader([line.decode("utf-8", "replace")], delimiter=delimiter.decode())
    except (csv.Error, ValueError) as error:
        raise UserError(f"{show(path)}, line {number}: {error}") from error
    return [cell.encode() for cell in cells]


def _columns(cells: Sequence[str], width: int | None) -> Columns:
    """What the columns hold, by the first line.

    It is a header if most of its cells are no numbers, or if its numbers count up: pandas calls
    columns 0, 1, 2, ….
    """
    names = [i for i, cell in enumerate(cells) if not csv_cells.is_number(cell.replace(",", "."))]
    numbers = [cell for i, cell in enumerate(cells) if i not in set(names)]
    start = numbers[0] if numbers else ""
    counts_up = start in ("0", "1") and numbers == [
        str(i) for i in range(int(start), int(start) + len(numbers))
    ]
    counts_up &= len(numbers) > 2
    header = counts_up or 2 * len(names) > len(cells)
    lower = [cell.lower() for cell in cells] if header else []
    label = next((lower.index(name) for name in LABELS if name in lower), None)
    left_out = [i for i, name in enumerate(lower) if name in NUMBERS and i != label]
    rest = [i for i in range(len(cells)) if i not in set(left_out)]
    if label is None and (counts_up or not header) and len(rest) != width:
        named = [i for i in names if i in rest and cells[i]]
        label = named[0] if len(named) == 1 else rest[0]
    pixels = [i for i in rest if i != label]
    return Columns(label, pixels, [show(cells[i]) for i in left_out], header)


def _shape(width: int, path: Path) -> tuple[int, ...]:
    """The shape of a square image of so many values, with channels if their third is a square."""
    side, side_of_colour = math.isqrt(width), math.isqrt(width // 3)
    if side > 1 and side**2 == width:
        return side, side
    if side_of_colour > 1 and 3 * side_of_colour**2 == width:
        return side_of_colour, side_of_colour, 3
    raise UserError(
        f"{show(path)} has {width:,} columns beside the label; those of square images are 784, of"
        " 28×28, or 3,072, of 32×32×3, and the like"
    )
