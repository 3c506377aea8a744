"""Pictures of errors on corrupted images: of one network, and of several settings."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int, UInt8

from lenet_jax.plots.style import (
    BLUE,
    FAINT,
    RULE,
    VERMILION,
    WIDTH,
    Axes,
    Figure,
    as_rgb,
    canvas,
    chart,
    colour_map,
    legible,
    legible_names,
    picture,
    styled,
    write,
)
from lenet_jax.statistics import Summary

CLEAN, MEAN = "clean", "mean"  # of the corruptions
NAMES, BARS, END = 130, 610, 940  # pixels: where the images start, and the bars, and where they end
TOP, ROW = 104, 42  # pixels


@styled
def plot_corruptions(
    images: Mapping[str, UInt8[np.ndarray, "m h w c"]],
    answers: Mapping[str, Int[np.ndarray, " m"]],
    labels: Int[np.ndarray, " m"],
    indices: Int[np.ndarray, " m"],
    errors: Mapping[str, float],
    class_names: Sequence[str],
    *,
    title: str,
) -> Figure:
    """Plots some images under each corruption, those that are misread framed, and the errors.

    Args:
        images: under each corruption by name; the first of them clean.
        answers: the predicted classes of those images.
        labels: their true classes.
        indices: which test images they are.
        errors: over all test images, in [0, 1].
        class_names: k names.
        title: the network and its data.
    """
    clean, *corrupted = errors
    mean = float(np.mean([errors[name] for name in corrupted]))
    names = legible_names(class_names, 3)
    figure, axes = canvas(
        WIDTH,
        TOP + 24 + ROW * len(errors),
        f"Corruptions, {legible(title, 60)}",
        f"mean corruption error {100 * mean:.2f} % over {len(corrupted)} corruptions, clean"
        f" {100 * errors[clean]:.2f} %; framed: misread, as the class in its corner",
    )
    write(axes, 16, TOP - 12, "test image", color=FAINT, size=8)
    for index, number in enumerate(indices):
        if (x := NAMES + index * (ROW + 4)) + ROW <= BARS:
            write(axes, x + 17, TOP - 12, str(number), color=FAINT, size=8, ha="center")
    write(axes, BARS, TOP - 28, "error on all test images, %", color=FAINT, size=8)
    for percent in range(0, 101, 20):
        x, bottom = BARS + percent * (END - BARS) / 100, TOP + ROW * len(errors)
        write(axes, x, TOP - 12, str(percent), color=FAINT, size=8, ha="center")
        axes.plot([x, x], [TOP - 4, bottom], color=RULE, linewidth=0.8, zorder=-2)
    for place, (name, error) in enumerate(errors.items()):
        y = TOP + ROW * place
        write(axes, 16, y + 16, name.replace("_", " "))
        for index, image in enumerate(images[name]):
            x, answer = NAMES + index * (ROW + 4), int(answers[name][index])
            if x + ROW > BARS:
                break
            if answer != labels[index]:
                frame = {"color": VERMILION, "linewidth": 0, "zorder": -1}
                axes.fill_between([x - 2, x + 36], y - 2, y + 36, **frame)
            picture(axes, x, y, as_rgb(image), 34)
            if answer != labels[index]:
                box = {"facecolor": VERMILION, "edgecolor": "none", "pad": 1}
                style = {"size": 7, "color": "white", "ha": "right", "bbox": box}
                write(axes, x + 34, y + 29, names[answer], **style)
        right = BARS + error * (END - BARS)
        colour = FAINT if name == clean else BLUE
        axes.fill_between([BARS, right], y + 8, y + 26, color=colour, linewidth=0)
        write(axes, right + 6, y + 17, f"{100 * error:.2f}", size=8)
    return figure


@styled
def plot_error_map(
    errors: Mapping[str, Mapping[str, Summary]],
    *,
    title: str,
    stuck: int = 0,
    pictures: Mapping[str, UInt8[np.ndarray, "h w c"]] | None = None,
    index: int | None = None,
) -> Figure:
    """Plots a heat map: settings down, corruptions across.

    Args:
        errors: over the networks of each setting, by corruption, in %.
        title: what was trained.
        stuck: networks near chance, of which a single one would lead a mean: with any, cells have
            medians and the middle half in place of means and standard deviations.
        pictures: an image under each corruption, to be shown above its column.
        index: of that image among the test images.
    """
    columns = list(next(iter(errors.values())))
    cells = [[own[name] for name in columns] for own in errors.values()]
    centres = np.array(
        [[s.median if stuck else s.mean for s in row] for row in cells], dtype=np.float64
    )
    what = "median, 25–75 %" if stuck else "mean ± sd"
    heights = [64] * (pictures is not None) + [44 * max(len(errors), 2)]
    figure = chart(
        max(WIDTH, 160 + 62 * len(columns)),
        160 + sum(heights),
        legible(title, 90),
        f"error on the test images, %: {what} over the finished networks"
        + (f", {stuck} of which are stuck near chance" if stuck else "")
        + ("" if index is None else f"; above: test image {index}"),
    )
    *above, axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    colours = colour_map("viridis_r", 0.0, 100.0, power=0.5)
    axes.imshow(centres, colours.cmap, norm=colours.norm, aspect="auto")
    for (row, column), centre in np.ndenumerate(centres):
        style = {"ha": "center", "va": "center", "size": 8}
        text = _cell(cells[row][column], robust=stuck > 0)
        axes.text(column, row, text, color="white" if centre > 20 else "black", **style)
    for beside in above:
        for name, pixels in (pictures or {}).items():
            place = columns.index(name)
            extent = (place - 0.42, place + 0.42, 0, 1)
            beside.imshow(as_rgb(pixels), extent=extent, aspect="auto")
        beside.set(xlim=axes.get_xlim(), ylim=(-0.03, 1.03), xticks=[], yticks=[])
        _plain(beside)
    axes.set_xticks(range(len(columns)), [name.replace("_", " ") for name in columns])
    for label in axes.get_xticklabels():
        label.set(ha="right", rotation=40, rotation_mode="anchor")
    axes.set_yticks(range(len(errors)), [legible(name, 40) for name in errors])
    _plain(axes)
    label = "error, % (root scale)"
    figure.colorbar(colours, ax=[*above, axes], label=label, pad=0.01, ticks=[0, 1, 5, 20, 50, 100])
    return figure


def _plain(axes: Axes) -> None:
    """Leaves out the frame of axes that are filled."""
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _cell(summary: Summary, *, robust: bool) -> str:
    """What the heat map says of a setting under a corruption."""
    centre = summary.median if robust else summary.mean
    if centre is None:
        return "×"
    digits = 2 if centre < 9.95 else 1
    text = f"{centre:.{digits}f}"
    if robust and summary.quartiles is not None:
        low, high = summary.quartiles
        return f"{text}\n{low:.{digits}f}–{high:.{digits}f}"
    return text if summary.sd is None else f"{text}\n± {summary.sd:.{digits}f}"
