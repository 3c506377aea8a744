"""The results of a sweep's chunk, which are held, when read, to what its members can have."""

import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lenet_jax.errors import UserError, printable
from lenet_jax.reading import decode, open_file, read_bytes
from lenet_jax.storage.files import write_atomically, write_json
from lenet_jax.storage.formats import ChunkResults, MemberResult

ROWS, HISTORY = "results.json", "history.npz"
CURVES = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy")
EMA_CURVES = ("valid_ema_loss", "valid_ema_accuracy")  # of averaged weights
EMA_RESULTS = ("valid_ema_accuracy", "test_ema_accuracy")
# The accuracy on the test images under a corruption, whose name follows, and the mean error.
CORRUPTED, MEAN_CORRUPTION_ERROR = "test_accuracy/", "mean_corruption_error"
# What a file of arrays that is damaged, or none, raises.
UNREADABLE = (
    *(OSError, ValueError, LookupError, EOFError, TypeError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)

Curves = dict[str, np.ndarray]
Row = dict[str, Any]


class DamagedError(UserError):
    """A chunk is not as it was written.

    Attributes:
      reason: in what, without where it is.
    """

    def __init__(self, folder: Path | str, reason: str):
        super().__init__(
            f"{folder} is damaged: {reason}\n"
            "Delete it, then run the same command to train it again."
        )
        self.reason = reason


def read_chunk(
    folder: Path, members: Sequence[int], epochs: int, measured: Sequence[str] = ()
) -> tuple[list[MemberResult], Curves]:
    """The rows and curves of a finished chunk.

    Args:
      folder: the chunk's.
      members: their numbers, in the order of the plan.
      epochs: how many each was trained for, unless it stopped early.
      measured: the names of extra measurements.

    Raises:
      UserError: they cannot be read, or are not results of these members.
    """
    try:
        rows = decode(read_bytes(folder / ROWS), ChunkResults, ROWS)["rows"]
        with open_file(folder / HISTORY) as stream, np.load(stream, allow_pickle=False) as file:
            curves = dict(file)
    except (*UNREADABLE, UserError) as error:
        raise DamagedError(folder, printable(error)) from error
    if [row["member"] for row in rows] != list(members):
        raise DamagedError(folder, f"{ROWS} does not have each of its members once")
    for row in rows:
        if not (_is_possible(row, epochs) and _has_measurements(row, measured)):
            raise DamagedError(folder, f"{ROWS} has impossible results for member {row['member']}")
    averaged = any(name in row for row in rows for name in EMA_RESULTS)
    own = [f"valid_{name}" for name in measured]
    if curves.keys() != {*CURVES, *own, *(EMA_CURVES if averaged else ())}:
        raise DamagedError(folder, f"{HISTORY} does not have the curves of its members")
    done = [(row.get("epochs") or epochs) * (row["status"] == "done") for row in rows]
    validated = any(row["valid_accuracy"] is not None for row in rows)
    for name, curve in curves.items():
        free = name in own or (name.startswith("valid_") and not validated)
        rate = name.endswith("accuracy") and not free
        if not _is_curve(curve, done, epochs, rate):
            raise DamagedError(folder, f"{name} in {HISTORY} is not a curve of its members")
    return rows, curves


def is_corrupted(name: str) -> bool:
    """Whether a result is of corrupted images, and in [0, 1]."""
    return name.startswith(CORRUPTED) or name == MEAN_CORRUPTION_ERROR


def _is_possible(row: MemberResult, epochs: int) -> bool:
    """Whether a member may have such results after so many epochs."""
    results = [row["valid_loss"], row["valid_accuracy"], row["test_loss"], row["test_accuracy"]]
    averaged = [row.get(name) for name in EMA_RESULTS if name in row]
    corrupted = [value for name, value in row.items() if is_corrupted(name)]
    if row["status"] == "done" and row["valid_accuracy"] is row["valid_loss"] is None:
        results[:2] = 0.0, 0.0  # there was no validation
        averaged = averaged[1:]
    averaged += corrupted
    best, step = row["best_epoch"], row["diverged_step"]
    if not 0 <= row["seconds"] < math.inf:
        return False
    if row["status"] == "diverged":
        results += [*averaged, row.get("epochs"), best]
        return set(results) == {None} and step is not None and step >= 1
    numbers = [value for value in results + averaged if value is not None]
    if len(numbers) < len(results + averaged) or best is None or step is not None:
        return False
    valid_loss, valid_accuracy, test_loss, test_accuracy, *averaged = numbers
    trained = row.get("epochs", epochs)
    return (
        0 <= valid_loss < math.inf
        and not test_loss < 0  # finite weights may have an infinite one, or NaN
        and 0 <= valid_accuracy <= 1
        and 0 <= test_accuracy <= 1
        and all(0 <= value <= 1 for value in averaged)
        and trained is not None
        and 1 <= best <= trained <= epochs
    )


def _has_measurements(row: Mapping[str, Any], measured: Sequence[str]) -> bool:
    """Whether a row has a number for each extra measurement, or None of a member that diverged."""
    for split in ("valid", "test"):
        # Without validation the accuracy is None, too.
        kinds = type(None) if row[f"{split}_accuracy"] is None else (int, float)
        if not all(isinstance(row.get(f"{split}_{name}", ""), kinds) for name in measured):
            return False
    return True


def _is_curve(curve: Any, done: Sequence[int], epochs: int, rate: bool) -> bool:
    """Whether an array is a metric of each member and epoch; NaN once a member diverged or stopped.

    Args:
      curve: what there is.
      done: the epochs of each member; 0 if it diverged.
      epochs: the most.
      rate: whether it is in [0, 1]; other metrics may be anything, NaN where logits overflow.
    """
    if not isinstance(curve, np.ndarray) or curve.dtype.kind != "f":
        return False
    if curve.shape != (len(done), epochs):
        return False
    trained = curve[np.arange(epochs) < np.array(done)[:, None]]
    return not rate or not (np.isnan(trained).any() or np.any((curve < 0) | (curve > 1)))


def write_chunk(
    folder: Path, rows: Sequence[Row], curves: Curves, chance: float | None = None
) -> None:
    """Writes a chunk's results.

    Args:
      folder: its folder.
      rows: one per member.
      curves: of shape (members, epochs).
      chance: the accuracy of always answering the most frequent class, if it is known.
    """
    more = {} if chance is None else {"chance": chance}
    write_json(folder / ROWS, {"rows": list(rows), **more})
    write_arrays(folder / HISTORY, curves)


def write_arrays(path: Path, arrays: Curves) -> None:
    """Writes arrays by name to an .npz file."""
    write_atomically(path, lambda stream: np.savez(stream, **arrays))  # pyright: ignore
