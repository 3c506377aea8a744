"""Compares training in lenet-jax with PyTorch: 300 steps of LeNet on MNIST in both.

    python -m experiments.torch_parity

Both start from the same weights and see the same batches in the same order: 64 images per step, SGD
with momentum 0.9 and a constant learning rate of 0.01. In lenet-jax this is the training step that
`lenet_jax.main` uses; in PyTorch it is the usual loop of `zero_grad`, `backward` and
`optimizer.step`.

In float64 the two trajectories agree throughout. In float32 they agree until rounding decides which
of two almost equal pixels a max-pool sends its gradient to, or on which side of 0 a ReLU's input
lies; whether that happens within 300 steps depends on the seed. From there they diverge, as two
PyTorch runs do whose initial weights differ by one unit in the last place, which is measured too.

Needs torch; takes some minutes. Writes results/torch_parity.json and .png: the difference of the
losses, and on how many of the 10,000 test images the networks agree.
"""

import argparse
import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Float, Int32, UInt8
from torch import nn
from torch.nn import functional

from experiments import study
from lenet_jax import config as configs
from lenet_jax import data
from lenet_jax.inference.state_dict import to_state_dict
from lenet_jax.machine import environment
from lenet_jax.nn import ops
from lenet_jax.plots.style import (
    BLUE,
    FAINT,
    INK,
    VERMILION,
    WIDTH,
    Figure,
    chart,
    key,
    styled,
    write,
)
from lenet_jax.storage.weights import StateDict
from lenet_jax.training.batches import DeviceSplit, epoch_order, make_batch
from lenet_jax.training.evaluation import evaluate
from lenet_jax.training.hyperparameters import hyperparameters, seeds
from lenet_jax.training.spec import Spec, make_spec
from lenet_jax.training.step import TrainState, init_state, train_step

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")
TOLERANCE = 1e-3  # nats
OURS, THEIRS, MOVED = "lenet-jax", "PyTorch", "PyTorch, initial weights moved by 1 ulp"


class TorchLeNet(nn.Module):
    """LeNet in PyTorch."""

    def __init__(self, channels, features):
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels[0], 5)
        self.conv2 = nn.Conv2d(channels[0], channels[1], 5)
        self.fc1 = nn.Linear(channels[1] * 5 * 5, features[0])
        self.fc2 = nn.Linear(features[0], features[1])
        self.fc3 = nn.Linear(features[1], 10)

    def forward(self, x):
        """Logits of normalised images (b, 1, 32, 32)."""
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = torch.flatten(x, start_dim=1)
        x = functional.relu(self.fc1(x))
        x = functional.relu(self.fc2(x))
        return self.fc3(x)


class Setup(NamedTuple):
    """The common starting point of both libraries.

    Attributes:
      spec, settings, dataset: those of `configs/notes.py`.
      state: the state before the first step.
      order: the indices of each step's images.
    """

    spec: Spec
    settings: dict[str, Any]
    dataset: data.Dataset
    state: TrainState
    order: Int32[np.ndarray, "steps b"]

    def weights(self) -> dict[str, Float[np.ndarray, "..."]]:
        """The initial weights under PyTorch's names and in its layouts."""
        return to_state_dict(self.state.params)


class Trajectory(NamedTuple):
    """The result of training.

    Attributes:
      losses: mean cross-entropy of each step's batch before the update, in nats.
      logits: of the test images, after the last step.
    """

    losses: Float[np.ndarray, " steps"]
    logits: Float[np.ndarray, "n k"]


def prepare(num_steps: int, seed: int = 0, learning_rate: float = 0.01) -> Setup:
    """Loads MNIST and draws initial weights and the order of the images.

    Pixels become (pixel - 32) / 64, which is close to zero mean and unit variance. Unlike the exact
    statistics, which need rounding, these values are the same in every library and precision.
    """
    changes = {
        "seed": seed,
        "schedule.name": "constant",
        "optimizer.learning_rate": learning_rate,
        "optimizer.weight_decay": 0.0,
    }
    config = configs.load("configs/notes.py", changes.items())
    dataset = data.load_section(config.data)
    spec = dataclasses.replace(make_spec(config, dataset), mean=(32.0,), std=(64.0,))
    settings = hyperparameters(config)
    state = init_state(spec, seeds(config), settings)
    order = epoch_order(spec, state.order_key, jnp.int32(0))
    return Setup(spec, settings, dataset, state, np.asarray(order)[:num_steps])


