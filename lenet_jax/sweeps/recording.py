"""What a sweep records of its members, and the disk space that it takes."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lenet_jax.data.dataset import Dataset, Split
from lenet_jax.errors import UserError, show
from lenet_jax.sweeps.plan import Chunk, Group
from lenet_jax.training.sizes import num_params

KINDS, SPLITS, DTYPES = ("logits", "weights"), ("test", "train", "valid"), ("float32", "float16")
FLOAT = 4  # bytes of a weight of the final networks, whose dtype is never changed


class Recording(NamedTuple):
    """What is written of each member.

    Attributes:
      logits: whether its logits are.
      weights: whether its weights are.
      every: after how many epochs, and after the last one, weights also before the first; None:
        only of the network that results.csv is of.
      splits: whose images the logits are of.
      dtype: of the logits, and of the weights after an epoch; narrower ones keep theirs.
    """

    logits: bool
    weights: bool
    every: int | None = None
    splits: tuple[str, ...] = ("test",)
    dtype: str = "float32"

    def is_due(self, epoch: int, num_epochs: int) -> bool:
        """Whether the networks after an epoch are recorded, counted from 1; 0: initial ones."""
        return self.every is not None and (epoch % self.every == 0 or epoch == num_epochs)

    def to_json(self) -> dict[str, Any]:
        """The flags, as a sweep's plan has them."""
        kinds = [kind for kind in KINDS if getattr(self, kind)]
        return {
            "record": ",".join(kinds),
            "record_every": self.every,
            "record_split": ",".join(self.splits),
            "record_dtype": self.dtype,
        }

    def bytes_of(self, group: Group) -> int:
        """The disk space that a member of a group takes."""
        spec, size = group.spec, np.dtype(self.dtype).itemsize
        epochs = sum(self.is_due(e, spec.num_epochs) for e in range(1, spec.num_epochs + 1))
        images = sum(len(split_of(group.dataset, name)) for name in self.splits)
        logits = (epochs + 1) * images * spec.num_classes * size
        weights = ((epochs + (self.every is not None)) * size + FLOAT) * num_params(spec)
        return self.logits * logits + self.weights * weights

    def bytes_of_chunks(self, chunks: Iterable[Chunk]) -> int:
        """The disk space that the members of chunks take."""
        return sum(len(chunk.members) * self.bytes_of(chunk.group) for chunk in chunks)


def make_recording(
    record: str | None = None,
    every: int | None = None,
    split: str = "test",
    dtype: str = "float32",
    *,
    flag: str = "",
) -> Recording | None:
    """What flags ask for; None if nothing is recorded.

    Args:
      record: `logits`, `weights`, or both, with a comma.
      every: see `Recording`.
      split: one or more of `test`, `train` and `valid`, with commas.
      dtype: `float32` or `float16`.
      flag: what is before a flag's name in messages.

    Raises:
      UserError: one has no such value, or needs another.
    """
    kinds = [] if record is None else _names(f"{flag}record", record, KINDS)
    splits = _names(f"{flag}record_split", split, SPLITS)
    if dtype not in DTYPES:
        known = " or ".join(DTYPES)
        raise UserError(f"{flag}record_dtype={show(dtype)}: must be {known}")
    if every is not None and not (type(every) is int and every >= 1):
        raise UserError(f"{flag}record_every={show(every)}: must be an integer of at least 1")
    given = {"record_every": every is not None, "record_dtype": dtype != DTYPES[0]}
    given["record_split"] = splits != ["test"]
    if not kinds:
        if name := next((name for name, is_given in given.items() if is_given), None):
            raise UserError(f"{flag}{name} needs {flag}record=logits, weights, or logits,weights")
        return None
    if given["record_split"] and "logits" not in kinds:
        raise UserError(f"{flag}record_split is of logits, which {flag}record={record} leaves out")
    return Recording("logits" in kinds, "weights" in kinds, every, tuple(splits), dtype)


def _names(flag: str, text: Any, known: tuple[str, ...]) -> list[str]:
    names = text.split(",") if isinstance(text, str) else []
    if not names or not set(names) <= set(known) or len(set(names)) < len(names):
        raise UserError(
            f"{flag}={show(text)}: must be one or more of {', '.join(known)},"
            f" such as {flag}={','.join(known[:2])}"
        )
    return [name for name in known if name in names]


def split_of(dataset: Dataset, name: str) -> Split:
    """The split of a dataset that is called `test`, `train` or `valid`."""
    return {"test": dataset.test, "train": dataset.train, "valid": dataset.valid}[name]


def check_space(recording: Recording, chunks: Iterable[Chunk], path: Path) -> None:
    """Checks that the recordings of chunks can be written, before they are trained.

    Args:
      recording: what is recorded.
      chunks: those that are missing.
      path: the sweep's folder, which need not exist.

    Raises:
      UserError: the disk has not enough space, or there are no images of a split.
    """
    chunks = list(chunks)
    for name in recording.splits:
        if any(not len(split_of(chunk.group.dataset, name)) for chunk in chunks):
            raise UserError(f"record_split={name}: the data have no {name} images")
    need = recording.bytes_of_chunks(chunks)
    folder = next(parent for parent in (path, *path.parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    if need > free:
        raise UserError(
            f"what is to be recorded takes {need / 1e9:,.1f} GB, and {show(folder, 100)} has"
            f" {free / 1e9:,.1f} GB free\n"
            "Record less: a larger record_every, record_dtype=float16, fewer images (record_split)"
            " or members."
        )
