"""States for tests of checkpoints, and helpers that restore and compare them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from lenet_jax.storage.checkpoint import Checkpoints
from lenet_jax.training.step import TrainState


def make_state():
    """All that a run saves: parameters, the optimiser's buffers, counters, and keys."""
    params = nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Param)
    buffers = optax.adam(0.1).init(params)
    return TrainState(
        params=params,
        opt_state=jax.tree.map(lambda leaf: leaf + jnp.ones((), leaf.dtype), buffers),
        step=jnp.int32(7),
        order_key=jax.random.key(5),
        augment_key=jax.random.key(6),
    )


def zeroed(tree):
    def zero(leaf):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        return jnp.zeros_like(leaf)

    return jax.tree.map(zero, tree)


def bits(tree):
    return [
        np.asarray(jax.random.key_data(leaf))
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else np.asarray(leaf)
        for leaf in jax.tree.leaves(tree)
    ]


def restore(directory, like):
    """The restored arrays, the metadata, and the warnings."""
    warnings = []
    with Checkpoints(directory, keep=2) as checkpoints:
        restored = checkpoints.restore(like, warnings.append)
        assert restored is not None
        return *restored, warnings


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
    for a, b in zip(bits(actual), bits(expected), strict=True):
        np.testing.assert_array_equal(a, b)
