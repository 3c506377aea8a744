"""Pictures of filters: their weights, what they find in an image, and what excites them most.

Like `figures`: NumPy arrays in, one PNG out, the same bytes for the same arrays.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from lenet_jax.plots.results import WIDTH
from lenet_jax.plots.style import (
    as_rgb,
    colour_map,
    counted,
    fit,
    grid,
    largest,
    legible,
    open_sheet,
)

WEIGHT_COLOURS, ACTIVATION_COLOURS = "RdBu_r", "magma"


def plot_filters(kernel: Float[np.ndarray, "kh kw c o"], path: Path | str) -> None:
    """Plots every filter of the first convolution on one scale, symmetric around 0.

    Args:
        kernel: weights; with more than one input channel a filter is a row of c tiles.
        path: where the PNG goes.
    """
    height, width, c, o = kernel.shape
    rows, columns = grid(o, 8)
    scale = min(1100 // (columns * (width * c + 1)), 700 // (rows * (height + 1)), 30)
    scale = max(scale, 1)
    cell_width, cell_height = (scale * width + 1) * c + 16, scale * height + 30
    left, top = 24, 66 if c == 1 else 88
    bar_left = left + columns * cell_width + 4
    with open_sheet(path, max(bar_left + 104, 420), max(top + rows * cell_height, 240)) as sheet:
        sheet.text(
            left,
            22,
            f"conv1: {counted(o, 'filter')} of {height}×{width}×{c}",
            size=11,
            weight="bold",
        )
        if c > 1:
            order = "red, green, blue" if c == 3 else f"input channels 0 to {c - 1}"
            sheet.text(left, 44, f"each from left to right: {order}")
        weights = colour_map(WEIGHT_COLOURS, -largest(kernel), largest(kernel))
        for index in range(o):
            x, y = left + index % columns * cell_width, top + index // columns * cell_height
            sheet.text(x, y - 10, f"{index}", size=8)
            sheet.paste_filter(x, y, kernel[..., index], weights, scale)
        sheet.colour_bar(bar_left, top, min(sheet.height - top - 24, 300), weights, "weight")


def plot_feature_maps(
    image: UInt8[np.ndarray, "h w c"],
    kernel: Float[np.ndarray, "kh kw c o"],
    maps: Float[np.ndarray, "h2 w2 o"],
    path: Path | str,
    *,
    label: str,
    prediction: str,
) -> None:
    """Plots one image, the filters of the first convolution, and what each of them finds in it.

    Args:
        image: what the network sees, before normalisation.
        kernel: weights of the first convolution.
        maps: its feature maps of that image after ReLU, at any size; all on one scale from 0.
        path: where the PNG goes.
        label: name of the true class.
        prediction: name of the predicted class.
    """
    height, width, c, o = kernel.shape
    rows, columns = grid(o, 8 if o <= 32 else 11)
    left, top, gap = 260, 88, 14
    room = (WIDTH - left - 114) // columns - gap
    map_side = fit(max(maps.shape[:2]), min(room, 168))
    scale = max(1, min((map_side - c) // (c * width), 12))
    cell_height = scale * height + 10 + map_side + 34
    bar_left = left + columns * (map_side + gap) + 4
    with open_sheet(path, bar_left + 104, max(top + rows * cell_height, 370)) as sheet:
        sheet.text(
            24, 22, f"conv1: {counted(o, 'filter')} and what they find", size=11, weight="bold"
        )
        size = "×".join(map(str, maps.shape[:2]))
        sheet.text(24, 44, f"above: the filter; below: its feature map, {size}, after ReLU")
        image_side = fit(max(image.shape[:2]), 204)
        sheet.paste(24, top, as_rgb(image), image_side)
        sheet.text(24, top + image_side + 18, f"true class: {legible(label, 18)}")
        sheet.text(24, top + image_side + 38, f"predicted: {legible(prediction, 18)}")
        weights = colour_map(WEIGHT_COLOURS, -largest(kernel), largest(kernel))
        activations = colour_map(ACTIVATION_COLOURS, 0.0, largest(maps))
        for index in range(o):
            x = left + index % columns * (map_side + gap)
            y = top + index // columns * cell_height
            sheet.text(x, y - 10, f"{index}", size=8)
            sheet.paste_filter(x, y, kernel[..., index], weights, scale)
            tile = activations.to_rgba(maps[..., index], bytes=True)[..., :3]
            sheet.paste(x, y + scale * height + 10, tile, map_side)
        sheet.colour_bar(bar_left, top, 110, weights, "weight")
        sheet.colour_bar(bar_left, top + 140, 110, activations, "activation")


def plot_exciting_patches(
    kernel: Float[np.ndarray, "kh kw c o"],
    patches: UInt8[np.ndarray, "o m side side c2"],
    path: Path | str,
    *,
    layer: str,
) -> None:
    """Plots every filter and beside it the patches of images that excite it most.

    Args:
        kernel: weights; a filter is a block of c tiles.
        patches: the m patches of each filter, strongest first, as the network sees them.
        path: where the PNG goes.
        layer: what the convolution is called.
    """
    height, width, c, o = kernel.shape
    side = patches.shape[2]
    across = math.ceil(math.sqrt(patches.shape[1]))
    tile = fit(side, 42)
    block = across * (tile + 3) - 3
    deep = math.ceil(math.sqrt(c))
    scale = max(1, (block // deep - 4) // max(height, width))
    rows, columns = grid(o, 4)
    cell_width, cell_height = 2 * block + 44, block + 44
    left, top = 24, 86
    with open_sheet(
        path, max(left + columns * cell_width + 104, 620), max(top + rows * cell_height, 300)
    ) as sheet:
        title = f"{layer}: what excites each filter most"
        sheet.text(left, 22, title, size=11, weight="bold")
        told = (
            f"left: its weights; right: the {side}×{side} patches of test images, strongest first"
        )
        sheet.text(left, 44, told)
        weights = colour_map(WEIGHT_COLOURS, -largest(kernel), largest(kernel))
        for index in range(o):
            x, y = left + index % columns * cell_width, top + index // columns * cell_height
            sheet.text(x, y - 12, f"filter {index}", size=8)
            for channel in range(c):
                at_x = x + channel % deep * (scale * width + 4)
                at_y = y + channel // deep * (scale * height + 4)
                sheet.paste_filter(
                    at_x, at_y, kernel[..., channel : channel + 1, index], weights, scale
                )
            for place, patch in enumerate(patches[index]):
                at_x = x + block + 14 + place % across * (tile + 3)
                at_y = y + place // across * (tile + 3)
                sheet.canvas[at_y - 1 : at_y + tile + 1, at_x - 1 : at_x + tile + 1] = 160
                sheet.paste(at_x, at_y, as_rgb(patch), tile)
        bar_left = left + columns * cell_width + 4
        sheet.colour_bar(bar_left, top, min(sheet.height - top - 24, 260), weights, "weight")


def plot_journey(
    image: UInt8[np.ndarray, "h w c"],
    steps: Mapping[str, Float[np.ndarray, "..."]],
    probabilities: Float[np.ndarray, " k"],
    class_names: Sequence[str],
    path: Path | str,
    *,
    label: str,
) -> None:
    """Plots one image's way through the network, every step with its shape.

    Args:
        image: what the network sees, before normalisation.
        steps: each step's output, feature maps (h, w, k) or units (k,).
        probabilities: of each class.
        class_names: k names.
        path: where the PNG goes.
        label: what the image is, in words.
    """
    left, gap, tile = 170, 6, 88
    columns = (WIDTH - left - 20) // (tile + gap)
    heights = {
        name: math.ceil(step.shape[-1] / columns) * (tile + gap) + 12 if step.ndim == 3 else 44
        for name, step in steps.items()
    }
    chart = 26 * min(len(class_names), 20)
    with open_sheet(path, WIDTH, 190 + sum(heights.values()) + chart + 30) as sheet:
        sheet.text(24, 22, "One image's way through the network", size=11, weight="bold")
        sheet.text(24, 44, "red and blue: above and below 0; dark to bright: from 0 up, after ReLU")
        side = fit(max(image.shape[:2]), 96)
        sheet.paste(left, 66, as_rgb(image), side)
        sheet.text(24, 76, "input", weight="bold")
        sheet.text(24, 94, "×".join(map(str, image.shape)), color="#666666")
        sheet.text(left + side + 16, 76, legible(label, 80))
        y = 180
        for name, step in steps.items():
            sheet.text(24, y + 10, name, weight="bold")
            sheet.text(24, y + 28, "×".join(map(str, step.shape)), color="#666666")
            tiles = paint(step)
            if step.ndim == 3:
                for index in range(step.shape[-1]):
                    x = left + index % columns * (tile + gap)
                    sheet.paste(x, y + index // columns * (tile + gap), tiles[..., index, :], tile)
            else:
                wide = max(1, (WIDTH - left - 20) // len(step))
                wide = min(wide, 60)
                strip = np.repeat(np.repeat(tiles[None], 30, 0), wide, 1)
                sheet.canvas[y : y + 30, left : left + strip.shape[1]] = strip
            y += heights[name]
        sheet.text(24, y + 14, "probabilities", weight="bold")
        for place, index in enumerate(np.argsort(-probabilities, kind="stable")[:20]):
            middle = y + 14 + 26 * place
            sheet.text(left, middle, legible(class_names[int(index)], 16))
            bar = max(1, round(600 * float(probabilities[index])))
            sheet.canvas[middle - 8 : middle + 8, left + 120 : left + 120 + bar] = (0, 114, 178)
            sheet.text(left + 130 + bar, middle, f"{100 * probabilities[index]:.2f} %")


def plot_saliency(
    image: UInt8[np.ndarray, "h w c"],
    saliency: Float[np.ndarray, "h w"],
    path: Path | str,
    *,
    prediction: str,
) -> None:
    """Plots an image beside the pixels that its winning logit depends on most.

    Args:
        image: what the network sees, before normalisation.
        saliency: how much the logit changes with each pixel.
        path: where the PNG goes.
        prediction: the winning class.
    """
    side, left, top = fit(max(image.shape[:2]), 330), 24, 78
    with open_sheet(path, 2 * side + 190, top + side + 24) as sheet:
        title = f"What the answer {legible(prediction, 20)!r} depends on"
        sheet.text(left, 22, title, size=11, weight="bold")
        sheet.text(left, 44, "left: the image; right: the gradient of the winning logit, its size")
        sheet.paste(left, top, as_rgb(image), side)
        colours = colour_map(ACTIVATION_COLOURS, 0.0, largest(saliency))
        sheet.paste(left + side + 20, top, colours.to_rgba(saliency, bytes=True)[..., :3], side)
        sheet.colour_bar(left + 2 * side + 36, top, side, colours, "|gradient|")


def paint(values: Float[np.ndarray, "..."], signed: bool = False) -> UInt8[np.ndarray, "... 3"]:
    """Colours of numbers: from 0 up, or, if any is below or `signed`, symmetric around 0."""
    if signed or values.min() < 0:
        colours = colour_map(WEIGHT_COLOURS, -largest(values), largest(values))
    else:
        colours = colour_map(ACTIVATION_COLOURS, 0.0, largest(values))
    flat = colours.to_rgba(values.reshape(1, -1), bytes=True)[0, :, :3]
    return flat.reshape(*values.shape, 3)
