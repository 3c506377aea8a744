"""How much darker than the paper each pixel of an image is, whatever light falls on the paper."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Shaped, UInt8

WINDOW = 0.3  # of the longer side: what is narrower than this is no paper
FAINTEST = 26  # of 255: the contrast below which nothing is drawn
SHADE = (
    0.4  # of the lightest paper: darker paper is measured against this, as its noise is as large
)
CLEAR = (
    0.72  # of the surroundings of strong contrast: what must be lighter, or darker, than strokes
)
SCALES = (0.02, 0.04, 0.16)  # of the longer side: how thick strokes may be
SHARP = 7  # pixels: within these, strokes have an edge
MARKED, LEAST = 0.1, 0.002  # of what the last scale shows, and of the image: what is no noise

Pixels: TypeAlias = UInt8[np.ndarray, "h w"]


class Contrast(NamedTuple):
    """How dark strokes on lighter paper are.

    Attributes:
      pixels: how much darker than the paper each is, in 255ths of the paper's light.
      faintest: from what contrast on something is drawn rather than noise.
      paper: the paper's light at each pixel.
      smooth: the image, smoothed.
    """

    pixels: Pixels
    faintest: int
    paper: Pixels
    smooth: Pixels


def contrast_to_paper(pixels: Pixels, window: float = WINDOW) -> Contrast:
    """Measures how dark strokes on lighter paper are.

    The paper is the closing of the image: what is darker and narrower than a window is filled from
    its surroundings, while slopes of light and the edges of shadows stay.

    Args:
      pixels: the image.
      window: the side of the window, of the image's longer side.
    """
    smooth = smoothed(pixels)
    closed = _closing(smooth, window_of(pixels, window))
    paper = closed.astype(np.float32)
    shade = SHADE * float(np.quantile(paper[::4, ::4], 0.9))
    contrast = (paper - smooth) * (255 / np.maximum(paper, max(shade, 32)))
    # Of paper, the lightest pixel around is lighter than most, by its noise.
    low, quarter = np.quantile(contrast[::3, ::3], (0.05, 0.25))
    if quarter > 2.5 * FAINTEST:  # ink is most of the image
        quarter = low = min(low, FAINTEST)
    noise = quarter - low
    contrast -= quarter + 0.7 * noise
    faintest = int(np.clip(5 * noise, FAINTEST, 3 * FAINTEST))
    return Contrast(np.clip(contrast, 0, 255).astype(np.uint8), faintest, closed, smooth)


def is_dark_on_light(pixels: Pixels) -> bool:
    """Returns whether strokes are darker than what lies around them.

    Around strong contrast most is paper. Where that is not clear, as in a character cut out to its
    edge, a page on a table, or pale ink in a shadow, strokes are what is thin, and if nothing is,
    what is not on the border.
    """
    smooth = smoothed(pixels)
    lightest = spread(smooth, window_of(pixels)).astype(np.int16)
    darkest = 255 - spread(255 - smooth, window_of(pixels))
    span = lightest - darkest
    light = 2 * smooth.astype(np.int16) > lightest + darkest
    share = float(light[2 * span >= span.max()].mean())
    if not 1 - CLEAR < share < CLEAR:
        return share > 0.5
    thin = []  # how much of the image is filled if what is dark, and what is light, is strokes
    for scale in SCALES:
        window = window_of(pixels, scale)
        dark = _closing(smooth, window).astype(np.int16) - smooth > FAINTEST
        light = _closing(255 - smooth, window).astype(np.int16) - (255 - smooth) > FAINTEST
        thin.append((float(dark.mean()), float(light.mean())))
    for dark, light in thin[:-1]:
        if dark + light >= max(LEAST, MARKED * sum(thin[-1])):
            return dark >= light
    lightest, darkest = spread(smooth, SHARP).astype(np.int16), 255 - spread(255 - smooth, SHARP)
    if 3 * int((lightest - darkest).max()) < int(span.max()):
        return True  # nothing has edges: the shades of paper
    border = np.concatenate([smooth[0], smooth[-1], smooth[:, 0], smooth[:, -1]])
    return bool(2 * np.median(border) > int(smooth.min()) + int(smooth.max()))


def window_of(pixels: Pixels, share: float = WINDOW) -> int:
    """Returns the side of a window in pixels, odd; `share` is of the image's longer side."""
    return max(3, round(share * max(pixels.shape)) | 1)


def smoothed(pixels: Pixels) -> Pixels:
    """Returns the mean of each pixel and its eight neighbours."""
    padded = np.pad(pixels.astype(np.uint16), 1, "edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return ((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4) // 9).astype(np.uint8)


def spread(pixels: Shaped[np.ndarray, "h w"], window: int) -> Shaped[np.ndarray, "h w"]:
    """Returns the maximum over a square window whose side is odd."""
    reach = window // 2
    for axis in (0, 1):
        height, width = pixels.shape
        # Beyond the border nothing is larger.
        if axis == 0:
            padded = np.zeros((height + 2 * reach, width), pixels.dtype)
            padded[reach : reach + height] = pixels
        else:
            padded = np.zeros((height, width + 2 * reach), pixels.dtype)
            padded[:, reach : reach + width] = pixels
        pixels = running(np.maximum, padded, window, axis)
    return pixels


def running(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray],
    values: Shaped[np.ndarray, "h w"],
    length: int,
    axis: int,
) -> Shaped[np.ndarray, "h2 w2"]:
    """Returns `function`, a maximum or minimum, of each `length` neighbours along an axis.

    In as many passes as `length` has bits; what comes out is shorter by `length - 1`.
    """
    values = values if axis == 0 else values.T
    done = 1
    while done < length:
        step = min(done, length - done)
        values = function(values[: len(values) - step], values[step:])
        done += step
    return values if axis == 0 else values.T


def longer_runs(strokes: Bool[np.ndarray, "h w"], length: int) -> Bool[np.ndarray, "h w"]:
    """Returns which pixels lie in a vertical run of at least `length` pixels."""
    if length > len(strokes):
        return np.zeros_like(strokes)
    starts = running(np.logical_and, strokes, length, 0)
    return running(np.logical_or, np.pad(starts, ((length - 1, length - 1), (0, 0))), length, 0)


def _closing(pixels: Pixels, window: int) -> Pixels:
    """The minimum of the maxima; beyond the border the light goes on as it slopes there."""
    reach = window // 2
    top, left = (min(reach, side - 1) for side in pixels.shape)
    padded = pixels.astype(np.int16)
    # One axis after the other: clipped between, what is dark beyond a side stays so at the corners.
    for pads in ((top, top), (0, 0)), ((0, 0), (left, left)):
        padded = np.clip(np.pad(padded, pads, "reflect", reflect_type="odd"), 0, 255)
    closed = 255 - spread(255 - spread(padded.astype(np.uint8), window), window)
    return closed[top : top + pixels.shape[0], left : left + pixels.shape[1]]
