"""Learning curves: of one run, and of several.

Like `results`: each function takes numbers and returns one figure.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from lenet_jax.plots.style import (
    BLUE,
    FAINT,
    INK,
    SERIES,
    VERMILION,
    WIDTH,
    Axes,
    Figure,
    chart,
    key,
    label_ends,
    legible,
    line_look,
    styled,
    write,
)

TRAIN, VALID = VERMILION, BLUE
ROW, GAP = 222, 66  # height of a row of panels, and between two, in pixels
MOST_MARKERS = 40  # epochs
History = Sequence[Mapping[str, float | int]]


@styled
def plot_curves(
    history: History, *, title: str, seam: int | None = None, measured: Sequence[str] = ()
) -> Figure:
    """Plots loss, accuracy and, where it is known, the learning rate over the epochs.

    Accuracy is drawn on the scale of the logarithm of the error: 98 and 99 % are as far apart as 90
    and 95 %. The best epoch is the one with the highest `valid/accuracy`, the earliest of equals.

    Args:
        history: one row an epoch, with `epoch`, `train/loss`, `train/accuracy` in [0, 1]; if there
            was validation `valid/loss` and `valid/accuracy`; maybe `learning_rate`.
        title: the network and its data.
        seam: the epoch after which a run was extended at its last learning rate; it is marked if
            the history goes further.
        measured: the names of extra measurements, whose `valid/NAME` are drawn below the others.
    """
    epochs = np.array([row["epoch"] for row in history])
    losses = [_column(history, "train/loss"), _column(history, "valid/loss")]
    losses = [np.where(loss > 1e-30, loss, math.nan) for loss in losses]
    errors = [100 * (1 - _column(history, f"{split}/accuracy")) for split in ("train", "valid")]
    best = int(np.nanargmin(errors[1])) if np.isfinite(errors[1]).any() else None
    panels: list[tuple[str, list[np.ndarray], tuple[str, ...]]] = [
        ("loss, nats (log scale)", losses, (TRAIN, VALID)),
        ("accuracy, % (log scale of the error)", errors, (TRAIN, VALID)),
    ]
    if "learning_rate" in history[0]:
        panels.append(
            ("learning rate, end of epoch", [_column(history, "learning_rate")], (FAINT,))
        )
    columns = len(panels)
    more = math.ceil(len(measured) / columns)  # rows
    panels += [
        (legible(name, 40), [_column(history, f"valid/{name}")], (VALID,)) for name in measured
    ]

    height = 350 + more * (ROW + GAP)
    title = f"Learning curves, {legible(title, 80)}"
    figure = chart(WIDTH, height, title, margins=(74, 16, 46, 0.26))
    if more:
        figure.subplots_adjust(hspace=GAP / ROW)
    names = [("■ train, mean during each epoch", TRAIN)]
    all_axes = list(figure.subplots(1 + more, columns).flat)
    for axes in all_axes[len(panels) :]:
        axes.remove()
    for axes, (name, lines, colours) in zip(all_axes, panels, strict=False):
        axes.set_title(name)
        _epoch_axis(axes)
        for values, colour in zip(lines, colours, strict=True):
            dashes, marker = ("--", "s") if colour == TRAIN else ("-", "o")
            marker = marker if len(epochs) <= MOST_MARKERS else ""
            axes.plot(epochs, values, dashes, color=colour, marker=marker, clip_on=False)
        if best is not None:
            axes.axvline(epochs[best], color=FAINT, linestyle=":", linewidth=1)
        if seam is not None and seam < epochs[-1]:
            _mark_seam(axes, seam)
    if columns == 3:
        all_axes[2].set_ylim(bottom=0)
        all_axes[2].yaxis.set_major_formatter("{x:g}")
    all_axes[0].set_yscale("log")
    _round_limits(all_axes[0], losses, "{:g}".format)
    _accuracy_axis(all_axes[1], errors)
    if best is not None:
        for axes, values in zip(all_axes, (losses[1], errors[1]), strict=False):
            look = {"color": VALID, "markersize": 12, "zorder": 3, "clip_on": False}
            axes.plot(epochs[best], values[best], "*", **look)
        text = f"★ best epoch {epochs[best]:g}: validation accuracy {100 - errors[1][best]:.2f} %"
        names += [("● validation, after it", VALID), (text, INK)]
    key(figure, names)
    return figure


def _mark_seam(axes: Axes, epoch: int) -> None:
    """Marks the epoch after which a run was extended."""
    axes.axvline(epoch + 0.5, color=INK, linestyle="--", linewidth=1)
    axes.annotate(
        "extended",
        (epoch + 0.5, 1),
        xycoords=("data", "axes fraction"),
        xytext=(3, -3),
        textcoords="offset points",
        va="top",
        fontsize="small",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )


@styled
def plot_accuracies(histories: Sequence[tuple[str, History]], *, title: str) -> Figure:
    """Plots the validation accuracy of several runs over the epochs.

    Args:
        histories: the name of each run, and its history as in `plot_curves`.
        title: of what data.
    """
    subtitle = "validation accuracy, %; the scale is logarithmic in the error"
    figure = chart(WIDTH, 420, f"{len(histories)} networks on {title}", subtitle)
    axes = figure.subplots()
    errors, ends = [], []
    for place, (name, history) in enumerate(histories):
        epochs = np.array([row["epoch"] for row in history])
        errors.append(100 * (1 - _column(history, "valid/accuracy")))
        (dashes, marker), colour = line_look(place), SERIES[place % len(SERIES)]
        marker = marker if len(epochs) <= MOST_MARKERS else ""
        axes.plot(epochs, errors[-1], dashes, color=colour, marker=marker)
        ends.append((epochs, errors[-1], legible(name, 30), colour))
    _epoch_axis(axes)
    _accuracy_axis(axes, errors)
    label_ends(axes, ends)
    return figure


@styled
def plot_rate_test(
    rates: Float[np.ndarray, " n"],
    losses: Float[np.ndarray, " n"],
    averages: Float[np.ndarray, " n"],
    *,
    lowest: int,
    suggestion: float | None,
    title: str,
) -> Figure:
    """Plots the loss of a learning-rate range test over the rate.

    Args:
        rates: of each step.
        losses: of its batch.
        averages: of the losses.
        lowest: the step of the lowest average.
        suggestion: the rate that the test suggests; None: none.
        title: the network, its data and the optimiser.
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = chart(WIDTH, 420, f"Learning-rate range test, {legible(title, 80)}")
    axes = figure.subplots()
    axes.set(xscale="log", xlabel="learning rate (log scale)", ylabel="training loss, nats")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.plot(rates, losses, ".", color=FAINT, markersize=2)
    axes.plot(rates, averages, color=BLUE)
    low, first = averages[lowest], averages[0]
    axes.set_ylim(low - 0.1 * (first - low) - 1e-9, first + 0.5 * max(first - low, 1e-3 * first))
    axes.plot(rates[lowest], low, "*", color=BLUE, markersize=12)
    if suggestion is not None:
        axes.axvline(suggestion, color=VERMILION, linestyle="--", linewidth=1)
        at = {"transform": axes.get_xaxis_transform(), "ha": "right", "color": VERMILION}
        write(axes, suggestion, 0.95, f"suggestion: {suggestion:.1g}, a third of ★’s rate ", **at)
    names = ("· loss of a batch", FAINT), ("moving average", BLUE), ("★ its lowest", BLUE)
    key(axes, names, "lower left")
    return figure


def _column(history: History, key: str) -> Float[np.ndarray, " epochs"]:
    values = np.array([row.get(key, math.nan) for row in history], np.float64)
    return np.where(np.isfinite(values), values, math.nan)


def _epoch_axis(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))


def _accuracy_axis(axes: Axes, errors: Sequence[np.ndarray]) -> None:
    """Draws errors in % as accuracies, upwards; an error of 0 has a place too."""
    axes.set_yscale("symlog", linthresh=0.1, linscale=0.5)
    _round_limits(axes, errors, lambda percent: f"{100 - percent:g}", 0.1, 100.0)
    axes.invert_yaxis()


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
