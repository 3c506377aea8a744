"""More drawings of digits: forms, hands, boards, cameras, and files of other programs.

They are drawings as `drawings.py` has them.
"""

import numpy as np
from PIL import Image
from scipy import ndimage

from experiments.paper import (
    INK,
    LEFT,
    PAPER,
    TOP,
    box,
    columns,
    darken,
    ellipse,
    grain,
    resize,
    rotate,
    rules,
    sheet,
    thin,
    with_shapes,
)


def comb_field(rng, digit):
    """The third of five cells of a form's field."""
    page = sheet(digit, size=(300, 700), at=(60, 250), scale=7)
    value = rng.uniform(40, 140)
    for cell in range(5):
        box(page, 45, 12 + 136 * cell, 260, 151 + 136 * cell, 3, value)
    return grain(rng, page)


def boxes_in_a_row(rng, digit):
    """The second of three boxes."""
    page = sheet(digit, size=(320, 760), at=(45, 265))
    for left in (20, 265, 510):
        box(page, 30, left, 290, left + 230, int(rng.integers(2, 6)), rng.uniform(40, 140))
    return grain(rng, page)


def rounded_box(rng, digit):
    """A box with round corners."""
    radius, width = int(rng.integers(10, 60)), int(rng.integers(2, 6))
    corners = (30, 120, 314, 404)
    page = with_shapes(
        sheet(digit), lambda draw: draw.rounded_rectangle(corners, radius, outline=60, width=width)
    )
    return grain(rng, page)


def dashed_box(rng, digit):
    """A box of dashes."""
    page = sheet(digit)
    for start in range(0, 284, 20):
        for row, column in ((120, 30 + start), (402, 30 + start)):
            darken(page, slice(row, row + 3), slice(column, column + 12), 60)
        for row, column in ((120 + start, 30), (120 + start, 312)):
            darken(page, slice(row, row + 12), slice(column, column + 3), 60)
    return grain(rng, page)


def dotted_rules(rng, digit):
    """Rules of dots."""
    page = sheet(digit)
    for row in range(int(rng.integers(45)), 600, 60):
        for column in range(2, 400, 10):
            darken(page, slice(row, row + 4), slice(column, column + 4), 90)
    return grain(rng, page)


def circled(rng, digit):
    """A circle around the digit."""
    middle = TOP + 112, LEFT + 112
    distance = ellipse(sheet(digit), middle, (157, 157))
    return grain(rng, np.where(np.abs(distance - 1) < 0.012, 60, sheet(digit)))


def double_underline(rng, digit):
    """Two lines below the digit."""
    page = sheet(digit)
    row = int(rng.integers(385, 440))
    for start in (row, row + 14):
        page[start : start + 5, 60:284] = 40
    return grain(rng, page)


def underlined_by_hand(rng, digit):
    """A wavy line below the digit."""
    x = np.arange(50, 300)
    slope, height, period = rng.uniform(-0.12, 0.12), rng.uniform(2, 7), rng.uniform(20, 50)
    y = 410 + slope * (x - 175) + height * np.sin(x / period)
    points = list(zip(x.tolist(), y.tolist(), strict=True))
    return grain(rng, with_shapes(sheet(digit), lambda draw: draw.line(points, fill=40, width=7)))


def wide_margin(rng, digit):
    """A stripe along the sheet, 6–25 px."""
    page = sheet(digit)
    darken(page, slice(None), slice(20, 20 + int(rng.integers(6, 25))), rng.uniform(60, 180))
    return grain(rng, page)


