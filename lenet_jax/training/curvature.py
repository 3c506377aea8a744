"""The curvature of the loss along each parameter: the diagonal of the Gauss–Newton matrix."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int32, Key, ScalarLike

from lenet_jax.nn import ops
from lenet_jax.nn.variables import join_variables, split_variables
from lenet_jax.training import parallel
from lenet_jax.training.batches import DeviceSplit
from lenet_jax.training.forward import apply
from lenet_jax.training.losses import PerExample
from lenet_jax.training.spec import Spec


def gauss_newton_diagonal(
    spec: Spec,
    variables: nnx.State,
    split: DeviceSplit,
    indices: Int32[Array, " n"],
    count: ScalarLike,
    key: Key[Array, ""],
) -> nnx.State:
    """Estimates the diagonal of the mean of Jᵀ H J over examples, for the trained parameters.

    J is the Jacobian of an example's logits in the parameters, and H the Hessian of its loss in the
    logits without its negative part. Each example adds the square of one gradient, that of its
    logits times the rows of a root of H with random signs, whose mean over the signs is its
    diagonal. No term is dropped: that of a shared weight has those of each pair of its uses.

    The network is as in evaluation, without dropout, and the images are not augmented.

    Args:
      spec: the static specification.
      variables: of the network.
      split: the images and labels.
      indices: the examples that may be taken, in this order.
      count: how many of them are, at least 1; may be traced.
      key: of the signs.

    Source: Schraudolph, "Fast curvature matrix-vector products" (2002); Bekas et al., "An estimator
    for the diagonal of a matrix" (2007). LeCun et al., "Gradient-based learning applied to document
    recognition" (1998), appendix C, propagates second derivatives back from layer to layer
    instead, which drops the terms of pairs of outputs, of units and of uses of a shared weight.
    """
    params, others = split_variables(variables, spec.frozen)
    loss = spec.loss or ops.cross_entropy  # whose curvature smooth labels do not change
    first, step = parallel.own_index(spec.num_devices), spec.num_devices
    count = jnp.asarray(count, jnp.int32)

    def add(turn: Int32[Array, ""], total: nnx.State) -> nnx.State:
        place = first + step * turn
        image, label = split.images_of(indices[place]), split.labels[indices[place]]

        def forward(params: nnx.State) -> Float[Array, " k"]:
            return apply(spec, join_variables(params, others), image[None])[0]

        logits, pull_back = jax.vjp(forward, params)
        signs = jax.random.rademacher(jax.random.fold_in(key, place), logits.shape, jnp.float32)
        row = jnp.matmul(signs, _root(loss, logits, label), precision="float32")
        (gradient,) = pull_back(row.astype(logits.dtype))
        return jax.tree.map(lambda t, g: t + jnp.square(g.astype(jnp.float32)), total, gradient)

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)
    total = lax.fori_loop(0, (count - first + step - 1) // step, add, zeros)
    total = parallel.sum_over_devices(total, spec.num_devices)
    return jax.tree.map(lambda leaf: leaf / count.astype(jnp.float32), total)


def _root(
    loss: PerExample, logits: Float[Array, " k"], label: Int32[Array, ""]
) -> Float[Array, "k k"]:
    """R, where Rᵀ R is the Hessian of a loss in the logits without its negative part."""

    def of_one(logits: Float[Array, " k"]) -> Float[Array, ""]:
        return loss(logits[None], label[None])[0]

    values, vectors = jnp.linalg.eigh(jax.jacrev(jax.grad(of_one))(logits.astype(jnp.float32)))
    return jnp.sqrt(jnp.maximum(values, 0.0))[:, None] * vectors.T
