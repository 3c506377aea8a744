"""Does training here follow PyTorch's? LeNet on MNIST, 300 steps in both.

    python -m experiments.torch_parity

Both start from the same weights and see the same batches in the same order: 64 images a step, SGD
with momentum 0.9 at the configs' learning rate, held constant. Here it is the very step that
`lenet_jax.main` trains with; there it is a loop of `zero_grad`, `backward` and `optimizer.step` as
PyTorch's users write it. Needs torch; takes half a minute.

Writes results/torch_parity.json and results/torch_parity.png: how far the loss curves are apart,
and on how many of the 10,000 test images the two trained networks say the same.
"""

import argparse
import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Float, Int32, UInt8
from torch import nn
from torch.nn import functional as F

from lenet_jax import config as configs
from lenet_jax import data, ops, torch_bridge, train
from lenet_jax.recipe import Recipe, hyperparameters, make_recipe, seeds
from lenet_jax.sheet import open_sheet
from lenet_jax.workdir import environment, write_atomically

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")
OURS, THEIRS, MARK = "#D55E00", "#0072B2", "#555555"


class TorchLeNet(nn.Module):
    """The network of the notes, as PyTorch's users write it."""

    def __init__(self, channels=(6, 12), features=(120, 84), num_classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels[0], 5)
        self.conv2 = nn.Conv2d(channels[0], channels[1], 5)
        self.fc1 = nn.Linear(channels[1] * 5 * 5, features[0])
        self.fc2 = nn.Linear(features[0], features[1])
        self.fc3 = nn.Linear(features[1], num_classes)

    def forward(self, x):
        """Logits of normalised images (b, 1, 32, 32)."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = torch.flatten(x, start_dim=1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


class Trajectory(NamedTuple):
    """What training leaves behind.

    Attributes:
      losses: mean cross-entropy of each step's batch, in nats, before the step.
      logits: of the test images, after the last step.
    """

    losses: Float[np.ndarray, " steps"]
    logits: Float[np.ndarray, "n k"]

    def predictions(self) -> np.ndarray:
        """The class of each test image."""
        return self.logits.argmax(axis=-1)


def compare(num_steps: int, seed: int = 0) -> tuple[Trajectory, Trajectory, np.ndarray]:
    """Trains in both, from the same weights, on the same batches.

    Args:
      num_steps: at most those of one epoch, 860.
      seed: of the initial weights and of the order of the images.

    Returns:
      The trajectory here, the one in PyTorch, and the labels of the test images.
    """
    changes = {"seed": seed, "schedule.name": "constant"}
    config = configs.load("configs/notes.py", changes.items())
    dataset = data.load(**config.data)
    recipe, numbers = make_recipe(config, dataset), hyperparameters(config)
    state = train.init_state(recipe, seeds(config), numbers)
    weights = torch_bridge.to_state_dict(state.params)
    order = train.epoch_order(recipe, state.order_key, jnp.int32(0))[:num_steps]
    ours = train_here(recipe, numbers, state, dataset, order)
    theirs = train_in_torch(recipe, numbers, weights, dataset, np.asarray(order))
    return ours, theirs, dataset.test.labels


def train_here(
    recipe: Recipe,
    numbers: dict[str, Any],
    state: train.TrainState,
    dataset: data.Dataset,
    order: Int32[jax.Array, "steps b"],
) -> Trajectory:
    """Trains with `train.train_step`, one batch after the other."""
    images, labels = jnp.asarray(dataset.train.images), jnp.asarray(dataset.train.labels)
    compiled = functools.partial(jax.jit, compiler_options=ops.compiler_options())

    @compiled
    def step(state, indices):
        batch = train.make_batch(recipe, images, labels, indices, state.augment_key, numbers)
        return train.train_step(recipe, state, batch, numbers)

    losses = []
    for indices in order:
        state, metrics = step(state, indices)
        losses.append(metrics.mean_loss)
    evaluate = compiled(functools.partial(train.evaluate, recipe))
    _, logits = evaluate(state.params, dataset.test.images, dataset.test.labels)
    return Trajectory(np.array(losses), np.asarray(logits))


def train_in_torch(
    recipe: Recipe,
    numbers: dict[str, Any],
    weights: torch_bridge.StateDict,
    dataset: data.Dataset,
    order: Int32[np.ndarray, "steps b"],
) -> Trajectory:
    """Trains with PyTorch's own layers, loss, gradients and optimiser."""

    def pixels(images: UInt8[np.ndarray, "b h w 1"]) -> torch.Tensor:
        floats = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        return (floats - recipe.mean[0]) / recipe.std[0]

    model = dict(recipe.model)
    network = TorchLeNet(model["channels"], model["features"], model["num_classes"])
    network.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    settings = numbers["optimizer"]
    optimizer = torch.optim.SGD(
        network.parameters(), lr=settings["learning_rate"], momentum=settings["momentum"]
    )
    losses = []
    for indices in order:
        optimizer.zero_grad()
        logits = network(pixels(dataset.train.images[indices]))
        loss = F.cross_entropy(logits, torch.from_numpy(dataset.train.labels[indices]).long())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        parts = np.array_split(dataset.test.images, 20)
        logits = torch.cat([network(pixels(part)) for part in parts]).numpy()
    return Trajectory(np.array(losses, np.float32), logits)


