"""Several runs side by side: where their configs differ, how they learned, how right they are."""

from collections.abc import Sequence
from html import escape
from typing import Any

from lenet_jax import config as configs
from lenet_jax.errors import UserError
from lenet_jax.inference.network import Network
from lenet_jax.report import html
from lenet_jax.report.page import accuracy_chart

RESULTS = {
    "test_accuracy": "test accuracy, %",
    "test_loss": "test loss, nats",
    "valid_accuracy": "validation accuracy, %",
    "num_params": "parameters",
    "best_epoch": "best epoch",
    "train_seconds": "training, s",
    "images_per_second": "images/s",
}


def compare(networks: Sequence[Network]) -> tuple[str, list[str]]:
    """The page that compares runs, and its gist for a terminal.

    Raises:
      UserError: one of them has no config.
    """
    settings = []
    for network in networks:
        if network.config is None:
            raise UserError(f"{network.source} is no run: it has no config.json")
        settings.append(html.flatten(configs.to_dict(network.config)))
    different = [key for key in settings[0] if len({str(s[key]) for s in settings}) > 1]
    same = [key for key in settings[0] if key not in different]
    sources = [network.source for network in networks]
    results = [
        [name, *(_number(network.summary.get(key), name) for network in networks)]
        for key, name in RESULTS.items()
        if any(key in network.summary for network in networks)
    ]
    rows = [[key, *(values[key] for values in settings)] for key in different]
    colours = ", ".join(
        f'<b class="key c{number % 5}">{escape(source)}</b>'
        for number, source in enumerate(sources)
    )
    body = [
        f"<header><h1>{len(networks)} runs side by side</h1><p>{colours}</p></header><main>",
        "<h2>How right they are</h2>",
        html.table("", ["", *sources], results),
        "<h2>How they differ</h2>",
        html.table("", ["", *sources], rows) if different else "<p>Their configs are the same.</p>",
        "<details><summary>What they have in common</summary>",
        html.table("", [], [[key, settings[0][key]] for key in same]),
        "</details>",
    ]
    histories = [network.history for network in networks]
    if all(histories):
        caption = "<b>Validation accuracy</b>, %, on the scale of the error"
        body += [
            "<h2>How they learned</h2>",
            html.figure(caption, accuracy_chart(histories), style="alone"),
        ]
    lines = _columns(
        [["", *sources], *results, *[[k, *(s[k] for s in settings)] for k in different]]
    )
    return html.page(f"{len(networks)} runs side by side", [*body, "</main>"]), lines


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
