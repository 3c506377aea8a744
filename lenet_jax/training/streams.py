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
    They are of Threefry, whose bits are the same on every device.

    Args:
      seed: at least 0; may be traced.
      name: initial weights, order of the examples, or augmentation.
    """
    key = jax.random.key(seed, impl="threefry2x32")
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
