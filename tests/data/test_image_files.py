import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import lenet_jax
from lenet_jax.data import image_files as pictures
from lenet_jax.data.characters import find_characters
from lenet_jax.data.form import MNIST_FORM
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


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_an_empty_sheet_is_refused(shade, tmp_path):
    Image.new("L", (60, 80), shade).save(tmp_path / "empty.png")
    with pytest.raises(UserError, match=r"empty.png: no character found"):
        pictures.read_characters(tmp_path / "empty.png", 1, MNIST_FORM)


# Black and white alone is dithered: a character with specks all over.
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "CMYK", "I;16", "LA"])
def test_every_kind_of_file_is_the_same_character(mode, tmp_path):
    grey = Image.fromarray(photo(2, noise=0))
    (expected,) = find_characters(np.asarray(grey))
    file = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        Image.fromarray(np.asarray(grey).astype(np.uint16) << 8).save(file)
    else:
        grey.convert(mode).save(file)
    (character,) = pictures.read_characters(file, 1, MNIST_FORM).characters
    assert character.inverted
    assert np.abs(character.pixels[..., 0].astype(int) - expected.pixels).mean() < 10


@pytest.mark.parametrize("ink", ["black", "white"])
def test_what_is_transparent_is_paper(ink, tmp_path):
    image = Image.new("RGBA", (200, 300), (0, 0, 0, 0))
    letters = ImageFont.truetype(FONTS / "DejaVuSans.ttf", 120)
    ImageDraw.Draw(image).text((30, 40), "5", fill=ink, font=letters)
    image.save(tmp_path / "a.png")
    (character,) = pictures.read_characters(tmp_path / "a.png", 1, MNIST_FORM).characters
    assert character.inverted == (ink == "black")
    (expected,) = find_characters(photo(5, paper=255, ink=0, at=(30, 40), noise=0))
    assert np.abs(character.pixels[..., 0].astype(int) - expected.pixels).mean() < 10


def test_a_camera_that_was_held_sideways_is_heeded(tmp_path):
    upright = Image.fromarray(photo(4, noise=0))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "a.jpg", exif=exif, quality=95)
    (character,) = pictures.read_characters(tmp_path / "a.jpg", 1, MNIST_FORM).characters
    (expected,) = find_characters(np.asarray(upright))
    assert np.abs(character.pixels[..., 0].astype(int) - expected.pixels).mean() < 4


def test_what_is_no_picture_is_refused_by_name(tmp_path):
    good = tmp_path / "good.png"
    Image.fromarray(photo(1)).save(good)
    content = good.read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "none.png").write_bytes(b"")
    (tmp_path / "a.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    flipped = bytearray(content)
    flipped[200] ^= 255
    (tmp_path / "flipped.png").write_bytes(flipped)
    names = ["cut.png", "text.png", "none.png", "a.eps", "flipped.png", "absent.png", "."]
    paths = [tmp_path / name for name in names] + [good]
    found = list(pictures.read_all(paths, 1, MNIST_FORM))
    assert isinstance(found[-1], pictures.Reading) and len(found[-1].characters) == 1
    for name, mistake in zip(names, found, strict=False):
        assert isinstance(mistake, UserError)
        assert str(tmp_path / name) in str(mistake)
        assert len(str(mistake).splitlines()) == 1


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    Image.new("L", (400, 400)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="too large an image"):
        pictures.read(tmp_path / "a.png", 1)


def test_many_files_are_read_by_processes_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MANY", 3)
    monkeypatch.setattr(pictures, "CHUNK", 2)
    monkeypatch.setattr(pictures, "cores", lambda: 2)
    paths = [tmp_path / f"{digit}.png" for digit in range(6)]
    for digit, path in enumerate(paths):
        Image.fromarray(photo(digit)).save(path)
    paths[3].write_bytes(b"")
    found = list(pictures.read_all(paths, 1, MNIST_FORM))
    for digit, (path, reading) in enumerate(zip(paths, found, strict=True)):
        if digit == 3:
            assert isinstance(reading, UserError) and str(path) in str(reading)
        else:
            (alone,) = pictures.read_characters(path, 1, MNIST_FORM).characters
            assert isinstance(reading, pictures.Reading)
            np.testing.assert_array_equal(reading.characters[0].pixels, alone.pixels)


def test_a_large_jpeg_is_decoded_reduced_and_its_boxes_are_of_the_file(tmp_path):
    large = Image.fromarray(photo(6, noise=0)).resize((2000, 3000))
    large.save(tmp_path / "a.jpg")
    assert max(pictures.read(tmp_path / "a.jpg", 1, 800).pixels.shape) < 3000
    (character,) = pictures.read_characters(tmp_path / "a.jpg", 1, MNIST_FORM).characters
    (expected,) = find_characters(np.asarray(large))
    assert character.box == pytest.approx(expected.box, abs=30)
