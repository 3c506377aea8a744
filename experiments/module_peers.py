"""The peers of the benchmark for networks that are plain Flax modules.

Each is the same training in PyTorch, in Flax as documented (`nnx.jit` per step), and in lenet-jax,
which runs the module itself. All start from the same weights.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.peers import (
    LEARNING_RATE,
    MOMENTUM,
    Peer,
    flax_peer,
    project_peer,
    torch_peer,
)
from lenet_jax import config as configs
from lenet_jax import data
from lenet_jax.data.dataset import Dataset

# Each network's config file, and its learning rate: squared distances have large gradients.
MODULES = {
    "mlp": ("configs/mlp.py", LEARNING_RATE),
    "flax_mnist": ("configs/flax_mnist.py", LEARNING_RATE),
    "lenet5_1998": ("configs/lenet_1998.py:lenet5", 0.001),
}


def load_config(name: str, *, dropout: bool) -> configs.Config:
    """The config of the training that all peers run."""
    file, learning_rate = MODULES[name]
    overrides = {
        "optimizer.name": "sgd",
        "optimizer.learning_rate": learning_rate,
        "optimizer.momentum": MOMENTUM,
        "optimizer.weight_decay": 0.0,
        "schedule.name": "constant",
        "train.loss": "cross_entropy",
        **({"model.dropout": 0.0} if name == "flax_mnist" and not dropout else {}),
    }
    return configs.load(file, overrides.items())


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
    elif name == "lenet5_1998":
        model = _torch_lenet5(ours)
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
    return torch_peer(model, dataset, learning_rate=MODULES[name][1])


def _torch_lenet5(ours: Any) -> Any:
    """LeNet-5 of 1998 in PyTorch, with our weights; a mask leaves out the table's connections."""
    import torch
    from torch import nn

    from lenet_jax.nn.bitmaps import digit_codes
    from lenet_jax.nn.lenet_1998 import LENET5_C3

    functional: Any = nn.functional

    def squash(x: Any) -> Any:
        return 1.7159 * torch.tanh(2 / 3 * x)

    class Subsampling(nn.Module):
        def __init__(self, layer: Any) -> None:
            super().__init__()
            values = (
                torch.from_numpy(np.array(value[...]).reshape(-1, 1, 1))
                for value in (layer.coefficient, layer.bias)
            )
            self.coefficient, self.bias = map(nn.Parameter, values)

        def forward(self, x: Any) -> Any:
            return squash(4 * functional.avg_pool2d(x, 2) * self.coefficient + self.bias)

    class LeNet5(nn.Module):
        mask: torch.Tensor
        codes: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            sizes = ((1, 6), (6, 16), (16, 120))
            self.c1, self.c3, self.c5 = (nn.Conv2d(c, k, 5) for c, k in sizes)
            self.s2, self.s4 = Subsampling(ours.s2), Subsampling(ours.s4)
            self.f6 = nn.Linear(120, 84)
            mask = torch.zeros(16, 6, 1, 1)
            for k, seen in enumerate(LENET5_C3):
                mask[k, list(seen)] = 1
            self.register_buffer("mask", mask)
            self.register_buffer("codes", torch.from_numpy(digit_codes()))

        def forward(self, x: Any) -> Any:
            x = self.s2(squash(self.c1(x)))
            c3 = functional.conv2d(x, self.c3.weight * self.mask, self.c3.bias)
            x = self.s4(squash(c3))
            x = squash(self.f6(torch.flatten(squash(self.c5(x)), 1)))
            return -(x[:, None] - self.codes).square().sum(-1)

    model = LeNet5()
    for layer, own in ((model.c1, ours.c1), (model.c5, ours.c5)):
        _copy(layer, np.asarray(own.kernel[...]).transpose(3, 2, 0, 1), own.bias)
    c3 = np.asarray(ours.c3.dense_kernel()).transpose(3, 2, 0, 1)
    _copy(model.c3, c3, ours.c3.bias)
    _copy(model.f6, np.asarray(ours.f6.kernel[...]).T, ours.f6.bias)
    return model


def make_flax(name: str, dataset: Dataset, *, dropout: bool) -> Peer:
    """The module in Flax's own loop."""
    model = make_model(name, dataset, dropout=dropout)
    return flax_peer(model, dataset, learning_rate=MODULES[name][1])


def make_project(name: str, dataset: Dataset, *, dropout: bool) -> Peer:
    """The module in lenet-jax's."""
    from flax import nnx

    model = make_model(name, dataset, dropout=dropout)
    config = load_config(name, dropout=dropout)
    return project_peer(config, dataset, lambda _: nnx.state(model))


def load_data(name: str) -> Dataset:
    """MNIST in the size that a network takes."""
    return data.load("mnist", image_size=load_config(name, dropout=True).data.image_size)


def multiplications(name: str) -> list[int]:
    """Those of each layer in one image's forward pass."""
    from lenet_jax.training import sizes
    from lenet_jax.training.spec import make_spec

    return sizes.multiplications(make_spec(load_config(name, dropout=True), load_data(name)))


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
