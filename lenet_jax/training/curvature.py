"""The curvature of the loss along each parameter: the diagonal of the Gauss–Newton matrix."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int32, Key, ScalarLike

from lenet_jax import machine
from lenet_jax.device_defaults import defaults_of
from lenet_jax.nn import ops
from lenet_jax.nn.lenet import LeNet
from lenet_jax.nn.uses import vjp_of_squares
from lenet_jax.nn.variables import join_variables, split_variables
from lenet_jax.training import parallel
from lenet_jax.training.batches import DeviceSplit
from lenet_jax.training.forward import apply
from lenet_jax.training.losses import PerExample
from lenet_jax.training.spec import Spec

CHUNK = 50


def gauss_newton_diagonal(
    spec: Spec,
    variables: nnx.State,
    split: DeviceSplit,
    indices: Int32[Array, " n"],
    count: ScalarLike,
    key: Key[Array, ""],
) -> nnx.State:
    """Estimates the diagonal of the mean of Jᵀ H J over examples, for the trained parameters.

    J is the Jacobian of an example's logits in the uses of the parameters, and H the Hessian of its
    loss in the logits without its negative part. A shared parameter, of which each place of a map
    is a use, has the sum over its uses (see `vjp_of_squares`), without the terms of pairs of them.
    Each example adds the square of one gradient, that of its logits times the rows of a root of H
    with random signs, whose mean over the signs is its diagonal.

    The network is as in evaluation, without dropout, and the images are not augmented.

    Args:
      spec: the static specification.
      variables: of the network.
      split: the images and labels.
      indices: the examples that may be taken, in this order.
      count: how many of them are, at least 1; may be traced.
      key: of the signs.

    Source: LeCun et al., "Gradient-based learning applied to document recognition" (1998), appendix
    C, which propagates second derivatives back from layer to layer, and so drops the terms of pairs
    of outputs and of units too. Random signs: Bekas et al., "An estimator for the diagonal of a
    matrix" (2007).
    """
    params, others = split_variables(variables, spec.frozen)
    loss = spec.loss or ops.cross_entropy  # whose curvature smooth labels do not change
    if spec.network is LeNet:  # whose other backends would hide the uses
        spec = dataclasses.replace(spec, model=(*spec.model, ("backend", "plain")))
    fast = spec.network is not LeNet and defaults_of(machine.devices()[0]).rewrites
    first, step = parallel.own_index(spec.num_devices), spec.num_devices
    count = jnp.asarray(count, jnp.int32)
    chunks = (count + CHUNK - 1) // CHUNK

    def forward(params: nnx.State, images: Array) -> Float[Array, "b k"]:
        return apply(spec, join_variables(params, others), images, fast=False)

    def row(place: Int32[Array, ""], logits: Float[Array, " k"], label: Int32[Array, ""]) -> Array:
        signs = jax.random.rademacher(jax.random.fold_in(key, place), logits.shape, jnp.float32)
        product = jnp.matmul(signs, _root(loss, logits, label), precision="float32")
        return jnp.where(place < count, product, 0).astype(logits.dtype)

    def add(turn: Int32[Array, ""], total: nnx.State) -> nnx.State:
        places = jnp.arange(CHUNK) + (first + step * turn) * CHUNK
        chosen = indices[jnp.minimum(places, count - 1)]
        logits, squares = vjp_of_squares(forward, params, split.images_of(chosen), fast=fast)
        new = squares(jax.vmap(row)(places, logits, split.labels[chosen]))
        return jax.tree.map(lambda t, s: t + s.astype(jnp.float32), total, new)

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)
    total = lax.fori_loop(0, (chunks - first + step - 1) // step, add, zeros)
    total = parallel.sum_over_devices(total, spec.num_devices)
    return jax.tree.map(lambda leaf: leaf / count.astype(jnp.float32), total)


def _root(
    loss: PerExample, logits: Float[Array, " k"], label: Int32[Array, ""]
) -> Float[Array, "k k"]:
    """R, where Rᵀ R is the Hessian of a loss in the logits without its negative part."""

    def of_one(logits: Float[Array, " k"]) -> Float[Array, ""]:
        return loss(logits[None], label[None])[0]

    values, vectors = _eigh(jax.jacrev(jax.grad(of_one))(logits.astype(jnp.float32)))
    return jnp.sqrt(jnp.maximum(values, 0.0))[:, None] * vectors.T


@jax.custom_batching.sequential_vmap
def _eigh(matrix: Float[Array, "k k"]) -> tuple[Float[Array, " k"], Float[Array, "k k"]]:
    # On a CPU a batch of many waits for threads that may all wait likewise, one for each device.
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors
