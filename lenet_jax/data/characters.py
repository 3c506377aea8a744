"""Finds the characters in a photograph, scan or drawing, and brings each to the form of MNIST's.

Source of the form: LeCun, Cortes, Burges, "The MNIST database of handwritten digits", 1998.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from scipy import ndimage
from scipy.sparse.csgraph import connected_components

from lenet_jax.data.lines import erase_lines
from lenet_jax.data.strokes import contrast_to_paper, is_dark_on_light, running, spread, window_of

SIZE, BOX = 28, 20  # pixels: MNIST's images, and the box that a character fills in them
LONGEST, SHORTEST = 400, 112  # pixels: the sides of an image in which characters are sought
EDGE = 0.4  # of the contrast of the strokes around: what belongs to a stroke
SMALLEST = 0.04  # of the longer side: what is smaller is a speck
BORDER = 0.015  # of the longer side: what lies there lies along the border
BLUR = 0.05  # of a character's longer side: where its edge ends
ALL_AROUND = 0.65  # of what lies around a stroke: what is lighter
THICKEST = 0.35  # of the longer side of a character: its strokes
MOST = 1000  # components of an image

Boxes: TypeAlias = Int[np.ndarray, "n 4"]  # left, top, right, bottom; the last two exclusive


class Character(NamedTuple):
    """One character of an image.

    Attributes:
      box: left, top, right and bottom in pixels of the image, the last two exclusive.
      pixels: the character as MNIST has it: light on dark, its longer side 20 of 28 pixels,
        antialiased, the centre of mass in the middle. With channels where the image has them.
      inverted: whether the image has it dark on light.
    """

    box: tuple[int, int, int, int]
    pixels: UInt8[np.ndarray, "size size *c"]
    inverted: bool


class _Group(NamedTuple):
    """Connected components that make a character; `mask` begins at `top` and `left`."""

    mask: Bool[np.ndarray, "h w"]
    top: int
    left: int


def find_characters(
    grey: UInt8[np.ndarray, "h w"], size: int = SIZE, box: int = BOX
) -> list[Character]:
    """Finds the characters of an image, in reading order: rows from above, each from the left.

    The paper's light is estimated around each pixel, so that shadows, slopes and vignettes do not
    count; what is darker than the paper (or lighter, where strokes are light) is ink. Straight
    lines are erased: rules, boxes, cells, underlines and margins; strokes that cross them stay. Of
    the connected components that are left, those along the border (a table, a scanner's frame, a
    thumb), those without an edge and those much smaller than the largest do not count. The others
    are grouped into characters, each scaled into a box and centred by its mass.

    Args:
      grey: the image, of any size.
      size: height and width of the characters returned, in pixels.
      box: the longer side of what is drawn in them, in pixels.

    Returns:
      The characters; none for a blank, noisy or ruled empty sheet.
    """
    if min(grey.shape) < 4:
        return []
    work = np.asarray(_to_working_size(Image.fromarray(grey)))
    inverted = is_dark_on_light(work)
    groups, contrast = _search(work if inverted else 255 - work)
    scale = grey.shape[0] / work.shape[0], grey.shape[1] / work.shape[1]
    return [
        Character(_scaled_box(group, scale), normalise(_ink(group, contrast), size, box), inverted)
        for group in groups
    ]


def normalise(ink: Float[np.ndarray, "h w"], size: int, box: int) -> UInt8[np.ndarray, "size size"]:
    """Scales what is drawn, in 0..1, into a box and puts its centre of mass into the middle."""
    height, width = (max(1, round(extent * box / max(ink.shape))) for extent in ink.shape)
    drawn = np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.BICUBIC))
    drawn = np.clip(drawn / drawn.max(), 0, 1)
    top, left = (
        int(np.clip(round(size / 2 - centre), 0, size - extent))
        for centre, extent in zip(centre_of_mass(drawn), drawn.shape, strict=True)
    )
    pixels = np.zeros((size, size), np.uint8)
    pixels[top : top + height, left : left + width] = np.rint(255 * drawn)
    return pixels


def centre_of_mass(drawn: Float[np.ndarray, "h w"]) -> tuple[float, float]:
    """Returns row and column, counted from the upper left corner."""
    rows, columns = (np.arange(extent) + 0.5 for extent in drawn.shape)
    return float(drawn.sum(1) @ rows / drawn.sum()), float(drawn.sum(0) @ columns / drawn.sum())


def _to_working_size(image: Image.Image) -> Image.Image:
    """Reduces a large image, whose noise goes with it, and enlarges a small one."""
    width, height = image.size
    if max(width, height) > LONGEST:
        ratio = LONGEST / max(width, height)
        sides = (max(4, round(width * ratio)), max(4, round(height * ratio)))
        return image.resize(sides, Image.Resampling.BOX, reducing_gap=2)
    factor = min(-(-SHORTEST // min(width, height)), LONGEST // max(width, height))
    return image.resize((width * factor, height * factor), Image.Resampling.BICUBIC)


def _search(
    pixels: UInt8[np.ndarray, "h w"],
) -> tuple[list[_Group], UInt8[np.ndarray, "h w"]]:
    """The characters that are darker than the paper, and the contrast of each pixel."""
    contrast, faintest = contrast_to_paper(pixels)
    drawn = contrast >= faintest
    strokes = erase_lines(drawn, contrast)
    contrast[drawn & ~strokes] = 0
    around = spread(np.where(strokes, contrast, 0), window_of(pixels))
    strokes &= contrast > (EDGE * around).astype(np.uint8)
    return _groups(strokes, contrast, pixels), contrast


def _groups(
    strokes: Bool[np.ndarray, "h w"],
    contrast: UInt8[np.ndarray, "h w"],
    pixels: UInt8[np.ndarray, "h w"],
) -> list[_Group]:
    """The characters, in reading order."""
    labels = np.zeros(strokes.shape, np.int32)
    ndimage.label(strokes, np.ones((3, 3)), output=labels)
    if not (count := int(labels.max())):
        return []
    places = ndimage.find_objects(labels)
    boxes = np.array([(x.start, y.start, x.stop, y.stop) for y, x in places if x])
    ink = np.bincount(labels.ravel(), contrast.ravel(), count + 1)[1:]
    area = np.bincount(labels.ravel(), minlength=count + 1)[1:]

    def group(box: Int[np.ndarray, "4"], owner: Int[np.ndarray, " n"], index: int) -> _Group | None:
        """What belongs to `index`, unless it is no character."""
        left, top, right, bottom = box.tolist()
        reach = int(np.clip(BLUR * max(bottom - top, right - left), 3, 5))
        rows = slice(max(top - reach, 0), bottom + reach)
        columns = slice(max(left - reach, 0), right + reach)
        place = rows, columns
        mask = owner[labels[place]] == index
        depth = float(contrast[place][mask].mean())
        if not _has_edges(mask, strokes[place], pixels[place], depth, reach):
            return None
        y, x = top - rows.start, left - columns.start
        mask = mask[y : y + bottom - top, x : x + right - left]
        return None if _is_surface(mask, strokes.shape) else _Group(mask, top, left)

    free, cut, weight = _candidates(labels, boxes, ink)
    order = [int(i) for i in np.argsort(-weight, kind="stable") if weight[i] > 0]
    each = np.arange(-1, count)
    main = next((i for i in order if group(boxes[i], each, i)), None)
    if main is None:
        return []
    keep = (free | (cut & cut[main])) & (ink >= 0.04 * ink[main])
    keep &= ink * area[main] >= 0.4 * ink[main] * area
    keep = np.flatnonzero(keep)
    keep = keep[np.argsort(-ink[keep], kind="stable")[:MOST]]
    member = _merge(boxes[keep])
    bounds, inks = _bounds(boxes[keep], member), np.bincount(member, ink[keep])
    width, height = bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1]
    largest = inks.argmax()
    chosen = (height >= 0.4 * height[largest]) & (inks >= 0.1 * inks[largest])
    chosen &= (width <= 3 * height) & (np.maximum(width, height) >= SMALLEST * max(strokes.shape))
    owner = np.full(count + 1, -1)
    owner[keep + 1] = member
    groups = [group(bounds[i], owner, i) for i in _reading_order(bounds) if chosen[i]]
    return [found for found in groups if found]


def _candidates(
    labels: Int[np.ndarray, "h w"], boxes: Boxes, ink: Float[np.ndarray, " n"]
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Which components lie free, which are cut by the border, and how likely each is a character.

    Of what touches the border, strokes do so with their ends, from side to side, or all around.
    """
    (height, width), count = labels.shape, len(boxes)
    sides = boxes[:, 2:] - boxes[:, :2]
    large = sides.max(1) >= max(4, SMALLEST * max(height, width))
    slim = sides.max(1) <= 40 * sides.min(1)
    touches = np.concatenate([boxes[:, :2] == 0, boxes[:, 2:] == (width, height)], 1)
    # How much of each side of the image, and of its own box, a component has along the border.
    along = np.stack([_along(band, count) for band in _bands(labels)], 1)
    hugs = along / np.array([height, width, height, width])
    share = (along / sides[:, [1, 0, 1, 0]]).max(1)
    free = ~touches.any(1) & ((share < 0.6) | (hugs.max(1) < 0.2))
    through = (touches[:, 0] & touches[:, 2]) | (touches[:, 1] & touches[:, 3])
    # A character cut out to its edge; a table or a frame lies along more sides than one.
    narrow = max(labels.shape) > 1.8 * min(labels.shape)
    along_most = (hugs >= 0.75).sum(1)
    around = touches.all(1) & (along_most <= (3 if narrow else 1))
    cut = ~free & ((share < 0.5) | (through & (along_most == 0)) | around)
    return free, cut, ink * (large & slim) * np.where(free, 1, np.where(cut, 0.25, 0))


