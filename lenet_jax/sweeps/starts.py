"""Where the members of a sweep start: the weights that each names, and what is pruned."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter

import jax
from flax import nnx

from lenet_jax.inference.sources import Receiver, load_weights, sum_of_weights
from lenet_jax.sweeps.members import Members
from lenet_jax.sweeps.plan import Chunk, Group
from lenet_jax.training.start import Start

KEYS = "train.initial_weights", "prune.weights"
Weights = Mapping[str, nnx.State]  # by the name that a config has


def load_starts(
    chunk: Chunk,
    say: Callable[[str], None] = lambda _: None,
    weights: Weights | None = None,
) -> list[Start]:
    """What each member of a chunk names; [] if none does, and none is pruned.

    Args:
      chunk: the chunk.
      say: is given remarks on the weights.
      weights: from `load_named`, of all that the members name; None: they are read.

    Raises:
      UserError: they do not exist, are damaged, or are of another network.
    """
    names = _names(chunk.members)
    if not names and not chunk.group.is_pruned:
        return []
    if weights is None:
        receiver = Receiver.of(chunk.group.spec, chunk.members[0].config)
        weights = load_weights(sorted(names), receiver, say)
    found = weights
    chosen = ([attrgetter(key)(member.config) for key in KEYS] for member in chunk.members)
    return [Start(*(None if n is None else found[n] for n in each)) for each in chosen]


def load_named(groups: Sequence[Group], chunks: Iterable[Chunk]) -> dict[int, Weights]:
    """The weights that members of chunks name, by the numbers of their groups.

    Raises:
      UserError: they do not exist, are damaged, or are of another network.
    """
    names: dict[int, set[str]] = {}
    for chunk in chunks:
        names.setdefault(id(chunk.group), set()).update(_names(chunk.members))
    loaded = {}
    for number, group in enumerate(groups):
        if own := names.get(id(group)):
            receiver = Receiver.of(group.spec, group.members[0].config)
            loaded[number] = jax.device_get(load_weights(sorted(own), receiver, lambda _: None))
    return loaded


def check_starts(chunks: Iterable[Chunk], say: Callable[[str], None]) -> None:
    """Checks that chunks can start, before anything is written; raises as `load_starts`."""
    for chunk in chunks:
        if _names(chunk.members):
            load_starts(chunk, say)


def own_weights(members: Members) -> dict[str, str]:
    """The sum of the weights that members name, by name, if they name any.

    Raises:
      UserError: some do not exist.
    """
    total = sum_of_weights(_names(members))
    return {"weights_sha256": total} if total else {}


def _names(members: Members) -> set[str]:
    """The weights that members name."""
    return {name for key in KEYS for name in members.values(key) if name is not None}
