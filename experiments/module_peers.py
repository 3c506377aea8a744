"""The peers of the benchmark for networks that are plain Flax modules: `mlp` and `flax_mnist`.

Each is the same training in PyTorch, in Flax as documented (`nnx.jit` per step), and in lenet-jax,
which runs the module itself. All start from the same weights.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.peers import LEARNING_RATE, MOMENTUM, Peer, normalised
from lenet_jax import config as configs
from lenet_jax import data
from lenet_jax.data.dataset import Dataset

MODULES = ("mlp", "flax_mnist")


def load_config(name: str, *, dropout: bool) -> configs.Config:
    """The config of the training that all peers run."""
    overrides = {
        "optimizer.name": "sgd",
        "optimizer.learning_rate": LEARNING_RATE,
        "optimizer.momentum": MOMENTUM,
        "optimizer.weight_decay": 0.0,
        "schedule.name": "constant",
        **({"model.dropout": 0.0} if name == "flax_mnist" and not dropout else {}),
    }
    return configs.load(f"configs/{name}.py", overrides.items())


def make_model(name: str, dataset: Dataset, *, dropout: bool) -> Any:
    """The module, as lenet-jax and Flax train it."""
    from flax import nnx

    from lenet_jax.training.spec import make_spec

    spec = make_spec(load_config(name, dropout=dropout), dataset)
    return spec.network(**dict(spec.model), rngs=nnx.Rngs(jax.random.key(0)))


def make_torch(name: str, dataset: Dataset, *, dropout: bool) -> Peer:
    """PyTorch as in its tutorials, but with the data in memory and no DataLoader."""
    import torch
    from torch import nn

    ours = make_model(name, dataset, dropout=dropout)
    functional: Any = nn.functional

    class FlaxMNIST(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = (nn.Conv2d(c, k, 3, padding=1) for c, k in ((1, 32), (32, 64)))
            self.norm1, self.norm2 = (nn.BatchNorm2d(k, momentum=0.01) for k in (32, 64))
            self.dropout1, self.dropout2 = (nn.Dropout(0.025 * dropout) for _ in range(2))
            self.linear1, self.linear2 = nn.Linear(64 * 7 * 7, 256), nn.Linear(256, 10)

        def forward(self, x: Any) -> Any:
            pool = functional.avg_pool2d
            x = pool(functional.relu(self.norm1(self.dropout1(self.conv1(x)))), 2)
            x = pool(functional.relu(self.norm2(self.conv2(x))), 2)
            x = self.dropout2(self.linear1(torch.flatten(x, 1)))
            return self.linear2(functional.relu(x))

    if name == "mlp":
        first, second, third = (nn.Linear(n, k) for n, k in ((784, 300), (300, 100), (100, 10)))
        relu = nn.ReLU
        model: Any = nn.Sequential(nn.Flatten(), first, relu(), second, relu(), third)
        for layer, linear in zip(ours.layers, (first, second, third), strict=True):
            _copy(linear, np.asarray(layer.kernel[...]).T, layer.bias)
    else:
        model = FlaxMNIST()
        for at in ("conv1", "conv2"):
            layer = getattr(ours, at)
            _copy(
                getattr(model, at), np.asarray(layer.kernel[...]).transpose(3, 2, 0, 1), layer.bias
            )
        kernel = np.asarray(ours.linear1.kernel[...]).reshape(7, 7, 64, 256)
        _copy(model.linear1, kernel.transpose(3, 2, 0, 1).reshape(256, -1), ours.linear1.bias)
        _copy(model.linear2, np.asarray(ours.linear2.kernel[...]).T, ours.linear2.bias)
    images, test_images = (
        torch.from_numpy(normalised(dataset, split).transpose(0, 3, 1, 2).copy())
        for split in ("train", "test")
    )
    labels = torch.from_numpy(dataset.train.labels).long()
    test_labels = torch.from_numpy(dataset.test.labels).long()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)

    def train(indices: np.ndarray) -> float:
        model.train()
        losses = []
        for row in torch.from_numpy(indices).long():
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(images[row]), labels[row])
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return statistics.mean(float(loss) for loss in losses)

    @torch.no_grad()
    def evaluate() -> int:
        model.eval()
        batches = range(0, len(test_labels), 500)
        return sum(
            int((model(test_images[i : i + 500]).argmax(1) == test_labels[i : i + 500]).sum())
            for i in batches
        )

    return Peer(train, evaluate)


def make_flax(name: str, dataset: Dataset, *, dropout: bool) -> Peer:
    """Flax as in its documentation: `nnx.jit` per step, and another mode for evaluation."""
    import jax.numpy as jnp
    import optax
    from flax import nnx

    model = make_model(name, dataset, dropout=dropout)
    optimizer = nnx.Optimizer(model, optax.sgd(LEARNING_RATE, MOMENTUM), wrt=nnx.Param)
    images, test_images = normalised(dataset, "train"), normalised(dataset, "test")
    labels, test_labels = dataset.train.labels, dataset.test.labels

    @nnx.jit
    def train_step(model: Any, optimizer: nnx.Optimizer, images: Any, labels: Any) -> Any:
        def loss_fn(model: Any) -> Any:
            losses = optax.softmax_cross_entropy_with_integer_labels(model(images), labels)
            return losses.mean()

        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads)
        return loss

    @nnx.jit
    def count_right(model: Any, images: Any, labels: Any) -> Any:
        return jnp.sum(jnp.argmax(model(images), axis=-1) == labels)

    def train(indices: np.ndarray) -> float:
        model.train()
        losses = [train_step(model, optimizer, images[row], labels[row]) for row in indices]
        return statistics.mean(float(loss) for loss in losses)

    def evaluate() -> int:
        model.eval()
        return sum(
            int(count_right(model, test_images[i : i + 500], test_labels[i : i + 500]))
            for i in range(0, len(test_labels), 500)
        )

    return Peer(train, evaluate)


def make_project(name: str, dataset: Dataset, *, dropout: bool) -> Peer:
    """lenet-jax: one compiled program for all requested steps."""
    from flax import nnx

    from lenet_jax.training import parallel, step
    from lenet_jax.training.batches import DeviceSplit, EpochSlice
    from lenet_jax.training.spec import Spec, hyperparameters, make_spec, seeds

    config = load_config(name, dropout=dropout)
    settings, base = hyperparameters(config), make_spec(config, dataset)

    def sized(batch_size: int) -> Spec:
        micro = batch_size if base.is_stateful else min(batch_size, config.train.micro_batch_size)
        devices = parallel.count_sharing(batch_size, micro)
        return dataclasses.replace(
            base, batch_size=batch_size, micro_batch_size=micro, num_devices=devices
        )

    @functools.cache
    def on_devices(num_devices: int, split: str) -> Any:
        return parallel.replicate(DeviceSplit.of(getattr(dataset, split)), num_devices)

    @functools.cache
    def program(batch_size: int) -> Any:
        spec = sized(batch_size)

        def run(state: step.TrainState, order: Any, split: DeviceSplit) -> Any:
            steps = EpochSlice(order, 0, order.shape[0])
            return step.train_steps(spec, state, step.no_metrics(), split, steps, settings)

        options = spec.compiler_options()
        return parallel.compile_shared(run, spec.num_devices, (0,), options)

    default = sized(config.train.batch_size)
    evaluate_all = parallel.compile_shared(
        functools.partial(step.evaluate, default),
        default.num_devices,
        (),
        default.compiler_options(),
    )
    state = step.init_state(base, seeds(config), settings)
    params = nnx.state(make_model(name, dataset, dropout=dropout))
    held = {"state": dataclasses.replace(state, params=params)}

    def train(indices: np.ndarray) -> float:
        batch_size = indices.shape[1]
        devices = sized(batch_size).num_devices
        # Steps beyond an epoch's last are not padded: there are as many examples as indices.
        args = parallel.replicate((held["state"], indices), devices)
        held["state"], metrics = program(batch_size)(*args, on_devices(devices, "train"))
        return float(metrics.mean_loss)

    def evaluate() -> int:
        params = parallel.replicate(held["state"].params, default.num_devices)
        metrics, _ = evaluate_all(params, on_devices(default.num_devices, "test"))
        return int(metrics.correct)

    return Peer(train, evaluate)


def load_data() -> Dataset:
    """MNIST at its own size."""
    return data.load("mnist", image_size=28)


def multiplications(name: str) -> int:
    """Those of one image's forward pass."""
    from lenet_jax.training import sizes
    from lenet_jax.training.spec import make_spec

    return sizes.multiplications(make_spec(load_config(name, dropout=True), load_data()))


def _copy(layer: Any, weight: np.ndarray, bias: Any) -> None:
    """Sets the weights of a layer of PyTorch."""
    import torch

    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
        layer.bias.copy_(torch.from_numpy(np.array(bias[...])))


MODULE_PEERS: dict[str, Callable[..., Peer]] = {
    "torch": make_torch,
    "flax": make_flax,
    "lenet-jax": make_project,
}
