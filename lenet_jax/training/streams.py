"""Independent streams of random numbers, one for each purpose.

What is drawn on devices is JAX's. What a host draws before is NumPy's PCG64, whose stream does not
depend on NumPy's version.
"""

import zlib
from typing import Literal, get_args

import jax
import numpy as np
from jaxtyping import Array, Key, ScalarLike, UInt64

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


def draw(purpose: str, seed: int, count: int, times: int = 1) -> UInt64[np.ndarray, "times n"]:
    """Numbers of 64 bits, independent of those for other purposes or of the validation split."""
    generator = np.random.PCG64([zlib.crc32(purpose.encode()), seed])
    return generator.random_raw(times * count).reshape(times, count)
