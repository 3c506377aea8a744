"""The built-in networks other than LeNet train as the same networks in PyTorch."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lenet_jax import config as configs
from lenet_jax.training.batches import Batch, DeviceSplit
from lenet_jax.training.evaluation import evaluate
from lenet_jax.training.hyperparameters import hyperparameters, seeds
from lenet_jax.training.spec import make_spec
from lenet_jax.training.step import init_state, train_step
from tests.support import tiny

DATASET = tiny.dataset()
STEPS, BATCH = 6, 16
pytestmark = pytest.mark.torch
# Flax's average pooling divides by an integer.
usual_promotion = functools.partial(jax.numpy_dtype_promotion, "standard")


def make(network, **model):
    changes = {
        "model.name": network,
        "data.image_size": 16,
        "data.valid_examples": 20,
        "train.batch_size": BATCH,
        "train.micro_batch_size": 8,
        "optimizer.learning_rate": 0.05,
        "schedule.name": "constant",
    }
    changes |= {f"model.{name}": value for name, value in model.items()}
    return configs.load("configs/notes.py", changes.items())


def batches():
    for step in range(STEPS):
        at = slice(step * 10, step * 10 + BATCH)
        yield DATASET.train.images[at], DATASET.train.labels[at]


def train(config) -> tuple[Any, Any, Any, list[float]]:
    """The specification, the variables before and after some steps, and the losses."""
    spec, settings = make_spec(config, DATASET), hyperparameters(config)
    first = state = init_state(spec, seeds(config), settings)
    step = jax.jit(functools.partial(train_step, spec))
    losses = []
    for images, labels in batches():
        count = BATCH // spec.micro_batch_size
        arrays: Any = (
            images.reshape(count, -1, *images.shape[1:]),
            labels.reshape(count, -1),
            np.ones((count, spec.micro_batch_size), np.float32),
            jnp.float32(BATCH),
        )
        batch = Batch(*arrays)
        state, metrics = step(state, batch, settings)
        losses.append(float(metrics.mean_loss))
    return spec, first.params, state.params, losses


def train_in_torch(model, spec, after_step=lambda _: None):
    """The losses of PyTorch's usual loop."""
    import torch

    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    losses = []
    for images, labels in batches():
        pixels = (images.astype(np.float32) - spec.mean) / np.asarray(spec.std, np.float32)
        x = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32))
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), torch.from_numpy(labels).long())
        loss.backward()
        optimizer.step()
        after_step(model)
        losses.append(loss.item())
    return losses


def copy_linear(layer, linear):
    import torch

    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(np.asarray(layer["kernel"][...]).T.copy()))
        linear.bias.copy_(torch.from_numpy(np.array(layer["bias"][...])))


def test_mlp_trains_like_the_same_network_in_torch():
    torch = pytest.importorskip("torch")
    config = make("mlp", features=(30, 10))
    spec, first, last, losses = train(config)
    linears = [torch.nn.Linear(n, k) for n, k in ((256, 30), (30, 10), (10, 6))]
    for number, linear in enumerate(linears):
        copy_linear(first["layers"][number], linear)
    one, two, three = linears
    relu = torch.nn.ReLU
    model = torch.nn.Sequential(torch.nn.Flatten(), one, relu(), two, relu(), three)
    np.testing.assert_allclose(losses, train_in_torch(model, spec), rtol=2e-5)
    np.testing.assert_allclose(
        last["layers"][1]["kernel"][...], two.weight.detach().numpy().T, atol=2e-5
    )


def make_flax_mnist(torch, first, last_side):
    """The network of Flax's example in PyTorch, without dropout, with our initial weights."""

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = (
                torch.nn.Conv2d(c, k, 3, padding=1) for c, k in ((1, 4), (4, 5))
            )
            # PyTorch's momentum is the share of the new value, Flax's that of the old one.
            self.norm1, self.norm2 = (torch.nn.BatchNorm2d(k, momentum=0.01) for k in (4, 5))
            self.linear1 = torch.nn.Linear(5 * last_side**2, 7)
            self.linear2 = torch.nn.Linear(7, 6)

        def forward(self, x):
            pool = torch.nn.functional.avg_pool2d
            x = pool(torch.relu(self.norm1(self.conv1(x))), 2)
            x = pool(torch.relu(self.norm2(self.conv2(x))), 2)
            x = x.permute(0, 2, 3, 1).flatten(1)  # channels fastest, as in Flax
            return self.linear2(torch.relu(self.linear1(x)))

    model = Network()
    with torch.no_grad():
        for name in ("conv1", "conv2"):
            kernel = np.asarray(first[name]["kernel"][...]).transpose(3, 2, 0, 1)
            getattr(model, name).weight.copy_(torch.from_numpy(kernel.copy()))
            getattr(model, name).bias.zero_()
    for name in ("linear1", "linear2"):
        copy_linear(first[name], getattr(model, name))
    return model


def test_flax_mnist_trains_like_the_same_network_in_torch():
    torch = pytest.importorskip("torch")
    config = make("flax_mnist", channels=(4, 5), features=7, dropout=0.0)
    with usual_promotion():
        spec, first, last, losses = train(config)
        model = make_flax_mnist(torch, first, 4)
        expected = train_in_torch(model, spec)
        np.testing.assert_allclose(losses, expected, rtol=1e-4)
        count = BATCH * 16 * 16
        for name, norm, number in (
            ("batch_norm1", model.norm1, count),
            ("batch_norm2", model.norm2, count // 4),
        ):
            ours = last[name]
            np.testing.assert_allclose(ours["mean"][...], norm.running_mean, atol=1e-4)
            # PyTorch keeps the unbiased variance, Flax the biased one.
            kept = 0.99**STEPS
            biased = (norm.running_var.numpy() - kept) * (number - 1) / number + kept
            np.testing.assert_allclose(ours["var"][...], biased, rtol=1e-4)
        split: Any = DeviceSplit.of(DATASET.test)
        _, logits = jax.jit(functools.partial(evaluate, spec))(last, split)
    model.eval()
    pixels = (DATASET.test.images.astype(np.float32) - spec.mean) / np.asarray(spec.std, np.float32)
    x = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32))
    with torch.no_grad():
        np.testing.assert_allclose(logits, model(x).numpy(), atol=2e-3)


def test_dropout_keeps_the_share_and_the_mean():
    """As PyTorch's: a value is 0 with the rate, else divided by one minus the rate."""
    dropout = nnx.Dropout(0.3, rngs=nnx.Rngs(0))
    values = np.asarray(dropout(jnp.ones((1000, 100))))
    assert set(np.unique(values).tolist()) == {0.0, float(np.float32(1) / np.float32(0.7))}
    assert abs((values == 0).mean() - 0.3) < 5 * (0.3 * 0.7 / values.size) ** 0.5
