"""Image files of any size, grey or colour, as pixels like those of the training data.

A drawn or photographed character is preprocessed as MNIST was: light on dark, cropped, scaled to
fit a box of 20×20 pixels with its aspect ratio kept, and placed in 28×28 with its centre of mass in
the middle.

Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits", 1998.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageFilter, ImageOps

from lenet_jax.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg")  # of the files read from a folder
FORMATS = ("PNG", "JPEG")
FRAME, BOX = 28, 20  # pixels: MNIST's images, and what is drawn in them
LARGEST = 400  # pixels; a larger character is reduced first, which removes the camera's noise
FAINTEST = 24  # of 255: the contrast below which nothing is drawn
EDGE = 0.25  # of the full contrast: what belongs to the character


class Picture(NamedTuple):
    """Pixels like those of the data, and whether the file was dark on light."""

    pixels: UInt8[np.ndarray, "h w c"]
    inverted: bool


def find(paths: Sequence[str | Path]) -> list[Path]:
    """The files in `paths`, and those in its folders, sorted by name.

    Raises:
      UserError: a folder has no PNG or JPEG, or cannot be read.
    """
    files = []
    for path in map(Path, paths):
        if not path.is_dir():
            files.append(path)
            continue
        try:
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        if not inside:
            raise UserError(f"the folder {path} has no {', '.join(SUFFIXES)} in it")
        files += inside
    return files


def read_all(
    paths: Sequence[str | Path], channels: int, size: int | None
) -> list[Picture | UserError]:
    """Reads many files, as `read` does; an error takes the place of its image.

    Sequentially: for files as small as MNIST's, threads cost more than they save.
    """

    def attempt(path: str | Path) -> Picture | UserError:
        try:
            return read(path, channels, size)
        except UserError as error:
            return error

    return [attempt(path) for path in paths]


def read(path: str | Path, channels: int, size: int | None) -> Picture:
    """Reads a PNG or a JPEG; transparent areas count as paper.

    Args:
      path: the file.
      channels: 1 for grey, 3 for colour.
      size: height and width of the data's images, to preprocess a character to; None: the image
        is not changed.

    Raises:
      UserError: the file cannot be read, is not a PNG or JPEG, is damaged, or is blank.
    """
    try:
        with Image.open(path, formats=FORMATS) as file:
            image = ImageOps.exif_transpose(file)
            image = _on_paper(image)
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is too large an image") from error
    except Image.UnidentifiedImageError as error:
        raise UserError(f"{path} is neither a PNG nor a JPEG") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (SyntaxError, ValueError, EOFError) as error:  # of Pillow, over mangled files
        raise UserError(f"{path} is damaged: {error}") from error
    if channels != 1 or size is None:
        return Picture(pixels.reshape(*pixels.shape[:2], channels), inverted=False)
    try:
        return as_character(pixels, size)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def as_character(grey: UInt8[np.ndarray, "h w"], size: int) -> Picture:
    """Preprocesses one character, on paper of any uniform shade, to `size`, as in MNIST.

    An image that already has this size is only inverted if it is dark on light.

    Raises:
      UserError: the image is blank.
    """
    height, width = grey.shape
    inverted = _is_dark_on_light(grey)
    if height == width == size:
        return Picture((255 - grey if inverted else grey)[..., None], inverted)
    image = Image.fromarray(grey)
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
    if min(image.size) >= 4 * size:
        image = image.filter(ImageFilter.MedianFilter(3))  # specks are not part of the character
    ink = _ink(np.asarray(image, np.float32), inverted)
    rows, columns = (np.flatnonzero((ink > EDGE).any(axis)) for axis in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]

    box = round(BOX / FRAME * size)
    height, width = (max(1, round(extent * box / max(ink.shape))) for extent in ink.shape)
    resized = Image.fromarray(ink).resize((width, height), Image.Resampling.BICUBIC)
    drawn = np.asarray(resized)
    character = np.clip(drawn / drawn.max(), 0, 1)
    top, left = (
        int(np.clip(round(size / 2 - centre), 0, size - extent))
        for centre, extent in zip(_centre_of_mass(character), character.shape, strict=True)
    )
    pixels = np.zeros((size, size, 1), np.uint8)
    pixels[top : top + height, left : left + width, 0] = np.rint(255 * character)
    return Picture(pixels, inverted)


def _on_paper(image: Image.Image) -> Image.Image:
    """Composites transparent areas onto white, or onto black where the opaque ones are light."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
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


def _is_dark_on_light(grey: UInt8[np.ndarray, "h w"]) -> bool:
    """Whether the border, which is paper, is closer to the lightest than to the darkest pixel."""
    paper = np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]]))
    return bool(2 * paper > int(grey.min()) + int(grey.max()))


def _ink(grey: Float[np.ndarray, "h w"], inverted: bool) -> Float[np.ndarray, "h w"]:
    """Contrast of each pixel with the paper, in [0, 1]; its shade may slope, as under a lamp."""
    height, width = grey.shape
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    plane = np.stack([np.ones_like(grey), y, x], axis=-1).astype(np.float32)
    border = np.ones(grey.shape, bool)
    border[1:-1, 1:-1] = False
    shades = grey[border]
    near = np.abs(shades - np.median(shades)) <= 64  # the character may touch the border
    slope, *_ = np.linalg.lstsq(plane[border][near], shades[near], rcond=None)
    ink = grey - plane @ slope
    ink = np.maximum(-ink if inverted else ink, 0)
    if ink.max() < FAINTEST:
        raise UserError("nothing is drawn in it")
    return ink / ink.max()


def _centre_of_mass(character: Float[np.ndarray, "h w"]) -> tuple[float, float]:
    """Row and column, counted from the upper left corner."""
    rows, columns = (np.arange(extent) + 0.5 for extent in character.shape)
    return (
        float(character.sum(1) @ rows / character.sum()),
        float(character.sum(0) @ columns / character.sum()),
    )
