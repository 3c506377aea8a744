"""Connected components of strokes: which may be characters, and which belong to one."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from lenet_jax.data.strokes import running

SMALLEST = 0.04  # of the longer side, up to `LARGE` pixels of it: what is smaller is a speck
LARGE = 600
BORDER = 0.015  # of the longer side: what lies there lies along the border
THICKEST = 0.35  # of the longer side of a character: its strokes
FREE, CUT, AT_BORDER = 1.0, 0.25, 0.05  # how likely a component is a character, by its place
FRAMES = 20  # components that may be frames

Boxes: TypeAlias = Int[np.ndarray, "n 4"]  # left, top, right, bottom; the last two exclusive


class Components(NamedTuple):
    """The connected components of an image, 1 to n in `labels`, 0 to n - 1 elsewhere.

    Attributes:
      labels: which component each pixel belongs to; 0: none.
      boxes: around each.
      area: pixels of each.
      ink: the sum of their contrast, in 255ths of the paper's light.
      darkness: the mean of what they are darker than the paper.
    """

    labels: Int[np.ndarray, "h w"]
    boxes: Boxes
    area: Int[np.ndarray, " n"]
    ink: Float[np.ndarray, " n"]
    darkness: Float[np.ndarray, " n"]


def label(
    strokes: Bool[np.ndarray, "h w"],
    contrast: UInt8[np.ndarray, "h w"],
    paper: UInt8[np.ndarray, "h w"],
) -> Components:
    """Labels what hangs together, corners included."""
    from scipy import ndimage  # late: training does without it, and the import takes long

    labels = np.zeros(strokes.shape, np.int32)
    ndimage.label(strokes, np.ones((3, 3)), output=labels)
    places = ndimage.find_objects(labels)
    boxes = np.array([(x.start, y.start, x.stop, y.stop) for y, x in places if x], int)
    owner = labels[strokes]
    ink = contrast[strokes].astype(np.float64)
    area = np.bincount(owner, minlength=1)[1:]
    return Components(
        labels,
        boxes.reshape(-1, 4),
        area,
        np.bincount(owner, ink, 1)[1:],
        np.bincount(owner, ink * paper[strokes], 1)[1:] / (255 * area),
    )


def smallest(shape: tuple[int, ...]) -> float:
    """Returns the longer side that a character has at least, in pixels of an image of a shape."""
    return max(4, SMALLEST * min(max(shape), LARGE))


def has_size(components: Components) -> Bool[np.ndarray, " n"]:
    """Returns which components have the size of a character, and are no lines."""
    sides = components.boxes[:, 2:] - components.boxes[:, :2]
    return (sides.max(1) >= smallest(components.labels.shape)) & (sides.max(1) <= 40 * sides.min(1))


def likelihood(components: Components, *, drawing: bool = False) -> Float[np.ndarray, " n"]:
    """Returns how likely each component is a character: `FREE`, `CUT`, `AT_BORDER` or 0.

    Of what touches the border, strokes do so with their ends, from side to side, or all around. In
    a small `drawing` they may lie along it too, unless it is a blob or reaches along a whole side.
    """
    labels, boxes = components.labels, components.boxes
    (height, width), count = labels.shape, len(boxes)
    sides = boxes[:, 2:] - boxes[:, :2]
    touches = np.concatenate([boxes[:, :2] == 0, boxes[:, 2:] == (width, height)], 1)
    # How much of each side of the image, and of its own box, a component has along the border.
    along = np.stack([_along(band, count) for band in _bands(labels)], 1)
    hugs = along / np.array([height, width, height, width])
    share = (along / sides[:, [1, 0, 1, 0]]).max(1)
    reach = _reach(labels)
    sliver = (boxes[:, 2:] <= reach) | (boxes[:, :2] >= np.array([width, height]) - reach)
    free = ~touches.any(1) & ~sliver.any(1) & ((share < 0.6) | (hugs.max(1) < 0.2))
    through = (touches[:, 0] & touches[:, 2]) | (touches[:, 1] & touches[:, 3])
    # A character cut out to its edge; a table or a frame lies along more sides than one.
    narrow = max(labels.shape) > 1.8 * min(labels.shape)
    along_most = (hugs >= 0.75).sum(1)
    around = touches.all(1) & (along_most <= (3 if narrow else 1))
    margin = through & (sides.max(1) > 10 * sides.min(1))
    cut = ~free & ~margin & ((share < 0.5) | (through & (along_most == 0)) | around)
    at_border = ~free & ~cut & ~margin & (along_most == 0) & has_size(components) & drawing
    for index in np.flatnonzero(at_border).tolist():
        at_border[index] = not is_thick(mask_of(components, index))
    return np.where(free, FREE, np.where(cut, CUT, np.where(at_border, AT_BORDER, 0)))


def mask_of(components: Components, index: int) -> Bool[np.ndarray, "h w"]:
    """Returns the pixels of one component, in its box."""
    left, top, right, bottom = components.boxes[index]
    return components.labels[top:bottom, left:right] == index + 1


def is_thick(mask: Bool[np.ndarray, "h w"]) -> bool:
    """Returns whether a square fits into it that is wider than the strokes of a character."""
    side = max(1, round(THICKEST * max(mask.shape)))
    if side > min(mask.shape):
        return False
    return bool(running(np.logical_and, running(np.logical_and, mask, side, 0), side, 1).any())


def frames(components: Components, weight: Float[np.ndarray, " n"]) -> list[int]:
    """Returns the components around others that are characters rather: boxes and circles.

    Args:
      components: of the image.
      weight: of each; those without cannot be characters.
    """
    labels, boxes = components.labels, components.boxes
    heights = boxes[:, 3] - boxes[:, 1]
    likely = np.flatnonzero(weight > 0)
    likely = likely[np.argsort(-heights[likely], kind="stable")[:FRAMES]].tolist()

    def surrounds(outer: int, inner: int) -> bool:
        if not 0.25 * heights[outer] <= heights[inner] <= 0.8 * heights[outer]:
            return False
        left, top, right, bottom = boxes[inner]
        x, y = (left + right) // 2, (top + bottom) // 2
        rays = labels[y, :left], labels[y, right:], labels[:top, x], labels[bottom:, x]
        return all((ray == outer + 1).any() for ray in rays)

    return [i for i in likely if any(surrounds(i, j) for j in likely if j != i)]


def underlines(boxes: Boxes) -> Bool[np.ndarray, " n"]:
    """Returns which components are strokes below characters, as wide as these, drawn by hand."""
    left, top, right, bottom = boxes.T
    width, height = right - left, bottom - top
    bars = width >= 4 * height
    found = np.zeros(len(boxes), bool)
    for bar in np.flatnonzero(bars):
        near = ~bars & (left < right[bar]) & (right > left[bar])
        above = near & (top < top[bar] - height[bar]) & (bottom <= bottom[bar])
        if not above.any():
            continue
        tallest = height[above].max()
        below = near & (height >= 0.3 * tallest) & (top + bottom > 2 * bottom[bar])
        reach = max(0.9 * (right[above].max() - left[above].min()), 0.7 * tallest)
        found[bar] = width[bar] >= reach and not below.any()
    return found


def merge(boxes: Boxes) -> Int[np.ndarray, " n"]:
    """Returns which character each component belongs to, 0 to m - 1.

    Parts of a character lie one above the other, or nearly touch.
    """
    from scipy.sparse.csgraph import connected_components  # late, too

    member = np.arange(len(boxes))
    while True:
        left, top, right, bottom = bounds_of(boxes, member).T
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


def bounds_of(boxes: Boxes, member: Int[np.ndarray, " n"]) -> Int[np.ndarray, "m 4"]:
    """Returns the box around the components of each character."""
    bounds = np.empty((member.max() + 1, 4), boxes.dtype)
    bounds[:, :2], bounds[:, 2:] = boxes.max(), -1
    np.minimum.at(bounds[:, :2], member, boxes[:, :2])
    np.maximum.at(bounds[:, 2:], member, boxes[:, 2:])
    return bounds


def _bands(labels: Int[np.ndarray, "h w"]) -> Sequence[Int[np.ndarray, "reach side"]]:
    """What lies along the left, upper, right and lower border; its second axis runs along it."""
    reach = _reach(labels)
    return labels[:, :reach].T, labels[:reach], labels[:, -reach:].T, labels[-reach:]


def _reach(labels: Int[np.ndarray, "h w"]) -> int:
    """How wide the band along the border is, in pixels."""
    return max(1, round(BORDER * max(labels.shape)))


def _along(band: Int[np.ndarray, "reach side"], count: int) -> Int[np.ndarray, " count"]:
    """In how many columns of a band each component is."""
    pairs = np.unique(band * np.int64(band.shape[1]) + np.arange(band.shape[1]))
    return np.bincount(pairs // band.shape[1], minlength=count + 1)[1:]
