"""Finds the characters in a photograph, scan or drawing, and brings each to the form of MNIST's.

Source of the form: LeCun, Cortes, Burges, "The MNIST database of handwritten digits", 1998.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from lenet_jax.data.components import (
    AT_BORDER,
    FREE,
    Boxes,
    Components,
    bounds_of,
    frames,
    has_size,
    is_thick,
    label,
    likelihood,
    merge,
    smallest,
    underlines,
)
from lenet_jax.data.lines import erase_lines
from lenet_jax.data.strokes import (
    WINDOW,
    Contrast,
    contrast_to_paper,
    is_dark_on_light,
    spread,
    window_of,
)

SIZE, BOX = 28, 20  # pixels: MNIST's images, and the box that a character fills in them
LONGEST, SHORTEST = 400, 112  # pixels: the sides of an image in which characters are sought
EDGE = 0.4  # of the contrast of the strokes around: what belongs to a stroke
BLUR = 0.05  # of a character's longer side: where its edge ends
MOSTLY, NEARLY_ALL = 0.65, 0.9  # of what lies around a character: what is lighter
VAST = 0.7  # of the image's longer side: what is longer is rather a shade than a character
FLAT = 7  # of 255: a smaller step is no edge
DARKNESS = 0.35  # of the main character's: that of the others on its page
SOLID = 0.8  # of its box: what fills it more is a block, if it is thick
PIECE = 0.08  # of a character's ink: the largest component of it
MOST = 1000  # components of an image
MOST_INK = 0.5  # of all ink: what a character that touches the border has
WIDE, WIDE_IF_UNLIKE = 1.3, 1.0  # widths a height: of MNIST's digits one in seventy is wider
# Windows in which paper is sought if there is no character otherwise, and the longest side then.
WHOLE = 0.8  # for a character that fills the image
NARROW = 0.12  # for one in a shadow that is little wider than it
LARGE = 1000  # pixels: for small characters on large pages


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


class _View(NamedTuple):
    """What an image shows at a size, with the contrast of each pixel to the paper."""

    groups: list[_Group]
    contrast: UInt8[np.ndarray, "h w"]
    inverted: bool

    def has_inside(self) -> bool:
        """Whether there is a character that does not touch the border."""
        height, width = self.contrast.shape
        return any(
            group.top > 0
            and group.left > 0
            and group.top + group.mask.shape[0] < height
            and group.left + group.mask.shape[1] < width
            for group in self.groups
        )

    def is_filled(self) -> bool:
        """Whether one character fills the image."""
        return len(self.groups) == 1 and _fills(self.groups[0].mask.shape, self.contrast.shape)


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
    view = _best_view(grey)
    scale = grey.shape[0] / view.contrast.shape[0], grey.shape[1] / view.contrast.shape[1]
    return [
        Character(
            _scaled_box(group, scale),
            normalise(_ink(group, view.contrast), size, box),
            view.inverted,
        )
        for group in view.groups
    ]


def may_be_several(box: tuple[int, int, int, int], unlike: bool) -> bool:
    """Whether what was found as one is so wide that it may be several characters that touch.

    Args:
      box: as a `Character` has it.
      unlike: whether the network found it unlike any class: then less width will do.
    """
    left, top, right, bottom = box
    return right - left > (WIDE_IF_UNLIKE if unlike else WIDE) * (bottom - top)


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


def _best_view(grey: UInt8[np.ndarray, "h w"]) -> _View:
    """Looks for characters at the usual size and window, and at others if there are none."""
    usual = _look(grey, LONGEST, WINDOW)
    if usual.has_inside():
        return usual
    whole = _look(grey, LONGEST, WHOLE)
    if whole.is_filled():
        return whole
    if usual.groups:
        return usual
    turned = _look(grey, LONGEST, WHOLE, turned=True)
    if turned.is_filled():
        return turned  # a broad one, say: nearly all of its image is ink
    narrow = _look(grey, LONGEST, NARROW)
    if narrow.has_inside():
        return narrow
    if max(grey.shape) >= 2 * LONGEST:
        return _look(grey, LARGE, WINDOW)
    return usual


def _look(
    grey: UInt8[np.ndarray, "h w"], longest: int, window: float, *, turned: bool = False
) -> _View:
    """Finds the characters of an image at a size, with a window to seek the paper in.

    With `turned`, ink and paper are taken the other way round than they seem to be.
    """
    work = np.asarray(_to_working_size(Image.fromarray(grey), longest))
    inverted = is_dark_on_light(work) != turned
    measured = contrast_to_paper(work if inverted else 255 - work, window)
    contrast = measured.pixels
    drawn = contrast >= measured.faintest
    strokes = erase_lines(drawn, contrast)
    contrast[drawn & ~strokes] = 0
    around = spread(np.where(strokes, contrast, 0), window_of(contrast, window))
    strokes &= contrast > (EDGE * around).astype(np.uint8)
    drawing = min(grey.shape) < SHORTEST
    return _View(_groups(strokes, measured, drawing), contrast, inverted)


def _to_working_size(image: Image.Image, longest: int) -> Image.Image:
    """Reduces a large image, whose noise goes with it, and enlarges a small one."""
    width, height = image.size
    if max(width, height) > longest:
        ratio = longest / max(width, height)
        sides = (max(4, round(width * ratio)), max(4, round(height * ratio)))
        return image.resize(sides, Image.Resampling.BOX, reducing_gap=2)
    factor = max(1, min(-(-SHORTEST // min(width, height)), LONGEST // max(width, height)))
    return image.resize((width * factor, height * factor), Image.Resampling.BICUBIC)


def _groups(strokes: Bool[np.ndarray, "h w"], contrast: Contrast, drawing: bool) -> list[_Group]:
    """The characters, in reading order."""
    components = label(strokes, contrast.pixels, contrast.paper)
    boxes, ink = components.boxes, components.ink
    count = len(boxes)
    if not count:
        return []

    def group(
        box: Int[np.ndarray, "4"], owner: Int[np.ndarray, " n"], index: int, place: float
    ) -> _Group | None:
        """What belongs to `index`, at a place like `likelihood`'s, unless it is no character."""
        left, top, right, bottom = box.tolist()
        extent = bottom - top, right - left
        longer = max(extent)
        reach = int(np.clip(BLUR * longer, 3, max(5, BLUR / 2 * longer)))
        rows = slice(max(top - reach, 0), bottom + reach)
        columns = slice(max(left - reach, 0), right + reach)
        near = rows, columns
        mask = owner[components.labels[near]] == index
        depth = contrast.pixels[near][mask].mean() / 255 * contrast.paper[near]
        vast = longer > VAST * max(strokes.shape) and not _fills(extent, strokes.shape)
        around = NEARLY_ALL if place == AT_BORDER or vast else MOSTLY
        if not _has_edges(mask, strokes[near], contrast.smooth[near], depth, reach, around):
            return None
        y, x = top - rows.start, left - columns.start
        mask = mask[y : y + bottom - top, x : x + right - left]
        return None if _is_surface(mask, strokes.shape) else _Group(mask, top, left)

    likely = likelihood(components, drawing=drawing)
    likely[frames(components, likely * has_size(components))] = 0
    likely[(likely < FREE) & (ink < MOST_INK * ink.sum())] = 0
    weight = ink * likely * has_size(components)
    order = [int(i) for i in np.argsort(-weight, kind="stable") if weight[i] > 0]
    each = np.arange(-1, count)
    main = next((i for i in order if group(boxes[i], each, i, likely[i])), None)
    if main is None:
        return []
    keep = _alike(components, likely, main)
    member = merge(boxes[keep])
    bounds, inks = bounds_of(boxes[keep], member), np.bincount(member, ink[keep])
    width, height = bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1]
    largest = inks.argmax()
    chosen = (height >= 0.4 * height[largest]) & (inks >= 0.1 * inks[largest])
    chosen &= (width <= 3 * height) & (np.maximum(width, height) >= smallest(strokes.shape))
    piece = np.zeros(len(bounds))  # the largest of each; of what is left of rules, all are small
    np.maximum.at(piece, member, ink[keep])
    chosen &= piece >= PIECE * inks
    owner = np.full(count + 1, -1)
    owner[keep + 1] = member
    groups = [group(bounds[i], owner, i, likely[main]) for i in _reading_order(bounds) if chosen[i]]
    return [found for found in groups if found]


