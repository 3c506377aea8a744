"""Where the members of a sweep start: the weights that each names, and what is pruned."""

from collections.abc import Callable, Iterable
from operator import attrgetter

from lenet_jax.inference.sources import Receiver, load_weights, sum_of_weights
from lenet_jax.sweeps.members import Members
from lenet_jax.sweeps.plan import Chunk
from lenet_jax.training.start import Start

KEYS = "train.initial_weights", "prune.weights"


def load_starts(chunk: Chunk, say: Callable[[str], None] = lambda _: None) -> list[Start]:
    """What each member of a chunk names; [] if none does, and none is pruned.

    Args:
      chunk: the chunk.
      say: is given remarks on the weights.

    Raises:
      UserError: they do not exist, are damaged, or are of another network.
    """
    names = _names(chunk.members)
    if not names and not chunk.group.is_pruned:
        return []
    receiver = Receiver.of(chunk.group.spec, chunk.members[0].config)
    found = load_weights(sorted(names), receiver, say)
    chosen = ([attrgetter(key)(member.config) for key in KEYS] for member in chunk.members)
    return [Start(*(None if n is None else found[n] for n in each)) for each in chosen]


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
