"""Several runs side by side: their results, the differences of their configs, their curves."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from lenet_jax import config as configs
from lenet_jax.config.measurements import names
from lenet_jax.data.dataset import Dataset
from lenet_jax.errors import UserError
from lenet_jax.inference.load import Results
from lenet_jax.inference.network import Network
from lenet_jax.plots.curves import plot_accuracies
from lenet_jax.plots.output import svg
from lenet_jax.plots.results import plot_disagreements
from lenet_jax.report.page import flatten, render
from lenet_jax.statistics import mcnemar

RESULTS = {
    "test_accuracy": "test accuracy, %",
    "test_loss": "test loss, nats",
    "valid_accuracy": "validation accuracy, %",
    "num_params": "parameters",
    "best_epoch": "best epoch",
    "train_seconds": "training, s",
    "images_per_second": "images/s",
}


class Answers(NamedTuple):
    """What several networks say of the same test images.

    Attributes:
      dataset: with the images.
      predictions: of each network.
      num_params: weights and biases of each.
    """

    dataset: Dataset
    predictions: Int[np.ndarray, "m n"]
    num_params: Sequence[int]

    @property
    def accuracies(self) -> list[float]:
        """The share of the test images that each network gets right."""
        return np.mean(self.predictions == self.dataset.test.labels, axis=1).tolist()

    def pairs(self) -> list[tuple[str, int, int, str]]:
        """Of each pair of networks: which, what only one of them gets right, and McNemar's p."""
        right, rows = self.predictions == self.dataset.test.labels, []
        for i, j in combinations(range(len(right)), 2):
            first, second = int((right[i] & ~right[j]).sum()), int((right[j] & ~right[i]).sum())
            chance = _chance(mcnemar(first, second))
            rows.append((f"[{i + 1}], [{j + 1}]", first, second, chance))
        return rows


def answer(networks: Sequence[Network]) -> Answers:
    """Classifies the test images by each of several networks.

    Raises:
      UserError: their data cannot be read, or are not the same.
    """
    remarks: list[str] = []
    datasets: dict[str, Dataset] = {}
    predictions = []
    for network in networks:
        assert network.config is not None
        key = str(network.config.data)
        if key not in datasets:
            datasets[key] = network.load_data(remarks.append)
        predictions.append(network.predict(datasets[key].test.images))
    first, *others = datasets.values()
    labels = first.test.labels
    if remarks or not all(np.array_equal(other.test.labels, labels) for other in others):
        raise UserError(remarks[0] if remarks else "they have other test images")
    return Answers(first, np.stack(predictions), [network.num_params for network in networks])


def compare(networks: Sequence[Results], answers: Answers | None = None) -> tuple[str, list[str]]:
    """The page that compares runs, and the lines of it for a terminal.

    Args:
      networks: what is known of each.
      answers: what each says of the test images; None: they are not compared.
    """
    if answers is not None:
        found = zip(networks, answers.accuracies, answers.num_params, strict=True)
        networks = [_complete(*each) for each in found]
    settings = [flatten(configs.to_dict(network.config)) for network in networks]
    every = dict.fromkeys(key for values in settings for key in values)  # networks have their own
    keys = {key: len({str(values.get(key)) for values in settings}) > 1 for key in every}
    sources = [network.source for network in networks]
    numbers = [f"[{number}]" for number in range(1, len(sources) + 1)]
    named = [f"{number} {source}" for number, source in zip(numbers, sources, strict=True)]
    measured = {
        f"test_{name}": f"test {name}"
        for setting in settings
        for name in names(setting["train.measurements"])
    }
    results = [
        [name, *(_number(network.summary.get(key), name) for network in networks)]
        for key, name in (RESULTS | measured).items()
        if any(key in network.summary for network in networks)
    ]
    different = [[key, *(values.get(key) for values in settings)] for key in keys if keys[key]]
    figure = None
    if all(network.history for network in networks):
        data = " and ".join(dict.fromkeys(network.config.data.name for network in networks))
        every_history = [network.history for network in networks]
        histories = [*zip(named, every_history, strict=True)]
        figure = plot_accuracies(histories, title=data)
    pairs, disagreements = [] if answers is None else answers.pairs(), None
    if answers is not None and any(first or second for _, first, second, _ in pairs):
        dataset = answers.dataset
        disagreements = plot_disagreements(
            dataset.test.images,
            dataset.test.labels,
            answers.predictions,
            dataset.class_names,
            title=dataset.name,
        )
    page = render(
        "compare.html",
        title=f"{len(networks)} runs side by side",
        numbers=numbers,
        named=named,
        results=results,
        different=different,
        same=[[key, settings[0].get(key)] for key in keys if not keys[key]],
        pairs=pairs,
        disagreements=disagreements and svg(disagreements, "The images on which runs disagree"),
        svg=figure and svg(figure, "Validation accuracy of each run over the epochs"),
    )
    table = _columns([["", *numbers], *results, *different])
    if pairs:
        heading = "runs", "only first right", "only second", "McNemar's p"
        table += ["", *_columns([heading, *pairs])]
    return page, [*named, "", *table]


def _complete(network: Results, accuracy: float, num_params: int) -> Results:
    """With what is not recorded of a sweep's member: its size, and its accuracy after an epoch."""
    found = {"test_accuracy": accuracy, "num_params": num_params}
    return network._replace(summary=found | dict(network.summary))


def _chance(p: float) -> str:
    """A p value with two digits, or three decimals from 0.001 up."""
    if p < 1e-300:
        return "< 1e-300"
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def _number(value: Any, name: str) -> str:
    if value is None:
        return "–"
    if name.endswith("%"):
        return f"{100 * value:.2f}"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _columns(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Aligned text, numbers on the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [
        "  ".join(
            f"{cell:<{width}}" if place == 0 else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in texts
    ]
