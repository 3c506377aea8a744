import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from lenet_jax.data import decode
from lenet_jax.data.form import MNIST_FORM, ImageForm
from lenet_jax.data.image_files import read, read_characters
from lenet_jax.errors import UserError
from tests.support.photos import photo

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (30, 40)).astype(np.uint8)
COLOUR = RNG.integers(0, 256, (30, 40, 3)).astype(np.uint8)
LOSSLESS = ("png", "webp", "bmp", "tiff", "ppm", "tga", "sgi", "pcx", "qoi", "jp2", "dds", "dib")
OPTIONS = {"webp": {"lossless": True}}


def save(path, image, **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(path, **options)
    return path


def refused(path, channels=1):
    with pytest.raises(UserError) as caught:
        read(path, channels)
    (line,) = str(caught.value).splitlines()
    assert len(line) < 200 and line.startswith(str(path))
    return line.removeprefix(f"{path} ")


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_every_lossless_format_gives_the_pixels_whatever_its_name(suffix, tmp_path):
    path = save(tmp_path / f"a.{suffix}", COLOUR, **OPTIONS.get(suffix, {}))
    path = path.rename(tmp_path / "a.jpg")
    picture = read(path, 3)
    np.testing.assert_array_equal(picture.pixels, COLOUR)
    assert picture.scale == 1 and not picture.first_only
    grey = np.asarray(Image.fromarray(COLOUR).convert("L"))
    np.testing.assert_array_equal(read(path, 1).pixels[..., 0], grey)


@pytest.mark.parametrize("suffix", ["avif", "gif", "ico", "blp", "jpg"])
def test_other_formats_are_read(suffix, tmp_path):
    image = Image.fromarray(photo(2, size=(256, 256), noise=0))
    path = save(tmp_path / f"a.{suffix}", image.convert("P") if suffix == "blp" else image)
    difference = read(path, 1).pixels[..., 0].astype(int) - np.asarray(image)
    assert np.abs(difference).mean() < 5


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_deep_grey_is_scaled_by_the_bits_that_it_uses(bits, suffix, tmp_path):
    deep = np.rint(GREY * ((2**bits - 1) / 255)).astype(np.uint16)
    deep[0, 0] = 2**bits - 1
    expected = GREY.copy()
    expected[0, 0] = 255
    path = save(tmp_path / f"a.{suffix}", deep)
    np.testing.assert_array_equal(read(path, 1).pixels[..., 0], expected)


def test_masks_of_16_bits_are_black_and_white(tmp_path):
    path = save(tmp_path / "a.png", (GREY > 128).astype(np.uint16))
    np.testing.assert_array_equal(read(path, 1).pixels[..., 0], np.where(GREY > 128, 255, 0))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (GREY.astype(np.int32), GREY),
        (GREY.astype(np.int32) * 257, GREY),
        (GREY.astype(np.int32) * 8_000_000, GREY),
        ((GREY.astype(np.int32) - 128) * 1000, GREY),
        (GREY.astype(np.float32), GREY),
        (GREY.astype(np.float32) / 255, GREY),
        (GREY.astype(np.float32) * 4 - 77, GREY),
    ],
)
def test_pixels_of_32_bits_are_scaled(image, expected, tmp_path):
    image, expected = image.copy(), expected.copy()
    image.ravel()[:2], expected.ravel()[:2] = (image.min(), image.max()), (0, 255)
    path = save(tmp_path / "a.tif", image)
    np.testing.assert_array_equal(read(path, 1).pixels[..., 0], expected)


def test_floats_that_are_not_finite_are_refused(tmp_path):
    image = np.full((5, 5), np.nan, np.float32)
    assert refused(save(tmp_path / "a.tif", image)) == (
        "is damaged: it has pixels that are not finite"
    )


def png(width, height, depth, colour_type, rows):
    def chunk(kind, content):
        sums = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + sums

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


