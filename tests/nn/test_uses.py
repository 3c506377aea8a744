"""The squares at the uses of weights are those of weights that are not shared."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from lenet_jax.nn.lenet_1998 import LeNet1, TableConv
from lenet_jax.nn.uses import vjp_of_squares

KEYS = jax.random.split(jax.random.key(0), 4)


def squares(function, weights, inputs, cotangent=None, *, fast=False):
    value, pull_back = vjp_of_squares(function, weights, inputs, fast=fast)
    np.testing.assert_allclose(value, function(weights, inputs), rtol=1e-5, atol=1e-5)
    return pull_back(jnp.ones_like(value) if cotangent is None else cotangent)


def of_own(function, own, inputs, cotangent):
    """The squares of derivatives along weights that each use has of its own."""
    _, pull_back = jax.vjp(lambda own: function(own, inputs), own)
    return jnp.square(pull_back(cotangent)[0])


def test_each_example_is_a_use():
    x, w = jax.random.normal(KEYS[0], (5, 4)), jax.random.normal(KEYS[1], (4, 3))
    bias, rows = jax.random.normal(KEYS[2], (3,)), jax.random.normal(KEYS[3], (5, 3))

    def network(weights, x):
        w, bias = weights
        return jnp.tanh(x @ w + bias[None])

    def of_each(own, x):
        return jax.vmap(lambda own, row: network(own, row[None])[0])(own, x)

    each = jnp.broadcast_to(w, (5, 4, 3)), jnp.broadcast_to(bias, (5, 3))
    _, pull_back = jax.vjp(lambda own: of_each(own, x), each)
    expected = [jnp.sum(jnp.square(g), 0) for g in pull_back(rows)[0]]
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5),
        squares(network, [w, bias], x, rows),
        expected,
    )


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("layer", ["conv", "table"])
def test_each_place_of_a_map_is_a_use(layer, fast):
    """Against kernels that each place has of its own."""
    rngs = nnx.Rngs(0)
    if layer == "conv":
        module = nnx.Conv(3, 4, (5, 5), padding="VALID", rngs=rngs)
        kernel = module.kernel[...]
    else:
        module = TableConv(3, ((0, 1), (1, 2), (0,), (0, 1, 2)), rngs=rngs)
        kernel = module.dense_kernel()
    bias = jnp.asarray(module.bias)[None, None, None]
    graphdef, state = nnx.split(module)
    x = jax.random.normal(KEYS[0], (2, 7, 8, 3))
    rows = jax.random.normal(KEYS[1], (2, 3, 4, 4))

    def network(state, x):
        return nnx.merge(graphdef, state)(x)

    def of_places(own, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        sums = lax.conv_general_dilated_local(x, own, (1, 1), "VALID", (5, 5), None, None, numbers)
        sums += bias
        return sums if layer == "conv" else 1.7159 * jnp.tanh(2 / 3 * sums)

    flat = kernel.transpose(2, 0, 1, 3).reshape(75, 4)  # as the windows have it
    own = jnp.broadcast_to(flat, (3, 4, 75, 4))
    of_images = [of_own(of_places, own, x[i : i + 1], rows[i : i + 1]) for i in range(2)]
    dense = jnp.sum(jnp.stack(of_images), (0, 1, 2)).reshape(3, 5, 5, 4).transpose(1, 2, 0, 3)
    if layer == "table":
        inputs, outputs = [0, 1, 1, 2, 0, 0, 1, 2], [0, 0, 1, 1, 2, 3, 3, 3]
        dense = dense[:, :, inputs, outputs]
    found = squares(network, state, x, rows, fast=fast)
    np.testing.assert_allclose(found["kernel"][...], dense, rtol=2e-5, atol=1e-6)


def test_a_weight_that_is_used_twice_has_the_sum():
    x = jax.random.normal(KEYS[0], (3,))

    def function(w, x):
        scaled = 2.0 * jnp.concatenate([w, w])  # a path for each use
        return scaled[:3] * x + scaled[3:] * jnp.square(x)

    found = squares(function, jnp.ones(3), x)
    np.testing.assert_allclose(found, (2 * x) ** 2 + (2 * x**2) ** 2, rtol=1e-6)


def test_a_weight_of_another_operation_has_the_square_of_its_derivative():
    """A rule of its own, and a loop, hide the uses."""
    x = jax.random.normal(KEYS[0], (4,))

    @jax.custom_jvp
    def doubled(w):
        return 2 * w

    doubled.defjvp(lambda primals, tangents: (doubled(*primals), 2 * tangents[0]))

    def function(weights, x):
        ruled, looped, plain = weights
        _, sums = lax.scan(lambda total, x: (total + looped * x,) * 2, jnp.zeros(()), x)
        return (doubled(ruled) * x + sums + plain * x).sum()

    found = squares(function, [jnp.ones(())] * 3, x)
    whole = jax.grad(function)([jnp.ones(())] * 3, x)
    np.testing.assert_allclose(found[:2], jnp.square(jnp.array(whole[:2])), rtol=1e-6)
    np.testing.assert_allclose(found[2], jnp.sum(x**2), rtol=1e-6)


def test_unused_weights_and_comparisons_have_none():
    def function(weights, x):
        used, _, limit = weights
        return jnp.where(x > limit, used * x, 0.0)

    x = jnp.array([-1.0, 2.0, 3.0])
    found = squares(function, [jnp.ones(()), jnp.ones(2), jnp.zeros(())], x)
    assert [np.asarray(leaf).tolist() for leaf in found] == [13.0, [0.0, 0.0], 0.0]


def test_fast_forms_and_members_side_by_side_change_nothing():
    network = LeNet1(image_shape=(28, 28, 1), num_classes=10, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(network)
    x, rows = jax.random.normal(KEYS[0], (3, 28, 28, 1)), jax.random.normal(KEYS[1], (3, 10))

    def forward(state, x):
        return nnx.merge(graphdef, state)(x)

    def of(state, fast):
        return vjp_of_squares(forward, state, x, fast=fast)[1](rows)

    plain, fast = (jax.jit(functools.partial(of, fast=fast))(state) for fast in (False, True))
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), state)
    both = jax.jit(jax.vmap(functools.partial(of, fast=True)))(two)
    for other in (fast, jax.tree.map(lambda leaf: leaf[0], both)):
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6), plain, other
        )