def _bands(labels: Int[np.ndarray, "h w"]) -> Sequence[Int[np.ndarray, "reach side"]]:
    """What lies along the left, upper, right and lower border; its second axis runs along it."""
    reach = max(1, round(BORDER * max(labels.shape)))
    return labels[:, :reach].T, labels[:reach], labels[:, -reach:].T, labels[-reach:]


def _along(band: Int[np.ndarray, "reach side"], count: int) -> Int[np.ndarray, " count"]:
    """In how many columns of a band each component is."""
    pairs = np.unique(band * np.int64(band.shape[1]) + np.arange(band.shape[1]))
    return np.bincount(pairs // band.shape[1], minlength=count + 1)[1:]


def _has_edges(
    mask: Bool[np.ndarray, "h w"],
    near: Bool[np.ndarray, "h w"],
    pixels: UInt8[np.ndarray, "h w"],
    contrast: float,
    reach: int,
) -> bool:
    """Whether it is lighter nearly all around, as it is around strokes, but not around shades.

    Args:
      mask: what is asked about.
      near: it and what else is drawn.
      pixels: the image, in which that is dark.
      contrast: of the mask to paper, in 255ths of the paper's light.
      reach: how far off it must be lighter, in pixels.
    """
    ring = spread(mask, 2 * reach + 1) & ~spread(near, 2 * reach - 1)
    if not ring.any():
        return True
    darkest = 255 - spread(np.where(mask, 255 - pixels, np.uint8(0)), 2 * reach + 3)
    paper = pixels[ring].astype(np.float32)
    return bool(np.mean(paper - darkest[ring] > 0.4 * contrast / 255 * paper) > ALL_AROUND)


def _merge(boxes: Boxes) -> Int[np.ndarray, " n"]:
    """Which character each component belongs to: parts lie one above the other, or nearly touch."""
    member = np.arange(len(boxes))
    while True:
        left, top, right, bottom = _bounds(boxes, member).T
        overlap = np.minimum(right[:, None], right) - np.maximum(left[:, None], left)
        gap = np.maximum(top[:, None], top) - np.minimum(bottom[:, None], bottom)
        narrow = np.minimum((right - left)[:, None], right - left)
        tall = np.maximum((bottom - top)[:, None], bottom - top)
        longer = np.maximum(right - left, bottom - top)
        same = (overlap >= 0.5 * narrow) & (gap <= 0.25 * tall)
        same |= np.maximum(-overlap, gap) <= 0.06 * tall
        # The bar of a five, too low to be a character, though it is longer than a speck.
        low = np.minimum((bottom - top)[:, None], bottom - top) < 0.4 * tall
        long = np.minimum(longer[:, None], longer) >= 0.15 * tall
        same |= low & long & (overlap > 0) & (gap <= 0.35 * tall)
        count, index = connected_components(same, directed=False)
        if count == len(left):
            return member
        member = index[member]


def _bounds(boxes: Boxes, member: Int[np.ndarray, " n"]) -> Int[np.ndarray, "m 4"]:
    """The box around the members of each group."""
    bounds = np.empty((member.max() + 1, 4), boxes.dtype)
    bounds[:, :2], bounds[:, 2:] = boxes.max(), -1
    np.minimum.at(bounds[:, :2], member, boxes[:, :2])
    np.maximum.at(bounds[:, 2:], member, boxes[:, 2:])
    return bounds


def _reading_order(bounds: Boxes) -> list[int]:
    """Rows from above, each from the left."""
    middle = (bounds[:, 1] + bounds[:, 3]) / 2
    rows: list[list[int]] = []
    for index in np.argsort(middle, kind="stable").tolist():
        if rows and middle[index] < np.median(bounds[rows[-1], 3]):
            rows[-1].append(index)
        else:
            rows.append([index])
    return [index for row in rows for index in sorted(row, key=lambda i: bounds[i, 0])]


def _is_surface(mask: Bool[np.ndarray, "h w"], shape: tuple[int, ...]) -> bool:
    """Whether it is large and too thick for strokes, and does not fill the image: a page."""
    if mask.sum() < 0.25 * shape[0] * shape[1]:
        return False
    if all(0.95 * a <= b for a, b in zip(shape, mask.shape, strict=True)):
        return False
    side = round(THICKEST * max(mask.shape))
    if side > min(mask.shape):
        return False
    return bool(running(np.logical_and, running(np.logical_and, mask, side, 0), side, 1).any())


def _ink(group: _Group, contrast: UInt8[np.ndarray, "h w"]) -> Float[np.ndarray, "height width"]:
    """What is drawn in the box of a group, 0 to 1, with its edges."""
    height, width = group.mask.shape
    cut = contrast[group.top : group.top + height, group.left : group.left + width]
    full = float(np.quantile(cut[group.mask], 0.8))
    return np.where(spread(group.mask, 5), np.clip(cut / np.float32(full), 0, 1), np.float32(0))


def _scaled_box(group: _Group, scale: tuple[float, float]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom in the image as it came."""
    height, width = group.mask.shape
    edges = group.left, group.top, group.left + width, group.top + height
    return tuple(round(edge * scale[1 - i % 2]) for i, edge in enumerate(edges))  # pyright: ignore