@pytest.mark.parametrize(("colour_type", "bands"), [(2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("bits", [12, 16])
def test_deep_colour_is_scaled(bits, colour_type, bands, tmp_path):
    values = np.repeat(np.linspace(0, 2**bits - 1, 8)[None, :, None], bands, 2)
    if bands != 3:
        values[..., -1] = 65535  # opaque
    row = b"\0" + values.astype(">u2").tobytes()
    (tmp_path / "a.png").write_bytes(png(8, 1, 16, colour_type, row))
    shown = read(tmp_path / "a.png", 1).pixels[0, :, 0].astype(int)
    np.testing.assert_allclose(shown, np.linspace(0, 255, 8), atol=17)
    assert shown[-1] == 255


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "LA", "RGBA", "LAB", "YCbCr", "PA", "HSV"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_is_converted(mode, channels, tmp_path):
    grey = Image.fromarray(np.where(GREY > 128, np.uint8(255), np.uint8(0)))
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image: Any = ImageCms.profileToProfile(grey.convert("RGB"), *profiles, outputMode="LAB")
    else:
        image = grey.convert("LA" if mode == "PA" else "RGB").convert(mode)
    if mode in ("PA", "HSV"):  # which no format has
        pixels = decode.from_pil(image, channels).pixels
    else:
        pixels = read(save(tmp_path / "a.tif", image), channels).pixels
    assert pixels.shape == (30, 40, channels)
    assert np.abs(pixels - np.asarray(grey, int)[..., None]).max() <= 3


@pytest.mark.parametrize("suffix", ["gif", "webp", "tif", "png", "avif"])
def test_of_several_frames_the_first_is_read_and_marked(suffix, tmp_path):
    first, second = (Image.fromarray(photo(d, noise=0)) for d in (2, 5))
    path = save(tmp_path / f"a.{suffix}", first, save_all=True, append_images=[second])
    reading = read_characters(path, 1, MNIST_FORM)
    assert reading.first_only
    (expected,) = read_characters(save(tmp_path / "b.png", first), 1, MNIST_FORM).characters
    (character,) = reading.characters
    assert np.abs(character.pixels.astype(int) - expected.pixels).mean() < 5


def test_an_orientation_that_is_damaged_is_upright(tmp_path):
    image = Image.fromarray(photo(4))
    image.save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert read(tmp_path / "a.jpg", 1).pixels.shape == (300, 200, 1)


FTYP = b"\0\0\0\x18ftyp"
OTHERS = {
    "photo.jpg": (FTYP + b"heic\0\0\0\0mif1heic", "is a HEIC photograph: convert it to JPEG"),
    "photo.heif": (FTYP + b"mif1\0\0\0\0mif1heic", "is a HEIC photograph"),
    "page.pdf": (b"%PDF-1.7\n%\xb5\xb5", "is a PDF: export the page as an image"),
    "late.pdf": (b"\nmail header\n%PDF-1.7\n", "is a PDF: export the page as an image"),
    "a.svg": (b'<?xml version="1.0"?>\n<svg width="3"/>', "is an SVG drawing: export it as a PNG"),
    "b.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is an SVG drawing"),
    "a.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is PostScript"),
    "a.cr2": (b"II*\0\x10\0\0\0CR\x02\0" + bytes(99), "is a camera's raw file: develop it"),
    "a.cr3": (FTYP + b"crx \0\0\0\1", "is a camera's raw file: develop it"),
    "a.raf": (b"FUJIFILMCCD-RAW 0201", "is a camera's raw file: develop it"),
    "a.jxl": (b"\xff\x0a" + bytes(9), "is a JPEG XL image"),
    "a.mp4": (FTYP + b"isom\0\0\0\0", "is a video: export a frame of it"),
    "a.html": (b"\n<!DOCTYPE html><html>", "is a web page, not an image"),
    "lfs.png": (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    "a.npy": (b"\x93NUMPY\1\0", "is a NumPy array"),
    "t10k-images-idx3-ubyte": (bytes([0, 0, 8, 3, 0, 0, 0, 1]), "is an idx file"),
    "a.gz": (b"\x1f\x8b\x08", "is an archive: unpack it first"),
    "empty.png": (b"", "is empty"),
    "zeros.png": (bytes(5000), "is not an image of a format that Pillow reads"),
    "text.png": (b"no image", "is not an image of a format that Pillow reads"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_image_is_called_what_it_is(name, tmp_path):
    content, reason = OTHERS[name]
    (tmp_path / name).write_bytes(content)
    assert refused(tmp_path / name).startswith(reason)


def test_a_raw_file_that_looks_like_a_tiff_is_none(tmp_path):
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    tags = ImageFileDirectory_v2()
    tags[0xC612] = b"\1\4\0\0"  # DNGVersion
    path = save(tmp_path / "a.dng", Image.new("L", (160, 120)), format="TIFF", tiffinfo=tags)
    assert refused(path).startswith("is a camera's raw file")


def test_nothing_runs_another_program():
    assert not {"EPS", "WMF", "FITS", "MPEG", "HDF5"} & set(decode.formats())
    assert {"PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM"} <= set(decode.formats())
    assert {".png", ".jpg", ".jfif", ".webp", ".heic", ".mpo"} <= decode.suffixes()
    assert not {".pdf", ".eps", ".txt", ".csv", ".gz", ".zip"} & decode.suffixes()


def test_a_file_that_unpacks_to_gigabytes_is_refused_before(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png(90_000, 90_000, 8, 6, b"\0" * 1000))
    assert "is too large an image" in refused(tmp_path / "bomb.png")
    assert "megapixels; reduce it first" in refused(tmp_path / "bomb.png")
    save(tmp_path / "bomb.jp2", GREY)
    content = (tmp_path / "bomb.jp2").read_bytes()
    (tmp_path / "bomb.jp2").write_bytes(
        content.replace(struct.pack(">2I", 30, 40), struct.pack(">2I", 12_000, 9_000))
    )
    assert "the limit is 80 megapixels" in refused(tmp_path / "bomb.jp2")


def jpeg_of(width, height, *, progressive=False):
    """A JPEG that says to be of another size than it is."""
    stream = io.BytesIO()
    Image.new("L", (16, 16)).save(stream, "JPEG", progressive=progressive)
    at = stream.getvalue().index(b"\xff\xc2" if progressive else b"\xff\xc0")
    content = bytearray(stream.getvalue())
    content[at + 5 : at + 9] = struct.pack(">2H", height, width)
    return bytes(content)


def test_the_limits_of_jpegs_are_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg_of(65_000, 64_000))
    assert refused(tmp_path / "a.jpg") == (
        "is too large an image, 65,000 × 64,000 pixels: the limit is 1,000 megapixels;"
        " reduce it first"
    )
    (tmp_path / "b.jpg").write_bytes(jpeg_of(20_000, 20_000, progressive=True))
    assert "the limit is 250 megapixels" in refused(tmp_path / "b.jpg")


@pytest.mark.parametrize("handwriting", [True, False])
def test_108_megapixels_are_read_without_a_warning(handwriting, tmp_path):
    small = Image.fromarray(photo(7, noise=0))
    path = save(tmp_path / "a.jpg", small.resize((9000, 12_000)))
    form = MNIST_FORM if handwriting else ImageForm(handwriting=False, box=28, sides=(28, 28))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (character,) = read_characters(path, 1, form).characters
    assert character.pixels.shape == (28, 28, 1)
    if handwriting:
        (expected,) = read_characters(save(tmp_path / "b.png", small), 1, form).characters
        scaled = np.multiply(expected.box, (45, 40, 45, 40))
        np.testing.assert_allclose(character.box, scaled, atol=120)


def test_a_large_image_is_reduced_before_it_is_converted(tmp_path):
    wide = Image.fromarray(np.tile(GREY, (2, 250)))  # 60 × 10,000
    for mode in ("L", "RGBA", "I", "1", "P"):
        picture = read(save(tmp_path / "a.tif", wide.convert(mode)), 3)
        assert picture.pixels.shape == (15, 2500, 3)
        assert picture.scale == 4
    deep = Image.fromarray(np.asarray(wide).astype(np.uint16) * 16)
    assert read(save(tmp_path / "a.tif", deep), 1).pixels.shape == (15, 2500, 1)


@pytest.mark.parametrize("suffix", [*LOSSLESS, "jpg", "gif", "avif", "ico"])
def test_mangled_files_are_images_or_errors_in_a_line(suffix, tmp_path):
    rng = np.random.default_rng(1)
    content = save(tmp_path / f"a.{suffix}", COLOUR).read_bytes()
    path = tmp_path / "mangled"
    for index in range(40):
        mangled = bytearray(content[: rng.integers(4, len(content))] if index % 2 else content)
        for place in rng.integers(0, min(len(mangled), 200), 3):
            mangled[place] = rng.integers(256)
        path.write_bytes(mangled)
        try:
            assert read(path, 1).pixels.ndim == 3
        except UserError as error:
            assert str(error).isprintable() and len(str(error)) < 300
