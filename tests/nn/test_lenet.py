import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lenet_jax.nn.lenet import STEPS, LeNet
from tests.support.backends import NATIVE


def num_params(model: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize(("channels", "expected"), [((6, 12), 49_102), ((6, 16), 61_706)])
def test_parameter_count(channels, expected):
    assert num_params(LeNet(channels=channels, rngs=nnx.Rngs(0))) == expected


def test_shape_of_every_layer():
    model = LeNet(rngs=nnx.Rngs(0))
    images = jnp.zeros((3, 32, 32, 1))
    assert model.feature_maps(images).shape == (3, 28, 28, 6)
    x = model._conv_pool_relu(model.conv1, images)
    assert x.shape == (3, 14, 14, 6)
    x = model._conv_pool_relu(model.conv2, x)
    assert x.shape == (3, 5, 5, 12)
    x = x.reshape(3, -1)
    assert x.shape == (3, 300)
    for layer, units in ((model.fc1, 120), (model.fc2, 84), (model.fc3, 10)):
        x = layer(x)
        assert x.shape == (3, units)


@pytest.mark.parametrize("backend", [NATIVE, "phase", "plain"])
@pytest.mark.parametrize(
    ("sizes", "image"),
    [
        ({}, (32, 32, 1)),
        ({"channels": (5, 7), "features": (11, 3), "num_classes": 4}, (32, 32, 1)),
        ({"in_channels": 3, "image_size": 16}, (16, 16, 3)),
        ({"image_size": 40}, (40, 40, 1)),
    ],
)
def test_logits(sizes, image, backend):
    model = LeNet(**sizes, backend=backend, rngs=nnx.Rngs(0))
    assert model(jnp.zeros((2, *image))).shape == (2, sizes.get("num_classes", 10))


def test_phase_and_plain_give_the_same_logits():
    images = jax.random.normal(jax.random.key(1), (5, 32, 32, 1))
    phase, plain = (
        LeNet(backend=backend, rngs=nnx.Rngs(0))(images) for backend in ("phase", "plain")
    )
    np.testing.assert_allclose(phase, plain, atol=1e-5)


def test_the_last_layer_has_no_relu():
    images = jax.random.normal(jax.random.key(1), (64, 32, 32, 1))
    assert float(LeNet(rngs=nnx.Rngs(0))(images).min()) < 0


@pytest.mark.parametrize("size", [12, 30, 34])
def test_a_size_that_cannot_be_pooled_is_refused(size):
    with pytest.raises(ValueError, match=f"not {size}"):
        LeNet(image_size=size, rngs=nnx.Rngs(0))


def test_torch_init_has_the_bounds_and_moments_of_a_uniform():
    model = LeNet(rngs=nnx.Rngs(0))
    layers = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    for name, fan_in in (("conv2", 150), ("fc1", 300), ("fc2", 120)):
        bound = fan_in**-0.5
        kernel, bias = np.asarray(layers[name]["kernel"]), np.asarray(layers[name]["bias"])
        assert 0.98 * bound < np.abs(kernel).max() <= bound
        assert np.abs(bias).max() <= bound
        assert np.std(kernel) == pytest.approx(bound / 3**0.5, rel=0.05)
        assert np.std(bias) > 0


def test_flax_init_has_zero_biases_and_lecun_normal_kernels():
    model = LeNet(init="flax", rngs=nnx.Rngs(0))
    layer = nnx.to_pure_dict(nnx.state(model, nnx.Param))["fc1"]
    assert not np.any(layer["bias"])
    assert np.std(layer["kernel"]) == pytest.approx(300**-0.5, rel=0.05)


def test_the_seed_determines_the_weights():
    one, same, other = (LeNet(rngs=nnx.Rngs(seed)).fc3.kernel[...] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.any(one != other)


def test_activations_are_the_steps_of_the_forward_pass():
    model = LeNet(rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(1), (3, 32, 32, 1))
    steps = model.activations(images)
    assert tuple(steps) == STEPS
    shapes = {"conv1": (28, 28, 6), "conv1.pool": (14, 14, 6), "conv2": (10, 10, 12)}
    shapes |= {"conv2.pool": (5, 5, 12), "flatten": (300,), "fc1": (120,), "fc2": (84,)}
    for name, shape in shapes.items():
        assert steps[name].shape == (3, *shape)
        if f"{name}.relu" in steps:
            np.testing.assert_array_equal(steps[f"{name}.relu"], jnp.maximum(steps[name], 0))
    np.testing.assert_array_equal(steps["conv1.relu"], model.feature_maps(images))
    np.testing.assert_allclose(steps["fc3"], model(images), atol=1e-6)
