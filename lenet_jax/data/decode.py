"""Decodes images of any format, depth and size with Pillow, within bounded memory."""

import functools
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image, ImageCms, JpegImagePlugin

from lenet_jax.data import signatures
from lenet_jax.errors import UserError, printable

# What Pillow decodes by itself. Left out: EPS, for which it runs Ghostscript; WMF and EMF, which
# Windows draws; FITS, which it unzips without a bound; IM, IMT, IPTC, MCIDAS, SPIDER and XVTHUMB,
# whose signatures are too weak or which hold other files; BUFR, GRIB, HDF5 and MPEG, which it only
# names. The least specific come last.
FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM", "PSD", "ICO", "QOI"),
    *("DDS", "ICNS", "DIB", "SGI", "SUN", "PCX", "DCX", "CUR", "BLP", "FTEX", "GBR", "FLI", "MSP"),
    *("PIXAR", "XPM", "XBM", "PCD", "TGA"),
)
FRAMES = ("GIF", "WEBP", "PNG", "AVIF", "FLI", "TIFF", "DCX")  # formats of more than one image
MEGAPIXEL = 1_000_000
MOST = 170 * MEGAPIXEL  # pixels that are decoded: at most four bytes each
MOST_HEAVY = 80 * MEGAPIXEL  # of formats whose decoders take some 16 bytes each
HEAVY = ("WEBP", "AVIF", "JPEG2000")
MOST_PROGRESSIVE = 250 * MEGAPIXEL  # of a JPEG that is kept in memory as a whole
MOST_JPEG = 1000 * MEGAPIXEL  # of one that is decoded reduced
ENOUGH = 2048  # pixels that the longer side keeps when a large image is reduced

SMALL = (100, 100)  # pixels: an image with little of its noise
COLOURED = 30  # of 255: differences within a channel that are more than noise

# The depths of cameras, scanners and masks, whose files have 16 bits or more a pixel.
DEPTHS = (1, 8, 10, 12, 14, 16)

# What Pillow raises over mangled files, beside OSError.
MANGLED = (
    *(SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, AttributeError),
    *(RuntimeError, AssertionError, struct.error, zlib.error),
)

Stream: TypeAlias = BytesIO | BufferedReader


class Picture(NamedTuple):
    """A decoded file.

    Attributes:
      pixels: the image.
      scale: how many of the file's pixels each is wide.
      first_only: whether the file has more images, frames or pages, than this, its first.
    """

    pixels: UInt8[np.ndarray, "h w c"]
    scale: float
    first_only: bool


def decode(stream: Stream, name: str, channels: int, enough: int = ENOUGH) -> Picture:
    """Decodes an image; transparent areas count as paper.

    What has more than 8 bits is scaled by the range that it uses: 12 bits in a file of 16 become
    0 to 255, floats in 0..1 too.

    Args:
      stream: a file, at its beginning.
      name: of the file, for messages.
      channels: 1 for grey, 3 for colour.
      enough: pixels that the longer side keeps at least. A JPEG is decoded reduced, which is
        faster; others are reduced where they are larger than `2 * ENOUGH`.

    Raises:
      UserError: it is no image that can be read, is damaged, or has too many pixels.
    """
    head = stream.read(signatures.HEAD)
    stream.seek(0)
    try:
        with _without_warnings(), _open(stream, head) as image:
            longer = max(image.size)
            several = image.format in FRAMES and getattr(image, "is_animated", False)
            if image.format == "TIFF" and _is_raw(image):
                raise UserError(f"{name} {signatures.RAW}")
            _bound(image, name, enough)
            pixels = to_pixels(image, channels)
    except Image.DecompressionBombError as error:
        limit = (Image.MAX_IMAGE_PIXELS or 0) * 2 // MEGAPIXEL
        raise UserError(
            f"{name} is too large an image: Pillow's limit is {limit} megapixels; reduce it first"
        ) from error
    except Image.UnidentifiedImageError as error:
        reason = signatures.describe(head) or "is not an image of a format that Pillow reads"
        raise UserError(f"{name} {reason}") from error
    except MemoryError as error:
        raise UserError(f"{name} does not fit into memory; reduce it first") from error
    except OSError as error:
        raise UserError(f"{name} cannot be read: {printable(error.strerror or error)}") from error
    except MANGLED as error:
        raise UserError(f"{name} is damaged: {printable(error)}") from error
    return Picture(pixels, longer / max(pixels.shape[:2]), bool(several))


def from_pil(image: Image.Image, channels: int) -> Picture:
    """Converts a PIL image, the frame or page that it is at, as if it were a file.

    Raises:
      UserError: it is damaged or closed, or has no pixels or too many.
    """
    width, height = image.size
    if not 0 < width * height <= MOST:
        raise UserError(
            f"the PIL image has {width:,} × {height:,} pixels;"
            f" it must have 1 to {MOST // MEGAPIXEL} megapixels"
        )
    try:
        with _without_warnings():
            pixels = to_pixels(image, channels)
    except (OSError, MemoryError, *MANGLED) as error:
        raise UserError(f"the PIL image cannot be read: {printable(error)}") from error
    return Picture(pixels, max(width, height) / max(pixels.shape[:2]), first_only=False)


