"""The networks of 1998: their sizes as published, and that they are networks like all others."""

import signal
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lenet_jax
from lenet_jax import config as configs
from lenet_jax import data
from lenet_jax.errors import UserError
from lenet_jax.export import export
from lenet_jax.nn.bitmaps import HEIGHT, WIDTH, digit_codes
from lenet_jax.nn.lenet_1998 import LENET1_H3, LENET4_C3, LENET4_C5, LENET5_C3, LeNet5
from lenet_jax.nn.rewrite import fast_forms
from lenet_jax.training import losses
from lenet_jax.training.sizes import layers
from lenet_jax.training.spec import make_spec
from tests.support.runs import send_in_epoch, start

TINY = {
    "data.valid_examples": 20,
    "train.num_epochs": 3,
    "train.batch_size": 16,
    "train.micro_batch_size": 16,
    "train.eval_batch_size": 20,
    "optimizer.learning_rate": 0.01,
}


def config(name, **changes):
    return configs.load(f"configs/lenet_1998.py:{name}", (TINY | changes).items())


def digits(side):
    """Noisy bitmaps, twice as large, in the middle."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(140) % 10).astype(np.int32)
    ink = np.kron(digit_codes().reshape(10, HEIGHT, WIDTH) > 0, np.ones((1, 2, 2)))
    top, left = (side - 2 * HEIGHT) // 2, (side - 2 * WIDTH) // 2
    images = rng.integers(0, 60, (140, side, side)).astype(np.uint8)
    images[:, top : top + 2 * HEIGHT, left : left + 2 * WIDTH] += (180 * ink[labels]).astype(
        np.uint8
    )
    rules = {"image_size": side, "valid_examples": 20, "train_examples": None}
    return data.from_arrays(images[:100], labels[:100], images[100:], labels[100:], **rules)


class Published(NamedTuple):
    """The parameters of each layer, and the connections of all."""

    params: dict[str, int]
    connections: int


PUBLISHED = {
    "linear": Published({"layers.0": 7_850}, 7_850),
    "mlp_300": Published({"layers.0": 235_500, "layers.1": 3_010}, 238_510),
    "mlp_300_100": Published({"layers.0": 235_500, "layers.1": 30_100, "layers.2": 1_010}, 266_610),
    "lenet1": Published({"c1": 104, "s2": 8, "c3": 512, "s4": 24, "output": 1_930}, 98_442),
    # The paper: about 17,000, and about 260,000 connections.
    "lenet4": Published(
        {"c1": 104, "s2": 16, "c3": 1_516, "s4": 32, "c5": 14_120, "output": 1_210}, 258_306
    ),
    # The paper's 340,908 connections include the 840 of the output.
    "lenet5": Published(
        {"c1": 156, "s2": 12, "c3": 1_516, "s4": 32, "c5": 48_120, "f6": 10_164}, 340_908 - 840
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_sizes_are_the_papers(name):
    spec = make_spec(config(name), digits(config(name).data.image_size))
    params = {layer: count for layer, _, count in layers(spec)}
    assert params == PUBLISHED[name].params
    shapes = {"c1": 28, "s2": 14, "c3": 10, "s4": 5}
    if name == "lenet1":
        shapes = {"c1": 24, "s2": 12, "c3": 8, "s4": 4}
    connections = 0
    for layer, count in params.items():
        units = shapes.get(layer, 1) ** 2
        connections += units * (5 * count // 2 if layer[0] == "s" else count)
    assert connections == PUBLISHED[name].connections


def test_every_map_of_a_table_is_used():
    for table, inputs in ((LENET1_H3, 4), (LENET4_C3, 8), (LENET4_C5, 16), (LENET5_C3, 6)):
        assert set(sum(table, ())) == set(range(inputs))
        assert all(list(seen) == sorted(set(seen)) for seen in table)
    # The rows of Table I: which maps of C3 each of S2 is connected to.
    rows = [[k for k, seen in enumerate(LENET5_C3) if each in seen] for each in range(6)]
    assert rows[0] == [0, 4, 5, 6, 9, 10, 11, 12, 14, 15]
    assert [len(row) for row in rows] == [10] * 6


def test_lenet5_is_what_the_paper_says():
    """Against loops over maps, blocks and bitmaps."""

    def squash(x):
        return 1.7159 * np.tanh(2 / 3 * x)

    model = LeNet5(image_shape=(32, 32, 1), num_classes=10, rngs=nnx.Rngs(0))
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 1)).astype(np.float32)

    def subsample(layer, x):
        sums = sum(x[:, i::2, j::2] for i in (0, 1) for j in (0, 1))
        return squash(sums * np.asarray(layer.coefficient[...]) + np.asarray(layer.bias[...]))

    def convolve(x, kernel, bias):
        windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(1, 2))
        return squash(np.einsum("bhwcst,stck->bhwk", windows, kernel) + bias)

    def whole(layer):
        return np.asarray(layer.kernel[...]), np.asarray(layer.bias[...])

    x = subsample(model.s2, convolve(images, *whole(model.c1)))
    kernels, biases = whole(model.c3)
    maps, used = [], 0
    for seen, bias in zip(LENET5_C3, biases, strict=True):
        own = kernels[..., used : used + len(seen), None]
        maps.append(convolve(x[..., list(seen)], own, bias))
        used += len(seen)
    x = subsample(model.s4, np.concatenate(maps, axis=-1))
    x = convolve(x, *whole(model.c5))[:, 0, 0]
    kernel, bias = whole(model.f6)
    states = squash(x @ kernel + bias)
    distances = [[np.sum((state - code) ** 2) for code in digit_codes()] for state in states]
    np.testing.assert_allclose(-model(jnp.asarray(images)), distances, rtol=1e-5)


def test_the_losses_are_the_papers():
    distances, labels, j = np.array([[0.5, 30.0, 12.0], [9.0, 8.0, 40.0]]), [0, 0], losses.PENALTY
    expected = [
        y[label] + np.log(np.exp(-j) + np.sum(np.exp(-y)))  # equation 9
        for y, label in zip(distances, labels, strict=True)
    ]
    loss = losses.find_loss("map", 3)
    assert loss is not None
    logits, labels = jnp.float32(-distances), jnp.int32(labels)
    np.testing.assert_allclose(loss(logits, labels), expected, rtol=1e-5, atol=1e-6)
    # One that is right, and farther from the others than j, is hardly pushed away from them.
    gradient = jax.grad(lambda z: jnp.sum(losses.maximum_a_posteriori(z, labels)))(logits)
    assert abs(gradient[0, 1]) < 1e-8 < abs(gradient[1, 1])
    loss = losses.find_loss("squashed_mse", 3)
    assert loss is not None
    np.testing.assert_allclose(loss(jnp.float32([[1, -1, -1]]), labels[:1]), [0], atol=1e-9)
    np.testing.assert_allclose(loss(jnp.float32([[-1, -1, -1]]), labels[:1]), [4], rtol=1e-4)


@pytest.mark.parametrize("name", ["lenet1", "lenet5"])
def test_its_convolutions_and_pools_are_in_fast_forms(name):
    spec = make_spec(config(name), digits(config(name).data.image_size))
    images = jnp.zeros((2, *spec.image_shape))

    def forward(variables, images):
        return nnx.merge(spec.graphdef, variables)(images)

    program = str(jax.make_jaxpr(fast_forms(forward))(spec.variables, images))
    assert not any(word in program for word in ("conv_general", "reduce_window"))


def test_one_trains_resumes_loads_and_exports(tmp_path, monkeypatch, no_figures):
    own = config("lenet5", **{"train.loss": "map"})
    options = {"dataset": digits(own.data.image_size)}
    straight = start(tmp_path / "run", own, **options)
    assert straight.code == 0
    with monkeypatch.context() as patch:
        send_in_epoch(patch, 1, signal.SIGTERM)
        assert start(tmp_path / "resumed", own, **options).code == 143
    again = start(tmp_path / "resumed", own, **options)
    files = [run.path / "model.safetensors" for run in (straight, again)]
    assert files[0].read_bytes() == files[1].read_bytes()
    network = lenet_jax.load(straight.path)
    logits = network.logits(options["dataset"].test.images)
    assert logits.shape == (40, 10) and np.all(logits < 0)
    for kind in ("stablehlo", "safetensors"):
        assert "reloaded" in export(network, kind, tmp_path / f"a.{kind}")[-1]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("lenet5_1998", {}, "LeNet5 of 1998 takes images of 32×32, not 28×28: --config.data.image"),
        ("lenet4", {}, "LeNet4 of 1998 takes images of 32×32"),
        ("lenet1", {"data.image_size": 32}, "LeNet1 of 1998 takes images of 28×28"),
    ],
)
def test_other_images_are_refused(name, changes, message):
    changes = {"data.image_size": 28, "model.name": name} | changes
    own = configs.load("configs/notes.py", changes.items())
    with pytest.raises(UserError, match=message):
        make_spec(own, digits(own.data.image_size))
    with pytest.raises(UserError, match=r"ten digits; the data have 11 classes\nUse --config"):
        LeNet5(image_shape=(32, 32, 1), num_classes=11, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="unknown config argument 'lenet6'; one of linear, mlp"):
        config("lenet6")
