"""Writes what the members of a chunk leave beside their results: their weights and logits."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float

from lenet_jax.data.dataset import Split
from lenet_jax.inference.others import describe_network, export_weights
from lenet_jax.inference.state_dict import make_metadata
from lenet_jax.nn.variables import weights_of
from lenet_jax.storage.chunk import Row
from lenet_jax.storage.recorded import logits_file, write_logits
from lenet_jax.storage.sweep_weights import write_weights
from lenet_jax.sweeps import results
from lenet_jax.sweeps.options import Options
from lenet_jax.sweeps.plan import Chunk, Group
from lenet_jax.sweeps.recording import split_of
from lenet_jax.training.population import Population

BLOCK = 1 << 28  # bytes of logits that are computed at once


class Recorder:
    """Writes the files of the chunks of one group, which have the same metadata."""

    def __init__(
        self, options: Options, population: Population, group: Group, form: Mapping[str, str]
    ):
        """Prepares the metadata, of which `form` says what images the networks know."""
        self._options, self._population = options, population
        spec = group.spec
        self._metadata = make_metadata(spec.mean, spec.std, group.dataset.class_names)
        self._metadata |= describe_network(
            spec.network, spec.network_name, spec.model, spec.image_shape
        )
        self._metadata |= form

    def write_epoch(
        self,
        chunk: Chunk,
        folder: Path,
        params: nnx.State,
        epoch: int,
        alive: Bool[np.ndarray, " m"],
    ) -> None:
        """Writes what is recorded of the networks after an epoch, if anything is.

        Args:
          chunk: the chunk.
          folder: its folder.
          params: of the population.
          epoch: counted from 1; 0: before the first, of which only weights are written.
          alive: the members that trained in it; of others NaN is written.
        """
        recording = self._options.record
        if recording is None or not recording.is_due(epoch, chunk.group.spec.num_epochs):
            return
        if recording.logits and epoch:
            self._write_logits(chunk, folder, params, alive, epoch)
        if recording.weights:
            saved = self._weights(chunk, params, range(len(alive)))
            for own, is_alive in zip(saved.values(), alive, strict=True):
                own |= {name: _as(recording.dtype, array, is_alive) for name, array in own.items()}
            write_weights(folder, saved, self._metadata, epoch)

    def write_final(
        self, chunk: Chunk, folder: Path, params: nnx.State, rows: Sequence[Row]
    ) -> None:
        """Writes the logits that are recorded, and the weights that are saved.

        Args:
          chunk: the chunk.
          folder: its folder.
          params: of the networks that the results are of.
          rows: the results.
        """
        if self._options.record and self._options.record.logits:
            done = np.array([row["status"] == "done" for row in rows])
            self._write_logits(chunk, folder, params, done)
        kept = range(len(rows))
        if self._options.saved == "best":  # of each setting
            settings = results.by_setting(rows, chunk.members.overrides())
            best = [max(s.done, key=results.rank)["member"] for s in settings if s.done]
            kept = [index for index in kept if rows[index]["member"] in best]
        if self._options.saved != "none" and kept:
            saved = self._weights(chunk, params, kept)
            write_weights(folder, saved, self._metadata)

    def _weights(
        self, chunk: Chunk, params: nnx.State, kept: Iterable[int]
    ) -> dict[int, dict[str, np.ndarray]]:
        """The weights of members of a chunk, by their numbers."""
        numbers, network = chunk.members.numbers.tolist(), chunk.group.spec.network
        picked = self._population.pick(weights_of(params), len(numbers))
        return {
            numbers[index]: export_weights(
                network, jax.tree.map(lambda leaf, i=index: leaf[i], picked)
            )
            for index in kept
        }

    def _write_logits(
        self,
        chunk: Chunk,
        folder: Path,
        params: nnx.State,
        alive: Bool[np.ndarray, " m"],
        epoch: int | None = None,
    ) -> None:
        recording = self._options.record
        assert recording is not None
        for name in recording.splits:
            split = split_of(chunk.group.dataset, name)
            shape = (len(alive), len(split), chunk.group.spec.num_classes)
            blocks = self._logits(params, split, alive)
            write_logits(folder / logits_file(name, epoch), shape, recording.dtype, blocks)

    def _logits(
        self, params: nnx.State, split: Split, alive: Bool[np.ndarray, " m"]
    ) -> Iterator[Float[np.ndarray, "m _ k"]]:
        """The logits of a split's images, those of as many at once as memory allows."""
        spec = self._population.spec
        images = BLOCK // (4 * self._population.size * spec.num_classes)
        # Of whole batches, in which an evaluation of the split takes them.
        size = min(max(images // spec.eval_batch_size, 1) * spec.eval_batch_size, len(split))
        for first in range(0, len(split), size):
            own = slice(first, first + size)
            part = Split(split.images[own], split.labels[own])
            logits = self._population.logits(params, self._population.put(part, size))
            block = self._population.pick(logits, len(alive))[:, : len(part)]
            yield np.where(alive[:, None, None], block, np.float32(np.nan))


def _as(dtype: Any, array: np.ndarray, is_alive: bool | np.bool_) -> np.ndarray:
    """Floats in a dtype, in which large ones are infinite, unless their own is as narrow.

    Those of a member that stopped are NaN.
    """
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    if array.dtype.itemsize <= np.dtype(dtype).itemsize:
        dtype = array.dtype
    with np.errstate(over="ignore"):
        return array.astype(dtype) if is_alive else np.full(array.shape, np.nan, dtype)
