import os

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import lenet_jax
from lenet_jax import data
from lenet_jax.data import image_files as pictures
from lenet_jax.errors import UserError
from tests.support.photos import FONTS, photo


@pytest.mark.parametrize("font", ["DejaVuSans", "DejaVuSerif", "STIXGeneral"])
def test_printed_digits_are_recognised(font, notes_run, tmp_path):
    network = lenet_jax.load(notes_run)
    files = [tmp_path / f"{digit}.png" for digit in range(10)]
    for digit, file in enumerate(files):
        Image.fromarray(photo(digit, font, at=(10 + 7 * digit, 20 + 12 * digit))).save(file)
    right = (network.predict(files) == np.arange(10)).sum()
    assert right >= 8, f"{right} of 10"


def test_the_centre_of_mass_is_in_the_middle_and_the_box_is_full():
    character = pictures.as_character(photo(7, at=(60, 20)), 28).pixels[..., 0].astype(float)
    for axis in (0, 1):
        weights = character.sum(1 - axis)
        assert abs(weights @ (np.arange(28) + 0.5) / weights.sum() - 14) <= 0.5
    rows = np.flatnonzero(character.max(1) > 60)
    assert 19 <= rows[-1] - rows[0] + 1 <= 20
    assert character.max() == 255


def test_proportions_are_kept():
    sheet = np.full((300, 200), 255, np.uint8)
    sheet[50:210, 30:70] = 0  # 4 times as high as wide
    character = pictures.as_character(sheet, 28).pixels[..., 0]
    assert (character > 127).any(1).sum() == 20
    assert (character > 127).any(0).sum() == 5


@pytest.mark.parametrize("size", [(200, 300), (300, 200), (900, 700), (40, 40), (29, 28)])
def test_light_on_dark_is_the_same_sign_as_dark_on_light(size):
    sheet = photo(3, size=size, at=(size[0] // 8, size[1] // 10), noise=0)
    dark, light = pictures.as_character(sheet, 28), pictures.as_character(255 - sheet, 28)
    assert dark.inverted and not light.inverted
    np.testing.assert_allclose(dark.pixels.astype(int), light.pixels.astype(int), atol=1)


def test_an_image_of_the_datas_size_stays_as_it_is():
    digit = data.load("mnist", image_size=28).test.images[0]
    same = pictures.as_character(digit[..., 0], 28)
    assert not same.inverted
    np.testing.assert_array_equal(same.pixels, digit)
    negative = pictures.as_character(255 - digit[..., 0], 28)
    assert negative.inverted
    np.testing.assert_array_equal(negative.pixels, digit)


def test_a_sign_may_touch_the_border():
    sheet = np.full((100, 60), 250, np.uint8)
    sheet[:, 20:40] = 10
    picture = pictures.as_character(sheet, 28)
    assert picture.inverted
    assert 2 <= (picture.pixels[..., 0] > 127).any(0).sum() <= 6


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_an_empty_sheet_is_refused(shade, tmp_path):
    Image.new("L", (60, 80), shade).save(tmp_path / "empty.png")
    with pytest.raises(UserError, match=r"empty.png: nothing is drawn in it"):
        pictures.read(tmp_path / "empty.png", 1, 28)


# Black and white alone is dithered: a character with specks all over.
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "CMYK", "I;16", "LA"])
def test_every_kind_of_file_is_the_same_sign(mode, tmp_path):
    grey = Image.fromarray(photo(2, noise=0))
    expected = pictures.as_character(np.asarray(grey), 28).pixels
    file = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        Image.fromarray(np.asarray(grey).astype(np.uint16) << 8).save(file)
    else:
        grey.convert(mode).save(file)
    found = pictures.read(file, 1, 28)
    assert found.inverted
    assert np.abs(found.pixels.astype(int) - expected).mean() < 10


@pytest.mark.parametrize("ink", ["black", "white"])
def test_what_is_transparent_is_paper(ink, tmp_path):
    image = Image.new("RGBA", (200, 300), (0, 0, 0, 0))
    letters = ImageFont.truetype(FONTS / "DejaVuSans.ttf", 120)
    ImageDraw.Draw(image).text((30, 40), "5", fill=ink, font=letters)
    image.save(tmp_path / "a.png")
    picture = pictures.read(tmp_path / "a.png", 1, 28)
    assert picture.inverted == (ink == "black")
    expected = pictures.as_character(photo(5, paper=255, ink=0, at=(30, 40), noise=0), 28).pixels
    assert np.abs(picture.pixels.astype(int) - expected).mean() < 10


def test_a_camera_that_was_held_sideways_is_heeded(tmp_path):
    upright = Image.fromarray(photo(4, noise=0))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "a.jpg", exif=exif, quality=95)
    found = pictures.read(tmp_path / "a.jpg", 1, 28).pixels
    expected = pictures.as_character(np.asarray(upright), 28).pixels
    assert np.abs(found.astype(int) - expected).mean() < 3


def test_what_is_no_picture_is_refused_by_name(tmp_path):
    good = tmp_path / "good.png"
    Image.fromarray(photo(1)).save(good)
    content = good.read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "none.png").write_bytes(b"")
    Image.fromarray(photo(1)).save(tmp_path / "a.gif")
    flipped = bytearray(content)
    flipped[200] ^= 255
    (tmp_path / "flipped.png").write_bytes(flipped)
    names = ["cut.png", "text.png", "none.png", "a.gif", "flipped.png", "absent.png", "."]
    found = pictures.read_all([tmp_path / name for name in names] + [good], 1, 28)
    assert isinstance(found[-1], pictures.Picture)
    for name, mistake in zip(names, found, strict=False):
        assert isinstance(mistake, UserError)
        assert str(tmp_path / name) in str(mistake)
        assert len(str(mistake).splitlines()) == 1


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    Image.new("L", (400, 400)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="too large an image"):
        pictures.read(tmp_path / "a.png", 1, 28)


def test_find_opens_folders_and_keeps_the_order(tmp_path):
    for name in ("b.PNG", "a.jpg", "c.jpeg", "d.txt"):
        (tmp_path / name).touch()
    found = pictures.find(["z.png", tmp_path])
    assert [path.name for path in found] == ["z.png", "a.jpg", "b.PNG", "c.jpeg"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty has no .png, .jpg, .jpeg in it"):
        pictures.find([tmp_path / "empty"])
    if os.geteuid():
        (tmp_path / "empty").chmod(0)
        with pytest.raises(UserError, match="Permission denied"):
            pictures.find([tmp_path / "empty"])
