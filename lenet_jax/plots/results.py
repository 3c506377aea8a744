"""Pictures of a network's results: confusion matrix, mistakes, calibration, histograms.

Each function takes NumPy arrays and returns one figure.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from lenet_jax.plots.style import (
    BLUE,
    DPI,
    FAINT,
    HEADER,
    INK,
    RULE,
    WIDTH,
    Axes,
    Figure,
    Number,
    as_rgb,
    canvas,
    chart,
    colour_bar,
    colour_map,
    fit,
    legible,
    legible_names,
    paint,
    picture,
    styled,
    write,
)

MAX_MISTAKES = 40
CELL, ROOM = 122, 115  # pixels of a gallery: an example, and what is written below it


def confusion_matrix(
    labels: Int[np.ndarray, " n"], predictions: Int[np.ndarray, " n"], num_classes: int
) -> Int[np.ndarray, "k k"]:
    """Counts of test images, true classes in rows and predicted ones in columns."""
    cells = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def example_index(
    labels: Int[np.ndarray, " n"],
    predictions: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n k"],
) -> int:
    """The test image to show feature maps of: the first of the last class classified clearly.

    Of MNIST that is a 9, which has a loop, a curve and a stroke for the filters to respond to.
    """
    clear = (predictions == labels) & (probabilities.max(axis=-1) > 0.99)
    candidates = np.flatnonzero(clear & (labels == labels.max()))
    return int(candidates[0]) if len(candidates) else 0


def rank_mistakes(
    logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " wrong"]:
    """The images that are classified wrongly, the most confident mistake first.

    Ordered by the margin, the logit of the predicted class less that of the true one: probabilities
    saturate at 1.
    """
    wrong = np.flatnonzero(logits.argmax(axis=-1) != labels)
    margins = logits[wrong].max(axis=-1) - logits[wrong, labels[wrong]]
    return wrong[np.argsort(-margins, kind="stable")]


@styled
def plot_confusion_matrix(
    confusion: Int[np.ndarray, "k k"], class_names: Sequence[str], *, title: str
) -> Figure:
    """Plots which classes are taken for which; the right answers stay grey.

    Colour is the share of the true class, numbers are images (up to 20 classes), and each class has
    its recall in % at the side.

    Args:
        confusion: images; rows are the true classes, columns the predicted ones.
        class_names: k names.
        title: the network and its data.
    """
    from matplotlib.ticker import MaxNLocator

    k = len(confusion)
    cell = max(2.0, min(760, max(440, 52 * k)) / k)
    step = math.ceil(13 / cell)  # classes from one name to the next
    size = min(9.0, 0.7 * cell * step * 72 / DPI)  # of the letters, in points
    totals, right = confusion.sum(1), np.diagonal(confusion)
    share = 100 * confusion / np.maximum(totals, 1)[:, None]
    recall = np.where(totals > 0, np.diagonal(share), math.nan)
    errors = np.where(np.eye(k, dtype=bool), 0, share)
    names, ticks = legible_names(class_names, 16), np.arange(0, k, step)
    longest = max(map(len, names)) * size * DPI / 72 * 0.65
    side, left = round(cell * k), 46 + int(longest)
    below = 46 + int(longest if longest > cell else 14)
    width, height = left + side + 320, HEADER + 24 + side + below

    accuracy = 100 * right.sum() / max(totals.sum(), 1)
    subtitle = f"{right.sum():,} of {totals.sum():,} test images right ({accuracy:.2f} %)"
    margins = left, 204, below, 28 / (side + 116)
    figure = chart(width, height, f"Confusion matrix, {legible(title, 60)}", subtitle, margins)
    axes, beside = figure.subplots(1, 2, sharey=True, width_ratios=(side, 116))
    colours = colour_map("Oranges", 0.0, max(errors.max(), 1.0), power=0.5)
    cells = np.full((k, k, 4), 255, np.uint8)
    cells[..., :3] = paint(errors, colours)
    cells[confusion == 0] = 0
    cells[np.diag_indices(k)] = 128, 128, 128, 54
    axes.imshow(cells, aspect="auto")
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_xticks(ticks, [names[i] for i in ticks], size=size)
    axes.set_yticks(ticks, [names[i] for i in ticks], size=size)
    axes.tick_params("x", rotation=90 if longest > cell else 0)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    if k <= 20:
        edges = np.arange(k + 1) - 0.5
        axes.hlines(edges, -0.5, k - 0.5, colors=RULE, linewidth=0.8)
        axes.vlines(edges, -0.5, k - 0.5, colors=RULE, linewidth=0.8)
        digits = len(str(confusion.max()))
        for row, column in np.argwhere(confusion).tolist():
            dark = row != column and cells[row, column, 1] < 90
            ink = INK if row == column else "white" if dark else "black"
            style = {"size": min(size, cell / digits), "color": ink, "ha": "center"}
            write(axes, column, row, str(confusion[row, column]), **style)

    beside.plot(recall, np.arange(k), "o", color=BLUE, markersize=min(5, 0.3 * cell))
    low = np.nanmin(recall, initial=99)
    margin = 0.1 * (100.2 - low)
    beside.set(xlim=(low - margin, 100 + margin), ylim=(k - 0.5, -0.5), xlabel="recall, %")
    beside.xaxis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5, 10]))
    beside.tick_params("y", length=0, labelleft=False)
    beside.spines["left"].set_visible(False)
    for place in ticks.tolist():
        text = "–" if math.isnan(recall[place]) else f"{recall[place]:.1f}"
        at = beside.get_yaxis_transform()
        write(beside, 1.03, place, text, size=size, color=FAINT, transform=at)
    label = "errors, % of the true class"
    colour_bar(figure, width - 106, HEADER + 24, min(side, 300), colours, label)
    return figure


@styled
def plot_mistakes(
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, " n"],
    logits: Float[np.ndarray, "n k"],
    class_names: Sequence[str],
    *,
    title: str,
) -> Figure:
    """Plots the most confident mistakes, at most 40, each with its index; see `rank_mistakes`.

    Args:
        images: all images that were evaluated, right or wrong.
        labels: their true classes.
        logits: of each.
        class_names: k names.
        title: the network and its data.
    """
    wrong = rank_mistakes(logits, labels)
    shown, predictions = wrong[:MAX_MISTAKES], logits.argmax(axis=-1)
    names = legible_names(class_names, 14)
    probabilities = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))
    pairs = [(names[labels[i]], names[predictions[i]]) for i in shown]
    long = any(len(true + guess) > 10 for true, guess in pairs)
    summary = f"{len(wrong):,} of {len(images):,} test images wrong"
    summary += f", {len(shown)} of them here" if len(shown) < len(wrong) else ""
    if len(wrong):
        summary += ": true → predicted class, probability of the predicted | true, by their ratio"
    title = f"Most confident mistakes, {legible(title, 60)}"
    figure, axes, places = _gallery(images, shown, 78 if long else 62, title, summary)
    if not len(wrong):
        write(axes, 16, 90, "No mistakes: every image is classified correctly.")
    for index, (true, guess), (x, y) in zip(shown, pairs, places, strict=True):
        for line in [true, f"→ {guess}"] if long else [f"{true} → {guess}"]:
            write(axes, x, y, line, room=ROOM, weight="bold")
            y += 16
        two = [100 * probabilities[index, c] for c in (predictions[index], labels[index])]
        small = f"{two[0]:.1f} | {two[1]:.1f} %\nindex {index}"
        axes.text(x, y - 8, small, size=8, color=FAINT, va="top", linespacing=1.4)
    return figure


@styled
def plot_disagreements(
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, " n"],
    predictions: Int[np.ndarray, "m n"],
    class_names: Sequence[str],
    *,
    title: str,
) -> Figure:
    """Plots the images that some of m networks get right and others wrong, at most 40.

    Args:
        images: all that were evaluated.
        labels: their true classes.
        predictions: of each network.
        class_names: k names.
        title: the data.
    """
    right = predictions == labels
    some = np.flatnonzero(right.any(axis=0) & ~right.all(axis=0))
    shown, names = some[:MAX_MISTAKES], legible_names(class_names, 12)
    here = f", the first {len(shown)} of them here" if len(shown) < len(some) else ""
    figure, axes, places = _gallery(
        images,
        shown,
        38 + 15 * len(predictions),
        f"Where runs disagree, {legible(title, 60)}",
        f"{len(some):,} of {len(images):,} test images, which some runs get right and others wrong"
        f"{here}: index, true class, answers (bold: right)",
    )
    for index, (x, y) in zip(shown, places, strict=True):
        line = f"index {index}: {names[labels[index]]}"
        write(axes, x, y, line, room=ROOM, size=8, color=FAINT)
        for run, answer in enumerate(predictions[:, index], 1):
            weight = "bold" if answer == labels[index] else "normal"
            line = f"[{run}] {names[answer]}"
            write(axes, x, y + 15 * run, line, room=ROOM, size=8, weight=weight)
    return figure


def _gallery(
    images: UInt8[np.ndarray, "n h w c"],
    shown: Int[np.ndarray, " m"],
    below: int,
    title: str,
    subtitle: str,
) -> tuple[Figure, Axes, list[tuple[Number, Number]]]:
    """A canvas with some of the images in rows of eight, and where the text of each begins.

    Args:
        images: of which some are shown.
        shown: their indices.
        below: pixels for the text below an image.
        title: what is drawn.
        subtitle: the line below it.
    """
    columns, cell, side = 8, CELL, fit(max(images.shape[1:3]), 112)
    rows, cell_height = math.ceil(len(shown) / columns), side + below
    size = 32 + columns * cell, max(76 + rows * cell_height, 130)
    (figure, axes), places = canvas(*size, title, subtitle), []
    for place, index in enumerate(shown):
        x, y = 16 + place % columns * cell, 68 + place // columns * cell_height
        places.append((x, y + picture(axes, x, y, as_rgb(images[index]), side) + 13))
    return figure, axes, places


@styled
def plot_calibration(
    confidence: Float[np.ndarray, " m"],
    accuracy: Float[np.ndarray, " m"],
    counts: Int[np.ndarray, " m"],
    error: float,
    *,
    title: str,
) -> Figure:
    """Plots the accuracy at each confidence level.

    Args:
        confidence: mean probability of the predicted class in each bin; NaN of an empty one.
        accuracy: share of right predictions in it.
        counts: images in it.
        error: the expected calibration error.
        title: the network and its data.
    """
    of_all = f"{counts.sum():,} test images, expected calibration error {100 * error:.2f} %"
    subtitle = f"{of_all}; larger dot: more images"
    figure = chart(640, 520, f"Calibration, {legible(title, 50)}", subtitle)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(5, 2))
    axes.plot([0, 100], [0, 100], color=FAINT, linestyle=":", linewidth=1)
    some = counts > 0
    sizes = 20 * np.log10(10 * counts[some])
    axes.scatter(100 * confidence[some], 100 * accuracy[some], sizes, color=BLUE, clip_on=False)
    axes.set(xlim=(0, 102), ylim=(0, 102), ylabel="accuracy, %")
    middles = (np.arange(len(counts)) + 0.5) * 100 / len(counts)
    below.bar(middles, counts, 80 / len(counts), color=BLUE)
    below.set(xlabel="confidence, %", ylabel="images (log scale)")
    _count_axis(below, int(counts.max(initial=0)))
    return figure


@styled
def plot_histograms(
    weights: Mapping[str, Float[np.ndarray, "..."]],
    activations: Mapping[str, Float[np.ndarray, "..."]],
    captions: Mapping[str, str],
    *,
    title: str,
    images: int,
) -> Figure:
    """Plots how the weights of each layer, and below them its activations, are distributed.

    Args:
        weights: by layer.
        activations: by layer.
        captions: what to say of the activations, by layer.
        title: the network and its data.
        images: how many the activations are for.
    """
    sizes = {name: f"{values.size:,} weights" for name, values in weights.items()}
    rows = ("weight", weights, sizes), ("output", activations, captions)
    columns = max(len(weights), len(activations))
    figure = chart(
        max(WIDTH, 190 * columns),
        500,
        f"Weights and activations, {legible(title, 60)}",
        f"counts (log scale); below: the outputs for n = {images:,} test images",
    )
    for panels, (name_of_x, layers, below) in zip(
        figure.subplots(2, columns, squeeze=False), rows, strict=True
    ):
        panels[0].set_ylabel("count")
        for axes in panels[len(layers) :]:
            axes.set_axis_off()
        for axes, (name, values) in zip(panels, layers.items(), strict=False):
            counts, edges = np.histogram(values, 40)
            axes.stairs(counts, edges, fill=True, color=BLUE, baseline=0.5)
            axes.set_title(f"{name}\n{below[name]}", size=8)
            axes.set_xlabel(name_of_x, size=8)
            _count_axis(axes, int(counts.max()))
            axes.tick_params(labelsize=7)
    return figure


def _count_axis(axes: Axes, largest: int) -> None:
    """A logarithmic axis on which a count of 1 is visible; one of 0 is an empty place."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log", nonpositive="clip")
    axes.set_ylim(0.5, 2.0 * max(largest, 1))
    axes.yaxis.set_major_locator(LogLocator(10, numticks=5))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:,.0f}")
