"""Pictures of filters: their weights, how they respond to an image, and what excites them most.

Like `results`: each function takes NumPy arrays and returns one figure.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from lenet_jax.plots.style import (
    BLUE,
    FAINT,
    INK,
    WIDTH,
    Axes,
    Figure,
    Number,
    ScalarMappable,
    as_rgb,
    canvas,
    colour_bar,
    colour_map,
    fit,
    grid,
    largest,
    legible,
    legible_names,
    mosaic,
    paint,
    picture,
    styled,
    write,
)

TOP = 86  # pixels; where pictures begin
INDEX = 12  # pixels; a line of indices
MOST_CLASSES = 20  # whose probabilities are shown


def signed_colours(values: Float[np.ndarray, "..."]) -> ScalarMappable:
    """Red above 0 and blue below, on a scale symmetric around 0."""
    return colour_map("RdBu_r", -largest(values), largest(values))


def activation_colours(values: Float[np.ndarray, "..."]) -> ScalarMappable:
    """Dark to bright, from 0 up."""
    return colour_map("magma", 0.0, largest(values))


@styled
def plot_filters(
    kernel: Float[np.ndarray, "kh kw c o"], *, title: str, layer: str = "conv1"
) -> Figure:
    """Plots every filter of the first convolution on one scale, symmetric around 0.

    Args:
        kernel: weights; with more than one input channel a filter is a row of c tiles.
        title: the network and its data.
        layer: the convolution's name.
    """
    height, width, c, o = kernel.shape
    rows, columns = grid(o, 8)
    scale = min((WIDTH - 120) // columns // (width * c + 1), 600 // (rows * (height + 1)), 30)
    scale = max(scale, 1)
    cell_width, cell_height = (scale * width + 1) * c + 17, scale * height + 31
    bar_left = 20 + columns * cell_width
    below = max(TOP + rows * cell_height, 240)
    order = {1: "", 3: "; each from left to right: red, green, blue"}
    figure, axes = canvas(
        max(bar_left + 84, 560),
        below,
        f"Weights of {legible(layer, 30)}, {legible(title, 60)}",
        f"{_filters(o)} of {height}×{width}×{c}"
        + order.get(c, f"; each from left to right: input channels 0 to {c - 1}"),
    )
    colours = signed_colours(kernel)
    for index in range(o):
        x, y = 16 + index % columns * cell_width, TOP + index // columns * cell_height
        write(axes, x, y - 10, f"{index}", size=8)
        _draw_filter(axes, x, y, kernel[..., index], colours, c, scale)
    colour_bar(figure, bar_left, TOP, min(below - TOP - 24, 300), colours, "weight")
    return figure


@styled
def plot_feature_maps(
    image: UInt8[np.ndarray, "h w c"],
    kernel: Float[np.ndarray, "kh kw c o"],
    maps: Float[np.ndarray, "h2 w2 o"],
    *,
    title: str,
    captions: Sequence[str],
    activation: str = "ReLU",
    layer: str = "conv1",
) -> Figure:
    """Plots one image, the filters of the first convolution, and the feature map of each.

    Args:
        image: what the network sees, before normalisation.
        kernel: weights of the first convolution.
        maps: its feature maps of that image after the activation, at any size; all on one scale.
        title: the network and its data.
        captions: lines below the image.
        activation: its name.
        layer: the convolution's name.
    """
    height, width, c, o = kernel.shape
    rows, columns = grid(o, 4 if o <= 8 else 8 if o <= 32 else 11)
    left, gap = 240, 14
    room = (WIDTH - left - 94) // columns - gap
    side = fit(max(maps.shape[:2]), min(room, 168))
    scale = max(1, min((side - c) // (c * width), 12))
    cell_height = scale * height + 12 + side + 34
    bar_left = left + columns * (side + gap) + 4
    size = "×".join(map(str, maps.shape[:2]))
    figure, axes = canvas(
        bar_left + 84,
        max(TOP + rows * cell_height, 370),
        f"Feature maps of {legible(layer, 30)}, {legible(title, 60)}",
        f"above: each of the {_filters(o)}; below: its feature map, {size}, after {activation}",
    )
    image_height = picture(axes, 16, TOP, as_rgb(image), fit(max(image.shape[:2]), 204))
    for line, caption in enumerate(captions):
        write(axes, 16, TOP + image_height + 18 + 20 * line, legible(caption, 28))
    weights = signed_colours(kernel)
    activations = (signed_colours if maps.min() < 0 else activation_colours)(maps)
    for index in range(o):
        x = left + index % columns * (side + gap)
        y = TOP + index // columns * cell_height
        write(axes, x, y - 10, f"{index}", size=8)
        _draw_filter(axes, x, y, kernel[..., index], weights, c, scale)
        tile = paint(maps[..., index], activations)
        picture(axes, x, y + scale * height + 12, tile, side)
    colour_bar(figure, bar_left, TOP, 110, weights, "weight")
    colour_bar(figure, bar_left, TOP + 140, 110, activations, "activation")
    return figure


@styled
def plot_exciting_patches(
    kernel: Float[np.ndarray, "kh kw c o"],
    patches: UInt8[np.ndarray, "o m h w c2"],
    *,
    layer: str,
    title: str,
    indices: Int[np.ndarray, "o m"] | None = None,
) -> Figure:
    """Plots every filter and beside it the patches of images that excite it most.

    Args:
        kernel: weights; a filter is a block of c tiles.
        patches: the m patches of each filter, strongest first, as the network sees them.
        layer: what the convolution is called.
        title: the network and its data.
        indices: of the images that the patches are from.
    """
    height, width, c, o = kernel.shape
    seen = patches.shape[2:4]
    side = max(seen)
    across, deep = math.ceil(math.sqrt(patches.shape[1])), math.ceil(math.sqrt(c))
    enlarged = max(1, 42 // side)
    block = across * (enlarged * side + 1) + 1
    scale = max(1, (block - deep - 1) // (deep * max(height, width)))
    rows, columns = grid(o, 3 if o <= 24 else 4)
    named = 0 if indices is None else math.ceil(indices.shape[1] / across)
    tile = block / deep
    numbered = math.ceil(c / deep) if c > 1 and tile >= INDEX else 0
    cell_width, cell_height = 2 * block + 28, block + 38 + INDEX * max(named, numbered)
    shape = f", {height}×{width}×{c}"
    bar_left, below = 20 + columns * cell_width, max(TOP + rows * cell_height, 300)
    figure, axes = canvas(
        max(bar_left + 84, 860),
        below,
        f"What excites the filters of {layer} most, {legible(title, 60)}",
        f"left: weights{' with the input map of each tile' if numbered else shape};"
        f" right: the {seen[0]}×{seen[1]} patches that excite it most, strongest first"
        + (", and their test images" if named else ""),
    )
    weights = signed_colours(kernel)
    for index in range(o):
        x, y = 16 + index % columns * cell_width, TOP + index // columns * cell_height
        write(axes, x, y - 12, f"filter {index}", size=8)
        _draw_filter(axes, x, y, kernel[..., index], weights, deep, scale)
        height_of_tiles = math.ceil(c / deep) * tile
        for channel in range(c if numbered and index < columns else 0):  # all are alike
            row, column = divmod(channel, deep)
            lower = y + height_of_tiles + 10 + INDEX * row
            look = {"size": 7, "color": FAINT, "ha": "center"}
            write(axes, x + (column + 0.5) * tile, lower, str(channel), **look)
        tiles = mosaic(as_rgb(patches[index]), across, enlarged)
        picture(axes, x + block + 10, y, tiles, tiles.shape[1])
        for place, image in enumerate([] if indices is None else indices[index]):
            row, column = divmod(place, across)
            middle = x + block + 10 + (column + 0.5) * tiles.shape[1] / across
            look = {"size": 7, "color": FAINT, "ha": "center"}
            write(axes, middle, y + block + 10 + INDEX * row, str(image), **look)
    colour_bar(figure, bar_left, TOP, min(below - TOP - 24, 260), weights, "weight")
    return figure


@styled
def plot_journey(
    image: UInt8[np.ndarray, "h w c"],
    steps: Mapping[str, Float[np.ndarray, "..."]],
    probabilities: Float[np.ndarray, " k"],
    class_names: Sequence[str],
    *,
    title: str,
    label: str,
    true: int | None = None,
) -> Figure:
    """Plots the output of every layer for one image, with its shape, and the probabilities.

    Args:
        image: what the network sees, before normalisation.
        steps: each step's output, feature maps (h, w, k) or units (k,).
        probabilities: of each class.
        class_names: k names.
        title: the network and its data.
        label: where the image is from.
        true: the number of its true class, which is marked.
    """
    left, gap, tile = 140, 5, 64
    columns = (WIDTH - left - 16) // (tile + gap)
    heights = {
        name: math.ceil(step.shape[-1] / columns) * (tile + gap) + 12 if step.ndim == 3 else 44
        for name, step in steps.items()
    }
    shown: list[int] = np.argsort(-probabilities, kind="stable")[:MOST_CLASSES].tolist()
    if true is not None and true not in shown:
        shown.append(true)
    figure, axes = canvas(
        WIDTH,
        194 + sum(heights.values()) + 24 * len(shown) + 20,
        f"Layer by layer, {legible(title, 60)}",
        "each layer on its own scale, which ends at the largest absolute value below its name",
    )
    side = fit(max(image.shape[:2]), 96)
    picture(axes, left, 66, as_rgb(image), side)
    _name(axes, 76, "input", image.shape)
    write(axes, left + side + 16, 76, legible(label, 80))
    _draw_ramp(axes, 620, signed_colours(np.ones(1)), ("−max", "0", "max"))
    _draw_ramp(axes, 810, activation_colours(np.ones(1)), ("0", "max"))
    y = 176
    for name, step in steps.items():
        _name(axes, y + 10, name, step.shape, f"max {largest(step):.3g}")
        colours = (signed_colours if step.min() < 0 else activation_colours)(step)
        tiles = paint(step, colours)
        if step.ndim == 3:
            for index in range(step.shape[-1]):
                x = left + index % columns * (tile + gap)
                picture(axes, x, y + index // columns * (tile + gap), tiles[..., index, :], tile)
        else:
            room = WIDTH - left - 16
            width = min(room // len(step), 60) * len(step) or room
            axes.imshow(tiles[None], extent=(left, left + width, y + 30, y), aspect="auto")
            if name == [*steps][-1]:
                _name_units(axes, left, y, width, class_names, true)
        y += heights[name]
    y += 14  # for the names of the last units
    write(axes, 16, y + 14, "probabilities", weight="bold")
    weights = "normal", "bold"
    for place, index in enumerate(shown):
        middle, weight = y + 14 + 24 * place, weights[index == true]
        write(axes, left, middle, legible(class_names[index], 16), room=112, weight=weight)
        width = max(1, 520 * float(probabilities[index]))
        axes.barh(middle, width, 15, left + 120, color=BLUE)
        text = f"{100 * probabilities[index]:.2f} %" + ("  ◀ true class" if index == true else "")
        write(axes, left + 128 + width, middle, text, weight=weight)
    return figure


@styled
def plot_saliency(
    image: UInt8[np.ndarray, "h w c"],
    saliency: Float[np.ndarray, "h w"],
    *,
    prediction: str,
    label: str,
    title: str,
) -> Figure:
    """Plots an image beside the pixels that its winning logit depends on most.

    Args:
        image: what the network sees, before normalisation.
        saliency: how much the logit changes with each pixel.
        prediction: the winning class.
        label: where the image is from.
        title: the network and its data.
    """
    side = fit(max(image.shape[:2]), 330)
    figure, axes = canvas(
        2 * side + 140,
        TOP + side + 50,
        f"Saliency of the prediction {legible(prediction, 20)!r}, {legible(title, 50)}",
        "left: the image; right: size of the gradient of the winning logit",
    )
    picture(axes, 16, TOP, as_rgb(image), side)
    write(axes, 16, TOP + side + 20, legible(label, 80), color=FAINT)
    colours = activation_colours(saliency)
    picture(axes, side + 36, TOP, paint(saliency, colours), side)
    unit = "|∂ logit / ∂ normalised pixel|"
    colour_bar(figure, 2 * side + 52, TOP, side, colours, unit)
    return figure


def _draw_filter(
    axes: Axes,
    x: Number,
    y: Number,
    kernel: Float[np.ndarray, "kh kw c"],
    colours: ScalarMappable,
    columns: int,
    scale: int,
) -> None:
    """Draws the weights of a filter, a framed tile for each input channel."""
    tiles = mosaic(paint(kernel.transpose(2, 0, 1), colours), columns, scale)
    picture(axes, x, y, tiles, tiles.shape[1])


def _name_units(
    axes: Axes, x: Number, y: Number, width: Number, class_names: Sequence[str], true: int | None
) -> None:
    """Writes the class of each unit below a strip of them, of many every so many; frames `true`."""
    side = width / len(class_names)
    letters = max(1, int(side / 8))
    names = legible_names(class_names, max(letters, 3))
    step = math.ceil(max(map(len, names)) * 8 / side)
    shown = [*range(0, len(names), step)]
    if true is not None:
        shown = [index for index in shown if abs(index - true) >= step] + [true]
    for index in shown:
        style = {"weight": "bold" if index == true else "normal", "ha": "center", "size": 8}
        write(axes, x + (index + 0.5) * side, y + 40, names[index], **style)
    if true is not None:
        left, right = x + true * side, x + (true + 1) * side
        axes.plot([left, right, right, left, left], [y, y, y + 30, y + 30, y], color=INK)


def _draw_ramp(axes: Axes, x: Number, colours: ScalarMappable, names: Sequence[str]) -> None:
    """Draws a scale from left to right, with what is written below its ends and between."""
    low, high = colours.get_clim()
    assert low is not None and high is not None
    ramp = paint(np.linspace(low, high, 160)[None], colours)
    axes.imshow(ramp, extent=(x, x + 160, 130, 118), aspect="auto")
    for place, name in zip(np.linspace(x, x + 160, len(names)), names, strict=True):
        write(axes, place, 142, name, size=8, color=FAINT, ha="center")


def _name(axes: Axes, y: Number, name: str, shape: tuple[int, ...], more: str = "") -> None:
    write(axes, 16, y, name, weight="bold")
    small = "×".join(map(str, shape))
    lines = [small, more] if len(shape) == 3 else [f"{small}; {more}"]
    for place, line in enumerate(lines, 1):
        write(axes, 16, y + 18 * place, line, color=FAINT, size=8)


def _filters(count: int) -> str:
    return f"{count} filter" + ("" if count == 1 else "s")
