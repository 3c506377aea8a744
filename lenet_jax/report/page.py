"""The page that shows what a network has learned: one file that opens anywhere."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from lenet_jax import config as configs
from lenet_jax.data.dataset import Dataset
from lenet_jax.inference.network import Network
from lenet_jax.plots.filters import paint
from lenet_jax.report import html, svg
from lenet_jax.report.findings import CONVOLUTIONS, FIELDS, Findings, exciting_patches
from lenet_jax.runs.figures import confusion_matrix

MISTAKES = 40  # at most
MOST_CLASSES = 20  # that a table of confusions has room for
Row = Mapping[str, float | int]


def report(
    network: Network, dataset: Dataset, findings: Findings, record: Mapping[str, Any]
) -> str:
    """The page of one network.

    Args:
      network: the network.
      dataset: what it was tested on.
      findings: what was found out about it.
      record: what `run.json` says; may be empty.
    """
    sizes = "–".join(map(str, network.model_sizes))
    title = f"LeNet {sizes} on {dataset.name}"
    body = [
        f"<header><h1>{escape(title)}</h1>",
        f'<p class="faint">{escape(network.source)}</p>{_stats(network, findings)}</header><main>',
        *_learning(network.history),
        *_mistakes(network, findings),
        *_filters(network, findings),
        *_way(network, findings),
        *_certainty(findings),
        *_numbers(network, findings),
        *_config(network, record),
        "</main>",
    ]
    return html.page(title, body)


def _stats(network: Network, findings: Findings) -> str:
    count, wrong = len(findings.test), len(findings.mistakes())
    dead = findings.survey.dead()
    of = sum(active.shape[1] for active in findings.survey.active.values())
    values = [
        ("Test accuracy", f"{100 * (1 - wrong / count):.2f} %", f"{wrong:,} of {count:,} wrong"),
        ("Parameters", f"{sum(map(np.size, network.state_dict.values())):,}", "weights and biases"),
        (
            "Calibration error",
            f"{100 * findings.calibration.error:.2f} %",
            "distance of sureness from accuracy",
        ),
        ("Dead ReLUs", f"{sum(map(len, dead.values()))}", f"of {of} units, over all test images"),
    ]
    summary = network.summary
    if {"epochs", "train_seconds"} <= summary.keys():
        seconds = f"{summary['train_seconds']:.0f} s of training"
        values.insert(1, ("Epochs", f"{summary['epochs']}", seconds))
    return html.stats(values)


def _learning(history: Sequence[Row]) -> list[str]:
    if not history:
        return []
    best = max(history, key=lambda row: row.get("valid/accuracy", -math.inf))
    charts = [
        html.figure(
            "<b>Accuracy</b>, %, on the scale of the error",
            accuracy_chart([history], int(best["epoch"])),
        ),
        html.figure("<b>Loss</b>, nats", _loss_chart(history, int(best["epoch"]))),
    ]
    if "learning_rate" in history[0]:
        epochs, rates = zip(*((row["epoch"], row["learning_rate"]) for row in history), strict=True)
        chart = svg.line_chart(
            "Learning rate over the epochs",
            svg.linear(*_ends(history), "epoch", least=1),
            svg.linear(0, max(rates), "learning rate"),
            [svg.Line("c2", epochs, rates)],
        )
        charts.append(html.figure("<b>Learning rate</b> at the end of each epoch", chart))
    return [
        "<h2>How it learned</h2>",
        '<p class="faint"><b class="key c1">train</b> and <b class="key c0">validation</b>; the'
        f" dotted line marks epoch {best['epoch']}, the best on validation, whose weights these"
        " are.</p>",
        f'<div class="grid charts">{"".join(charts)}</div>',
        "<details><summary>Every epoch</summary>",
        html.table(
            "",
            [name.replace("/", " ").replace("_", " ") for name in history[0]],
            [list(row.values()) for row in history],
        ),
        "</details>",
    ]


def accuracy_chart(histories: Sequence[Sequence[Row]], best: int | None = None) -> str:
    """Accuracy over the epochs: of one run on train and validation, of more on validation."""
    names = [("valid/accuracy", "c0")]
    if len(histories) == 1:
        names.insert(0, ("train/accuracy", "c1"))
    lines, errors = [], []
    for number, history in enumerate(histories):
        for name, style in names:
            values = [100 * (1 - row.get(name, math.nan)) for row in history]
            errors += [value for value in values if math.isfinite(value)]
            style = style if len(histories) == 1 else f"c{number % 5}"
            lines.append(svg.Line(style, [row["epoch"] for row in history], values))
    low = max(min(errors, default=1.0), 0.01)
    y = svg.logarithmic(low, max(*errors, 2 * low, low), "accuracy", lambda e: f"{100 - e:g}")
    ends = _ends([row for history in histories for row in history])
    upside_down = svg.Axis(y.high, y.low, y.ticks, y.name, y.warp)
    x = svg.linear(*ends, "epoch", least=1)
    return svg.line_chart("Accuracy over the epochs", x, upside_down, lines, best)


def _loss_chart(history: Sequence[Row], best: int) -> str:
    columns = {
        style: [row.get(f"{split}/loss", math.nan) for row in history]
        for split, style in (("train", "c1"), ("valid", "c0"))
    }
    losses = [v for values in columns.values() for v in values if math.isfinite(v) and v > 0]
    y = svg.logarithmic(min(losses, default=0.1), max(losses, default=1.0), "loss")
    x = [row["epoch"] for row in history]
    lines = [svg.Line(style, x, values) for style, values in columns.items()]
    title = "Loss over the epochs, on train and validation"
    return svg.line_chart(title, svg.linear(*_ends(history), "epoch", least=1), y, lines, best)


def _ends(history: Sequence[Row]) -> tuple[svg.Number, svg.Number]:
    epochs = [row["epoch"] for row in history]
    return min(epochs), max(epochs)


def _mistakes(network: Network, findings: Findings) -> list[str]:
    names, labels = network.class_names, findings.test.labels
    counts = confusion_matrix(labels, findings.predictions, len(names))
    wrong = findings.mistakes()
    items = []
    for index in wrong[:MISTAKES]:
        true, guess = names[labels[index]], names[findings.predictions[index]]
        row = findings.probabilities[index]
        alt = f"test image {index}: {true}, taken for {guess}"
        items.append(
            f"<li>{html.image(findings.test.images[index], alt)}<b>{escape(true)} →"
            f" {escape(guess)}</b><br>{100 * row[findings.predictions[index]]:.1f} % for"
            f" {escape(guess)},<br>{100 * row[labels[index]]:.1f} % for {escape(true)}</li>"
        )
    parts = ["<h2>What it gets wrong</h2>"]
    if len(names) <= MOST_CLASSES:
        caption = "<b>Confusion matrix</b>: true classes down, predicted ones across; recall in %"
        parts.append(html.figure(caption, html.confusion(counts, names)))
    if items:
        caption = f"<b>The surest mistakes</b>: {len(items)} of {len(wrong):,}, true → predicted"
        parts.append("<h3>The worst mistakes</h3>")
        parts.append(html.figure(caption, f'<ul class="mistakes">{"".join(items)}</ul>'))
    return parts


def _filters(network: Network, findings: Findings) -> list[str]:
    parts = [
        "<h2>What its filters look for</h2>",
        "<p>Each filter with its weights (red above 0, blue below) and, beside them, the nine"
        " places in the test images that excite it most, cut out as the filter sees them.</p>",
    ]
    for layer in CONVOLUTIONS:
        kernel = np.asarray(getattr(network.model, layer).kernel[...])
        patches = exciting_patches(findings.survey, findings.test.images, layer)
        side, (height, width, c, o) = FIELDS[layer][0], kernel.shape
        tiles = paint(kernel, signed=True).transpose(3, 2, 0, 1, 4)
        parts.append(
            f"<h3>{layer}: {o} filters of {height}×{width}×{c}, which see {side}×{side} pixels</h3>"
            '<div class="grid filters">'
        )
        for index in range(o):
            weights = html.montage(tiles[index])
            seen = html.montage(patches[index])
            pair = (
                html.image(weights, f"weights of {layer}, filter {index}"),
                html.image(seen, f"the patches that excite {layer}, filter {index} most"),
            )
            caption = f"<b>{layer}</b> filter {index}"
            parts.append(html.figure(caption, f'<div class="pair">{"".join(pair)}</div>'))
        parts.append("</div>")
    return parts


def _way(network: Network, findings: Findings) -> list[str]:
    example, steps = findings.example, findings.steps
    size = "×".join(map(str, example.image.shape))
    picture = html.image(example.image, f"the input: {example.label}")
    parts = [
        "<h2>One image’s way through it</h2>",
        f"<p>{escape(example.label)}. Red and blue are above and below 0; dark to bright is from 0"
        " up, after ReLU.</p>",
        '<div class="way">',
        html.figure(f"<b>input</b>{size}", f'<div class="one">{picture}</div>'),
    ]
    for name, step in steps.items():
        caption = f"<b>{name}</b>{'×'.join(map(str, step.shape))}"
        tiles = paint(step)
        if step.ndim == 3:
            maps = [
                html.image(tiles[:, :, index], f"{name}, feature map {index}")
                for index in range(step.shape[-1])
            ]
            style = "maps few" if len(maps) <= 6 else "maps"
            parts.append(html.figure(caption, f'<div class="{style}">{"".join(maps)}</div>'))
        else:
            strip = html.image(tiles[None], f"the {len(step)} values of {name}")
            parts.append(html.figure(caption, f'<div class="strip">{strip}</div>'))
    logits = steps["fc3"]
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    order = np.argsort(-shares, kind="stable")[:MOST_CLASSES]
    answers = html.bars((network.class_names[index], float(shares[index])) for index in order)
    parts.append(html.figure(f"<b>probabilities</b>{len(shares)}", answers))
    winner = network.class_names[order[0]]
    shown = (
        html.image(example.image, example.label),
        html.image(paint(findings.saliency), f"saliency of the answer {winner}"),
    )
    return [
        *parts,
        "</div>",
        f"<h3>What the answer “{escape(winner)}” depends on</h3>",
        html.figure(
            "<b>Saliency</b>: the size of the gradient of the winning logit with respect to each"
            " pixel; bright pixels change the answer most",
            f'<div class="grid sight">{"".join(shown)}</div>',
        ),
    ]


def _certainty(findings: Findings) -> list[str]:
    found = findings.calibration
    points = [
        (100 * sure, 100 * right, 2 + 2 * math.log10(count))
        for sure, right, count in zip(found.confidence, found.accuracy, found.count, strict=True)
        if count
    ]
    chart = svg.scatter(
        "Accuracy over confidence",
        svg.linear(0, 100, "sure, %"),
        svg.linear(0, 100, "right, %"),
        points,
    )
    rows = [
        (f"{10 * place} to {10 * place + 10} %", int(count), 100 * float(sure), 100 * float(right))
        for place, (sure, right, count) in enumerate(
            zip(found.confidence, found.accuracy, found.count, strict=True)
        )
        if count
    ]
    rows = [(name, count, f"{sure:.1f}", f"{right:.1f}") for name, count, sure, right in rows]
    return [
        "<h2>How sure it is, and how right</h2>",
        "<p>Where it is 90 % sure it should be right 9 times of 10: on the dotted line. Larger"
        f" discs are more images. The expected calibration error is {100 * found.error:.2f} %.</p>",
        '<div class="grid charts">',
        html.figure("<b>Calibration</b>: right, %, over sure, %", chart),
        html.table("", ["sure of the answer", "images", "sure, %", "right, %"], rows),
        "</div>",
    ]


def _numbers(network: Network, findings: Findings) -> list[str]:
    weights = {
        name.removesuffix(".weight"): array
        for name, array in network.state_dict.items()
        if name.endswith(".weight")
    }
    dead = findings.survey.dead()
    parts = [
        "<h2>Its weights and activations</h2>",
        "<p>Counts are on a logarithmic scale. Activations are those of"
        " the first 500 test images; a unit is dead if it gave 0 for every test image.</p>",
        '<div class="grid small">',
    ]
    for name, array in weights.items():
        chart = svg.histogram(f"Histogram of the weights of {name}", array, "weight")
        parts.append(html.figure(f"<b>{name}</b> {array.size:,} weights", chart))
    for name, array in findings.activations.items():
        note = "logits"
        if name in dead:
            zeros = f"{100 * float((array == 0).mean()):.0f} % are 0"
            note = f"{zeros}, {len(dead[name])} of {findings.survey.active[name].shape[1]} dead"
        chart = svg.histogram(f"Histogram of the activations of {name}", array, "activation")
        parts.append(html.figure(f"<b>{name}</b> {note}", chart))
    return [*parts, "</div>"]


def _config(network: Network, record: Mapping[str, Any]) -> list[str]:
    assert network.config is not None
    settings = configs.to_dict(network.config)
    sections = {name: part for name, part in settings.items() if isinstance(part, dict)}
    alone = [(name, value) for name, value in settings.items() if name not in sections]
    tables = [html.table("The run", [], alone)] if alone else []
    tables += [html.table(name, [], part.items()) for name, part in sections.items()]
    told = ("command", "status", "processor", "python")
    known = {key: record[key] for key in told if key in record} | record.get("versions", {})
    known |= {"git revision": record["git_revision"]} if record.get("git_revision") else {}
    return [
        "<h2>How it was made</h2>",
        f'<div class="grid settings">{"".join(tables)}</div>',
        html.table("Where it ran", [], known.items()) if known else "",
        "<footer>Made with lenet_jax. Nothing on this page is loaded from elsewhere.</footer>",
    ]
