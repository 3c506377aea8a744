"""The forward pass of a trained network: compiled, and run over many images in batches."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PyTree, UInt8

from lenet_jax.nn import ops
from lenet_jax.nn.calls import call

BATCH = 128  # images per forward pass; what a pass touches then fits the cache
GUESS = 0.5  # probability of the class: below, the others together are likelier


def run(
    program: Callable[..., PyTree],
    model: nnx.Module,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    precision: str,
    images: UInt8[np.ndarray, "n h w c"],
) -> PyTree:
    """Runs a compiled function over images in batches of up to `BATCH`.

    Args:
      program: the function, such as `logits`, see `inference.network.Network.run`.
      model: the network.
      mean: of a pixel per channel, in 0..255.
      std: likewise.
      precision: of products, see `ops`.
      images: of the network's size.

    Returns:
      What the function gives, for all images.
    """
    graphdef, params = nnx.split(model)
    size = min(BATCH, 1 << max(len(images) - 1, 0).bit_length())
    outputs = []
    for start in range(0, max(len(images), 1), size):
        batch = images[start : start + size]
        if len(batch) < size:
            batch = np.pad(batch, [(0, size - len(batch)), (0, 0), (0, 0), (0, 0)])
        # Not waited for: the next batch is on its way meanwhile.
        with jax.default_matmul_precision(precision):
            outputs.append(program(graphdef, mean, std, params, batch))
    # What pads the last batch is cut off.
    return jax.tree.map(lambda *batches: np.concatenate(batches)[: len(images)], *outputs)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def logits(
    graphdef: nnx.GraphDef,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    params: nnx.State,
    images: UInt8[Array, "n h w c"],
) -> Float[Array, "n k"]:
    """The output of any module."""
    return call(nnx.merge(graphdef, params), ops.normalise(images, mean, std))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def activation(
    layer: str,
    graphdef: nnx.GraphDef,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    params: nnx.State,
    images: UInt8[Array, "n h w c"],
) -> Float[Array, "n ..."]:
    """What a step of a `LeNet` gives, see `nn.lenet.step_names`."""
    return nnx.merge(graphdef, params).activations(ops.normalise(images, mean, std))[layer]


def energy(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    """Returns log Σ exp of the logits: high where the network knows what it sees.

    Source: Liu et al., "Energy-based Out-of-distribution Detection", 2020; their energy, negated.
    """
    return np.logaddexp.reduce(logits.astype(np.float64), axis=-1)
