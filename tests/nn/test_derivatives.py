"""Derivatives of every kind and order, of every backend, against the plain layers in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lenet_jax.nn import ops
from tests.support.backends import NATIVE

BATCH = 3


def draw(seed: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Parameters of a convolution and a linear layer, images, and labels."""
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (5, 5, 2, 3), "bias": (3,), "weight": (24, 4), "shift": (4,)}
    params = {name: 0.3 * rng.normal(size=shape) for name, shape in shapes.items()}
    return params, rng.normal(size=(BATCH, 8, 12, 2)), rng.integers(0, 4, BATCH).astype(np.int32)


def loss(params, images, labels, backend):
    x = ops.conv_pool_relu(images, params["kernel"], params["bias"], backend=backend)
    logits = ops.linear(ops.flatten(x), params["weight"], params["shift"], backend=backend)
    return jnp.mean(ops.cross_entropy(jnp.tanh(logits), labels))


def one_loss(params, image, label, backend):
    return loss(params, image[None], label[None], backend)


def jvp(loss, params, tangents, images, labels):
    return jax.jvp(lambda p, x: loss(p, x, labels), (params, images), (tangents, 0.5 * images))


def linearize(loss, params, tangents, images, labels):
    return jax.linearize(lambda p: loss(p, images, labels), params)[1](tangents)


def jacfwd(loss, params, tangents, images, labels):
    return jax.jit(jax.jacfwd(loss))(params, images, labels)


def image_gradient(loss, params, tangents, images, labels):
    return jax.jit(jax.grad(loss, argnums=(0, 1)))(params, images, labels)


def hessian_vector(loss, params, tangents, images, labels):
    gradient = jax.grad(loss, argnums=(0, 1))
    primals, directions = (params, images), (tangents, 0.5 * images)
    return jax.jvp(lambda p, x: gradient(p, x, labels), primals, directions)


def gradient_of_gradient(loss, params, tangents, images, labels):
    def norm(params, images):
        gradients = jax.grad(loss, argnums=(0, 1))(params, images, labels)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradients))

    return jax.grad(norm, argnums=(0, 1))(params, images)


def gradient_of_tangent(loss, params, tangents, images, labels):
    return jax.grad(lambda p: jax.jvp(lambda p: loss(p, images, labels), (p,), (tangents,))[1])(
        params
    )


def hessian(loss, params, tangents, images, labels):
    def of_bias_and_shift(few):
        return loss(params | few, images, labels)

    return jax.hessian(of_bias_and_shift)({name: params[name] for name in ("bias", "shift")})


def third_order(loss, params, tangents, images, labels):
    def hvp(params):
        return jax.jvp(lambda p: jax.grad(loss)(p, images, labels), (params,), (tangents,))[1]

    return jax.jvp(hvp, (params,), (tangents,))


def gradient_of_each(loss, params, tangents, images, labels):
    loss = partial(one_loss, **loss.keywords)
    return jax.vmap(jax.grad(loss, argnums=(0, 1)), in_axes=(None, 0, 0))(params, images, labels)


def hessian_vector_of_each(loss, params, tangents, images, labels):
    loss = partial(one_loss, **loss.keywords)

    def hvp(image, label):
        return jax.jvp(lambda p: jax.grad(loss)(p, image, label), (params,), (tangents,))[1]

    return jax.vmap(hvp)(images, labels)


def gradient_of_networks(loss, params, tangents, images, labels):
    several = jax.tree.map(lambda a, b: jnp.stack([a, a + b]), params, tangents)
    return jax.vmap(jax.grad(loss), in_axes=(0, None, None))(several, images, labels)


def each_of_networks(loss, params, tangents, images, labels):
    several = jax.tree.map(lambda a, b: jnp.stack([a, a + b]), params, tangents)
    each = jax.vmap(jax.grad(partial(one_loss, **loss.keywords)), in_axes=(None, 0, 0))
    return jax.vmap(each, in_axes=(0, None, None))(several, images, labels)


DERIVATIVES = (
    *(jvp, linearize, jacfwd, image_gradient, hessian_vector, gradient_of_gradient),
    *(gradient_of_tangent, hessian, third_order, gradient_of_each, hessian_vector_of_each),
    *(gradient_of_networks, each_of_networks),
)


@pytest.mark.parametrize("backend", ["phase", NATIVE])
@pytest.mark.parametrize("derivative", DERIVATIVES, ids=lambda derivative: derivative.__name__)
def test_derivatives_equal_those_of_the_plain_layers_in_float64(derivative, backend):
    params, images, labels = draw(0)
    tangents, _, _ = draw(1)
    with jax.enable_x64(True):
        wide = jax.tree.map(jnp.asarray, (params, tangents, images, labels))
        exact = derivative(partial(loss, backend="plain"), *wide)
        exact = jax.tree.map(np.asarray, exact)
    assert {leaf.dtype for leaf in jax.tree.leaves(exact)} == {np.dtype("float64")}
    narrow = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (params, tangents, images))
    ours, plain = (
        derivative(partial(loss, backend=name), *narrow, jnp.asarray(labels))
        for name in (backend, "plain")
    )
    assert jax.tree.structure(ours) == jax.tree.structure(exact)
    for actual, rounded, expected in zip(*map(jax.tree.leaves, (ours, plain, exact)), strict=True):
        scale = max(1.0, float(np.max(np.abs(expected))))
        # A third derivative in float32 loses digits; the plain layers lose them too.
        rounding = float(np.max(np.abs(rounded - expected))) / scale
        bound = max(1e-5, 2 * rounding if derivative is third_order else 0)
        np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=bound)
