"""The fast forms of any module's layers: values and derivatives are the module's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from lenet_jax.device_defaults import TABLE
from lenet_jax.nn import cpu_kernels, native, rewrite
from lenet_jax.nn.flax_mnist import FlaxMNIST
from lenet_jax.nn.rewrite import fast_forms
from lenet_jax.nn.variables import split_variables


def equal(one, other, tolerance):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        scale = max(float(jnp.abs(a).max()), 1e-9)
        np.testing.assert_allclose(a / scale, b / scale, atol=tolerance, rtol=0)


def second_order(loss):
    """The gradient of the squared norm of the gradient."""

    def squared(params, x):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(jax.grad(loss)(params, x)))

    return jax.grad(squared, argnums=(0, 1))


DERIVATIVES = {
    "gradient": lambda loss: jax.grad(loss, argnums=(0, 1)),
    "forward over reverse": lambda loss: lambda p, x: jax.jvp(jax.grad(loss), (p, x), (p, x))[1],
    "of each image": lambda loss: jax.vmap(
        jax.grad(lambda p, x: loss(p, x[None])), in_axes=(None, 0)
    ),
    "reverse over reverse": second_order,
}


@pytest.mark.optimized(False)
@pytest.mark.parametrize("name", DERIVATIVES)
@pytest.mark.parametrize(
    ("size", "stride", "padding", "activation", "pool"),
    [
        (3, 1, "SAME", nnx.relu, functools.partial(nnx.max_pool, strides=(2, 2))),
        (5, 1, "VALID", nnx.tanh, functools.partial(nnx.avg_pool, strides=(2, 2))),
        (3, 2, "SAME", nnx.silu, functools.partial(nnx.max_pool, strides=(1, 1))),
        (1, 3, "VALID", nnx.gelu, functools.partial(nnx.avg_pool, padding="SAME")),
    ],
)
def test_values_and_derivatives_are_the_modules(name, size, stride, padding, activation, pool):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # as Flax's pools need it
        conv = nnx.Conv(
            2,
            3,
            (size, size),
            strides=stride,
            padding=padding,
            param_dtype=jnp.float64,
            rngs=nnx.Rngs(0),
        )
        graphdef, params = nnx.split(conv)
        x = jax.random.normal(jax.random.key(1), (3, 9, 10, 2), jnp.float64)

        def loss(params, x):
            y = pool(activation(nnx.merge(graphdef, params)(x)), (2, 2))
            return jnp.sum(jnp.sin(y.reshape(len(y), -1)) ** 2)

        assert "conv_general" not in str(jax.make_jaxpr(fast_forms(loss))(params, x))
        derive = DERIVATIVES[name]
        expected, found = (jax.jit(derive(f))(params, x) for f in (loss, fast_forms(loss)))
        equal(expected, found, 1e-12)


@pytest.mark.optimized(False)
@pytest.mark.skipif(native.missing() is not None, reason="no C++ compiler")
@pytest.mark.parametrize("name", DERIVATIVES)
@pytest.mark.parametrize(
    ("images", "sides", "channels", "size", "strides", "padding"),
    [
        (64, (10, 9), (3, 40), (3, 3), (1, 1), "SAME"),
        (17, (11, 12), (30, 17), (5, 3), (2, 1), "VALID"),
        (1, (7, 7), (1, 33), (2, 2), (2, 3), ((0, 2), (3, 1))),
        (32, (50, 60), (2, 17), (3, 3), (1, 1), "SAME"),  # in several bands of rows
        (40, (9, 11), (5, 3), (3, 3), (2, 1), "SAME"),  # few filters
        (2, (10, 9), (3, 20), (3, 5), (1, 1), "SAME"),  # few images
        (5, (12, 11), (2, 6), (3, 3), (2, 2), "SAME"),  # few of both
    ],
)
def test_the_native_convolution_and_its_derivatives(
    name, images, sides, channels, size, strides, padding
):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (images, *sides, channels[0]))
    kernel = jax.random.normal(keys[1], (*size, *channels))

    def loss(kernel, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers)
        return jnp.sum(jnp.sin(y.reshape(len(y), -1) / 10) ** 2)

    assert "native_convolution" in str(jax.make_jaxpr(fast_forms(loss))(kernel, x))
    derive = DERIVATIVES[name]
    expected, found = (jax.jit(derive(f))(kernel, x) for f in (loss, fast_forms(loss)))
    equal(expected, found, 2e-5)


@pytest.mark.skipif(native.missing() is not None, reason="no C++ compiler")
@pytest.mark.parametrize("images", range(1, 16))
def test_few_images_give_the_same_bits_as_in_a_large_batch(images):
    rng = np.random.default_rng(images)
    channels, filters = int(rng.integers(1, 6)), int(rng.choice([2, 6, 8, 15, 16, 17, 40]))
    size, strides = (5, 1 + images % 5), (1 + images % 3, 1 + images % 2)
    padding = ((3, 1), (-1, 2)) if images % 4 else ((0, 0), (0, 0))
    x = rng.normal(size=(channels, 9, 11, 33)).astype(np.float32)
    kernel = rng.normal(size=(*size, channels, filters)).astype(np.float32)
    many = cpu_kernels.convolve(jnp.asarray(x), jnp.asarray(kernel), strides, padding)
    few = cpu_kernels.convolve(jnp.asarray(x[..., :images]), jnp.asarray(kernel), strides, padding)
    np.testing.assert_array_equal(few, many[..., :images])
    cotangent = rng.normal(size=many.shape).astype(np.float32)
    cotangent[..., images:] = 0
    expected, found = (
        cpu_kernels.convolution_kernel_gradient(
            jnp.asarray(x[..., :count]), jnp.asarray(cotangent[..., :count]), size, strides, padding
        )
        for count in (33, images)
    )
    equal(expected, found, 1e-6)


@pytest.mark.skipif(native.missing() is not None, reason="no C++ compiler")
@pytest.mark.parametrize(("images", "filters"), [(37, 29), (2, 29), (3, 6), (5, 1)])
def test_the_native_convolution_gives_the_same_bits_to_equal_windows_and_images(images, filters):
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 20, filters))
    tile = jax.random.normal(jax.random.key(1), (1, 2, 2, 20))
    x = jnp.tile(tile, (images, 6, 5, 1))

    def convolve(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)

    y = np.asarray(fast_forms(convolve)(x, kernel))
    np.testing.assert_array_equal(y, np.broadcast_to(np.tile(y[:1, :2, :2], (1, 5, 4, 1)), y.shape))
    kernels = jnp.stack([kernel, kernel[::-1]])
    both = jax.vmap(fast_forms(convolve), in_axes=(None, 0))(x, kernels)
    np.testing.assert_array_equal(both[0], y)


@pytest.mark.compiler
@pytest.mark.parametrize(("platform", "calls"), [("cpu", True), ("gpu", False)])
def test_only_a_cpu_takes_the_native_convolution(platform, calls, monkeypatch):
    """A compiler may be there on a machine with a GPU too."""
    row = next(row for row in TABLE if row.platform == platform)
    monkeypatch.setattr(rewrite, "defaults_of", lambda device: row)
    network, images = nnx.Conv(1, 6, (5, 5), rngs=nnx.Rngs(0)), jnp.ones((4, 12, 12, 1))
    program = jax.make_jaxpr(rewrite.fast_forms(network))(images)
    assert ("native_convolution" in str(program)) == calls


def test_a_pool_keeps_the_first_not_a_number():
    x = jnp.array([1.0, 2.0, jnp.nan, 3.0]).reshape(1, 2, 2, 1)

    def pool(x):
        return nnx.max_pool(x, (2, 2), strides=(2, 2)).sum()

    value, gradient = jax.value_and_grad(fast_forms(pool))(x)
    assert jnp.isnan(value)
    np.testing.assert_array_equal(gradient.ravel(), [0, 0, 1, 0])
    assert jnp.isnan(
        fast_forms(lambda x: pool(nnx.relu(nnx.Conv(1, 2, (1, 1), rngs=nnx.Rngs(0))(x))))(x)
    )


def test_the_first_maximum_gets_the_gradient():
    def loss(x):
        return jnp.sum(nnx.max_pool(x, (2, 2), strides=(2, 2)))

    x = jnp.ones((1, 4, 4, 1))
    expected = jnp.zeros((4, 4)).at[::2, ::2].set(1)
    np.testing.assert_array_equal(jax.grad(fast_forms(loss))(x)[0, ..., 0], expected)


def test_dropout_draws_the_same_bits():
    def mask(key):
        return jax.random.bernoulli(key, 0.3, (2, 3, 4, 5))

    keys = jax.random.split(jax.random.key(3), 3)
    assert "random_bits" not in str(jax.make_jaxpr(fast_forms(mask))(keys[0]))
    np.testing.assert_array_equal(mask(keys[0]), fast_forms(mask)(keys[0]))
    np.testing.assert_array_equal(jax.vmap(mask)(keys), jax.vmap(fast_forms(mask))(keys))


@pytest.mark.optimized(False)
def test_a_network_with_statistics_and_dropout_trains_alike():
    model = FlaxMNIST(image_shape=(8, 8, 1), num_classes=5, features=7, rngs=nnx.Rngs(0))
    graphdef, variables = nnx.split(model)
    params, others = split_variables(variables)
    x = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))

    def loss(params, x):
        model = nnx.merge(graphdef, params, others, copy=True)
        value = jnp.mean(jnp.sin(model(x)))
        return value, split_variables(nnx.state(model))[1]

    with jax.numpy_dtype_promotion("standard"):  # as Flax's average pooling needs it
        expected, found = (
            jax.jit(jax.value_and_grad(f, has_aux=True))(params, x)
            for f in (loss, fast_forms(loss))
        )
    ((value, state), grads), ((fast_value, fast_state), fast_grads) = expected, found
    # As one array: batch normalisation cancels the gradient of conv2's bias but for rounding.
    equal(value, fast_value, 1e-5)
    equal(ravel_pytree(grads)[0], ravel_pytree(fast_grads)[0], 1e-5)
    state, fast_state = (nnx.filter_state(s, nnx.BatchStat) for s in (state, fast_state))
    equal(state, fast_state, 1e-5)


def test_what_has_no_fast_form_stays():
    def grouped(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=2,
        )

    x, kernel = jnp.ones((2, 5, 5, 2)), jnp.ones((3, 3, 1, 4))
    np.testing.assert_array_equal(grouped(x, kernel), fast_forms(grouped)(x, kernel))
    wide = jnp.ones((0, 5, 5, 2))
    assert fast_forms(grouped)(wide, kernel).shape == (0, 5, 5, 4)


def test_a_random_kernel_and_one_that_is_too_large():
    def noisy(key, x):
        kernel = jax.random.normal(key, (3, 3, 2, 4)) * jax.random.bernoulli(key, 0.5, (3, 3, 2, 4))
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    with jax.numpy_dtype_promotion("standard"):
        for side in (5, 2):
            x = jnp.ones((1, side, side, 2))
            expected, found = (f(jax.random.key(0), x) for f in (noisy, fast_forms(noisy)))
            np.testing.assert_allclose(found, expected, rtol=1e-5)
