"""The cells of a CSV file of images: labels and pixels."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from lenet_jax.errors import UserError, show
from lenet_jax.reading import to_float

LONGEST_LABEL = 100  # bytes
PIXELS = "pixels are integers of 0 to 255, or floats of 0 to 1"


def decode(cell: bytes) -> str:
    """The text of a cell, without the spaces around it; other bytes than UTF-8 are escaped."""
    return cell.decode("utf-8", "backslashreplace").strip()


def is_number(text: str) -> bool:
    """Whether a text is a number, see `reading.to_float`."""
    try:
        to_float(text)
    except ValueError:
        return False
    return True


def label(cell: bytes, where: str) -> str:
    """The label in a cell.

    Args:
      cell: its content.
      where: the file and the line, for messages.

    Raises:
      UserError: there is none, or it is too long, or not UTF-8.
    """
    if not cell.strip():
        raise UserError(f"{where} has no label")
    if len(cell) > LONGEST_LABEL:
        raise UserError(f"{where} has a label of {len(cell):,} characters")
    try:
        return cell.decode().strip()
    except UnicodeDecodeError as error:
        shown = show(decode(cell), 40)
        raise UserError(f"{where} has a label that is not UTF-8: {shown}") from error


def pixels(
    cells: Sequence[bytes], columns: Sequence[int], where: str
) -> UInt8[np.ndarray, " p"] | Float32[np.ndarray, " p"]:
    """The pixels of a line: uint8, or float32 if they are not all integers.

    Args:
      cells: their content.
      columns: which columns these are, from 0.
      where: as for `label`.

    Raises:
      UserError: a cell is no number, or out of range.
    """
    if b"_" not in b"".join(cells):  # in 1_0, which Python reads as 10
        try:
            return np.frombuffer(bytes(map(int, cells)), np.uint8)
        except ValueError:  # or they are out of range
            pass
    for column, cell in zip(columns, cells, strict=True):
        text, place = decode(cell), f"{where}, column {column + 1}"
        if not text:
            raise UserError(f"{place} is empty")
        if is_number(text.replace(",", ".")) and "," in text:
            raise UserError(f"{place}: {show(text, 40)} has a decimal comma; save it with points")
        if not is_number(text):
            raise UserError(f"{place}: {show(text, 40)} is no number")
        if not 0 <= float(text) <= 255:  # NaN is not
            raise UserError(f"{place}: {show(text, 40)}; {PIXELS}")
    return np.fromiter(map(float, cells), np.float32, len(cells))


def to_labels(labels: Sequence[str]) -> Shaped[np.ndarray, " n"]:
    """Integers if all are, else names; floats are to be refused if they are not whole."""
    if all(map(is_number, labels)):
        for number in (int, float):
            try:
                return np.array(list(map(number, labels)), np.dtype(number))
            except (ValueError, OverflowError):
                continue
    return np.array(labels)
