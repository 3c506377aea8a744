"""Checkpoints: arrays in a safetensors file, and sums by which they are verified.

A checkpoint is a folder named by a number. It holds `state.safetensors`, `notes.json`, and
`SHA256SUMS`, the manifest of both, which `sha256sum --check` reads too. It is made under another
name, and renamed once it is whole and on the disk: whenever the process dies, what has a number is
whole.
"""

import hashlib
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
from safetensors.numpy import load as decode
from safetensors.numpy import save as encode

from lenet_jax.errors import UserError
from lenet_jax.storage.weights import printable

State = TypeVar("State", bound=PyTree)

MANIFEST = "SHA256SUMS"
ARRAYS, NOTES, DRAFTS = "state.safetensors", "notes.json", ".*.draft"
MOST_TOLD = 3  # damaged checkpoints in one message


class Checkpoints:
    """The checkpoints of one run; a larger number is a later one.

    States of a population, stacked along a leading axis of every array, are saved like any other.
    """

    def __init__(self, directory: Path, keep: int):
        """Opens `directory`, and clears it of what was being written when a process died.

        Args:
          directory: made if need be; one process at a time may have it open.
          keep: how many of the latest checkpoints stay.
        """
        self._directory, self._keep = directory, keep
        directory.mkdir(parents=True, exist_ok=True)
        for draft in directory.glob(DRAFTS):
            shutil.rmtree(draft)
        self._writer = ThreadPoolExecutor(1, "checkpoint", initializer=_give_way)
        self._saving: Future[None] | None = None

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
        """Waits for the save under way, if any, to be on the disk; may be called again.

        Raises:
          OSError: it failed.
        """
        try:
            self._wait()
        finally:
            self._writer.shutdown()

    def latest(self) -> int | None:
        """The number of the newest checkpoint that is on the disk, or None if there is none.

        Raises:
          OSError: the save under way failed.
        """
        self._wait()
        numbers = [n for n in self._numbers() if (self._folder(n) / MANIFEST).exists()]
        return max(numbers, default=None)

    def save(self, number: int, state: PyTree, notes: Mapping[str, Any]) -> None:
        """Starts to save arrays and a few words for JSON; the writing goes on in the background.

        Of the checkpoints before this one the latest stay, as many as are to be kept with it; what
        has a larger number is of a future that did not come to pass, and goes.

        Raises:
          OSError: the save before this one failed.
        """
        # In C's order, which safetensors takes for granted.
        arrays = {name: np.array(_bits(x), order="C") for name, x in _leaves(state).items()}
        self._wait()
        self._saving = self._writer.submit(self._write, number, arrays, dict(notes))

    def restore(
        self, like: State, warn: Callable[[str], None]
    ) -> tuple[State, dict[str, Any]] | None:
        """The arrays of the newest sound checkpoint in the structure of `like`, and its words.

        Every file is held against the manifest first.

        Args:
          like: arrays of the same shapes and dtypes, or `jax.ShapeDtypeStruct`s.
          warn: is told, in one line, which checkpoints are damaged and where the run goes on.

        Returns:
          None if there is no checkpoint at all.

        Raises:
          UserError: there are checkpoints, but none is sound, or the newest sound one is of other
            shapes or dtypes. The directory is left as it is.
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
                f"{self._directory} has no sound checkpoint: {_list(damaged)}\n"
                "Bring a copy of one back, or take another --workdir to start anew."
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
            saving.result()

    def _write(self, number: int, arrays: dict[str, np.ndarray], notes: dict[str, Any]) -> None:
        draft = self._directory / f".{number}.draft"
        try:
            draft.mkdir()
            (draft / ARRAYS).write_bytes(encode(arrays))
            (draft / NOTES).write_text(json.dumps(notes, indent=2) + "\n")
            (draft / MANIFEST).write_text(manifest(draft))
            for path in (*draft.iterdir(), draft):
                _sync(path)
            replaced = self._folder(number).exists() and self._set_aside(number)
            draft.rename(self._folder(number))
            _sync(self._directory)
            if replaced:
                shutil.rmtree(replaced)
            numbers = sorted(self._numbers())
            kept = [n for n in numbers if n <= number][-self._keep :]
            for other in set(numbers).difference(kept):
                shutil.rmtree(self._set_aside(other))
        finally:
            shutil.rmtree(draft, ignore_errors=True)  # where it did not become the checkpoint

    def _set_aside(self, number: int) -> Path:
        """Renames a checkpoint that is to go, since a folder that is half deleted is none."""
        return self._folder(number).rename(self._directory / f".{number}.old.draft")

    def _read(self, number: int, like: State) -> tuple[State, dict[str, Any]]:
        folder, leaves = self._folder(number), _leaves(like)
        try:
            found = decode((folder / ARRAYS).read_bytes())
            notes = json.loads((folder / NOTES).read_bytes())
            if not isinstance(notes, dict):
                raise ValueError(f"{NOTES} holds a {type(notes).__name__}")
        except (OSError, SafetensorError, ValueError, LookupError, RecursionError) as error:
            raise UserError(
                f"{folder} is sound, but cannot be read here: {printable(error)}\n"
                "Install the versions that run.json names, or take another --workdir."
            ) from error
        bits = {name: jax.eval_shape(_bits, leaf) for name, leaf in leaves.items()}
        wanted = {name: (entry.shape, entry.dtype) for name, entry in bits.items()}
        stored = {name: (entry.shape, entry.dtype) for name, entry in found.items()}
        for name in wanted | stored:
            if stored.get(name) != wanted.get(name):
                raise UserError(
                    f"{folder} is of another network: {printable(name, 60)} is"
                    f" {_told(stored.get(name))}, not {_told(wanted.get(name))}\n"
                    "Take another --workdir to start anew."
                )
        arrays = [
            jax.random.wrap_key_data(jax.numpy.array(found[name]))
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else jax.numpy.array(found[name])
            for name, leaf in leaves.items()
        ]
        return jax.tree.unflatten(jax.tree.structure(like), arrays), notes


def manifest(folder: Path) -> str:
    """A line for every file in a folder but its manifest: the SHA-256 in hex, and the name."""
    lines = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST:
            with path.open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return "".join(lines)


def find_damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, in a few words; None if they are as written."""
    try:
        stored = (folder / MANIFEST).read_bytes().decode("ascii", "replace")
        found = manifest(folder)
    except (FileNotFoundError, NotADirectoryError):
        return f"it has no {MANIFEST}"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    if stored == found and found:
        return None
    listed, actual = set(stored.splitlines()), set(found.splitlines())
    for line in sorted(actual - listed, key=_name):
        return f"{_name(line)} is not as {MANIFEST} has it"
    for line in sorted(listed - actual, key=_name):
        return f"{_name(line)} is missing"
    return f"{MANIFEST} is not as it was"


def _name(line: str) -> str:
    return printable(line.partition("  ")[2], 60)


def _list(texts: list[str]) -> str:
    more = len(texts) - MOST_TOLD
    return ", ".join(texts[:MOST_TOLD]) + (f" and {more} more" if more > 0 else "")


def _told(array: tuple[tuple[int, ...], Any] | None) -> str:
    return "absent" if array is None else printable(f"{array[1]}{array[0]}", 60)


def _give_way() -> None:
    """Has the calling thread run in what time training leaves idle."""
    if sys.platform == "linux":  # where a thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def _sync(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _leaves(tree: PyTree) -> dict[str, Any]:
    """Arrays, or what stands for them, by their paths in a tree."""
    paths, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}


def _bits(leaf: jax.Array) -> jax.Array:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf
