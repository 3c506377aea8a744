"""How long the trainings of a study would take as a loop over its networks in PyTorch.

A part is timed on the same cores, in a process of its own: some steps, and one evaluation. The rest
is extrapolated from it: of each network the epochs, with their validation, the test, and the
pruning, if any. What a loop does besides, such as to load and to save weights, is left out.
"""

import statistics
from collections.abc import Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import numpy as np

from experiments.peers import Network
from experiments.worker import Worker
from lenet_jax import config as configs
from lenet_jax.data import Dataset

PEER = "torch"
TURNS = 25  # of half a second; PyTorch's speed varies from one to the next
IMAGES_PER_TURN = 12_800
EVALUATED = 10_000  # images of MNIST's test set


def time_loop(
    config: configs.Config, networks: int, dataset: Dataset, *, pruned: float = 0.0
) -> dict[str, Any] | None:
    """Times a part of a loop, and extrapolates it.

    Args:
      config: of one training; its network is a LeNet, or one of `module_peers.MODULES`.
      networks: how many the loop trains, for `train.num_epochs` each.
      dataset: whose training and validation images an epoch goes through, and whose test images
        each network is tested on.
      pruned: the share of each layer's weights that `torch.nn.utils.prune` keeps at 0.

    Returns:
      `seconds` of the whole loop, and what they are of: `images_per_second` of training and
      `evaluated_per_second`, medians over `turns`, of which one more warms up, and
      `seconds_to_prune` a network. None without PyTorch.
    """
    if find_spec("torch") is None:
        return None
    model, batch = config.model, config.train.batch_size
    if model.name == "lenet":
        make = {"do": "make", "network": Network(tuple(model.channels), tuple(model.features))}
    else:
        make = {"do": "make module", "network": model.name, "dropout": True}
    order = np.random.default_rng(1).integers(0, 55_000, (IMAGES_PER_TURN // batch, batch))
    worker = Worker(PEER)
    pruning = 0.0
    for _ in range(2 if pruned else 1):  # the first warms up
        worker.ask(**make)
        if pruned:
            pruning = worker.ask(do="prune", amount=pruned)["seconds"]
    training, evaluation = [], []
    for _ in range(TURNS + 1):
        training.append(worker.ask(do="train", indices=order.tolist())["seconds"])
        evaluation.append(worker.ask(do="evaluate")["seconds"])
    worker.close()
    rate = order.size / statistics.median(training[1:])
    evaluated = EVALUATED / statistics.median(evaluation[1:])
    epoch = len(dataset.train.labels) / rate + len(dataset.valid.labels) / evaluated
    test = len(dataset.test.labels) / evaluated
    return {
        "seconds": round(networks * (config.train.num_epochs * epoch + test + pruning), 1),
        "images_per_second": round(rate),
        "evaluated_per_second": round(evaluated),
        "seconds_to_prune": round(pruning, 4),
        "turns": TURNS,
        "timed_seconds": round(sum(training) + sum(evaluation), 1),
        "version": metadata.version("torch"),
    }


def training_seconds(rows: Sequence[Mapping[str, Any]]) -> float:
    """The wall time that a sweep trained for, from the rows of its results, in seconds."""
    return round(sum(row["seconds"] for row in rows), 1)


def sentence(training: float, loop: dict[str, Any] | None) -> str:
    """What a study says of both times."""
    if loop is None:
        return ""
    return (
        f"Training took {training:,.0f} s; a loop over the networks in PyTorch would take"
        f" {loop['seconds']:,.0f} s, {loop['seconds'] / training:.1f} times as long (extrapolated"
        f" from {loop['timed_seconds']:.0f} s of it, timed after the training on the same cores)."
    )
