"""Photographs and scans of handwritten digits, drawn from the MNIST test set, a kind each.

A drawing is a function of a random generator and a 28×28 digit, light on dark; it returns the grey
or colour pixels of a file. `KINDS` has those that show one digit, `EMPTY` those that show none.
Unless a kind says otherwise, the digit is enlarged eight times (bicubic) and lies at rows 150–374
and columns 60–284 of a sheet of 400×600 pixels, grey 235, its ink 195 darker.
"""

import io
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageFilter

PAPER, INK = 235, 195
TOP, LEFT, SCALE = 150, 60, 8

Drawing: TypeAlias = Callable[[np.random.Generator, np.ndarray], np.ndarray]


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


# The kinds. First the guards: what was read well before.


def raw_file(rng, digit):
    """The digit as the data has it."""
    return digit


def plain(rng, digit):
    """Nothing but the digit on the sheet."""
    return grain(rng, sheet(digit), 0)


def slope(rng, digit):
    """A lamp at one side: half as much light at the other."""
    page = sheet(digit)
    light = np.linspace(1, 0.5, page.shape[0], dtype=np.float32)[:, None]
    return grain(rng, page * (light if rng.integers(2) else light[::-1]))


def rotated(rng, digit):
    """The sheet turned by 10°."""
    return grain(rng, rotate(sheet(digit), rng.choice([-10, 10])))


def fine_pen(rng, digit):
    """A pen of 2 px."""
    return grain(rng, pen(digit, 2))


def coloured_ink(rng, digit):
    """One of six inks."""
    inks = [(20, 20, 20), (20, 40, 140), (180, 30, 40), (20, 110, 50), (90, 50, 20), (110, 40, 130)]
    ink = np.array(inks[rng.integers(6)], np.float32)
    strokes = ((PAPER - sheet(digit)) / INK)[..., None]
    return grain(rng, PAPER * (1 - strokes) + ink * strokes)


def transparent(rng, digit):
    """A transparent PNG: black ink on nothing."""
    pixels = np.zeros((600, 400, 4), np.uint8)
    pixels[..., 3] = np.rint((PAPER - sheet(digit)) / INK * 255)
    return pixels


