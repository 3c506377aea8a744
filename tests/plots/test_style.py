import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from lenet_jax.plots.output import png
from lenet_jax.plots.style import (
    canvas,
    chart,
    fit,
    house_style,
    legible,
    mosaic,
    picture,
    styled,
    write,
)


def pixels(figure):
    return np.asarray(Image.open(io.BytesIO(png(figure))))


def test_a_picture_lies_at_its_pixels_unblurred():
    tile = np.zeros((2, 2, 3), np.uint8)
    tile[0, 1] = 200, 100, 50
    with house_style():
        figure, axes = canvas(41, 33, "")
        assert picture(axes, 10, 5, tile, 8) == 8
    expected = np.full((33, 41, 3), 255, np.uint8)
    expected[5:13, 10:18] = 0
    expected[5:9, 14:18] = 200, 100, 50
    np.testing.assert_array_equal(pixels(figure), expected)


def test_a_wide_picture_keeps_its_proportions():
    with house_style():
        figure, axes = canvas(20, 20, "")
        assert picture(axes, 0, 0, np.zeros((1, 2, 3), np.uint8), 10) == 5
    assert (pixels(figure) == 0).all(2).sum() == 10 * 5


def test_text_lies_over_pictures():
    with house_style():
        figure, axes = canvas(60, 30, "")
        picture(axes, 0, 0, np.zeros((1, 1, 3), np.uint8), 30)
        write(axes, 5, 15, "8", color="white")
    assert pixels(figure)[:, :30].max() > 200


def test_axes_have_the_margins_asked_for():
    with house_style():
        figure = chart(100, 140, "", margins=(30, 20, 10, 0))
        figure.subplots().set(facecolor="red", xticks=[], yticks=[])
        figure.axes[0].spines[:].set_visible(False)
    rows, columns = np.nonzero(pixels(figure)[..., 1] < 128)
    assert (rows.min(), rows.max() + 1) == (82, 130)
    assert (columns.min(), columns.max() + 1) == (30, 80)


def test_a_mosaic_has_lines_around_its_tiles():
    tiles = np.arange(3, dtype=np.uint8).repeat(3).reshape(3, 1, 1, 3)
    expected = np.full((7, 7, 3), 160, np.uint8)
    expected[1:3, 1:3], expected[1:3, 4:6], expected[4:6, 1:3] = 0, 1, 2
    np.testing.assert_array_equal(mosaic(tiles, 2, 2), expected)


def test_the_style_of_the_user_changes_neither_the_picture_nor_is_changed():
    @styled
    def draw():
        figure = chart(200, 140, "title")
        figure.subplots().plot([1, 2])
        return figure

    plain = png(draw())
    with matplotlib.rc_context({"font.size": 30, "lines.color": "red", "axes.linewidth": 5}):
        assert png(draw()) == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_legible_shortens_and_marks_letters_without_a_glyph():
    assert legible("$x_1$", 10) == "$x_1$"
    assert legible("a" * 20, 10) == "aaaaa…aaaa"
    assert legible("あb", 10) == "\N{REPLACEMENT CHARACTER}b"


@pytest.mark.parametrize(("size", "side", "expected"), [(28, 144, 140), (32, 32, 32), (96, 50, 50)])
def test_fit_prefers_whole_multiples(size, side, expected):
    assert fit(size, side) == expected


@pytest.mark.parametrize("weight", ["normal", "bold"])
def test_what_is_wider_than_its_room_is_smaller(weight):
    with house_style():
        figure, axes = canvas(300, 60, "a title that is wider than its figure is", "more " * 14)
        write(axes, 10, 50, "a class with a long name", room=110, weight=weight)
        write(axes, 150, 50, "short", room=60, weight=weight)
    title, below = (text.get_window_extent() for text in figure.texts)
    assert max(title.x1, below.x1) <= 300
    long, short = axes.texts
    assert 90 < long.get_window_extent().width <= 111
    assert short.get_fontsize() == 9
