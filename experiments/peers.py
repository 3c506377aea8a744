"""The peers of the benchmark: the same training in PyTorch, documented Flax and lenet-jax.

A peer is built from a network's sizes, its initial weights (a PyTorch state_dict of arrays) and the
data. `train(indices)` takes one optimiser step per row of indices and returns the mean loss;
`evaluate()` returns the number of correctly classified test images. All peers use SGD with
momentum 0.9, and learning rate 0.05 unless another is given.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lenet_jax import config as configs
from lenet_jax.data.dataset import Dataset

LEARNING_RATE, MOMENTUM = 0.05, 0.9
Weights = Mapping[str, np.ndarray]


class Network(NamedTuple):
    """The sizes that differ between the benchmark's networks."""

    channels: tuple[int, int]
    features: tuple[int, int] = (120, 84)


class Peer(NamedTuple):
    """The functions of a peer, which return when the work is done.

    Attributes:
      train: takes the steps of these indices, and gives their mean loss.
      evaluate: counts the test images that are classified right.
      prune: keeps a share of each layer's weights at 0; None: this peer has no such function.
    """

    train: Callable[[np.ndarray], float]
    evaluate: Callable[[], int]
    prune: Callable[[float], None] | None = None


def normalised(dataset: Dataset, name: str) -> np.ndarray:
    """A split's images as float32 with mean 0 and sd 1, for peers that preload them."""
    from lenet_jax.data.dataset import pixel_statistics

    (mean,), (std,) = pixel_statistics(dataset)
    images = getattr(dataset, name).images
    return (images.astype(np.float32) - np.float32(mean)) / np.float32(std)


def make_torch(
    network: Network, weights: Weights, dataset: Dataset, *, channels_last: bool, compiled: bool
) -> Peer:
    """PyTorch as in its tutorials, but with the data in memory and no DataLoader."""
    import torch
    from torch import nn

    c1, c2 = network.channels
    f1, f2 = network.features
    torch.set_default_dtype(torch.float32)

    class LeNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, c1, 5), nn.Conv2d(c1, c2, 5)
            self.fc1, self.fc2 = nn.Linear(25 * c2, f1), nn.Linear(f1, f2)
            self.fc3 = nn.Linear(f2, 10)

        def forward(self, x: Any) -> Any:
            x = nn.functional.max_pool2d(torch.relu(self.conv1(x)), 2)
            x = nn.functional.max_pool2d(torch.relu(self.conv2(x)), 2)
            x = torch.relu(self.fc1(torch.flatten(x, 1)))
            return self.fc3(torch.relu(self.fc2(x)))

    model = LeNet()
    model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in weights.items()})
    return torch_peer(model, dataset, channels_last=channels_last, compiled=compiled)


def torch_peer(
    model: Any,
    dataset: Dataset,
    *,
    channels_last: bool = False,
    compiled: bool = False,
    learning_rate: float = LEARNING_RATE,
) -> Peer:
    """The usual loop of PyTorch for any network."""
    import torch
    from torch import nn

    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(device).to(memory_format=layout)  # pyright: ignore[reportCallIssue]

    def tensor(name: str) -> Any:
        images = torch.from_numpy(normalised(dataset, name).transpose(0, 3, 1, 2).copy())
        return images.to(device).contiguous(memory_format=layout)

    images, test_images = tensor("train"), tensor("test")
    labels = torch.from_numpy(dataset.train.labels).long().to(device)
    test_labels = torch.from_numpy(dataset.test.labels).long().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=MOMENTUM)
    forward = torch.compile(model) if compiled else model

    def train(indices: np.ndarray) -> float:
        model.train()
        losses = []
        for row in torch.from_numpy(indices).long().to(device):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(forward(images[row]), labels[row])
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return statistics.mean(float(loss) for loss in losses)

    @torch.no_grad()
    def evaluate() -> int:
        model.train(False)
        right = torch.zeros((), dtype=torch.int64, device=device)
        for begin in range(0, len(test_labels), 500):
            logits = forward(test_images[begin : begin + 500])
            right += (logits.argmax(1) == test_labels[begin : begin + 500]).sum()
        return int(right)

    def prune(amount: float) -> None:
        from torch.nn.utils.prune import l1_unstructured

        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                l1_unstructured(module, "weight", amount)

    return Peer(train, evaluate, prune)