def _crop(digit: np.ndarray) -> np.ndarray:
    page = sheet(digit)
    ink = page < PAPER - INK / 2
    rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
    return page[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def tight_crop(rng, digit):
    """The digit cut out to its last pixel, dark on light."""
    return grain(rng, _crop(digit))


def tight_crop_light(rng, digit):
    """The digit cut out to its last pixel, light on dark."""
    return 255 - grain(rng, _crop(digit))


# One stray thing beside the digit.


def specks(rng, digit):
    """Forty specks of 3–9 px."""
    page = sheet(digit)
    for _ in range(40):
        size = int(rng.integers(3, 10))
        y, x = rng.integers(0, 600 - size), rng.integers(0, 400 - size)
        darken(page, slice(y, y + size), slice(x, x + size), rng.uniform(20, 120))
    return grain(rng, page)


def thumb_in_the_corner(rng, digit):
    """A thumb over a corner."""
    return grain(rng, thumb(rng, sheet(digit)))


def hard_shadow(rng, digit):
    """A shadow of 35 % with a sharp edge."""
    return grain(rng, shadow(rng, sheet(digit)))


def vignette_ball_pen(rng, digit):
    """A ball pen of 4 px, and corners half as light."""
    return grain(rng, vignette(pen(digit, 4, 120), 0.5))


def rules_and_margin(rng, digit):
    """Strong blue rules every 45 px, and a red margin."""
    page = np.repeat(sheet(digit)[..., None], 3, -1)
    top, start = int(rng.integers(45)), int(rng.integers(20, 50))
    for value, channel in zip((60, 80, 170), range(3), strict=True):
        rules(page[..., channel], 45, 3, value, top)
    for value, channel in zip((200, 40, 50), range(3), strict=True):
        darken(page[..., channel], slice(None), slice(start, start + 3), value)
    return grain(rng, page)


def squared_paper(rng, digit):
    """Squares of 30 px."""
    page = sheet(digit)
    value = rng.uniform(110, 180)
    rules(page, 30, 2, value, int(rng.integers(30)))
    columns(page, 30, 2, value, int(rng.integers(30)))
    return grain(rng, page)


def scan_frame(rng, digit):
    """A scanner's black frame, 2 px."""
    page = sheet(digit)
    box(page, 0, 0, 600, 400, 2, 20)
    return grain(rng, page)


def dark_table(rng, digit):
    """A table of grey 70 around the sheet, 25 px."""
    page = sheet(digit)
    box(page, 0, 0, 600, 400, 25, 70)
    return grain(rng, page)


def form_box(rng, digit):
    """A form's box, its lines 3 px."""
    page = sheet(digit)
    box(page, 120, 30, 404, 314, 3, 70)
    return grain(rng, page)


def grid_cell(rng, digit):
    """A cell of a printed grid, cut out along its lines."""
    page = sheet(digit, size=(284, 284), at=(30, 30))
    box(page, 0, 0, 284, 284, 3, 70)
    return grain(rng, page)


def underlined(rng, digit):
    """A line of 6 px below the digit."""
    page = sheet(digit)
    page[440:446, 60:284] = 40
    return grain(rng, page)


# Siblings: other pens, papers, sizes and files.


def touched_box(rng, digit):
    """A form's box whose lines the digit touches or crosses."""
    page = sheet(digit)
    top, left = TOP + int(rng.integers(20, 36)), LEFT + int(rng.integers(10, 50))
    box(page, top, left, top + 200, left + 160, 3, 70)
    return grain(rng, page)


def touched_underline(rng, digit):
    """An underline that cuts the digit's foot."""
    page = sheet(digit)
    row = int(np.flatnonzero((page < 140).any(1))[-1]) - int(rng.integers(2, 14))
    darken(page, slice(row, row + 4), slice(20, 380), 40)
    return grain(rng, page)


def ball_pen_on_rules(rng, digit):
    """A ball pen of 4 px on rules of 2 px."""
    page = pen(digit, 4, 150)
    rules(page, 40, 2, rng.uniform(120, 180), int(rng.integers(40)))
    return grain(rng, page)


def ball_pen_on_squares(rng, digit):
    """A ball pen of 4 px on squares of 25 px."""
    page = pen(digit, 4, 160)
    value = rng.uniform(150, 190)
    rules(page, 25, 1, value, int(rng.integers(25)))
    columns(page, 25, 1, value, int(rng.integers(25)))
    return grain(rng, page)


def ball_pen_in_a_shadow(rng, digit):
    """A ball pen of 4 px, and a sharp shadow of 35 %."""
    return grain(rng, shadow(rng, pen(digit, 4, 140)))


def pencil(rng, digit):
    """A pencil: ink only 55 darker than the paper, strong grain."""
    return grain(rng, sheet(digit, ink=55), 6)


def felt_pen(rng, digit):
    """A felt pen: strokes 12 px wider."""
    image = Image.fromarray(sheet(digit).astype(np.uint8))
    return grain(rng, np.asarray(image.filter(ImageFilter.MinFilter(13)), np.float32))


def turned_rules(rng, digit):
    """A ruled page turned by up to 4°."""
    page = sheet(digit)
    rules(page, 50, 3, 110)
    darken(page, slice(None), slice(40, 43), 110)
    return grain(rng, rotate(page, rng.uniform(-4, 4)))


def turned_box(rng, digit):
    """A form's box turned by up to 4°."""
    page = sheet(digit)
    box(page, 120, 30, 404, 314, 3, 70)
    return grain(rng, rotate(page, rng.uniform(-4, 4)))


def coloured_paper(rng, digit):
    """Ink on yellow, pink, green, blue or brown paper."""
    papers = [(250, 230, 110), (250, 180, 200), (180, 230, 170), (170, 200, 245), (190, 150, 100)]
    paper = np.array(papers[rng.integers(5)], np.float32)
    strokes = ((PAPER - sheet(digit)) / INK)[..., None]
    return grain(rng, paper * (1 - strokes) + np.array((25, 25, 60), np.float32) * strokes)


def blackboard(rng, digit):
    """Light on dark with light rules."""
    page = sheet(digit)
    rules(page, 60, 3, 120, int(rng.integers(60)))
    return grain(rng, 255 - page)


def table_on_two_sides(rng, digit):
    """A page that lies askew on a dark table."""
    page = sheet(digit)
    turned = rotate(page, rng.uniform(-5, 5), around=60)
    turned[: rng.integers(30, 60)] = 60
    return grain(rng, turned)


def page_on_a_table(rng, digit):
    """A page that is less than half of the photograph, on a dark table."""
    table = np.full((800, 640), rng.uniform(40, 90), np.float32)
    table[110:690, 130:510] = sheet(digit, size=(580, 380))
    return grain(rng, rotate(table, rng.uniform(-3, 3), around=60))


def small_in_a_corner(rng, digit):
    """A digit an eighth as large, anywhere on the sheet."""
    at = int(rng.integers(10, 500)), int(rng.integers(10, 310))
    return grain(rng, sheet(digit, at=at, scale=3))


def strong_jpeg(rng, digit):
    """JPEG of quality 10."""
    return jpeg(grain(rng, sheet(digit)), 10)


def small_file(rng, digit):
    """A file of 100×100 pixels with a line along each side."""
    page = sheet(digit, size=(284, 284), at=(30, 30))
    box(page, 0, 0, 284, 284, 6, 70)
    return _resize(grain(rng, page), 100, 100)


def tiny_file(rng, digit):
    """A file of 56×56 pixels."""
    return _resize(grain(rng, sheet(digit, size=(320, 320), at=(50, 50))), 56, 56)


def large_file(rng, digit):
    """A photograph of 12 megapixels, with a table's edge."""
    page = sheet(digit)
    box(page, 0, 0, 600, 400, 20, 70)
    return _resize(grain(rng, page), 2828, 4242)


def drawn_28_dark(rng, digit):
    """A drawing of 28×28, dark on white, 15×15 in a corner."""
    return 255 - drawn_28_light(rng, digit)


def drawn_28_light(rng, digit):
    """A drawing of 28×28, light on black, 15×15 in a corner."""
    rows, columns = (np.flatnonzero(digit.any(axis)) for axis in (1, 0))
    cut = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(15 * n / max(cut.shape))) for n in cut.shape)
    page = np.zeros((28, 28), np.uint8)
    top, left = (int(rng.choice([1, 27 - n])) for n in (height, width))
    page[top : top + height, left : left + width] = _resize(cut, width, height)
    return page


