"""Independent streams of random numbers, one for each purpose."""

import zlib
from typing import Literal, get_args

import jax
from jaxtyping import Array, Key, ScalarLike

Stream = Literal["init", "order", "augment"]
STREAMS: tuple[Stream, ...] = get_args(Stream)


def stream(seed: ScalarLike, name: Stream) -> Key[Array, ""]:
    """The key of the stream `name` of a seed.

    Streams of one seed are as independent as those of different seeds: their keys differ by the
    CRC-32 of their names, not by small numbers, which what draws from a stream folds in itself.

    Args:
      seed: at least 0; may be traced.
      name: initial weights, order of the examples, or augmentation.
    """
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
