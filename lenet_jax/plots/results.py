"""Pictures of a run: learning curves, confusion matrix, mistakes.

Each function takes NumPy arrays and writes one PNG, the same bytes for the same arrays.
Layout is in pixels, images are painted as tiles onto one canvas and pyplot is left out: all
figures of a run take about a second, half of it Matplotlib's import.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from lenet_jax.plots.style import DPI, as_rgb, colour_map, fit, legible, legible_names, open_sheet

WIDTH = 1320  # pixels; what a figure aims at
MAX_MISTAKES = 40
TRAIN, VALID, MARK = (
    "#D55E00",
    "#0072B2",
    "#555555",
)  # vermilion and blue: safe for colour-blind eyes
ERROR_COLOURS = "Oranges"


def plot_curves(
    history: Sequence[Mapping[str, float | int]], path: Path | str, *, title: str
) -> None:
    """Plots loss, accuracy and learning rate over the epochs.

    Accuracy is drawn on the scale of the logarithm of the error: 98 and 99 % are as far apart as 90
    and 95 %. The best epoch is the one with the highest `valid/accuracy`, the earliest of equals.

    Args:
        history: one row an epoch, with `epoch`, `train/loss`, `train/accuracy` in [0, 1] and
            `learning_rate`; `valid/loss` and `valid/accuracy` if there was validation.
        path: where the PNG goes.
        title: what was trained.
    """
    from matplotlib.ticker import MaxNLocator

    def column(key: str) -> np.ndarray:
        values = np.array([row.get(key, math.nan) for row in history], np.float64)
        return np.where(np.isfinite(values), values, math.nan)

    epochs = np.array([row["epoch"] for row in history])
    losses = [column("train/loss"), column("valid/loss")]
    losses = [np.where(loss > 1e-30, loss, math.nan) for loss in losses]
    errors = [100 * (1 - column("train/accuracy")), 100 * (1 - column("valid/accuracy"))]
    best = int(np.nanargmin(errors[1])) if np.isfinite(errors[1]).any() else None
    marker = "o" if len(history) <= 40 else None

    with open_sheet(path, WIDTH, 410) as sheet:
        sheet.text(70, 22, legible(title, 130), size=11, weight="bold")
        sheet.text(70, 46, "● train", color=TRAIN)
        panels = [sheet.axes(left, 88, 340, 262) for left in (70, 506, 952)]
        names = "loss", "accuracy, %", "learning rate"
        curves = losses, errors, [column("learning_rate")]
        for axes, name, lines in zip(panels, names, curves, strict=True):
            axes.set_title(name)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
            for values, colour in zip(lines, (TRAIN, VALID), strict=False):
                axes.plot(epochs, values, color=MARK if len(lines) == 1 else colour, marker=marker)
            if best is not None:
                axes.axvline(epochs[best], color=MARK, linestyle=":", linewidth=1)
        panels[2].set_ylim(bottom=0)
        panels[0].set_yscale("log")
        _round_limits(panels[0], losses, "{:g}".format)
        panels[1].set_yscale("symlog", linthresh=0.1, linscale=0.5)  # an error of 0 has a place too
        _round_limits(panels[1], errors, lambda percent: f"{100 - percent:g}", 0.1, 100.0)
        panels[1].invert_yaxis()
        if best is not None:
            for axes, values in zip(panels, (losses[1], errors[1]), strict=False):
                axes.plot(epochs[best], values[best], "*", color=VALID, markersize=12, zorder=3)
            sheet.text(140, 46, "● valid", color=VALID)
            text = f"★ best epoch {epochs[best]:g}: valid accuracy {100 - errors[1][best]:.2f} %"
            sheet.text(210, 46, text, color=VALID)


def plot_confusion_matrix(
    confusion: Int[np.ndarray, "k k"], class_names: Sequence[str], path: Path | str
) -> None:
    """Plots which classes are taken for which; the right answers stay grey.

    Colour is the share of the true class, numbers are images (up to 20 classes), and each class has
    its recall in % at the side.

    Args:
        confusion: images; rows are the true classes, columns the predicted ones.
        class_names: k names.
        path: where the PNG goes.
    """
    from matplotlib.ticker import MaxNLocator

    k = len(confusion)
    cell = max(3, min(900, max(520, 52 * k)) // k)
    side = cell * k
    step = math.ceil(13 / cell)  # classes from one name to the next
    size = min(9.0, 0.7 * cell * step * 72 / DPI)  # of the letters, in points
    totals, right = confusion.sum(1), np.diagonal(confusion)
    share = 100 * confusion / np.maximum(totals, 1)[:, None]
    recall = np.where(totals > 0, np.diagonal(share), math.nan)
    errors = np.where(np.eye(k, dtype=bool), 0, share)
    ticks = np.arange(0, k, step)

    names = legible_names(class_names, 16)
    longest = max(map(len, names)) * size * DPI / 72 * 0.65
    left, top, bottom = 50 + int(longest), 62, 50 + int(longest if longest > cell else 14)
    with open_sheet(path, left + side + 290, top + side + bottom) as sheet:
        accuracy = 100 * right.sum() / max(totals.sum(), 1)
        sheet.text(left, 20, "Confusion matrix", size=11, weight="bold")
        sheet.text(left, 42, f"{right.sum():,} of {totals.sum():,} images right ({accuracy:.2f} %)")

        colours = colour_map(ERROR_COLOURS, 0.0, max(errors.max(), 1.0), power=0.5)
        cells = colours.to_rgba(errors, bytes=True)[..., :3]
        cells[confusion == 0] = 255
        cells[np.diag_indices(k)] = 228
        sheet.paste(left, top, cells, side)
        sheet.canvas[top : top + side : cell, left : left + side] = 240
        sheet.canvas[top : top + side, left : left + side : cell] = 240
        axes = sheet.axes(left, top, side, side)
        axes.set(xlim=(-0.5, k - 0.5), ylim=(k - 0.5, -0.5))
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.set_xticks(ticks, [names[i] for i in ticks], size=size)
        axes.set_yticks(ticks, [names[i] for i in ticks], size=size)
        axes.tick_params("x", rotation=90 if longest > cell else 0)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(True)
        axes.grid(visible=False)
        if k <= 20:
            digits = len(str(confusion.max()))
            for row, column in np.argwhere(confusion):
                x, y = left + (column + 0.5) * cell, top + (row + 0.5) * cell
                colour = "white" if cells[row, column, 1] < 120 else "#222222"
                style = {"size": min(size, cell / digits), "color": colour}
                sheet.text(x, y, str(confusion[row, column]), ha="center", **style)

        axes = sheet.axes(left + side + 14, top, 110, side)
        axes.plot(recall, np.arange(k), "o", color=VALID, markersize=min(5, 0.3 * cell))
        low = np.nanmin(recall, initial=99)
        margin = 0.1 * (100.2 - low)
        axes.set(xlim=(low - margin, 100 + margin), ylim=(k - 0.5, -0.5), xlabel="recall, %")
        axes.xaxis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5, 10]))
        axes.yaxis.tick_right()
        texts = ["–" if math.isnan(recall[i]) else f"{recall[i]:.1f}" for i in ticks]
        axes.set_yticks(ticks, texts, size=size)
        axes.tick_params("y", length=0)
        axes.spines["left"].set_visible(False)
        bar_left = left + side + 192
        sheet.colour_bar(bar_left, top, min(side, 300), colours, "confused, % of the true class")


def plot_mistakes(
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, " n"],
    predictions: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n k"],
    class_names: Sequence[str],
    path: Path | str,
) -> None:
    """Plots the most confident mistakes, at most 40, as `true → predicted` and the confidence.

    Args:
        images: all images that were evaluated, right or wrong.
        labels: their true classes.
        predictions: their predicted classes.
        probabilities: of each class; the predicted one's is the confidence.
        class_names: k names.
        path: where the PNG goes.
    """
    wrong = np.flatnonzero(labels != predictions)
    confidence = probabilities[wrong, predictions[wrong]]
    order = np.argsort(-confidence, kind="stable")[:MAX_MISTAKES]
    names = legible_names(class_names, 11)
    captions = [
        f"{names[labels[i]]} → {names[predictions[i]]}"
        f"   {100 * probabilities[i, predictions[i]]:.1f} %"
        for i in wrong[order]
    ]
    longest = max(map(len, captions), default=0)
    columns, cell, side = 8, 160, fit(max(images.shape[1:3]), 144)
    two_lines = longest > 18
    cell_height = side + (50 if two_lines else 34)
    rows = math.ceil(len(captions) / columns)
    with open_sheet(path, 40 + columns * cell, max(76 + rows * cell_height, 130)) as sheet:
        sheet.text(24, 22, "Most confident mistakes", size=11, weight="bold")
        summary = f"{len(wrong):,} of {len(images):,} images wrong"
        if len(captions) < len(wrong):
            summary += f", {len(captions)} of them here"
        sheet.text(24, 44, summary + (": true class → predicted class" if len(wrong) else ""))
        if not len(wrong):
            sheet.text(24, 90, "No mistakes: every image is classified correctly.")
        for place, (index, caption) in enumerate(zip(wrong[order], captions, strict=True)):
            x, y = 24 + place % columns * cell, 70 + place // columns * cell_height
            sheet.paste(x, y, as_rgb(images[index]), side)
            lines = caption.split("   ") if two_lines else [caption]
            for line, text in enumerate(lines):
                size = 9 * min(1, 18 / len(text))
                sheet.text(x, y + side + 13 + 16 * line, text, size=size)


def plot_calibration(
    confidence: Float[np.ndarray, " m"],
    accuracy: Float[np.ndarray, " m"],
    counts: Int[np.ndarray, " m"],
    error: float,
    path: Path | str,
) -> None:
    """Plots how often the network is right when it is so and so sure.

    Args:
        confidence: mean probability of the predicted class in each bin; NaN of an empty one.
        accuracy: share of right predictions in it.
        counts: images in it.
        error: the expected calibration error.
        path: where the PNG goes.
    """
    with open_sheet(path, 640, 560) as sheet:
        sheet.text(90, 22, "Calibration", size=11, weight="bold")
        told = (
            f"expected calibration error {100 * error:.2f} %; on the line: as right as it is sure"
        )
        sheet.text(90, 44, told)
        axes = sheet.axes(90, 78, 500, 300)
        axes.plot([0, 100], [0, 100], color=MARK, linestyle=":", linewidth=1)
        some = counts > 0
        sizes = 20 * np.log10(10 * counts[some])
        axes.scatter(
            100 * confidence[some], 100 * accuracy[some], sizes, color=VALID, clip_on=False
        )
        axes.set(xlim=(0, 102), ylim=(0, 102), ylabel="right, %")
        axes = sheet.axes(90, 412, 500, 90)
        middles = (np.arange(len(counts)) + 0.5) * 100 / len(counts)
        axes.bar(middles, counts, 80 / len(counts), color=VALID)
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set(xlim=(0, 102), xlabel="sure, %", ylabel="images")


def plot_histograms(
    groups: Mapping[str, Mapping[str, Float[np.ndarray, "..."]]],
    notes: Mapping[str, str],
    path: Path | str,
) -> None:
    """Plots how numbers are spread, a row of panels a group.

    Args:
        groups: of each group, such as `weights`, the numbers by layer.
        notes: what to say below a layer's name.
        path: where the PNG goes.
    """
    columns = max(map(len, groups.values()))
    width = 80 + 250 * columns
    with open_sheet(path, width, 60 + 250 * len(groups)) as sheet:
        for row, (group, layers) in enumerate(groups.items()):
            top = 40 + 250 * row
            sheet.text(24, top - 16, group, size=11, weight="bold")
            for column, (name, values) in enumerate(layers.items()):
                axes = sheet.axes(80 + 250 * column, top + 40, 180, 140)
                heights, edges = np.histogram(values, 40)
                axes.bar(edges[:-1], heights, np.diff(edges), align="edge", color=VALID)
                axes.set_yscale("symlog", linthresh=1)
                axes.yaxis.set_major_formatter("{x:,.0f}")
                axes.tick_params(labelsize=7)
                x = 80 + 250 * column
                sheet.text(x, top + 10, name, weight="bold", size=8.5)
                sheet.text(x, top + 26, notes.get(name, ""), size=7.5, color="#666666")


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
