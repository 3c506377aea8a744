import matplotlib
import numpy as np
import pytest
from PIL import Image

from lenet_jax.plots.style import fit, legible, open_sheet


def pixels(path):
    return np.asarray(Image.open(path))


def test_a_tile_lies_at_its_pixels_unblurred(tmp_path):
    tile = np.zeros((2, 2, 3), np.uint8)
    tile[0, 1] = 200, 100, 50
    with open_sheet(tmp_path / "a.png", 41, 33) as sheet:
        sheet.paste(10, 5, tile, 8)
    expected = np.full((33, 41, 3), 255, np.uint8)
    expected[5:13, 10:18] = 0
    expected[5:9, 14:18] = 200, 100, 50
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), expected)


def test_a_long_tile_keeps_its_proportions(tmp_path):
    with open_sheet(tmp_path / "a.png", 20, 20) as sheet:
        sheet.paste(0, 0, np.zeros((1, 2, 3), np.uint8), 10)
    assert (pixels(tmp_path / "a.png") == 0).all(2).sum() == 10 * 5


def test_text_lies_over_tiles(tmp_path):
    with open_sheet(tmp_path / "a.png", 60, 30) as sheet:
        sheet.paste(0, 0, np.zeros((1, 1, 3), np.uint8), 30)
        sheet.text(5, 15, "8", color="white")
    assert pixels(tmp_path / "a.png")[:, :30].max() > 200


def test_axes_have_the_pixels_asked_for(tmp_path):
    with open_sheet(tmp_path / "a.png", 100, 60) as sheet:
        axes = sheet.axes(30, 10, 50, 20)
        axes.set(facecolor="red", xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    rows, columns = np.nonzero(pixels(tmp_path / "a.png")[..., 1] < 128)
    assert (rows.min(), rows.max() + 1) == (10, 30)
    assert (columns.min(), columns.max() + 1) == (30, 80)


def test_the_style_of_the_user_changes_neither_the_picture_nor_is_changed(tmp_path):
    def draw(path):
        with open_sheet(path, 200, 120) as sheet:
            sheet.text(10, 10, "text")
            sheet.axes(40, 30, 120, 60).plot([1, 2])
        return path.read_bytes()

    plain = draw(tmp_path / "plain.png")
    with matplotlib.rc_context({"font.size": 30, "lines.color": "red", "axes.linewidth": 5}):
        assert draw(tmp_path / "styled.png") == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_legible_shortens_and_marks_letters_without_a_glyph():
    assert legible("$x_1$", 10) == "$x_1$"
    assert legible("a" * 20, 10) == "a" * 9 + "…"
    assert legible("あb", 10) == "\N{REPLACEMENT CHARACTER}b"


@pytest.mark.parametrize(("size", "side", "expected"), [(28, 144, 140), (32, 32, 32), (96, 50, 50)])
def test_fit_prefers_whole_multiples(size, side, expected):
    assert fit(size, side) == expected
