import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lenet_jax.inference.state_dict import to_state_dict
from lenet_jax.nn.lenet import LeNet, step_names
from tests.support.backends import NATIVE

pytestmark = [pytest.mark.slow, pytest.mark.optimized(False)]


def num_params(model: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize(("channels", "expected"), [((6, 12), 49_102), ((6, 16), 61_706)])
def test_parameter_count(channels, expected):
    assert num_params(LeNet(channels=channels, rngs=nnx.Rngs(0))) == expected


def test_shape_of_every_layer():
    model = LeNet(rngs=nnx.Rngs(0))
    images = jnp.zeros((3, 32, 32, 1))
    assert model.feature_maps(images).shape == (3, 28, 28, 6)
    x = model._conv_pool(model.conv1, images)
    assert x.shape == (3, 14, 14, 6)
    x = model._conv_pool(model.conv2, x)
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
    assert tuple(steps) == step_names()
    shapes = {"conv1": (28, 28, 6), "conv1.pool": (14, 14, 6), "conv2": (10, 10, 12)}
    shapes |= {"conv2.pool": (5, 5, 12), "flatten": (300,), "fc1": (120,), "fc2": (84,)}
    for name, shape in shapes.items():
        assert steps[name].shape == (3, *shape)
        if f"{name}.relu" in steps:
            np.testing.assert_array_equal(steps[f"{name}.relu"], jnp.maximum(steps[name], 0))
    np.testing.assert_array_equal(steps["conv1.relu"], model.feature_maps(images))
    np.testing.assert_allclose(steps["fc3"], model(images), atol=1e-6)


FORMS = [
    {"activation": "tanh", "pool": "avg"},
    {"activation": "relu", "pool": "avg", "padding": 2, "image_size": 28},
    {"activation": "sigmoid", "pool": "max"},
    {"activation": "gelu", "pool": "max"},
    {"activation": "relu", "pool": "max", "padding": 1, "image_size": 18},
    {"activation": "leaky_relu", "pool": "avg"},
    {"activation": "elu", "pool": "avg"},
    {"activation": "silu", "pool": "max"},
]


def form_id(form):
    return "-".join(map(str, form.values()))


@pytest.mark.parametrize("form", FORMS, ids=form_id)
def test_every_backend_and_activations_give_the_logits_and_gradients_of_plain(form):
    size = form.get("image_size", 32)
    images = jax.random.normal(jax.random.key(1), (3, size, size, 1))

    @nnx.jit
    @functools.partial(nnx.value_and_grad, argnums=(0, 1), has_aux=True)
    def differentiate(model, images):
        logits = model(images)
        return jnp.sum(logits**2), logits

    plain = LeNet(**form, backend="plain", rngs=nnx.Rngs(0))
    (expected, logits), grads = differentiate(plain, images)
    steps = plain.activations(images)
    assert tuple(steps) == step_names(form["activation"])
    np.testing.assert_allclose(steps["fc3"], logits, atol=1e-5)
    first = f"conv1.{form['activation']}"
    np.testing.assert_array_equal(steps[first], plain.feature_maps(images))
    for backend in ("phase", "auto"):
        other = LeNet(**form, backend=backend, rngs=nnx.Rngs(0))
        (loss, others), gradients = differentiate(other, images)
        np.testing.assert_allclose(others, logits, atol=1e-5)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(grads), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("form", FORMS, ids=form_id)
@pytest.mark.torch
def test_every_form_gives_the_logits_and_gradients_of_live_pytorch(form):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    model = LeNet(**form, rngs=nnx.Rngs(0))
    weights = {
        name: torch.from_numpy(array).requires_grad_()
        for name, array in to_state_dict(nnx.state(model, nnx.Param)).items()
    }
    size = form.get("image_size", 32)
    images = np.random.default_rng(0).normal(size=(4, 1, size, size)).astype(np.float32)
    act = getattr(functional, form["activation"])
    pool = getattr(functional, f"{form['pool']}_pool2d")
    x = torch.from_numpy(images)
    for layer, padding in (("conv1", form.get("padding", 0)), ("conv2", 0)):
        x = functional.conv2d(
            x, weights[f"{layer}.weight"], weights[f"{layer}.bias"], padding=padding
        )
        x = pool(act(x), 2)
    x = x.flatten(1)
    for layer in ("fc1", "fc2", "fc3"):
        x = functional.linear(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"])
        x = act(x) if layer != "fc3" else x
    inputs = jnp.asarray(images.transpose(0, 2, 3, 1))

    @nnx.jit
    @functools.partial(nnx.grad, has_aux=True)
    def differentiate(model, inputs):
        logits = model(inputs)
        return jnp.sum(logits**2), logits

    grads, logits = differentiate(model, inputs)
    np.testing.assert_allclose(logits, x.detach().numpy(), atol=1e-5)
    (x**2).sum().backward()
    for name, ours in to_state_dict(grads).items():
        np.testing.assert_allclose(ours, weights[name].grad.numpy(), atol=1e-5, rtol=1e-4)


def test_padding_must_leave_even_feature_maps():
    assert LeNet(image_size=28, padding=2, rngs=nnx.Rngs(0)).fc1.in_features == 300
    with pytest.raises(ValueError, match="with 1 of padding on each side"):
        LeNet(image_size=28, padding=1, rngs=nnx.Rngs(0))
