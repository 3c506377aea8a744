"""Photographs and scans of handwritten digits, drawn from the MNIST test set, a kind each.

A drawing is a function of a random generator and a 28×28 digit, light on dark; it returns the grey
or colour pixels of a file. `KINDS` has those that show one digit, `EMPTY` those that show none. The
usual page is described in `paper.py`.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageFilter

from experiments import scenes
from experiments.paper import (
    INK,
    LEFT,
    PAPER,
    TOP,
    box,
    columns,
    darken,
    grain,
    jpeg,
    pen,
    resize,
    rotate,
    rules,
    shadow,
    sheet,
    thumb,
    vignette,
)

Drawing: TypeAlias = Callable[[np.random.Generator, np.ndarray], np.ndarray]


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
    return resize(grain(rng, page), 100, 100)


def tiny_file(rng, digit):
    """A file of 56×56 pixels."""
    return resize(grain(rng, sheet(digit, size=(320, 320), at=(50, 50))), 56, 56)


def large_file(rng, digit):
    """A photograph of 12 megapixels, with a table's edge."""
    page = sheet(digit)
    box(page, 0, 0, 600, 400, 20, 70)
    return resize(grain(rng, page), 2828, 4242)


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
    page[top : top + height, left : left + width] = resize(cut, width, height)
    return page


def negative_file(rng, digit):
    """The digit as the data has it, but dark on white."""
    return 255 - digit


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
FURTHER: tuple[Drawing, ...] = scenes.FURTHER
KINDS = GUARDS + STRAY + SIBLINGS + FURTHER


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
    scenes.comb_field,
    scenes.boxes_in_a_row,
    scenes.dotted_rules,
    scenes.wide_margin,
    scenes.folded,
    scenes.finger_at_a_side,
    scenes.whiteboard,
    scenes.millimetre_paper,
    scenes.salt_and_pepper,
    scenes.page_on_black,
    scenes.crooked_scan,
)
BLANK = np.zeros((28, 28), np.uint8)
