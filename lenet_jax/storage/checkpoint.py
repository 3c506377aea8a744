"""Checkpoints: arrays in a safetensors file, verified by their SHA-256 sums.

A checkpoint is a folder named by a number. It holds `state.safetensors`, the metadata in
`notes.json`, and `SHA256SUMS`, a manifest of both that `sha256sum --check` can read. It is written
under a temporary name and renamed once it is complete and on the disk, so that every numbered
folder is complete, even if the process is killed.
"""

import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import PyTree
from safetensors import SafetensorError
from safetensors.numpy import load
from safetensors.numpy import save as encode

from lenet_jax.errors import UserError, printable, show
from lenet_jax.reading import decode, open_file, read_bytes
from lenet_jax.storage.files import make_folder, publish, remove, remove_drafts, set_aside
from lenet_jax.storage.sums import MANIFEST, find_damage, write_manifest

State = TypeVar("State", bound=PyTree)

ARRAYS, METADATA = "state.safetensors", "notes.json"
MAX_LISTED = 3  # damaged checkpoints in one message


class Checkpoints:
    """The checkpoints of one run; larger numbers are later.

    The state of a population, stacked along a leading axis of every array, is saved like any other.

    Attributes:
      saved: the number of the last checkpoint known to be on the disk; None: none was saved yet.
    """

    def __init__(self, directory: Path, keep: int):
        """Opens `directory` and deletes incomplete checkpoints left by a killed process.

        Args:
          directory: created if it does not exist; only one process may have it open at a time.
          keep: the number of checkpoints to keep, newest first.
        """
        self._directory, self._keep = directory, keep
        make_folder(directory)
        remove_drafts(directory)
        self._writer = ThreadPoolExecutor(1, "checkpoint", initializer=_lower_priority)
        self._saving: Future[int] | None = None
        self.saved: int | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Waits until the save in progress, if any, is on the disk; may be called more than once.

        Raises:
          OSError: the save failed.
        """
        try:
            self._wait()
        finally:
            self._writer.shutdown()

    def latest(self) -> int | None:
        """The number of the newest checkpoint that is on the disk, or None if there is none.

        Raises:
          OSError: the save in progress failed.
        """
        self._wait()
        numbers = [n for n in self._numbers() if (self._folder(n) / MANIFEST).exists()]
        return max(numbers, default=None)

    def save(self, number: int, state: PyTree, metadata: Mapping[str, Any]) -> None:
        """Starts saving arrays and JSON metadata, which a background thread writes.

        The latest `keep` checkpoints up to this one are kept. Those with a larger number, left from
        before the run went back to an earlier one, are deleted.

        Raises:
          OSError: the previous save failed.
        """
        # In C order, which safetensors assumes.
        arrays = {name: np.array(_bits(x), order="C") for name, x in _leaves(state).items()}
        self._wait()
        self._saving = self._writer.submit(self._write, number, arrays, dict(metadata))

    def restore(
        self, like: State, warn: Callable[[str], None]
    ) -> tuple[State, dict[str, Any]] | None:
        """The newest intact checkpoint: its arrays in the structure of `like`, and its metadata.

        Every file is first verified against the manifest.

        Args:
          like: arrays of the same shapes and dtypes, or `jax.ShapeDtypeStruct`s.
          warn: called with one line naming the damaged checkpoints and the one that is used.

        Returns:
          None if there are no checkpoints.

        Raises:
          UserError: none of the checkpoints is intact, or the newest intact one has different
            shapes or dtypes. The directory is left unchanged.
        """
        damaged = []
        for number in sorted(self._numbers(), reverse=True):
            damage = find_damage(self._folder(number))
            if damage is None:
                if damaged:
                    warn(f"{_list(damaged)}; going back to checkpoint {number}")
                return self._read(number, like)
            damaged.append(f"checkpoint {number} is damaged ({damage})")
        if damaged:
            raise UserError(
                f"{show(self._directory, 60)} has no intact checkpoint: {_list(damaged)}\n"
                "Restore a backup, or choose another --workdir to start over."
            )
        return None

    def _numbers(self) -> list[int]:
        names = (path.name for path in self._directory.iterdir())
        return [int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]*", name)]

    def _folder(self, number: int) -> Path:
        return self._directory / str(number)

    def _wait(self) -> None:
        saving, self._saving = self._saving, None
        if saving is not None:
            self.saved = saving.result()

    def _write(self, number: int, arrays: dict[str, np.ndarray], metadata: dict[str, Any]) -> int:
        draft = self._directory / f".{number}.draft"
        try:
            draft.mkdir()
            (draft / ARRAYS).write_bytes(encode(arrays))
            (draft / METADATA).write_text(json.dumps(metadata, indent=2) + "\n")
            write_manifest(draft)
            publish(draft, self._folder(number))
            numbers = sorted(self._numbers())
            kept = [n for n in numbers if n <= number][-self._keep :]
            for other in set(numbers).difference(kept):
                remove(set_aside(self._folder(other)))
            return number
        finally:
            shutil.rmtree(draft, ignore_errors=True)  # a no-op after `publish`

    def _read(self, number: int, like: State) -> tuple[State, dict[str, Any]]:
        folder, leaves = self._folder(number), _leaves(like)
        try:
            with open_file(folder / ARRAYS) as file:
                arrays = load(file.read())
            metadata = decode(read_bytes(folder / METADATA), dict[str, Any], METADATA)
        except (OSError, SafetensorError, ValueError, LookupError, UserError) as error:
            raise UserError(
                f"{folder} is intact, but cannot be read here: {printable(error)}\n"
                "Install the versions that run.json lists, or choose another --workdir."
            ) from error
        bits = {name: jax.eval_shape(_bits, leaf) for name, leaf in leaves.items()}
        expected = {name: (entry.shape, entry.dtype) for name, entry in bits.items()}
        stored = {name: (entry.shape, entry.dtype) for name, entry in arrays.items()}
        for name in expected | stored:
            if stored.get(name) != expected.get(name):
                raise UserError(
                    f"{folder} belongs to another network: {printable(name, 60)} is"
                    f" {_type(stored.get(name))}, not {_type(expected.get(name))}\n"
                    "Choose another --workdir to start over."
                )
        restored = [
            _from_bits(jax.numpy.array(arrays[name]), leaf.dtype) for name, leaf in leaves.items()
        ]
        return jax.tree.unflatten(jax.tree.structure(like), restored), metadata


def _list(texts: list[str]) -> str:
    more = len(texts) - MAX_LISTED
    return ", ".join(texts[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


def _type(array: tuple[tuple[int, ...], Any] | None) -> str:
    return "absent" if array is None else printable(f"{array[1]}{array[0]}", 60)


def _lower_priority() -> None:
    """Lowers the calling thread's priority, so that it does not slow training down."""
    if sys.platform == "linux":  # where threads have priorities of their own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def _leaves(tree: PyTree) -> dict[str, Any]:
    """Arrays, or their abstract values, by their paths in a tree."""
    paths, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}


def _bits(leaf: jax.Array) -> jax.Array:
    """An array that safetensors reads in NumPy: of a key its data, of bfloat16 its bits."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    if leaf.dtype.kind == "V":  # NumPy has no such dtype
        return jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}")
    return leaf


def _from_bits(bits: jax.Array, dtype: Any) -> jax.Array:
    """Inverts `_bits`."""
    if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(bits)
    return bits if bits.dtype == dtype else jax.lax.bitcast_convert_type(bits, dtype)
