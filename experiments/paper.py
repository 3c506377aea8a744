"""What pictures of handwritten digits are drawn from: sheets, pens, lines, shadows and a camera.

Pages are float32 in 0..255. The usual one has 400×600 pixels, grey 235, and a digit of MNIST on it,
enlarged eight times (bicubic), at rows 150–374 and columns 60–284, its ink 195 darker.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

PAPER, INK = 235, 195
TOP, LEFT, SCALE = 150, 60, 8


def enlarge(digit: np.ndarray, scale: int = SCALE) -> np.ndarray:
    """Returns the digit in 0..1, `scale` times as large."""
    height, width = digit.shape
    image = Image.fromarray(digit).resize((width * scale, height * scale), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32) / 255


def sheet(
    digit: np.ndarray,
    *,
    size: tuple[int, int] = (600, 400),
    at: tuple[int, int] = (TOP, LEFT),
    scale: int = SCALE,
    ink: float = INK,
) -> np.ndarray:
    """Returns a sheet, as float32 in 0..255, with a digit at row and column `at`."""
    page = np.full(size, PAPER, np.float32)
    strokes = enlarge(digit, scale)
    height, width = strokes.shape
    page[at[0] : at[0] + height, at[1] : at[1] + width] -= ink * strokes
    return page


def grain(rng: np.random.Generator, page: np.ndarray, deviation: float = 3) -> np.ndarray:
    """Adds a camera's noise and rounds to uint8."""
    noise = rng.standard_normal(page.shape, np.float32) * deviation
    return np.clip(np.rint(page + noise), 0, 255).astype(np.uint8)


def jpeg(page: np.ndarray, quality: int) -> np.ndarray:
    """Compresses and reads again."""
    file = io.BytesIO()
    Image.fromarray(page).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def rotate(page: np.ndarray, degrees: float, around: float = PAPER) -> np.ndarray:
    """Turns a page about its middle."""
    image = Image.fromarray(np.clip(page, 0, 255).astype(np.uint8))
    return np.asarray(
        image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=round(around)), np.float32
    )


def thin(digit: np.ndarray, pen: float) -> np.ndarray:
    """Redraws a digit with a pen of `pen` pixels of the enlarged digit (28 · `SCALE`).

    The skeleton is that of Zhang and Suen, "A fast parallel algorithm for thinning digital
    patterns", 1984, at three times the digit's size.
    """
    scale = 3
    line = np.pad(enlarge(digit, scale) > 0.5, 1)
    while True:
        before = line.sum()
        for step in (0, 1):
            # Clockwise from above, as the paper numbers them P2 to P9.
            turns = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]
            p = [np.roll(line, (-dy, -dx), (0, 1)) for dy, dx in turns]
            count = sum(n.astype(int) for n in p)
            rises = sum((~a & b).astype(int) for a, b in zip(p, p[1:] + p[:1], strict=True))
            east, south, west, north = p[2], p[4], p[6], p[0]
            if step == 0:
                edge = ~(north & east & south) & ~(east & south & west)
            else:
                edge = ~(north & east & west) & ~(north & south & west)
            line = line & ~((count >= 2) & (count <= 6) & (rises == 1) & edge)
        if line.sum() == before:
            break
    rows, columns = np.nonzero(line[1:-1, 1:-1])
    size = 28 * SCALE
    y, x = (SCALE / scale * (i + 0.5) for i in (rows, columns))
    # The distance to the skeleton, near it, smoothed over the skeleton's own steps.
    canvas = np.zeros((size, size), np.float32)
    reach = int(np.ceil(pen / 2 + 2))
    grid = np.arange(size, dtype=np.float32) + 0.5
    for cy, cx in _smooth(y, x):
        rows_near = slice(max(int(cy) - reach, 0), int(cy) + reach + 1)
        columns_near = slice(max(int(cx) - reach, 0), int(cx) + reach + 1)
        distance = np.hypot(grid[rows_near, None] - cy, grid[None, columns_near] - cx)
        spot = np.clip(pen / 2 + 0.5 - distance, 0, 1)
        near = canvas[rows_near, columns_near]
        np.maximum(near, spot, out=near)
    return np.rint(255 * canvas).astype(np.uint8)