def train_here(setup: Setup, precision: str) -> Trajectory:
    """Trains with `train.train_step`, one batch after the other, in `float32` or `float64`."""
    spec, settings, dataset, state, order = setup
    compiled = functools.partial(jax.jit, compiler_options=ops.compiler_options())

    @compiled
    def step(state, split, indices):
        batch = make_batch(spec, split, indices, state.augment_key, settings)
        return train_step(spec, state, batch, settings)

    # With float64 parameters, everything from the first product on is float64.
    with jax.enable_x64(precision == "float64"), jax.numpy_dtype_promotion("standard"):
        state = jax.tree.map(
            lambda x: x.astype(precision) if x.dtype == jnp.float32 else x, setup.state
        )
        split = jax.device_put(DeviceSplit.of(dataset.train))
        losses = []
        for indices in order:
            state, metrics = step(state, split, indices)
            losses.append(metrics.mean_loss)
        _, logits = compiled(functools.partial(evaluate, spec))(
            state.params, DeviceSplit.of(dataset.test)
        )
        return Trajectory(np.array(losses), np.asarray(logits))


def train_in_torch(setup: Setup, precision: str, weights: StateDict) -> Trajectory:
    """Trains these weights with PyTorch's layers, loss, gradients and optimiser."""
    spec, settings, dataset, _, order = setup
    torch.set_num_threads(1)  # so that the order of summation does not depend on the cores
    dtype = getattr(torch, precision)

    def pixels(images: UInt8[np.ndarray, "b h w 1"]) -> torch.Tensor:
        batch = torch.from_numpy(images).permute(0, 3, 1, 2).to(dtype)
        return (batch - spec.mean[0]) / spec.std[0]

    model = dict(spec.model)
    network = TorchLeNet(model["channels"], model["features"]).to(dtype)
    network.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    sgd = settings["optimizer"]
    learning_rate = float(np.float32(sgd["learning_rate"]))  # as in lenet-jax's step
    optimizer = torch.optim.SGD(network.parameters(), lr=learning_rate, momentum=sgd["momentum"])
    losses = []
    for indices in order:
        optimizer.zero_grad()
        logits = network(pixels(dataset.train.images[indices]))
        loss = functional.cross_entropy(
            logits, torch.from_numpy(dataset.train.labels[indices]).long()
        )
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        batches = np.array_split(dataset.test.images, 20)
        logits = torch.cat([network(pixels(batch)) for batch in batches])
    return Trajectory(np.array(losses, precision), np.asarray(logits))


def differences(one: Trajectory, other: Trajectory) -> Float[np.ndarray, " steps"]:
    """The absolute difference of the two losses at each step, in nats."""
    return np.abs(one.losses - other.losses)


def summarise(one: Trajectory, other: Trajectory) -> dict[str, Any]:
    """Measures of how well two trajectories agree."""
    apart = np.flatnonzero(differences(one, other) > TOLERANCE)
    equal = one.logits.argmax(axis=-1) == other.logits.argmax(axis=-1)
    return {
        "max_loss_difference": float(differences(one, other).max()),
        "first_step_apart_by_0.001": int(apart[0]) if len(apart) else None,
        "test_images": len(equal),
        "equal_predictions": int(equal.sum()),
        "share_of_equal_predictions": float(equal.mean()),
    }


def free_place(wanted: float, taken: Sequence[tuple[float, float]]) -> float:
    """The place nearest to the wanted one where a name meets no line, as powers of ten.

    Args:
      wanted: the middle of the name's own line.
      taken: both ends of every piece of a line; those with NaN are not drawn.
    """
    places = sorted(np.arange(-16, 2.5, 0.1), key=lambda place: abs(place - wanted))
    for place in places:
        if not any(min(ends) - 0.9 < place < max(ends) + 0.9 for ends in taken):
            return float(place)
    return float(places[0])