def negative_file(rng, digit):
    """The digit as the data has it, but dark on white."""
    return 255 - digit


def _resize(page: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(page).resize((width, height), Image.Resampling.BICUBIC))


GUARDS: tuple[Drawing, ...] = (
    raw_file,
    plain,
    slope,
    rotated,
    fine_pen,
    coloured_ink,
    transparent,
    tight_crop,
    tight_crop_light,
)
STRAY: tuple[Drawing, ...] = (
    specks,
    thumb_in_the_corner,
    hard_shadow,
    vignette_ball_pen,
    rules_and_margin,
    squared_paper,
    scan_frame,
    dark_table,
    form_box,
    grid_cell,
    underlined,
)
SIBLINGS: tuple[Drawing, ...] = (
    touched_box,
    touched_underline,
    ball_pen_on_rules,
    ball_pen_on_squares,
    ball_pen_in_a_shadow,
    pencil,
    felt_pen,
    turned_rules,
    turned_box,
    coloured_paper,
    blackboard,
    table_on_two_sides,
    page_on_a_table,
    small_in_a_corner,
    strong_jpeg,
    small_file,
    tiny_file,
    large_file,
    drawn_28_dark,
    drawn_28_light,
    negative_file,
)
KINDS = GUARDS + STRAY + SIBLINGS


# Pages with no digit on them: the same, of a blank one.


def _noise(rng, digit):
    """Noise of deviation 25 on grey paper."""
    return grain(rng, np.full((600, 400), 150, np.float32), 25)


def _shades(rng, digit):
    """A vignette and a shadow."""
    return grain(rng, shadow(rng, vignette(sheet(digit), 0.5)))


EMPTY: tuple[Drawing, ...] = (
    plain,
    _noise,
    _shades,
    specks,
    thumb_in_the_corner,
    rules_and_margin,
    squared_paper,
    scan_frame,
    dark_table,
    form_box,
    grid_cell,
    turned_rules,
    strong_jpeg,
)
BLANK = np.zeros((28, 28), np.uint8)
