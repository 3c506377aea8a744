import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lenet_jax.nn import autograd


def forward(params, x):
    return jnp.tanh(x @ params["weight"] + params["bias"].reshape(1, -1))


@pytest.fixture
def params():
    weight = jax.random.normal(jax.random.key(0), (3, 2))
    return {"weight": weight, "bias": jnp.asarray([0.1, -0.2])}


X = jax.random.normal(jax.random.key(1), (4, 3))
COTANGENT = jax.random.normal(jax.random.key(2), (4, 2))


def test_backward_is_the_vector_jacobian_product(params):
    out, grads = autograd.backward(forward, params, X, COTANGENT)
    jacobian = jax.jacobian(forward)(params, X)
    np.testing.assert_array_equal(out, forward(params, X))
    for name, grad in grads.items():
        by_hand = np.einsum("bk,bk...->...", COTANGENT, jacobian[name])
        np.testing.assert_allclose(grad, by_hand, rtol=1e-5, atol=1e-6)


def test_a_scalar_needs_no_cotangent(params):
    def loss(params, x):
        return jnp.sum(forward(params, x) ** 2)

    out, grads = autograd.backward(loss, params, X)
    np.testing.assert_array_equal(out, loss(params, X))
    np.testing.assert_allclose(grads["bias"], jax.grad(loss)(params, X)["bias"], rtol=1e-6)


def test_auxiliary_data_are_returned(params):
    def loss(params, x):
        out = forward(params, x)
        return jnp.sum(out), out

    _, _, out = autograd.backward(loss, params, X, has_aux=True)
    np.testing.assert_array_equal(out, forward(params, X))


@pytest.mark.parametrize(
    ("cotangent", "message"),
    [
        (None, r"an output of shape \(4, 2\) needs a cotangent"),
        (jnp.ones((1, 2)), r"float32 of shape \(1, 2\).*float32 of shape \(4, 2\)"),
        (jnp.ones((4, 2), jnp.int32), r"int32 of shape \(4, 2\).*float32 of shape \(4, 2\)"),
    ],
)
def test_a_wrong_cotangent_is_refused_with_both_shapes(params, cotangent, message):
    with pytest.raises(ValueError, match=message):
        autograd.backward(forward, params, X, cotangent)


def test_two_backwards_without_zero_grad_give_the_sum(params):
    _, once = autograd.backward(forward, params, X, COTANGENT)
    grads = autograd.zero_grad(params)
    for _ in range(2):
        _, new = autograd.backward(forward, params, X, COTANGENT)
        grads = autograd.accumulate(grads, new)
    np.testing.assert_allclose(grads["weight"], 2 * once["weight"], rtol=1e-6)
    assert not jax.tree.reduce(lambda a, b: a or np.any(b), autograd.zero_grad(grads), False)