def folded(rng, digit):
    """Two folds that cross."""
    page = sheet(digit)
    for axis, side in enumerate(page.shape):
        away = np.arange(side) - int(rng.integers(side // 5, 4 * side // 5))
        light = 1 - 0.25 * np.exp(-np.abs(away) / 40) * (away > 0) - 0.2 * np.exp(-np.abs(away) / 2)
        page = page * np.expand_dims(light, 1 - axis)
    return grain(rng, page)


def finger_at_a_side(rng, digit):
    """A finger that holds the sheet."""
    page = sheet(digit)
    middle = rng.uniform(400, 580), float(rng.choice([0, 400]))
    distance = ellipse(page, middle, (28, rng.uniform(40, 90)))
    return grain(rng, np.where(distance < 1, rng.uniform(110, 190) - 30 * distance, page))


def punched(rng, digit):
    """Two holes, dark."""
    page = sheet(digit)
    for row in (138, 478):
        page[ellipse(page, (row, 26), (18, 18)) < 1] = rng.uniform(10, 120)
    return grain(rng, page)


def coffee_ring(rng, digit):
    """The ring of a cup, across the digit or beside it."""
    page = sheet(digit)
    side = rng.uniform(90, 140)
    distance = ellipse(page, (rng.uniform(0, 600), rng.uniform(0, 400)), (side, side))
    ring = rng.uniform(0.15, 0.35) * np.exp(-(((distance - 1) / 0.04) ** 2))
    return grain(rng, page * (1 - 0.08 * (distance < 1) - ring))


def bleed_through(rng, digit):
    """The back of the sheet shows: the digit mirrored."""
    back = ndimage.gaussian_filter((PAPER - sheet(digit))[:, ::-1], 4)
    shifts = rng.integers(-60, 60, 2).tolist()
    return grain(rng, sheet(digit) - 0.22 * np.roll(back, shifts, (0, 1)))


def equally_bright_ink(rng, digit):
    """Coloured ink as bright as the coloured paper."""
    papers = [(250, 170, 170), (120, 200, 120), (240, 200, 60), (220, 80, 60)]
    inks = [(150, 205, 240), (200, 150, 200), (160, 225, 240), (60, 140, 200)]
    pick, weights = rng.integers(4), np.array((0.299, 0.587, 0.114))
    paper, ink = np.array(papers[pick], np.float32), np.array(inks[pick], np.float32)
    ink *= (paper @ weights) / (ink @ weights)
    strokes = ((PAPER - sheet(digit)) / INK)[..., None]
    return grain(rng, paper * (1 - strokes) + ink * strokes)


def whiteboard(rng, digit):
    """A board with the glare of a lamp."""
    page = sheet(digit, ink=150) - 40
    middle = rng.uniform(0, 600), rng.uniform(0, 400)
    distance = ellipse(page, middle, (rng.uniform(60, 150), rng.uniform(40, 100)))
    light = np.linspace(1, 0.8, 600)[:, None]
    return grain(rng, page * light + 45 * np.exp(-(distance**2)))


def chalkboard(rng, digit):
    """Chalk on a green board that was wiped."""
    smears = ndimage.gaussian_filter(rng.standard_normal((600, 400)), (12, 30)) * 170
    chalk = ((PAPER - sheet(digit)) / INK) * rng.normal(0.85, 0.2, (600, 400)).clip(0.3, 1)
    board = np.array((45, 85, 60)) + np.clip(smears, 0, 28)[..., None]
    page = board * (1 - chalk[..., None]) + np.array((225, 230, 225)) * chalk[..., None]
    return grain(rng, page, 4)


def millimetre_paper(rng, digit):
    """Lines every 8 px, stronger every 40."""
    page = sheet(digit)
    value = rng.uniform(150, 200)
    for step, shade in ((8, value), (40, value - 40)):
        rules(page, step, 1, shade, 0)
        columns(page, step, 1, shade, 0)
    return grain(rng, page)


def noise(rng, digit):
    """Noise of deviation 25."""
    return grain(rng, sheet(digit), 25)


def salt_and_pepper(rng, digit):
    """A tenth of the pixels black or white."""
    page, dice = grain(rng, sheet(digit)), rng.random((600, 400))
    page[dice < 0.05], page[dice > 0.95] = 0, 255
    return page


def out_of_focus(rng, digit):
    """Blurred by 3–8 px."""
    return grain(rng, ndimage.gaussian_filter(sheet(digit), rng.uniform(3, 8)))


def shaken(rng, digit):
    """Blurred along a direction by 8–25 px."""
    length, axis = int(rng.integers(8, 25)), int(rng.integers(2))
    return grain(rng, ndimage.uniform_filter1d(sheet(digit), length, axis=axis))


def page_on_black(rng, digit):
    """A sheet on a black table, turned by up to 8°."""
    value = rng.uniform(0, 30)
    table = np.full((760, 560), value, np.float32)
    table[80:680, 80:480] = sheet(digit)
    return grain(rng, rotate(table, rng.uniform(-8, 8), around=value))


def page_on_wood(rng, digit):
    """A sheet on a table with a grain."""
    y, x = np.mgrid[0:760, 0:560].astype(np.float32)
    table = 95 + 18 * np.sin(x / 9 + 3 * np.sin(y / 130)) + 8 * np.sin(x / 3.1 + y / 90)
    table[80:680, 80:480] = sheet(digit)
    return grain(rng, rotate(table, rng.uniform(-4, 4), around=95))


def crooked_scan(rng, digit):
    """A scanner's black edges of 1–20 px, none of them straight."""
    w, h, value = 400, 600, int(rng.integers(0, 60))
    edges = rng.integers(1, 21, 8).tolist()

    def draw(canvas):
        for corners in (
            [(0, 0), (w, 0), (w, edges[0]), (0, edges[1])],
            [(0, h), (w, h), (w, h - edges[2]), (0, h - edges[3])],
            [(0, 0), (0, h), (edges[4], h), (edges[5], 0)],
            [(w, 0), (w, h), (w - edges[6], h), (w - edges[7], 0)],
        ):
            canvas.polygon(corners, fill=value)

    return grain(rng, with_shapes(sheet(digit), draw))


def shadow_of_a_phone(rng, digit):
    """A shadow that is little wider than the digit."""
    depth = np.zeros((600, 400))
    top, left = int(rng.integers(0, 250)), int(rng.integers(0, 150))
    depth[top : top + int(rng.integers(150, 400)), left : left + int(rng.integers(100, 250))] = 1
    return grain(
        rng, sheet(digit) * (1 - 0.35 * ndimage.gaussian_filter(depth, rng.uniform(1, 15)))
    )


def thirty_pixels(rng, digit):
    """A digit 30 px high on a sheet of 1000×800."""
    page = np.full((800, 1000), PAPER, np.float32)
    top, left = int(rng.integers(20, 700)), int(rng.integers(20, 900))
    page[top : top + 42, left : left + 42] -= INK / 255 * resize(digit, 42, 42).astype(np.float32)
    return grain(rng, page)


def paint_program(rng, digit):
    """A drawing of 28×28 without soft edges, anywhere, of any two greys or on nothing."""
    line = thin(digit, 8 * rng.uniform(1.5, 3)) > 127
    rows, cols = (np.flatnonzero(line.any(axis)) for axis in (1, 0))
    cut = Image.fromarray(line[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1])
    scale = rng.integers(12, 22) / max(cut.size)
    strokes = np.asarray(cut.resize([max(2, round(scale * side)) for side in cut.size]))
    top, left = (int(rng.integers(0, 29 - side)) for side in strokes.shape)
    drawn = np.zeros((28, 28), bool)
    drawn[top : top + strokes.shape[0], left : left + strokes.shape[1]] = strokes
    colours = [(0, 255), (255, 0), (40, 180), (230, 90)]
    pick = int(rng.integers(5))
    if pick == 4:
        return np.stack([np.zeros((28, 28), bool)] * 3 + [drawn], -1).astype(np.uint8) * 255
    ink, ground = colours[pick]
    return np.where(drawn, ink, ground).astype(np.uint8)


FURTHER = (
    comb_field,
    boxes_in_a_row,
    rounded_box,
    dashed_box,
    dotted_rules,
    circled,
    double_underline,
    underlined_by_hand,
    wide_margin,
    folded,
    finger_at_a_side,
    punched,
    coffee_ring,
    bleed_through,
    equally_bright_ink,
    whiteboard,
    chalkboard,
    millimetre_paper,
    noise,
    salt_and_pepper,
    out_of_focus,
    shaken,
    page_on_black,
    page_on_wood,
    crooked_scan,
    shadow_of_a_phone,
    thirty_pixels,
    paint_program,
)
