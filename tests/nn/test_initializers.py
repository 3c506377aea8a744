"""Values that are drawn at once are those that JAX draws one by one."""

import jax
import numpy as np
import pytest
from flax import nnx

from lenet_jax.nn.initializers import Draw, draw_uniform, initializers
from lenet_jax.nn.lenet import LeNet

SHAPES = [(6,), (5, 5, 1, 6), (1,), (300, 120)]


def draws(key: jax.Array) -> list[Draw]:
    keys = jax.random.split(key, len(SHAPES))
    bounds = 0.3, 0.2, 0.1, 0.05
    return [Draw(*each) for each in zip(keys, SHAPES, bounds, strict=True)]


def one_by_one(key: jax.Array) -> list[jax.Array]:
    return [
        jax.random.uniform(k, shape, np.float32, minval=-bound, maxval=bound)
        for k, shape, bound in draws(key)
    ]


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_values_equal_those_drawn_one_by_one(impl):
    key = jax.random.key(7, impl=impl)
    expected = jax.jit(one_by_one)(key)
    drawn = jax.jit(lambda key: draw_uniform(draws(key)))(key)
    for values, other in zip(drawn, expected, strict=True):
        np.testing.assert_array_equal(values, other)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_values_are_the_same_where_jax_computes_in_float64(impl):
    key = jax.random.key(7, impl=impl)
    expected = draw_uniform(draws(key))
    with jax.enable_x64(True):
        for values, other in zip(draw_uniform(draws(key)), expected, strict=True):
            assert values.dtype == np.float32
            np.testing.assert_array_equal(values, other)


def test_members_draw_what_each_draws_alone():
    keys = jax.random.split(jax.random.key(3, impl="threefry2x32"), 4)
    together = jax.jit(jax.vmap(lambda key: draw_uniform(draws(key))))(keys)
    for member, key in enumerate(keys):
        for values, other in zip(together, jax.jit(one_by_one)(key), strict=True):
            np.testing.assert_array_equal(values[member], other)


@pytest.mark.parametrize("init", ["torch", "flax", "lecun_1998"])
def test_a_lenet_has_the_values_of_its_layers_initializers(init):
    fan_in = {"conv1": 25, "conv2": 150, "fc1": 300, "fc2": 120, "fc3": 84}
    model = LeNet(init=init, rngs=nnx.Rngs(params=5))
    rngs = nnx.Rngs(params=5)
    for name, n in fan_in.items():
        layer = getattr(model, name)
        shape = layer.kernel.shape
        if name.startswith("conv"):
            alone = nnx.Conv(shape[2], shape[3], (5, 5), rngs=rngs, **initializers(init, n))
        else:
            alone = nnx.Linear(*shape, rngs=rngs, **initializers(init, n))
        jax.tree.map(np.testing.assert_array_equal, nnx.state(layer), nnx.state(alone))
