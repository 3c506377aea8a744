"""Pictures of a run's results: learning curves, confusion matrix, mistakes, calibration.

Each function takes NumPy arrays and returns one figure.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from lenet_jax.plots.style import (
    BLUE,
    DPI,
    FAINT,
    HEADER,
    INK,
    RULE,
    SERIES,
    VERMILION,
    WIDTH,
    Axes,
    Figure,
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
TRAIN, VALID = VERMILION, BLUE
History = Sequence[Mapping[str, float | int]]


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


@styled
def plot_curves(history: History, *, title: str) -> Figure:
    """Plots loss, accuracy and, where it is known, the learning rate over the epochs.

    Accuracy is drawn on the scale of the logarithm of the error: 98 and 99 % are as far apart as 90
    and 95 %. The best epoch is the one with the highest `valid/accuracy`, the earliest of equals.

    Args:
        history: one row an epoch, with `epoch`, `train/loss`, `train/accuracy` in [0, 1]; if there
            was validation `valid/loss` and `valid/accuracy`; maybe `learning_rate`.
        title: the network and its data.
    """
    epochs = np.array([row["epoch"] for row in history])
    losses = [_column(history, "train/loss"), _column(history, "valid/loss")]
    losses = [np.where(loss > 1e-30, loss, math.nan) for loss in losses]
    errors = [100 * (1 - _column(history, f"{split}/accuracy")) for split in ("train", "valid")]
    best = int(np.nanargmin(errors[1])) if np.isfinite(errors[1]).any() else None
    panels = {"loss, nats (log scale)": losses, "accuracy, % (log scale of the error)": errors}
    if "learning_rate" in history[0]:
        panels["learning rate, end of epoch"] = [_column(history, "learning_rate")]

    title = f"Learning curves, {legible(title, 80)}"
    figure = chart(WIDTH, 350, title, margins=(56, 16, 46, 0.24))
    figure.text(16 / WIDTH, 1 - 42 / 350, "● train", color=TRAIN, va="center_baseline")
    all_axes = figure.subplots(1, len(panels))
    for axes, (name, lines) in zip(all_axes, panels.items(), strict=True):
        axes.set_title(name)
        _epoch_axis(axes)
        for values, colour in zip(lines, (TRAIN, VALID), strict=False):
            colour = FAINT if len(lines) == 1 else colour
            axes.plot(epochs, values, color=colour, marker=_marker(epochs))
        if best is not None:
            axes.axvline(epochs[best], color=FAINT, linestyle=":", linewidth=1)
    if len(panels) == 3:
        all_axes[2].set_ylim(bottom=0)
    all_axes[0].set_yscale("log")
    _round_limits(all_axes[0], losses, "{:g}".format)
    _accuracy_axis(all_axes[1], errors)
    if best is not None:
        for axes, values in zip(all_axes, (losses[1], errors[1]), strict=False):
            axes.plot(epochs[best], values[best], "*", color=VALID, markersize=12, zorder=3)
        text = f"★ best epoch {epochs[best]:g}: validation accuracy {100 - errors[1][best]:.2f} %"
        for x, label, colour in ((80, "● validation", VALID), (190, text, INK)):
            y = 1 - 42 / 350
            figure.text(x / WIDTH, y, label, color=colour, va="center_baseline")
    return figure


@styled
def plot_accuracies(histories: Sequence[tuple[str, History]]) -> Figure:
    """Plots the validation accuracy of several runs over the epochs.

    Args:
        histories: the name of each run, and its history as in `plot_curves`.
    """
    figure = chart(WIDTH, 420, "Validation accuracy, % (log scale of the error)")
    axes = figure.subplots()
    errors = []
    for place, (name, history) in enumerate(histories):
        epochs = np.array([row["epoch"] for row in history])
        errors.append(100 * (1 - _column(history, "valid/accuracy")))
        colour, label = SERIES[place % len(SERIES)], legible(name, 60)
        axes.plot(epochs, errors[-1], color=colour, marker=_marker(epochs), label=label)
    _epoch_axis(axes)
    _accuracy_axis(axes, errors)
    axes.legend()
    return figure


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

    beside.plot(recall, np.arange(k), "o", color=VALID, markersize=min(5, 0.3 * cell))
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
    predictions: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n k"],
    class_names: Sequence[str],
    *,
    title: str,
) -> Figure:
    """Plots the most confident mistakes, at most 40, each with its index.

    Args:
        images: all images that were evaluated, right or wrong.
        labels: their true classes.
        predictions: their predicted classes.
        probabilities: of each class.
        class_names: k names.
        title: the network and its data.
    """
    wrong = np.flatnonzero(labels != predictions)
    order = np.argsort(-probabilities[wrong, predictions[wrong]], kind="stable")[:MAX_MISTAKES]
    shown = wrong[order]
    names = legible_names(class_names, 14)
    pairs = [(names[labels[i]], names[predictions[i]]) for i in shown]
    long = any(len(true + guess) > 10 for true, guess in pairs)
    columns, cell, side = 8, 122, fit(max(images.shape[1:3]), 112)
    cell_height = side + (78 if long else 62)
    summary = f"{len(wrong):,} of {len(images):,} test images wrong"
    summary += f", {len(shown)} of them here" if len(shown) < len(wrong) else ""
    if len(wrong):
        summary += ": true → predicted class, probability of the predicted | of the true class"
    rows = math.ceil(len(shown) / columns)
    figure, axes = canvas(
        32 + columns * cell,
        max(76 + rows * cell_height, 130),
        f"Most confident mistakes, {legible(title, 60)}",
        summary,
    )
    if not len(wrong):
        write(axes, 16, 90, "No mistakes: every image is classified correctly.")
    for place, (index, (true, guess)) in enumerate(zip(shown, pairs, strict=True)):
        x, y = 16 + place % columns * cell, 68 + place // columns * cell_height
        y += picture(axes, x, y, as_rgb(images[index]), side) + 13
        for line in [true, f"→ {guess}"] if long else [f"{true} → {guess}"]:
            write(axes, x, y, line, size=9 * min(1, 14 / len(line)), weight="bold")
            y += 16
        two = [100 * probabilities[index, c] for c in (predictions[index], labels[index])]
        small = f"{two[0]:.1f} | {two[1]:.1f} %\nindex {index}"
        axes.text(x, y - 8, small, size=8, color=FAINT, va="top", linespacing=1.4)
    return figure


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
    subtitle = f"{counts.sum():,} test images, expected calibration error {100 * error:.2f} %"
    figure = chart(640, 520, f"Calibration, {legible(title, 50)}", subtitle)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(5, 2))
    axes.plot([0, 100], [0, 100], color=FAINT, linestyle=":", linewidth=1)
    some = counts > 0
    sizes = 20 * np.log10(10 * counts[some])
    axes.scatter(100 * confidence[some], 100 * accuracy[some], sizes, color=VALID, clip_on=False)
    axes.set(xlim=(0, 102), ylim=(0, 102), ylabel="accuracy, %")
    middles = (np.arange(len(counts)) + 0.5) * 100 / len(counts)
    below.bar(middles, counts, 80 / len(counts), color=VALID)
    below.set(xlabel="confidence, %", ylabel="images (log)")
    _count_axis(below)
    return figure


@styled
def plot_histograms(
    weights: Mapping[str, Float[np.ndarray, "..."]],
    activations: Mapping[str, Float[np.ndarray, "..."]],
    captions: Mapping[str, str],
    *,
    title: str,
) -> Figure:
    """Plots how the weights of each layer, and below them its activations, are distributed.

    Args:
        weights: by layer.
        activations: by layer.
        captions: what to say of the activations, by layer.
        title: the network and its data.
    """
    sizes = {name: f"{values.size:,} weights" for name, values in weights.items()}
    rows = ("weight", weights, sizes), ("output", activations, captions)
    columns = max(len(weights), len(activations))
    figure = chart(
        max(WIDTH, 190 * columns),
        500,
        f"Weights and activations, {legible(title, 60)}",
        "counts on a logarithmic scale",
    )
    for panels, (name_of_x, layers, below) in zip(
        figure.subplots(2, columns, squeeze=False), rows, strict=True
    ):
        panels[0].set_ylabel("count")
        for axes in panels[len(layers) :]:
            axes.set_axis_off()
        for axes, (name, values) in zip(panels, layers.items(), strict=False):
            axes.stairs(*np.histogram(values, 40), fill=True, color=VALID)
            axes.set_title(f"{name}\n{below[name]}", size=8)
            axes.set_xlabel(name_of_x, size=8)
            _count_axis(axes)
            axes.tick_params(labelsize=7)
    return figure


def _column(history: History, key: str) -> Float[np.ndarray, " epochs"]:
    values = np.array([row.get(key, math.nan) for row in history], np.float64)
    return np.where(np.isfinite(values), values, math.nan)


def _marker(epochs: np.ndarray) -> str | None:
    return "o" if len(epochs) <= 40 else None


def _epoch_axis(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))


def _accuracy_axis(axes: Axes, errors: Sequence[np.ndarray]) -> None:
    """Draws errors in % as accuracies, upwards; an error of 0 has a place too."""
    axes.set_yscale("symlog", linthresh=0.1, linscale=0.5)
    _round_limits(axes, errors, lambda percent: f"{100 - percent:g}", 0.1, 100.0)
    axes.invert_yaxis()


def _count_axis(axes: Axes) -> None:
    axes.set_yscale("symlog", linthresh=1)
    axes.yaxis.set_major_formatter("{x:,.0f}")


def _round_limits(
    axes,
    curves: Sequence[np.ndarray],
    label: Callable[[float], str],
    lowest: float = 0.0,
    highest: float = math.inf,
) -> None:
    """Ends and ticks a logarithmic y axis at round numbers, written by `label`."""
    from matplotlib.ticker import FixedLocator, NullLocator

    values = np.concatenate(curves)
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if values.size else (0.1, 1.0)
    first = math.floor(math.log10(max(low, lowest)))
    last = math.ceil(math.log10(max(high, lowest)))
    if last - first <= 4:
        steps = (1, 2, 5) if last - first > 1 else (1, 1.5, 2, 3, 4, 5, 7)
        ticks = [m * 10.0**e for e in range(first, last + 1) for m in steps]
    else:
        stride = math.ceil((last - first) / 8)
        ticks = [10.0**e for e in range(first, last + stride, stride)]
    ticks = ([0.0] if lowest else []) + [t for t in ticks if lowest <= t <= highest]
    below = max(i for i, t in enumerate(ticks) if t <= low * (1 + 1e-9))
    above = next((i for i, t in enumerate(ticks) if t >= high * (1 - 1e-9)), len(ticks) - 1)
    below = min(below, len(ticks) - 2)
    ticks = ticks[below : max(above, below + 1) + 1]
    axes.set_ylim(ticks[0], ticks[-1])
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda tick, _: label(tick))
