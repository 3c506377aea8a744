"""Straight lines among strokes: rules, boxes, cells, underlines and margins, found and erased.

Only lines that are nearly horizontal or vertical, and thin against the image, are sought. Where a
stroke crosses a line or runs along it, the stroke stays.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int, UInt8

from lenet_jax.data.strokes import longer_runs

THICKEST = 0.02  # of the image's longer side
SHORTEST = 0.2  # of the image's side along the line
GAP = 0.06  # of the image's side along the line: where it may be too faint to be seen
SPANNING = 0.8  # of the image's side along the line: no stroke is as long
STEEPEST = 0.12  # pixels across the line for each along it: 7°
FAN = 0.025  # the same: how far the lines of one image may differ
BENT = 1.0  # pixels: the deviation of half of a line's pixels, at most
DARKER = 1.35  # of a line's contrast: what is drawn over it
MOST = 100  # lines in one direction


@dataclasses.dataclass(frozen=True)
class Line:
    """A straight line through an image, or through its transpose if it is vertical.

    Attributes:
      vertical: whether it runs down a column rather than along a row.
      slope: pixels across for each along.
      offset: where it is at the first column.
      start, stop: the columns between which it runs.
      thickness: pixels.
      contrast: of its pixels, on average.
    """

    vertical: bool
    slope: float
    offset: float
    start: int
    stop: int
    thickness: float
    contrast: float

    def at(self, column: float | int) -> float:
        """Returns the row that it passes in a column."""
        return self.offset + self.slope * column

    @property
    def length(self) -> int:
        """Pixels."""
        return self.stop - self.start


def erase_lines(
    strokes: Bool[np.ndarray, "h w"], contrast: UInt8[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    """Returns the strokes without the straight lines among them; `contrast` is their darkness."""
    views = [(strokes, contrast, False), (strokes.T, contrast.T, True)]
    lines = [line for view in views for line in find_lines(*view)]
    lines = choose_rules(lines, strokes.shape)
    # The second time erases the crossings, whose lines are no longer there.
    for _ in range(2 if lines else 0):
        strokes = _erase(strokes, contrast, lines)
    return strokes


def find_lines(
    strokes: Bool[np.ndarray, "h w"], contrast: UInt8[np.ndarray, "h w"], vertical: bool = False
) -> list[Line]:
    """Finds long, thin and straight runs along the rows, by a Hough transform of few angles.

    Args:
      strokes: where something is drawn.
      contrast: how dark it is.
      vertical: whether both are transposed, which the lines then say.
    """
    height, width = strokes.shape
    thickest = max(3, round(THICKEST * max(height, width)))
    thin = strokes & ~longer_runs(strokes, thickest + 1)
    # A thin line so little inclined has runs along the row; other strokes have few.
    y, x = np.nonzero(longer_runs(thin.T, max(2, min(8, width // 8))).T)
    if len(x) < SHORTEST * width:
        return []
    tilt = _common_slope(y[::4], x[::4], width)
    slopes = np.arange(tilt - FAN, tilt + FAN, 1.5 / width)
    margin = int((STEEPEST + 2 * FAN) * width) + 2
    count = height + 2 * margin
    bins = np.rint(y - slopes[:, None] * x).astype(np.int32) + margin
    bins += (np.arange(len(slopes), dtype=np.int32) * count)[:, None]
    votes = np.bincount(bins.ravel(), minlength=len(slopes) * count)
    left = np.ones(len(x), bool)
    lines = []
    for _ in range(MOST):
        best = int(votes.argmax())
        if votes[best] < 0.5 * SHORTEST * width:
            break
        slope, offset = slopes[best // count], best % count - margin
        rows = np.rint(offset + slope * np.arange(width)).astype(np.int64)
        for columns in _segments(strokes, thin, rows):
            line = _fit(thin, contrast, rows, columns, thickest)
            if line is not None:
                lines.append(dataclasses.replace(line, vertical=vertical))
        near = left & (np.abs(y - slope * x - offset) <= thickest / 2 + 1)
        left &= ~near
        votes -= np.bincount(bins[:, near].ravel(), minlength=len(votes))
    return lines


def _common_slope(y: Int[np.ndarray, " n"], x: Int[np.ndarray, " n"], width: int) -> float:
    """The slope along which the pixels lie in fewest rows."""
    slopes = np.arange(-STEEPEST, STEEPEST, 4 / width)
    rows = np.rint((y - slopes[:, None] * x) / 2).astype(np.int64)
    rows -= rows.min()
    count = int(rows.max()) + 1
    rows += (np.arange(len(slopes)) * count)[:, None]
    votes = np.bincount(rows.ravel(), minlength=len(slopes) * count).reshape(len(slopes), count)
    return float(slopes[(votes.astype(np.float64) ** 2).sum(1).argmax()])


def _segments(
    strokes: Bool[np.ndarray, "h w"], thin: Bool[np.ndarray, "h w"], rows: Int[np.ndarray, " w"]
) -> Iterator[Int[np.ndarray, " n"]]:
    """The columns of each stretch of a row of votes that is covered; of gaps, only short ones."""
    height, width = strokes.shape
    columns = np.arange(width)
    band = np.clip(rows + np.arange(-1, 2)[:, None], 0, height - 1), columns
    inside = (rows >= 0) & (rows < height)
    covered = np.flatnonzero(strokes[band].max(0) & inside)
    alone = thin[band].max(0)
    breaks = np.flatnonzero(np.diff(covered) > max(3, GAP * width)) + 1
    for part in np.split(covered, breaks):
        if len(part) < SHORTEST * width or len(part) < 0.6 * (part[-1] - part[0]):
            continue
        if alone[part].mean() >= 0.5:
            yield part[alone[part]]


def _fit(
    thin: Bool[np.ndarray, "h w"],
    contrast: UInt8[np.ndarray, "h w"],
    rows: Int[np.ndarray, " w"],
    columns: Int[np.ndarray, " n"],
    thickest: int,
) -> Line | None:
    """The line through the strokes near `rows`, unless they are bent."""
    reach = np.arange(-thickest, thickest + 1)[:, None]
    y = np.clip(rows[columns] + reach, 0, len(thin) - 1)
    near = thin[y, columns]
    # Without what lies beside it: the line of the next box, say.
    near[thickest + 1 :] = np.logical_and.accumulate(near[thickest + 1 :])
    near[:thickest] = np.logical_and.accumulate(near[thickest - 1 :: -1])[::-1]
    weight = near.sum(0)
    seen = weight > 0
    if seen.sum() < 2:
        return None
    x, middle = columns[seen], ((near * y).sum(0) / np.maximum(weight, 1))[seen]
    centre = x.mean()
    slope = float((x - centre) @ (middle - middle.mean()) / ((x - centre) @ (x - centre)))
    offset = float(middle.mean() - slope * centre)
    if np.median(np.abs(middle - offset - slope * x)) > BENT:
        return None
    return Line(
        vertical=False,
        slope=slope,
        offset=offset,
        start=int(columns[0]),
        stop=int(columns[-1]) + 1,
        thickness=float(np.median(weight[seen])),
        contrast=float((near * contrast[y, columns]).max(0).mean()),
    )


def choose_rules(lines: Sequence[Line], shape: tuple[int, int]) -> list[Line]:
    """Returns those lines that are no strokes: they span the image, or are the sides of boxes.

    A box's side meets another line corner to corner at either end; a line from side to side of a
    box, or of several that hang together, counts too.
    """
    slack = 0.015 * max(shape) + 3

    def meets(line: Line, other: Line, end: int, *, corner: bool) -> bool:
        place = line.at(end)
        if line.vertical == other.vertical or abs(other.at(place) - end) > slack:
            return False
        if corner:
            return min(abs(other.start - place), abs(other.stop - place)) <= slack
        return other.start - slack <= place <= other.stop + slack

    def ends_at(line: Line, others: Sequence[Line], *, corner: bool) -> bool:
        return all(
            any(meets(line, other, end, corner=corner) for other in others)
            for end in (line.start, line.stop)
        )

    spanning = [n for n in lines if n.length >= SPANNING * shape[0 if n.vertical else 1]]
    sides = [line for line in lines if ends_at(line, lines, corner=True)]
    across = [line for line in lines if ends_at(line, sides, corner=False)]
    return list(dict.fromkeys(spanning + sides + across))


def _erase(
    strokes: Bool[np.ndarray, "h w"], contrast: UInt8[np.ndarray, "h w"], lines: Sequence[Line]
) -> Bool[np.ndarray, "h w"]:
    """Erases the pixels of lines, but where they are longer across, or darker, than the line."""
    kept = strokes.copy()
    for vertical in (False, True):
        source, target, shades = (
            array.T if vertical else array for array in (strokes, kept, contrast)
        )
        height, width = source.shape
        long: dict[int, np.ndarray] = {}
        for line in lines:
            if line.vertical != vertical:
                continue
            reach = int(line.thickness / 2) + 2
            columns = np.arange(max(line.start - 3, 0), min(line.stop + 3, width))
            middle = np.rint(line.offset + line.slope * columns).astype(np.int64)
            rows = np.clip(middle + np.arange(-reach, reach + 1)[:, None], 0, height - 1)
            limit = int(line.thickness) + 3
            if limit not in long:
                long[limit] = longer_runs(source, limit)
            target[rows, columns] &= long[limit][rows, columns] | (
                shades[rows, columns] > DARKER * line.contrast
            )
    return kept