def _alike(
    components: Components, likely: Float[np.ndarray, " n"], main: int
) -> Int[np.ndarray, " m"]:
    """The components that may belong to characters if `main` does, those with most ink first."""
    ink, area, darkness = components.ink, components.area, components.darkness
    keep = ((likely == FREE) | ((likely > 0) & (likely == likely[main]))) & (
        ink >= 0.04 * ink[main]
    )
    keep &= ink * area[main] >= 0.4 * ink[main] * area
    keep &= darkness >= DARKNESS * darkness[main]
    keep = np.flatnonzero(keep)
    keep = keep[np.argsort(-ink[keep], kind="stable")[:MOST]]
    return keep[~underlines(components.boxes[keep])]


def _has_edges(
    mask: Bool[np.ndarray, "h w"],
    near: Bool[np.ndarray, "h w"],
    pixels: UInt8[np.ndarray, "h w"],
    depth: Float[np.ndarray, "h w"],
    reach: int,
    around: float,
) -> bool:
    """Whether it is lighter nearly all around, as it is around strokes, but not around shades.

    Args:
      mask: what is asked about.
      near: it and what else is drawn.
      pixels: the image, in which that is dark.
      depth: how much darker than the paper around each pixel the mask is.
      reach: how far off it must be lighter, in pixels.
      around: how much of what lies around must be.
    """
    ring = spread(mask, 2 * reach + 1) & ~spread(near, 2 * reach - 1)
    if not ring.any():
        return True
    darkest = 255 - spread(np.where(mask, 255 - pixels, np.uint8(0)), 2 * reach + 3)
    edge = pixels[ring].astype(np.float32) - darkest[ring]
    deep = np.maximum(depth[ring], 0.4 * depth[ring].max())
    # Where the step is much larger than the depth, it is another thing's edge.
    own = (edge > np.maximum(0.4 * deep, FLAT)) & (edge < 3 * deep + FLAT)
    return bool(own.mean() > around)


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


def _fills(extent: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether height and width are nearly those of the image."""
    return all(0.95 * a <= b for a, b in zip(shape, extent, strict=True))


def _is_surface(mask: Bool[np.ndarray, "h w"], shape: tuple[int, ...]) -> bool:
    """Whether it is too thick for strokes, and a solid block, or a page in a larger image."""
    page = mask.sum() >= 0.25 * shape[0] * shape[1] and not _fills(mask.shape, shape)
    return bool(page or mask.mean() > SOLID) and is_thick(mask)


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
