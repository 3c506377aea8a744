"""Checkpoints: Orbax behind one thin wrapper."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import PyTree

State = TypeVar("State", bound=PyTree)


class Checkpoints:
    """The checkpoints of one run, numbered by the epochs that lie behind them."""

    def __init__(self, directory: Path, keep: int):
        """Opens `directory`; of the checkpoints saved from now on the latest `keep` stay."""
        import orbax.checkpoint as ocp  # late: most of a second

        self._ocp = ocp
        self._manager = ocp.CheckpointManager(
            directory,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True),
        )

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
        """Waits for the save under way, if any, to be on the disk."""
        self._manager.close()

    def latest(self) -> int | None:
        """The number of the newest checkpoint, or None if there is none."""
        return self._manager.latest_step()

    def save(self, epoch: int, state: PyTree, notes: Mapping[str, Any]) -> None:
        """Starts to save arrays and a few words for JSON; the writing goes on in the background."""
        arrays = {name: np.asarray(_bits(leaf)) for name, leaf in _leaves(state).items()}
        args = self._ocp.args
        self._manager.save(
            epoch,
            args=args.Composite(state=args.StandardSave(arrays), notes=args.JsonSave(dict(notes))),
        )

    def restore(self, epoch: int, like: State) -> tuple[State, dict[str, Any]]:
        """The arrays of a checkpoint in the structure of `like`, and its words."""
        shapes = {
            name: np.empty(np.shape(_bits(leaf)), _bits(leaf).dtype)
            for name, leaf in _leaves(like).items()
        }
        args = self._ocp.args
        found = self._manager.restore(
            epoch,
            args=args.Composite(state=args.StandardRestore(shapes), notes=args.JsonRestore()),
        )
        leaves = [
            jax.random.wrap_key_data(found["state"][name])
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else jax.numpy.asarray(found["state"][name])
            for name, leaf in _leaves(like).items()
        ]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), found["notes"]


def _leaves(tree: PyTree) -> dict[str, jax.Array]:
    paths, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}


def _bits(leaf: jax.Array) -> jax.Array:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf
