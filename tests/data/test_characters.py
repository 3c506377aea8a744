import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lenet_jax
from experiments import drawings, paper
from lenet_jax import data
from lenet_jax.data.characters import find_characters
from lenet_jax.data.image_files import read
from lenet_jax.data.lines import erase_lines, find_lines
from lenet_jax.data.strokes import is_dark_on_light, longer_runs, spread
from tests.support.photos import FONTS, photo

pytestmark = pytest.mark.slow

# Of 20 pictures of a kind: the network of the tests is 97 % right on MNIST itself.
ENOUGH = 18


@pytest.fixture(scope="module")
def test_split():
    return data.load("mnist", image_size=28).test


def one(pixels, **kwargs):
    """The only character of an image."""
    (character,) = find_characters(pixels, **kwargs)
    return character


def grey(picture):
    """A drawing in grey, read from a file."""
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        Image.fromarray(picture).save(file)
        return read(Path(file.name), 1).pixels[..., 0]


@pytest.mark.parametrize(
    "drawing",
    [kind for kind in drawings.KINDS if kind not in (drawings.raw_file, drawings.large_file)],
    ids=lambda drawing: drawing.__name__,
)
def test_digits_are_found_alone_and_recognised(drawing, notes_run, test_split):
    network = lenet_jax.load(notes_run)
    picks = np.random.default_rng(5).integers(len(test_split), size=20)
    right = 0
    for index, pick in enumerate(picks):
        digit = test_split.images[pick, ..., 0]
        found = find_characters(grey(drawing(np.random.default_rng(index), digit)))
        if len(found) == 1:
            (answer,) = network.predict(found[0].pixels)
            right += answer == test_split.labels[pick]
    assert right >= ENOUGH - (drawing in drawings.SIBLINGS + drawings.FURTHER)


def test_files_that_people_bring(notes_run, test_split, tmp_path):
    """As JPEG, PNG and WEBP."""
    kinds = {
        "jpg": (drawings.scan_frame, drawings.dark_table, drawings.form_box, drawings.underlined),
        "png": (drawings.grid_cell, drawings.drawn_28_dark),
        "webp": (drawings.plain,),
    }
    files, labels = [], []
    for suffix, members in kinds.items():
        for kind in members:
            for index in range(5):
                picture = kind(np.random.default_rng(index), test_split.images[index, ..., 0])
                files.append(tmp_path / f"{kind.__name__}_{index}.{suffix}")
                Image.fromarray(picture).save(files[-1], quality=90)
                labels.append(test_split.labels[index])
    right = lenet_jax.load(notes_run).predict(files) == labels
    assert right.sum() >= len(files) - 2


@pytest.mark.parametrize("drawing", drawings.EMPTY, ids=lambda drawing: drawing.__name__)
def test_on_a_page_without_a_digit_nothing_is_found(drawing):
    found = 0
    for seed in range(8):
        picture = drawing(np.random.default_rng(seed), drawings.BLANK)
        found += bool(find_characters(grey(picture)))
    assert found == 0


def test_a_photograph_of_12_megapixels(notes_run, test_split):
    page = drawings.large_file(np.random.default_rng(0), test_split.images[0, ..., 0])
    character = one(page)
    assert lenet_jax.load(notes_run).predict(character.pixels) == test_split.labels[0]
    left, top, right, bottom = character.box
    scale = page.shape[0] / 600
    assert 60 * scale < left < right < 284 * scale
    assert 150 * scale < top < bottom < 374 * scale


def test_several_digits_in_reading_order_with_their_places(notes_run, test_split):
    page = np.full((300, 700), 235, np.float32)
    labels, places = [], []
    for index in range(10):
        row, column = divmod(index, 5)
        top, left = 20 + 140 * row, 20 + 135 * column
        page[top : top + 112, left : left + 112] -= 195 * paper.enlarge(
            test_split.images[index, ..., 0], 4
        )
        labels.append(test_split.labels[index])
        places.append((left, top))
    found = find_characters(page.astype(np.uint8))
    assert len(found) == 10
    predicted = lenet_jax.load(notes_run).predict(np.stack([c.pixels for c in found]))
    assert (predicted == labels).sum() >= 9
    for character, (left, top) in zip(found, places, strict=True):
        assert left <= character.box[0] < character.box[2] <= left + 112
        assert top <= character.box[1] < character.box[3] <= top + 112


def test_a_digit_in_two_parts_is_one_character():
    page = np.full((300, 200), 240, np.uint8)
    page[60:70, 70:130] = 20  # the bar of a five, apart from its body
    page[82:92, 70:130] = 20
    page[82:140, 70:80] = 20
    page[130:140, 70:130] = 20
    assert one(page).box == pytest.approx((70, 60, 130, 140), abs=2)


def test_the_centre_of_mass_is_in_the_middle_and_the_box_is_full():
    pixels = one(photo(7, at=(60, 20))).pixels.astype(float)
    for axis in (0, 1):
        weights = pixels.sum(1 - axis)
        assert abs(weights @ (np.arange(28) + 0.5) / weights.sum() - 14) <= 0.5
    rows = np.flatnonzero(pixels.max(1) > 60)
    assert 19 <= rows[-1] - rows[0] + 1 <= 20
    assert pixels.max() == 255


def test_proportions_are_kept():
    sheet = np.full((300, 200), 255, np.uint8)
    sheet[50:210, 30:70] = 0  # 4 times as high as wide
    pixels = one(sheet).pixels
    assert (pixels > 127).any(1).sum() == 20
    assert (pixels > 127).any(0).sum() == 5


@pytest.mark.parametrize("size", [(200, 300), (300, 200), (900, 700), (40, 40), (29, 28)])
def test_light_on_dark_is_the_same_character_as_dark_on_light(size):
    sheet = photo(3, size=size, at=(size[0] // 8, size[1] // 10), noise=0)
    dark, light = one(sheet), one(255 - sheet)
    assert dark.inverted and not light.inverted
    difference = np.abs(dark.pixels.astype(int) - light.pixels)
    assert difference.mean() < 6


def test_a_character_may_touch_the_border():
    sheet = np.full((100, 60), 250, np.uint8)
    sheet[:, 20:40] = 10
    character = one(sheet)
    assert character.inverted
    assert 2 <= (character.pixels > 127).any(0).sum() <= 6


def test_another_size_and_box():
    pixels = one(photo(8), size=16, box=16).pixels
    assert pixels.shape == (16, 16)
    assert (pixels > 60).any(1).sum() == 16


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 5000), (5000, 1), (3, 3), (4, 4), (5, 900), (2, 400), (28, 28), (7, 13)]
)
@pytest.mark.parametrize("content", ["black", "white", "noise", "stripes", "dots", "gradient"])
def test_any_image_is_looked_through_without_a_fault(shape, content):
    rng = np.random.default_rng(0)
    y, x = np.indices(shape)
    pixels = {
        "black": np.zeros(shape),
        "white": np.full(shape, 255),
        "noise": rng.integers(0, 256, shape),
        "stripes": (y + x) % 7 // 3 * 255,
        "dots": (y % 5 == 0) * (x % 5 == 0) * 255,
        "gradient": 255 * (y + x) / max(sum(shape) - 2, 1),
    }[content]
    for character in find_characters(pixels.astype(np.uint8)):
        left, top, right, bottom = character.box
        assert 0 <= left < right <= shape[1] and 0 <= top < bottom <= shape[0]
        assert character.pixels.max() > 0


def test_rules_are_erased_and_what_crosses_them_stays():
    strokes = np.zeros((200, 300), bool)
    strokes[50:53] = strokes[100:103] = True
    strokes[:, 40:43] = True
    strokes[30:150, 140:152] = True  # a stroke over both rules
    left = erase_lines(strokes, np.where(strokes, 200, 0).astype(np.uint8))
    assert left[30:150, 140:152].all()
    assert left.sum() <= 120 * 12 + 60


def test_ink_on_a_rule_stays_where_it_is_darker():
    strokes = np.zeros((200, 300), bool)
    contrast = np.zeros((200, 300), np.uint8)
    strokes[100:103] = True
    contrast[100:103] = 80
    contrast[100:103, 120:170] = 200  # the foot of a two
    left = erase_lines(strokes, contrast)
    assert left[100:103, 120:170].all() and not left[:, :110].any() and not left[:, 180:].any()


def test_lines_are_found_where_they_are():
    strokes = np.zeros((200, 300), bool)
    rows = np.rint(80 + 0.05 * np.arange(300)).astype(int)
    for shift in range(3):
        strokes[rows + shift, np.arange(300)] = True
    (line,) = find_lines(strokes, np.where(strokes, 99, 0).astype(np.uint8))
    assert line.slope == pytest.approx(0.05, abs=0.002)
    assert line.at(0) == pytest.approx(81, abs=0.7)
    assert (line.start, line.stop) == (0, 300)
    assert line.thickness == 3 and line.contrast == 99


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("ruled", [False, True])
def test_words_of_digits_of_many_heights_are_counted_and_in_order(rows, ruled, test_split):
    rng = np.random.default_rng(rows)
    page = np.full((140 * rows + 60, 740), 235, np.float32)
    lefts = []
    for row in range(rows):
        left = 20
        for index in rng.integers(len(test_split), size=5):
            side = int(rng.integers(80, 125))
            digit = paper.resize(test_split.images[index, ..., 0], side, side)
            top = 30 + 140 * row + int(rng.integers(0, 15))
            page[top : top + side, left : left + side] -= 190 / 255 * digit
            lefts.append(left)
            left += side + 8
    if ruled:
        paper.rules(page, 60, 2, 120, 10)
    found = find_characters(paper.grain(rng, page))
    assert len(found) == len(lefts)
    for character, left in zip(found, lefts, strict=True):
        assert left <= character.box[0] + 4 < character.box[2] <= left + 130


@pytest.mark.parametrize("bar", [(20, 600), (570, 600)])
def test_what_lies_along_the_border_is_no_character(bar):
    page = np.full((600, 400), 235, np.uint8)
    page[bar[0] : bar[1], :4] = 20
    assert find_characters(page) == []


def test_ink_as_bright_as_its_paper_is_read_by_its_colour(tmp_path):
    pixels = np.full((60, 60, 3), (250, 170, 170), np.uint8)
    pixels[20:40, 20:40] = (149, 204, 239)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read_back = read(tmp_path / "a.png", 1).pixels[..., 0]
    assert int(read_back.max()) - int(read_back.min()) > 90


def test_a_single_stroke_is_no_rule(test_split):
    digit = np.zeros((28, 28), np.uint8)
    digit[4:24, 13:15] = 255  # a one, drawn with a ruler
    assert one(grey(drawings.plain(np.random.default_rng(0), digit))).box[3] > 300
    assert one(grey(drawings.form_box(np.random.default_rng(0), digit))).box[3] > 300


def test_polarity():
    page = photo(4)
    assert is_dark_on_light(page) and not is_dark_on_light(255 - page)


@pytest.mark.parametrize("window", [1, 3, 5, 8, 21])
def test_windows(window):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40)).astype(np.uint8)
    if window % 2:
        reach = window // 2
        padded = np.pad(pixels, reach, "edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (window, window))
        np.testing.assert_array_equal(spread(pixels, window), windows.max((2, 3)))
    strokes = pixels > 90
    runs = longer_runs(strokes, window)
    for column, kept in zip(strokes.T, runs.T, strict=True):
        edges = np.flatnonzero(np.diff(np.pad(column.astype(int), 1)))
        expected = np.zeros(30, bool)
        for start, stop in edges.reshape(-1, 2):
            expected[start:stop] = stop - start >= window
        np.testing.assert_array_equal(kept, expected)


def test_printed_fonts(notes_run):
    assert FONTS.is_dir()
    found = [one(photo(digit)) for digit in range(10)]
    predicted = lenet_jax.load(notes_run).predict(np.stack([c.pixels for c in found]))
    assert (predicted == np.arange(10)).sum() >= 8