def make_flax(network: Network, weights: Weights, dataset: Dataset) -> Peer:
    """Flax as in its documentation: `nnx.Conv`, `nnx.max_pool`."""
    from flax import nnx

    from lenet_jax.inference.state_dict import from_state_dict

    c1, c2 = network.channels
    f1, f2 = network.features

    class LeNet(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.conv1 = nnx.Conv(1, c1, (5, 5), padding="VALID", rngs=rngs)
            self.conv2 = nnx.Conv(c1, c2, (5, 5), padding="VALID", rngs=rngs)
            self.fc1 = nnx.Linear(25 * c2, f1, rngs=rngs)
            self.fc2 = nnx.Linear(f1, f2, rngs=rngs)
            self.fc3 = nnx.Linear(f2, 10, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = nnx.max_pool(nnx.relu(self.conv1(x)), (2, 2), strides=(2, 2))
            x = nnx.max_pool(nnx.relu(self.conv2(x)), (2, 2), strides=(2, 2))
            x = nnx.relu(self.fc1(x.reshape(x.shape[0], -1)))
            return self.fc3(nnx.relu(self.fc2(x)))

    model = LeNet(nnx.Rngs(0))
    nnx.update(model, from_state_dict(weights, nnx.state(model, nnx.Param)))
    return flax_peer(model, dataset)


def flax_peer(model: Any, dataset: Dataset, *, learning_rate: float = LEARNING_RATE) -> Peer:
    """The documented loop of Flax for any module: `nnx.jit` per step."""
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from lenet_jax.nn.variables import set_mode

    optimizer = nnx.Optimizer(model, optax.sgd(learning_rate, MOMENTUM), wrt=nnx.Param)
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
        set_mode(model, training=True)
        losses = [train_step(model, optimizer, images[row], labels[row]) for row in indices]
        return statistics.mean(float(loss) for loss in losses)

    def evaluate() -> int:
        set_mode(model, training=False)
        batches = range(0, len(test_labels), 500)
        return sum(
            int(count_right(model, test_images[i : i + 500], test_labels[i : i + 500]))
            for i in batches
        )

    return Peer(train, evaluate)


def load_config(network: Network) -> configs.Config:
    """The lenet-jax config of the training that all peers run."""
    overrides = {
        "model.channels": network.channels,
        "model.features": network.features,
        "optimizer.learning_rate": LEARNING_RATE,
        "optimizer.momentum": MOMENTUM,
        "optimizer.weight_decay": 0.0,
        "schedule.name": "constant",
    }
    return configs.load("configs/notes.py", overrides.items())


def make_project(network: Network, weights: Weights, dataset: Dataset) -> Peer:
    """lenet-jax's LeNet."""
    from lenet_jax.inference.state_dict import from_state_dict

    return project_peer(load_config(network), dataset, lambda like: from_state_dict(weights, like))


def project_peer(config: configs.Config, dataset: Dataset, initial: Callable[[Any], Any]) -> Peer:
    """lenet-jax, with any network: one compiled program for all requested steps.

    Args:
      config: of the training.
      dataset: its data.
      initial: the variables to start from, in the structure of those that it is given.
    """
    from lenet_jax.training import evaluation, parallel, step
    from lenet_jax.training.batches import DeviceSplit, EpochSlice
    from lenet_jax.training.hyperparameters import hyperparameters, seeds
    from lenet_jax.training.spec import Spec, make_spec

    spec, settings = make_spec(config, dataset), hyperparameters(config)
    options = spec.compiler_options()

    def sized(batch_size: int) -> Spec:
        micro = batch_size if spec.is_stateful else min(batch_size, config.train.micro_batch_size)
        num_devices = parallel.count_sharing(batch_size, micro)
        return dataclasses.replace(
            spec, batch_size=batch_size, micro_batch_size=micro, num_devices=num_devices
        )

    @functools.cache
    def on_devices(num_devices: int, name: str) -> Any:
        return parallel.replicate(DeviceSplit.of(getattr(dataset, name)), num_devices)

    @functools.cache
    def steps_program(batch_size: int) -> Any:
        sized_spec = sized(batch_size)

        def run_steps(state: step.TrainState, order: Any, split: DeviceSplit) -> Any:
            steps = EpochSlice(order, 0, order.shape[0])
            return step.train_steps(
                sized_spec, state, evaluation.no_metrics(), split, steps, settings
            )

        return parallel.compile_shared(run_steps, sized_spec.num_devices, (0,), options)

    default = sized(config.train.batch_size)
    evaluate_all = parallel.compile_shared(
        functools.partial(evaluation.evaluate, default), default.num_devices, (), options
    )

    def start() -> step.TrainState:
        state = step.init_state(spec, seeds(config), settings)
        return dataclasses.replace(state, params=initial(state.params))

    held: dict[int, step.TrainState] = {}  # by the devices that share the batches

    def state(devices: int) -> step.TrainState:
        return held[devices] if devices in held else start()

    def take_steps(indices: np.ndarray) -> float:
        batch_size = indices.shape[1]
        devices = sized(batch_size).num_devices
        args = parallel.replicate((state(devices), indices), devices)
        held[devices], metrics = steps_program(batch_size)(*args, on_devices(devices, "train"))
        return float(metrics.mean_loss)

    def evaluate() -> int:
        devices = default.num_devices
        params = parallel.replicate(state(devices).params, devices)
        metrics, _ = evaluate_all(params, on_devices(devices, "test"))
        return int(metrics.correct)

    return Peer(take_steps, evaluate)


def make_population(network: Network, weights: Weights, dataset: Dataset, *, size: int) -> Peer:
    """A lenet-jax population of `size` members that differ in their seeds.

    The members draw their own weights and data orders. Each takes as many steps as there are rows
    of indices. `evaluate` returns the number of hits of the best member.
    """
    import jax

    from lenet_jax.data.dataset import Split
    from lenet_jax.training.population import Population
    from lenet_jax.training.spec import make_spec

    config = load_config(network)
    members = [configs.replace(config, {"seed": seed}) for seed in range(size)]
    held: dict[str, Any] = {}

    @functools.cache
    def prepare(steps: int, batch_size: int) -> Any:
        spec = dataclasses.replace(
            make_spec(config, dataset),
            num_examples=steps * batch_size,
            batch_size=batch_size,
            micro_batch_size=min(batch_size, config.train.micro_batch_size),
        )
        population = Population(spec, size)
        # One validation image: validation is not timed.
        splits = dataset.train, Split(dataset.valid.images[:1], dataset.valid.labels[:1])
        held["members"], settings = population.start(members)
        return population, settings, *map(population.put, splits)

    def take_steps(indices: np.ndarray) -> float:
        population, settings, train_split, valid_split = prepare(*indices.shape)
        held["population"] = population
        held["members"], metrics = population.train_epoch(
            held["members"], settings, train_split, valid_split, 0
        )
        return float(np.mean(population.pick(metrics.train_loss, size)))

    def evaluate() -> int:
        population = held["population"]
        metrics = population.test(held["members"], population.put(dataset.test))
        return int(np.max(jax.device_get(metrics.correct)))

    return Peer(take_steps, evaluate)


PEERS: dict[str, Callable[[Network, Weights, Dataset], Peer]] = {
    "torch": functools.partial(make_torch, channels_last=False, compiled=False),
    "torch channels_last": functools.partial(make_torch, channels_last=True, compiled=False),
    "torch.compile": functools.partial(make_torch, channels_last=False, compiled=True),
    "flax": make_flax,
    "lenet-jax": make_project,
}

POPULATIONS = {
    f"population of {size}": functools.partial(make_population, size=size) for size in (1, 8, 32)
}
