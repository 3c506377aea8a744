"""The barrier of the loss on the straight line between two networks."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lenet_jax.analysis.loss import Loss, Params, combination


def losses_between(
    loss: Loss, start: Params, end: Params, shares: Float[Array, " t"]
) -> Float[Array, " t"]:
    """The loss of (1 - share) · start + share · end for each share, in [0, 1]."""

    def at(share: Float[Array, ""]) -> Float[Array, ""]:
        return loss(combination(jnp.stack([1 - share, share]), [start, end]))

    return lax.map(at, shares)


def barrier(losses: Float[Array, " t"], shares: Float[Array, " t"]) -> Float[Array, ""]:
    """How far the loss rises above the line between its values at both ends, in its own unit.

    Args:
      losses: of `losses_between`.
      shares: those of the losses, from 0 to 1.

    Source: Entezari, Sedghi, Saukh, Neyshabur, "The role of permutation invariance in linear mode
    connectivity of neural networks", 2022, definition 2.1.
    """
    return jnp.max(losses - (1 - shares) * losses[0] - shares * losses[-1])
