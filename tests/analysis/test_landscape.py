"""Alignment, barriers, curvature and planes, of small networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from lenet_jax import data
from lenet_jax.analysis import alignment, hessian, plane
from lenet_jax.analysis.barrier import barrier, losses_between
from lenet_jax.analysis.loss import mean_loss
from lenet_jax.nn.lenet import LeNet
from lenet_jax.nn.mlp import MLP

pytestmark = pytest.mark.optimized(False)

SIZES = {"channels": (4, 6), "features": (12, 9), "image_size": 20, "backend": "plain"}


@functools.cache
def lenet(seed):
    return LeNet(**SIZES, rngs=nnx.Rngs(seed))


@functools.cache
def mlp(seed):
    return MLP(image_shape=(20, 20, 1), num_classes=10, features=(20, 15), rngs=nnx.Rngs(seed))


@pytest.fixture(scope="module")
def examples():
    """The middle of forty digits."""
    test = data.load("mnist").test
    return jnp.asarray(test.images[:40, 6:26, 6:26]), jnp.asarray(test.labels[:40].astype(np.int32))


def loss_of(graphdef, examples):
    return jax.jit(mean_loss(graphdef, *examples, mean=(33.0,), std=(79.0,)))


def shuffled(params, seed):
    random = np.random.default_rng(seed)
    layers = nnx.to_pure_dict(params).get("layers") or nnx.to_pure_dict(params)
    orders = [random.permutation(layer["bias"].size) for layer in layers.values()][:-1]
    return alignment.permute(params, orders), orders


@pytest.mark.parametrize("build", [lenet, mlp])
def test_a_shuffled_network_is_found_exactly(build, examples):
    graphdef, params = nnx.split(build(0))
    copy, orders = shuffled(params, 1)
    images = examples[0].astype(jnp.float32) / 255
    logits = [nnx.merge(graphdef, own)(images) for own in (params, copy)]
    np.testing.assert_allclose(*logits, atol=1e-5)  # the same function
    assert (ravel_pytree(params)[0] != ravel_pytree(copy)[0]).mean() > 0.5
    for one, other in zip(alignment.match(params, copy), orders, strict=True):
        np.testing.assert_array_equal(other[one], np.arange(len(one)))
    aligned = alignment.align(copy, params)
    assert jax.tree.structure(aligned) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, aligned, params)


def test_alignment_never_takes_networks_farther_apart():
    (_, one), (_, two) = nnx.split(lenet(0)), nnx.split(lenet(1))
    flat = [ravel_pytree(own)[0] for own in (one, two, alignment.align(two, one))]
    assert np.linalg.norm(flat[2] - flat[0]) < np.linalg.norm(flat[1] - flat[0])


def test_networks_that_do_not_fit_are_refused():
    (_, one), (_, two) = nnx.split(lenet(0)), nnx.split(mlp(0))
    with pytest.raises(ValueError, match="same layers"):
        alignment.align(two, one)
    with pytest.raises(ValueError, match="an order for each hidden layer"):
        alignment.permute(two, [np.arange(20), np.zeros(15, int)])
    (_, normalised) = nnx.split(nnx.BatchNorm(3, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="kernel"):
        alignment.match(normalised, normalised)


def test_a_barrier_is_the_rise_above_the_line_between_the_ends(examples):
    graphdef, one = nnx.split(lenet(0))
    two = nnx.split(lenet(1))[1]
    loss, shares = loss_of(graphdef, examples), jnp.linspace(0, 1, 5)
    losses = jax.jit(losses_between, static_argnums=0)(loss, one, two, shares)
    np.testing.assert_allclose(losses[jnp.array([0, 4])], [loss(one), loss(two)], rtol=1e-5)
    middle = jax.tree.map(lambda a, b: (a + b) / 2, one, two)
    np.testing.assert_allclose(losses[2], loss(middle), rtol=1e-5)
    assert barrier(jnp.array([1.0, 5.0, 2.0]), jnp.array([0.0, 0.5, 1.0])) == 3.5
    assert barrier(jnp.array([1.0, 0.0, 2.0]), jnp.array([0.0, 0.5, 1.0])) == 0


def test_the_loss_is_the_mean_over_all_images(examples, monkeypatch):
    graphdef, params = nnx.split(mlp(0))
    whole = loss_of(graphdef, examples)(params)
    monkeypatch.setattr("lenet_jax.analysis.loss.BATCH", 16)  # 40 images are two and a half batches
    np.testing.assert_allclose(loss_of(graphdef, examples)(params), whole, rtol=1e-6)


def test_lanczos_finds_the_eigenvalues_of_the_dense_hessian(examples):
    images, labels = examples[0][:, ::4, ::4], examples[1]
    shape = images.shape[1:]
    model = MLP(image_shape=shape, num_classes=10, features=(5,), rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(model)
    loss = loss_of(graphdef, (images, labels))
    flat, unravel = ravel_pytree(params)
    dense = jax.jit(jax.hessian(lambda x: loss(unravel(x))))(flat)
    dense = np.asarray(dense, np.float64)
    expected = np.linalg.eigvalsh((dense + dense.T) / 2)[::-1][:3]
    values, vectors = hessian.top_eigenpairs(loss, params, 3)
    np.testing.assert_allclose(values, expected, rtol=1e-3)
    for value, vector in zip(values, vectors, strict=True):
        np.testing.assert_allclose(dense @ vector, value * vector, atol=2e-3 * expected[0])


def test_max_pooling_and_relu_have_products_with_the_hessian(examples):
    """Which is symmetric."""
    graphdef, params = nnx.split(lenet(0))
    loss, vectors = loss_of(graphdef, examples), [nnx.split(lenet(seed))[1] for seed in (1, 2)]
    multiply = jax.jit(hessian.hessian_vector_product, static_argnums=0)
    products = [ravel_pytree(multiply(loss, params, vector))[0] for vector in vectors]
    crossed = [ravel_pytree(v)[0] @ p for v, p in zip(vectors, products[::-1], strict=True)]
    assert abs(crossed[0]) > 1e-3
    np.testing.assert_allclose(*crossed, rtol=1e-3)


def test_a_plane_holds_the_networks_that_it_goes_through(examples):
    graphdef, one = nnx.split(mlp(0))
    two, three = (nnx.split(mlp(seed))[1] for seed in (1, 2))
    loss = loss_of(graphdef, examples)
    through, places = plane.plane_through(one, two, three)
    for place, network in zip(places, (one, two, three), strict=True):
        (value,) = plane.losses_on(loss, through, place[:1], place[1:])
        np.testing.assert_allclose(value, [loss(network)], rtol=1e-4)
    apart = np.linalg.norm(ravel_pytree(one)[0] - ravel_pytree(three)[0])
    np.testing.assert_allclose(np.linalg.norm(places[2]), apart, rtol=1e-4)
    assert plane.losses_on(loss, through, jnp.zeros(3), jnp.zeros(2)).shape == (2, 3)


def test_random_directions_are_as_long_as_the_filters():
    _, params = nnx.split(lenet(0))
    drawn = plane.random_plane(jax.random.key(0), params)
    for direction in (drawn.first, drawn.second):
        pure, own = nnx.to_pure_dict(direction), nnx.to_pure_dict(params)
        kernels = [np.asarray(each["conv2"]["kernel"]).reshape(-1, 6) for each in (pure, own)]
        lengths = [np.linalg.norm(kernel, axis=0) for kernel in kernels]
        np.testing.assert_allclose(*lengths, rtol=1e-5)
        assert not pure["fc1"]["bias"].any()
    assert (ravel_pytree(drawn.first)[0] != ravel_pytree(drawn.second)[0]).mean() > 0.5
