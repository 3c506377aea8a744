"""The loss of a network as a function of its parameters alone."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Integer, PyTree, UInt8

from lenet_jax.nn import ops
from lenet_jax.nn.calls import call

Params: TypeAlias = PyTree[Float[Array, "..."]]
Loss: TypeAlias = Callable[[Params], Float[Array, ""]]
BATCH = 500  # images a forward pass


def mean_loss(
    graphdef: nnx.GraphDef,
    images: UInt8[Array, "n h w c"],
    labels: Integer[Array, " n"],
    mean: Sequence[float],
    std: Sequence[float],
) -> Loss:
    """The mean cross-entropy of images, in nats, as a pure function of a network's variables.

    It can be compiled, mapped over stacked variables and differentiated, as often as the network.

    Args:
      graphdef: of the network, in its mode of evaluation.
      images: of the network's size.
      labels: their classes.
      mean: of a pixel per channel, in 0..255.
      std: likewise.
    """
    whole = len(images) // BATCH * BATCH

    def loss(params: Params) -> Float[Array, ""]:
        def total(batch: tuple[Array, Array]) -> Float[Array, ""]:
            model = nnx.merge(graphdef, params, copy=True)
            logits = call(model, ops.normalise(batch[0], mean, std))
            return jnp.sum(ops.cross_entropy(logits, batch[1]))

        batches = (
            images[:whole].reshape(-1, BATCH, *images.shape[1:]),
            labels[:whole].reshape(-1, BATCH),
        )
        sums = jnp.sum(lax.map(total, batches)) if whole else jnp.zeros(())
        if whole < len(images):
            sums += total((images[whole:], labels[whole:]))
        return sums / len(images)

    return loss


def combination(weights: Float[Array, " p"], points: Sequence[Params]) -> Params:
    """The sum of p points of the space of parameters, each times its weight."""

    def add(*leaves: Array) -> Array:
        terms = (weights[i].astype(leaf.dtype) * leaf for i, leaf in enumerate(leaves))
        return sum(terms, start=jnp.zeros_like(leaves[0]))

    return jax.tree.map(add, *points)