def summarise(ours: Trajectory, theirs: Trajectory, labels: np.ndarray) -> dict[str, Any]:
    """The numbers that say how well the two agree."""
    equal = ours.predictions() == theirs.predictions()
    return {
        "steps": len(ours.losses),
        "max_loss_difference": float(np.abs(ours.losses - theirs.losses).max()),
        "final_loss": {"jax": float(ours.losses[-1]), "torch": float(theirs.losses[-1])},
        "test_images": len(labels),
        "equal_predictions": int(equal.sum()),
        "share_of_equal_predictions": float(equal.mean()),
        "test_accuracy": {
            "jax": float((ours.predictions() == labels).mean()),
            "torch": float((theirs.predictions() == labels).mean()),
        },
    }


def plot(ours: Trajectory, theirs: Trajectory, path: Path, title: str) -> None:
    """Draws the two loss curves above their difference."""
    steps = np.arange(len(ours.losses))
    difference = np.abs(ours.losses - theirs.losses)
    with open_sheet(path, 900, 640) as sheet:
        sheet.text(80, 24, title, size=11, weight="bold")
        curves, gap = sheet.axes(80, 70, 780, 290), sheet.axes(80, 430, 780, 150)
        curves.set_title("training loss, nats")
        curves.plot(steps, theirs.losses, color=THEIRS, linewidth=3.5, alpha=0.5, label="PyTorch")
        curves.plot(steps, ours.losses, color=OURS, linewidth=1, label="lenet-jax")
        curves.set_ylim(bottom=0)
        curves.legend(frameon=False)
        gap.set_title("their difference, nats")
        gap.plot(steps, np.maximum(difference, 1e-9), color=MARK, linewidth=1)
        gap.axhline(1e-3, color=MARK, linestyle=":")
        gap.set_yscale("log")
        gap.set_ylim(1e-9, 3e-3)
        gap.set_xlabel("step")
        for axes in (curves, gap):
            axes.set_xlim(0, len(steps) - 1)


def main() -> None:
    """Compares and writes the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--num_steps", type=int, default=300, help="optimiser steps, up to 860")
    parser.add_argument("--seed", type=int, default=0, help="of initial weights and data order")
    parser.add_argument("--output", type=Path, default=Path("results"), help="folder")
    arguments = parser.parse_args()
    ours, theirs, labels = compare(arguments.num_steps, arguments.seed)
    found = summarise(ours, theirs, labels)
    record = found | {
        "batch_size": 64,
        "seed": arguments.seed,
        "torch_threads": torch.get_num_threads(),
        "devices": [device.device_kind for device in jax.devices()],
        **environment(PACKAGES),
    }
    write_atomically(arguments.output / "torch_parity.json", json.dumps(record, indent=2) + "\n")
    title = f"LeNet on MNIST, {len(ours.losses)} steps from the same weights on the same batches"
    plot(ours, theirs, arguments.output / "torch_parity.png", title)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