def to_pixels(image: Image.Image, channels: int) -> UInt8[np.ndarray, "h w c"]:
    """Converts an image to grey or colour, upright, on paper, and reduced if it is very large.

    Raises:
      ValueError: it has no pixels, or some are not finite.
    """
    is_deep = _is_deep_colour(image)
    image.load()
    turn = _orientation(image)
    image = _to_8_bits(image)
    if is_deep:
        image = _from_12_bits(image)
    if max(image.size) >= 2 * ENOUGH:
        image = image.reduce(max(image.size) // ENOUGH)
    if turn in TURNS:
        image = image.transpose(TURNS[turn])
    image = _on_paper(image)
    pixels = np.asarray(_to_grey(image) if channels == 1 else image.convert("RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


@functools.cache
def formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this build of Pillow decodes."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@functools.cache
def suffixes() -> frozenset[str]:
    """The suffixes of image files: of those formats, and of photographs to be converted."""
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in formats()}
    return frozenset(known | {".mpo", ".heic", ".heif", ".hif"})


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Hides what Pillow says of odd files and large images, which have a bound here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _open(stream: Stream, head: bytes) -> Image.Image:
    if head.startswith(b"\xff\xd8\xff"):
        # Not by Image.open: its bound is for what is decoded at full size.
        return JpegImagePlugin.JpegImageFile(stream)
    return Image.open(stream, formats=formats())


def _bound(image: Image.Image, name: str, enough: int) -> None:
    """Has a JPEG decoded reduced.

    Raises:
      UserError: too much is left to decode.
    """
    width, height = image.size
    most = MOST_HEAVY if image.format in HEAVY else MOST
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        image.draft(None, (enough, enough))
        most = MOST_PROGRESSIVE if image.info.get("progressive") else MOST_JPEG
    if width * height > most or image.size[0] * image.size[1] > MOST:
        raise UserError(
            f"{name} is too large an image, {width:,} × {height:,} pixels:"
            f" the limit is {most // MEGAPIXEL:,} megapixels; reduce it first"
        )


def _is_raw(image: Image.Image) -> bool:
    """Whether a TIFF is a camera's raw file, of which Pillow reads the thumbnail."""
    tags = getattr(image, "tag_v2", {})
    sub_images, new_subfile_type, dng_version = 0x014A, 0x00FE, 0xC612
    return dng_version in tags or (sub_images in tags and tags.get(new_subfile_type) == 1)


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # what EXIF's orientations ask for


def _orientation(image: Image.Image) -> int:
    """How the camera was held; 1, upright, where that is damaged."""
    try:
        return image.getexif().get(0x0112, 1)
    except (OSError, *MANGLED):
        return 1


def _to_8_bits(image: Image.Image) -> Image.Image:
    """An image of mode L, LA, RGB or RGBA."""
    if image.mode.startswith("I;16"):
        return Image.fromarray(_from_16_bits(np.asarray(image)))
    if image.mode in ("I", "F"):
        return _from_32_bits(image)
    if image.mode == "1":
        return image.convert("L")
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        return converted or image
    if image.has_transparency_data and image.mode not in ("LA", "RGBA"):
        return image.convert("RGBA")
    return image if image.mode in ("L", "LA", "RGB", "RGBA") else image.convert("RGB")


def _from_16_bits(pixels: UInt16[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    top = int(pixels.max(initial=0))
    depth = next(depth for depth in DEPTHS if top < 1 << depth)
    if depth == 8:
        return pixels.astype(np.uint8)
    values = np.arange(top + 1) * (255 / ((1 << depth) - 1))
    return np.rint(values).astype(np.uint8)[pixels]


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether Pillow keeps the upper 8 bits of 16 a channel; it is not yet loaded."""
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _from_12_bits(image: Image.Image) -> Image.Image:
    """Scales the upper 8 of 16 bits where the image has 12, which lie below them."""
    colours = {"LA": 1, "RGB": 3, "RGBA": 3}.get(image.mode, 0)
    highest = np.reshape(image.getextrema(), (-1, 2))[:colours, 1].max(initial=0)
    if not 0 < highest < 16:
        return image
    bands = image.split()
    scaled = [band.point(lambda value: 17 * value) for band in bands[:colours]]
    return Image.merge(image.mode, [*scaled, *bands[colours:]])


def _from_32_bits(image: Image.Image) -> Image.Image:
    """Of integers up to 16 bits, or floats in 0..1 or 0..255, as these; others by their range."""
    if max(image.size) >= 2 * ENOUGH:
        image = image.reduce(max(image.size) // ENOUGH)
    pixels = np.asarray(image)
    low, high = float(pixels.min()), float(pixels.max())
    if not np.isfinite((low, high)).all():
        raise ValueError("it has pixels that are not finite")
    if image.mode == "I" and low >= 0 and high < 1 << 16:
        return Image.fromarray(_from_16_bits(pixels.astype(np.uint16)))
    if low >= 0 and high <= 1:
        low, high = 0, 1
    elif low >= 0 and high <= 255:
        low, high = 0, 255
    scaled = (pixels.astype(np.float64) - low) * (255 / max(high - low, 1e-30))
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _to_grey(image: Image.Image) -> Image.Image:
    """The brightness; or, where colours differ but hardly in that, the channel where they do most.

    Coloured ink may be as bright as its paper.
    """
    grey = image.convert("L")
    if image.mode == "L":
        return grey
    small = image.convert("RGB").resize(SMALL, Image.Resampling.BOX, reducing_gap=2)
    grey_span, *spans = (
        int(np.asarray(channel).max()) - int(np.asarray(channel).min())
        for channel in (small.convert("L"), *small.split())
    )
    if 2 * grey_span >= max(spans) or max(spans) < COLOURED:
        return grey
    return image.convert("RGB").getchannel(int(np.argmax(spans)))


def _on_paper(image: Image.Image) -> Image.Image:
    """Composites transparent areas onto white, or onto black where the opaque ones are light."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    pixels = np.asarray(image, np.float32)
    opaque = pixels[..., 3:] / 255
    shade = float((pixels[..., :3] * opaque).sum() / max(3 * opaque.sum(), 1e-6))
    paper = Image.new(
        "RGBA", image.size, "black" if shade > 127 and opaque.min() < 0.5 else "white"
    )
    return Image.alpha_composite(paper, image)