def _smooth(y: np.ndarray, x: np.ndarray) -> list[tuple[float, float]]:
    """Points along a skeleton: each the mean of its neighbours, and those between."""
    points = np.stack([y, x], -1)
    distance = np.abs(points[:, None] - points[None]).max(-1)
    near = distance <= 2.1 * SCALE / 3
    means = near @ points / near.sum(1, keepdims=True)
    pairs = np.argwhere(np.triu(distance <= 1.1 * SCALE / 3))
    dots = [means[i] * (1 - t) + means[j] * t for i, j in pairs for t in (0, 0.25, 0.5, 0.75)]
    return [(float(a), float(b)) for a, b in dots] or [(float(a), float(b)) for a, b in means]


def pen(digit: np.ndarray, width: float, ink: float = INK) -> np.ndarray:
    """Returns a sheet whose digit is drawn with a pen of `width` pixels."""
    page = np.full((600, 400), PAPER, np.float32)
    strokes = thin(digit, width).astype(np.float32) / 255
    page[TOP : TOP + len(strokes), LEFT : LEFT + len(strokes)] -= ink * strokes
    return page


# What lies over a page.


def darken(page: np.ndarray, rows: slice, columns: slice, value: float) -> None:
    """Prints a bar of `value`; ink below it stays as dark as it is."""
    page[rows, columns] = np.minimum(page[rows, columns], value)


def rules(page: np.ndarray, step: int, width: int, value: float, start: int = 30) -> None:
    """Prints horizontal rules from side to side."""
    for row in range(start, page.shape[0], step):
        darken(page, slice(row, row + width), slice(None), value)


def columns(page: np.ndarray, step: int, width: int, value: float, start: int = 12) -> None:
    """Prints vertical rules from top to bottom."""
    for column in range(start, page.shape[1], step):
        darken(page, slice(None), slice(column, column + width), value)


def box(page: np.ndarray, top: int, left: int, bottom: int, right: int, width: int, value: float):
    """Prints a rectangle, its lines inside its corners."""
    darken(page, slice(top, top + width), slice(left, right), value)
    darken(page, slice(bottom - width, bottom), slice(left, right), value)
    darken(page, slice(top, bottom), slice(left, left + width), value)
    darken(page, slice(top, bottom), slice(right - width, right), value)


def vignette(page: np.ndarray, depth: float) -> np.ndarray:
    """Darkens towards the corners, by `depth` there."""
    height, width = page.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    return page * (1 - depth * (x * x + y * y) / 2)


def shadow(rng: np.random.Generator, page: np.ndarray, depth: float = 0.35, soft: float = 1):
    """Throws a shadow with a straight edge, at any angle, across the digit or beside it."""
    height, width = page.shape
    angle, shift = rng.uniform(0, 2 * np.pi), rng.uniform(-90, 90)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    middle = (TOP + 112, LEFT + 112)
    side = (x - middle[1]) * np.cos(angle) + (y - middle[0]) * np.sin(angle) - shift
    return page * (1 - depth * np.clip(side / soft + 0.5, 0, 1))


def thumb(rng: np.random.Generator, page: np.ndarray, length: float = 110) -> np.ndarray:
    """Lays a thumb over one of the corners."""
    height, width = page.shape
    corner = rng.integers(4)
    cy, cx = (0 if corner < 2 else height), (0 if corner % 2 else width)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = np.arctan2(height / 2 - cy, width / 2 - cx) + rng.uniform(-0.3, 0.3)
    along = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
    across = -(x - cx) * np.sin(angle) + (y - cy) * np.cos(angle)
    inside = (along / length) ** 2 + (across / 45) ** 2
    skin = rng.uniform(110, 170) - 30 * inside
    return np.where(inside < 1, skin, page)


def resize(page: np.ndarray, width: int, height: int) -> np.ndarray:
    """Brings a page to another size."""
    return np.asarray(Image.fromarray(page).resize((width, height), Image.Resampling.BICUBIC))


def ellipse(page: np.ndarray, middle: tuple[float, float], axes: tuple[float, float]) -> np.ndarray:
    """Returns how far off the middle each pixel is, in half axes; both are vertical, horizontal."""
    y, x = np.mgrid[0 : page.shape[0], 0 : page.shape[1]].astype(np.float32)
    return np.hypot((y - middle[0]) / axes[0], (x - middle[1]) / axes[1])


def with_shapes(page: np.ndarray, draw: Callable[[ImageDraw.ImageDraw], None]) -> np.ndarray:
    """Draws lines and shapes of Pillow's on a page."""
    image = Image.fromarray(np.clip(page, 0, 255).astype(np.uint8))
    draw(ImageDraw.Draw(image))
    return np.asarray(image, np.float32)
