import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lenet_jax import train
from lenet_jax.checkpoint import Checkpoints

NOTES = {"epoch": 3, "best_accuracy": 0.1 + 0.2, "train_seconds": 1e-17}


@pytest.fixture(scope="module")
def state():
    """All that a run has to save: parameters, the optimiser's buffers, counters, and keys."""
    params = nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Param)
    buffers = optax.adam(0.1).init(params)
    return train.TrainState(
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


def test_what_was_saved_comes_back_to_the_bit(tmp_path, state):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest() is None
        checkpoints.save(3, state, NOTES)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest() == 3
        restored, notes = checkpoints.restore(3, zeroed(state))
    assert notes == NOTES
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for expected, found in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True):
        assert found.dtype == expected.dtype
    for expected, found in zip(bits(state), bits(restored), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_numbers_that_are_hard_to_write_come_back(tmp_path):
    hard = [0.0, -0.0, 1e-45, np.nextafter(np.float32(1), np.float32(2)), np.inf, np.nan]
    values = {"hard": jnp.asarray(hard, jnp.float32), "last": jnp.int32(2**31 - 1)}
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, values, {})
        restored, _ = checkpoints.restore(1, zeroed(values))
    assert np.asarray(restored["hard"]).tobytes() == np.asarray(values["hard"]).tobytes()
    assert restored["last"] == 2**31 - 1


def test_the_latest_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for epoch in (1, 2, 5):
            checkpoints.save(epoch, {"x": jnp.full(3, epoch)}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "5"]
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest() == 5
        for epoch in (2, 5):
            restored, _ = checkpoints.restore(epoch, {"x": jnp.zeros(3, jnp.int32)})
            np.testing.assert_array_equal(restored["x"], [epoch] * 3)


def test_what_is_donated_while_it_is_written_is_saved_as_it_was(tmp_path):
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.zeros(4_000_000)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, {"x": x}, {})
        for _ in range(10):
            x = step(x)
        x.block_until_ready()
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        restored, _ = checkpoints.restore(1, {"x": x})
    assert np.unique(np.asarray(restored["x"])).tolist() == [0.0]
