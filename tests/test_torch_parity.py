"""Layers, loss, network and training match PyTorch: recorded values always, live with torch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lenet_jax.inference.state_dict import to_state_dict
from lenet_jax.nn import ops
from lenet_jax.nn.autograd import backward
from lenet_jax.nn.lenet import LeNet
from tests.golden import make_network
from tests.golden import make_parity as golden
from tests.support.backends import NATIVE, at_hand

WITHOUT_TORCH = "torch is not installed: only the recorded values are compared"
# Each shape is compiled, so failures are not shrunk: that would take minutes.
few_examples = settings(max_examples=4, phases=[Phase.generate])
BACKENDS = ("plain", "phase", NATIVE)
REDUCE = {"none": lambda losses: losses, "mean": jnp.mean, "sum": jnp.sum}


def recorded(name):
    with np.load(golden.PATH, allow_pickle=False) as file:
        keys = [key for key in file if key.startswith(f"{name}:")]
        return {key.split(":")[1]: file[key] for key in keys}


def assert_same(ours, theirs):
    """Asserts equality to 1e-5 of the largest value in each array."""
    assert ours.keys() == theirs.keys() and ours
    for name, expected in theirs.items():
        actual = np.asarray(ours[name])
        assert actual.dtype == np.float32
        scale = np.abs(expected).max() + 1e-30
        np.testing.assert_allclose(actual / scale, expected / scale, 0, 1e-5, err_msg=name)


jit = partial(jax.jit, compiler_options=ops.compiler_options())


@partial(jit, static_argnames="backend")
def our_conv_pool_relu(x, kernel, bias, cotangent, backend):
    def forward(inputs, _):
        return ops.conv_pool_relu(**inputs, backend=backend)

    out, grads = backward(forward, {"x": x, "kernel": kernel, "bias": bias}, None, cotangent)
    return {"out": out, **grads}


@jit
def our_flatten_linear(x, kernel, bias, cotangent):
    _, h, w, c = x.shape

    def forward(inputs, _):
        layer = nnx.Linear(*kernel.shape, rngs=nnx.Rngs(0))
        rows = inputs["kernel"].reshape(c, h, w, -1).transpose(1, 2, 0, 3)
        values = {"kernel": rows.reshape(kernel.shape), "bias": inputs["bias"]}
        nnx.update(layer, values)
        return layer(ops.flatten(inputs["x"]))

    out, grads = backward(forward, {"x": x, "kernel": kernel, "bias": bias}, None, cotangent)
    return {"out": out, **grads}


@jit
def our_relu(x, cotangent):
    out, grad = backward(lambda x, _: ops.relu(x), x, None, cotangent)
    return {"out": out, "x": grad}


@jit
def our_cross_entropies(logits, labels, cotangent, smoothing):
    answers = {}
    for reduction, reduce in REDUCE.items():

        def loss(logits, labels, reduce=reduce):
            return reduce(ops.cross_entropy(logits, labels, label_smoothing=smoothing))

        loss, grad = backward(loss, logits, labels, cotangent if reduction == "none" else None)
        answers[reduction] = {"loss": loss, "logits": grad}
    return answers


def our_network(channels, params, images, labels, backend):
    graphdef = nnx.graphdef(LeNet(channels, backend=backend, rngs=nnx.Rngs(0)))

    @jit
    def run(params, images, labels):
        def loss(params, images):
            logits = nnx.merge(graphdef, params)(images)
            return jnp.mean(ops.cross_entropy(logits, labels)), logits

        return backward(loss, params, images, has_aux=True)

    loss, grads, logits = run(params, images, labels)
    return {"logits": logits, "loss": loss, **to_state_dict(grads)}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", golden.KINDS)
def test_conv_pool_relu_matches_recorded_pytorch(kind, backend):
    inputs = golden.convolution_inputs(kind, 0, **golden.CONVOLUTION)
    ours = our_conv_pool_relu(**inputs, backend=backend)
    assert_same(ours, recorded(f"convolution/{kind}"))


@pytest.mark.torch
@few_examples
@given(
    shape=st.fixed_dictionaries(
        {
            "batch": st.integers(1, 5),
            "size": st.sampled_from((3, 5)),
            "blocks": st.tuples(st.integers(1, 5), st.integers(1, 5)),
            "channels": st.integers(1, 4),
            "features": st.integers(1, 6),
        }
    ),
    seed=st.integers(0, 2**16),
)
def test_conv_pool_relu_matches_live_pytorch(shape, seed):
    pytest.importorskip("torch", reason=WITHOUT_TORCH)
    for kind in golden.KINDS:
        inputs = golden.convolution_inputs(kind, seed, **shape)
        theirs = golden.torch_conv_pool_relu(**inputs)
        for backend in at_hand(shape["size"]):
            assert_same(our_conv_pool_relu(**inputs, backend=backend), theirs)


def test_quantised_inputs_tie():
    """Without ties in the inputs, the tests above would not cover them."""
    inputs = golden.convolution_inputs("quantised", 0, **golden.CONVOLUTION)
    windows = np.lib.stride_tricks.sliding_window_view(inputs["x"], (5, 5), (1, 2))
    out = np.einsum("bhwcij,ijck->bhwk", windows, inputs["kernel"]) + inputs["bias"]
    b, h, w, k = out.shape
    blocks = out.reshape(b, h // 2, 2, w // 2, 2, k).transpose(0, 1, 3, 5, 2, 4).reshape(-1, 4)
    largest = blocks.max(axis=1, keepdims=True)
    assert np.sum((blocks == largest).sum(axis=1)[largest[:, 0] > 0] > 1) > 5


def test_flatten_and_linear_match_recorded_pytorch():
    inputs = golden.linear_inputs(0, **golden.LINEAR)
    assert_same(our_flatten_linear(**inputs), recorded("linear"))


@pytest.mark.torch
@few_examples
@given(
    shape=st.fixed_dictionaries(
        {name: st.integers(1, 6) for name in ("batch", "height", "width", "channels", "features")}
    ),
    seed=st.integers(0, 2**16),
)
def test_flatten_and_linear_match_live_pytorch(shape, seed):
    pytest.importorskip("torch", reason=WITHOUT_TORCH)
    inputs = golden.linear_inputs(seed, **shape)
    assert_same(our_flatten_linear(**inputs), golden.torch_flatten_linear(**inputs))


def test_relu_matches_recorded_pytorch():
    assert_same(our_relu(**golden.relu_inputs(0, 5, 7)), recorded("relu"))


@pytest.mark.torch
@few_examples
@given(shape=st.lists(st.integers(1, 9), min_size=1, max_size=4), seed=st.integers(0, 2**16))
def test_relu_matches_live_pytorch(shape, seed):
    pytest.importorskip("torch", reason=WITHOUT_TORCH)
    inputs = golden.relu_inputs(seed, *shape)
    assert_same(our_relu(**inputs), golden.torch_relu(**inputs))


@pytest.mark.parametrize("smoothing", golden.SMOOTHINGS)
def test_cross_entropy_matches_recorded_pytorch(smoothing):
    ours = our_cross_entropies(**golden.logits_inputs(0, **golden.LOGITS), smoothing=smoothing)
    for reduction, answer in ours.items():
        assert_same(answer, recorded(f"cross_entropy/{reduction}/{smoothing}"))


@pytest.mark.torch
@few_examples
@given(
    batch=st.integers(1, 9),
    classes=st.integers(2, 12),
    smoothing=st.floats(0, 0.99),
    seed=st.integers(0, 2**16),
)
def test_cross_entropy_matches_live_pytorch(batch, classes, smoothing, seed):
    pytest.importorskip("torch", reason=WITHOUT_TORCH)
    inputs = golden.logits_inputs(seed, batch=batch, classes=classes)
    for reduction, answer in our_cross_entropies(**inputs, smoothing=smoothing).items():
        theirs = golden.torch_cross_entropy(**inputs, smoothing=smoothing, reduction=reduction)
        assert_same(answer, theirs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", golden.CHANNELS)
def test_network_matches_recorded_pytorch(name, backend):
    params, images, labels = golden.network_inputs(golden.CHANNELS[name])
    ours = our_network(golden.CHANNELS[name], params, images, labels, backend)
    thinned = {key: golden.thin(np.asarray(array)) for key, array in ours.items()}
    assert_same(thinned, recorded(f"network/{name}"))


@pytest.mark.torch
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", golden.CHANNELS.values(), ids=golden.CHANNELS)
def test_network_matches_live_pytorch(channels, backend):
    pytest.importorskip("torch", reason=WITHOUT_TORCH)
    _, images, labels = golden.network_inputs(channels)
    params = nnx.state(LeNet(channels, rngs=nnx.Rngs(7)), nnx.Param)
    theirs = golden.torch_network(channels, to_state_dict(params), images, labels)
    assert_same(our_network(channels, params, images, labels, backend), theirs)


def test_recording_names_its_torch():
    with np.load(golden.PATH, allow_pickle=False) as file:
        assert str(file["torch_version"]).startswith("2.")


@pytest.mark.torch
def test_initial_parameters_have_the_distribution_of_live_pytorch():
    """Deciles and extremes of each parameter, in units of 1/√fan_in, over 300 networks each."""
    torch = pytest.importorskip("torch", reason=WITHOUT_TORCH)
    sizes = (4, 5), (16, 12)

    def init(key):
        return nnx.state(LeNet(*sizes, rngs=nnx.Rngs(params=key)), nnx.Param)

    params = jax.jit(jax.vmap(init))(jax.random.split(jax.random.key(0), 300))
    params = jax.tree.map(np.asarray, params)
    members = (jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(300))
    ours = [to_state_dict(member) for member in members]
    torch.manual_seed(0)
    theirs = [make_network.torch_network(*sizes).state_dict() for _ in range(300)]
    for name in theirs[0]:
        unit = ours[0][name.replace("bias", "weight")][0].size ** 0.5
        our_draws, their_draws = (
            unit * np.concatenate([np.asarray(state[name]).ravel() for state in states])
            for states in (ours, theirs)
        )
        deciles = np.linspace(0, 1, 11)
        np.testing.assert_allclose(
            np.quantile(our_draws, deciles), np.quantile(their_draws, deciles), 0, 0.1, err_msg=name
        )
        for draws in (our_draws, their_draws):
            assert 0.98 < np.abs(draws).max() < 1 + 1e-6


@pytest.mark.torch
def test_training_follows_live_pytorch():
    """200 steps of LeNet on MNIST, in float64: in float32, rounding makes any two runs diverge."""
    pytest.importorskip("torch", reason=WITHOUT_TORCH)
    from experiments import torch_parity

    setup = torch_parity.prepare(num_steps=200)
    ours = torch_parity.train_here(setup, "float64")
    theirs = torch_parity.train_in_torch(setup, "float64", setup.weights())
    summary = torch_parity.summarise(ours, theirs)
    assert summary["max_loss_difference"] < 1e-3
    assert summary["share_of_equal_predictions"] >= 0.999
    assert ours.losses[0] > 2 and ours.losses[-1] < 0.5