@styled
def plot(answer: dict[str, Any]) -> Figure:
    """Draws the two loss curves in float64, and the differences of pairs of losses."""
    from matplotlib.ticker import LogLocator

    losses = answer["losses"]
    ours, theirs = losses[OURS], losses[THEIRS]
    steps = np.arange(len(ours["float64"]))
    figure = chart(
        WIDTH,
        720,
        f"LeNet on MNIST: {len(steps)} steps from the same weights on the same batches",
        f"batches of {answer['batch_size']}, seed {answer['seed']}; thin line: {TOLERANCE:g} nats",
    )
    curves, gap = figure.subplots(2, 1, height_ratios=(4, 5))
    curves.set_title("training loss, nats (float64)")
    curves.plot(steps, theirs["float64"], color=BLUE, linewidth=5, alpha=0.35)
    curves.plot(steps, ours["float64"], color=VERMILION, linewidth=1)
    curves.set_ylim(bottom=0)
    key(
        curves,
        [(f"{THEIRS}, the wide line", BLUE), (f"{OURS}, within it", VERMILION)],
        "upper right",
    )
    gap.set_title("absolute difference of two training losses, nats (log scale)")
    ours_and_theirs = f"{OURS} and {THEIRS}"
    moved = f"dotted: {THEIRS} and itself, initial weights moved by 1 ulp, float32"
    pairs = (
        (theirs["float32"], losses[MOVED]["float32"], FAINT, ":", moved),
        (ours["float32"], theirs["float32"], BLUE, "-", f"{ours_and_theirs}, float32"),
        (ours["float64"], theirs["float64"], VERMILION, "-", f"{ours_and_theirs}, float64"),
    )
    limit = math.log10(TOLERANCE)
    taken, lines = [(limit, limit)], []
    for one, other, colour, line, name in pairs:
        difference = np.abs(np.array(one) - np.array(other))
        positive = np.where(difference > 0, difference, np.nan)  # 0 is not on a log scale
        gap.plot(steps, positive, line, color=colour, linewidth=1.2)
        right = np.log10(positive[len(steps) * 2 // 5 :])  # what the longest name may cover
        taken += pairwise(right)
        lines.append((np.nanmedian(right), name, colour))
    gap.axhline(TOLERANCE, color=INK, linewidth=0.8)
    gap.set_yscale("log")
    gap.set_ylim(1e-17, 1e3)  # with room for names above the lines
    gap.yaxis.set_major_locator(LogLocator(numticks=8))
    gap.yaxis.set_major_formatter("{x:.0e}")
    gap.set_xlabel("step")
    for middle, name, colour in lines:
        place = free_place(middle, taken)
        taken.append((place, place))
        write(gap, len(steps) - 1, 10**place, name, color=colour, ha="right")
    for axes in (curves, gap):
        axes.set_xlim(0, len(steps) - 1)
    return figure


def main() -> None:
    """Compares and writes the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--num_steps", type=int, default=300, choices=range(2, 860), metavar="N", help="up to 859"
    )
    parser.add_argument("--seed", type=int, default=0, help="of initial weights, data order")
    parser.add_argument("--learning_rate", type=float, default=0.01, help="constant learning rate")
    parser.add_argument("--output", type=Path, default=Path("results"), help="folder to write to")
    arguments = parser.parse_args()

    setup = prepare(arguments.num_steps, arguments.seed, arguments.learning_rate)
    weights = setup.weights()
    moved = {name: np.nextafter(array, np.float32(np.inf)) for name, array in weights.items()}
    ours, ours32 = (train_here(setup, precision) for precision in ("float64", "float32"))
    theirs, theirs32 = (
        train_in_torch(setup, precision, weights) for precision in ("float64", "float32")
    )
    moved32 = train_in_torch(setup, "float32", moved)

    labels = setup.dataset.test.labels
    comparison = {
        "float64": summarise(ours, theirs),
        "float32": summarise(ours32, theirs32),
        "torch_float32_and_itself_moved_by_one_ulp": summarise(theirs32, moved32),
        "test_accuracy": {
            "jax": float((ours.logits.argmax(axis=-1) == labels).mean()),
            "torch": float((theirs.logits.argmax(axis=-1) == labels).mean()),
        },
    }
    record = {
        "steps": len(setup.order),
        "batch_size": setup.spec.batch_size,
        "learning_rate": setup.settings["optimizer"]["learning_rate"],
        "momentum": setup.settings["optimizer"]["momentum"],
        "seed": arguments.seed,
        **comparison,
        "devices": [device.device_kind for device in jax.devices()],
        **environment(),
        "losses": {
            OURS: {"float64": ours.losses.tolist(), "float32": ours32.losses.tolist()},
            THEIRS: {"float64": theirs.losses.tolist(), "float32": theirs32.losses.tolist()},
            MOVED: {"float32": moved32.losses.tolist()},
        },
    }
    print(json.dumps(comparison, indent=2))
    study.write(arguments.output / "torch_parity.json", record, plot)


if __name__ == "__main__":
    main()
