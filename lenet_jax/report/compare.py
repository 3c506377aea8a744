"""Several runs side by side: their results, the differences of their configs, their curves."""

from collections.abc import Sequence
from typing import Any

from lenet_jax import config as configs
from lenet_jax.config.measurements import names
from lenet_jax.inference.load import Results
from lenet_jax.plots.curves import plot_accuracies
from lenet_jax.plots.output import svg
from lenet_jax.report.page import flatten, render

RESULTS = {
    "test_accuracy": "test accuracy, %",
    "test_loss": "test loss, nats",
    "valid_accuracy": "validation accuracy, %",
    "num_params": "parameters",
    "best_epoch": "best epoch",
    "train_seconds": "training, s",
    "images_per_second": "images/s",
}


def compare(networks: Sequence[Results]) -> tuple[str, list[str]]:
    """The page that compares runs, and the lines of it for a terminal."""
    settings = [flatten(configs.to_dict(network.config)) for network in networks]
    every = dict.fromkeys(key for values in settings for key in values)  # networks have their own
    keys = {key: len({str(values.get(key)) for values in settings}) > 1 for key in every}
    sources = [network.source for network in networks]
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
        figure = plot_accuracies([(network.source, network.history) for network in networks])
    page = render(
        "compare.html",
        title=f"{len(networks)} runs side by side",
        sources=sources,
        results=results,
        different=different,
        same=[[key, settings[0].get(key)] for key in keys if not keys[key]],
        svg=figure and svg(figure, "Validation accuracy of each run over the epochs"),
    )
    numbers = [f"[{number}]" for number in range(1, len(sources) + 1)]
    lines = [f"{number} {source}" for number, source in zip(numbers, sources, strict=True)]
    return page, [*lines, "", *_columns([["", *numbers], *results, *different])]


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
