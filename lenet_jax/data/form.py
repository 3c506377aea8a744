"""What the images of a dataset have in common, and how to give other images the same form."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from lenet_jax.data.characters import BOX, SIZE, Character, find_characters
from lenet_jax.data.fit import fit_images
from lenet_jax.data.strokes import longer_runs
from lenet_jax.errors import UserError
from lenet_jax.reading import convert, decode

INK = 26  # of 255: the contrast from which a pixel is drawn on
STROKE = 0.17  # of an image's side: what is thicker in both directions is no stroke
SLACK = 0.1  # of the box, and pixels: what the images measured may have missed
TINY = 16  # pixels: nobody draws in fewer; of that size, or oblong, an image is of the data
LIGHT = 0.75  # of an image's border: from there on its ground is light
EXAMPLES = 5000  # images that are measured


@dataclasses.dataclass(frozen=True)
class ImageForm:
    """The form of a dataset's images.

    Attributes:
      size: height and width before they were padded, in pixels; what was resized counts as resized.
        Where they differed, the longer.
      fit: how they were brought to the network's size, `pad` or `resize`.
      handwriting: whether they are strokes on plain ground; else pictures that fill their frame.
      dark_on_light: whether the ground is lighter than what is on it.
      box: of handwriting, the usual longer side of what is drawn, in pixels.
      sides: the shortest and the longest such side.
      offset: how far the centre of mass is from the middle at most, in pixels.
      shape: height and width before they were fitted, where those differ.
      any_shape: whether the images were of several shapes before they were resized.
    """

    size: int = SIZE
    fit: str = "pad"
    handwriting: bool = True
    dark_on_light: bool = False
    box: int = BOX
    sides: tuple[int, int] = (BOX - 2, BOX)
    offset: float = 1.0
    shape: tuple[int, int] | None = None
    any_shape: bool = False

    @property
    def native(self) -> tuple[int, int]:
        """Height and width before the images were padded, in pixels."""
        return (self.fit == "pad" and self.shape) or (self.size, self.size)

    def to_json(self) -> str:
        """Returns it as a line of JSON, in which square images have no shape."""
        values = dataclasses.asdict(self)
        if self.shape is None:
            del values["shape"]
        if not self.any_shape:
            del values["any_shape"]
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str, source: str) -> "ImageForm":
        """Reads what `to_json` wrote.

        Raises:
          UserError: `text` is something else.
        """
        where = f"{source}: bad metadata: images"
        values = decode(text, dict[str, Any], where)
        form = convert(values, cls, where)
        missing = {field.name for field in dataclasses.fields(cls)} - values.keys()
        valid = 0 < form.box <= form.size == max(form.native) and form.fit in ("pad", "resize")
        if not valid or missing - {"shape", "any_shape"}:
            raise UserError(where)
        return form

    def is_met_by(self, image: UInt8[np.ndarray, "h w c"]) -> bool:
        """Whether an image has this form already."""
        if image.shape[:2] != self.native:
            return False
        if not self.handwriting:
            return True
        ink = image[None, ..., 0] if not self.dark_on_light else 255 - image[None, ..., 0]
        (side,), (offset,) = _sides(ink), _offsets(ink)
        if np.median(_border(ink)) >= 128:
            return False
        if self.size < TINY or self.shape:
            return True
        return bool(
            self.sides[0] - SLACK * self.box <= side <= self.sides[1]
            and offset <= self.offset + SLACK
        )


MNIST_FORM = ImageForm()


def measure_form(
    images: UInt8[np.ndarray, "n size size c"], fit: str, native: tuple[int, int] | None = None
) -> ImageForm:
    """Measures the form of a dataset's images.

    Args:
      images: as they were fitted to the network.
      fit: how.
      native: their height and width before; None: they differed, or are not known. Where images are
        padded, they are measured then by the margin that all have.
    """
    whole = images.shape[1]
    shape = native if native and native[0] != native[1] else None
    any_shape = fit == "resize" and native is None
    if fit == "resize":
        native = whole, whole
    elif native is None:
        native = (whole - 2 * _padding(images),) * 2
    (height, width), size = native, max(native)
    if images.shape[-1] != 1:
        return _picture_form(size, fit, shape)
    top, left = (whole - height) // 2, (whole - width) // 2
    grey = images[:, top : top + height, left : left + width, 0]
    dark_on_light = bool(np.median(_border(grey)) > 127)
    ink = 255 - grey if dark_on_light else grey
    sides, offsets = _sides(ink), _offsets(ink)
    drawn = sides > 0
    if not drawn.any():
        return _picture_form(size, fit, shape)
    return ImageForm(
        size=size,
        fit=fit,
        handwriting=_is_handwriting(ink[:EXAMPLES]),
        dark_on_light=dark_on_light,
        box=int(np.median(sides[drawn])),
        sides=(int(sides[drawn].min()), int(sides[drawn].max())),
        offset=round(float(offsets[drawn].max()), 2),
        shape=shape,
        any_shape=any_shape,
    )


def _picture_form(size: int, fit: str, shape: tuple[int, int] | None) -> ImageForm:
    """The form of images that fill their frame."""
    return ImageForm(size, fit, handwriting=False, box=size, sides=(size, size), shape=shape)


def give_form(image: UInt8[np.ndarray, "h w c"], form: ImageForm) -> list[Character]:
    """Gives an image the form of a dataset's: what training had, whatever the image is.

    An image that has the form already stays as it is, as does one of another kind than handwriting,
    which `fit_form` resizes. Of any other, the characters are found, see `find_characters`.

    Raises:
      UserError: there is no character in it.
    """
    height, width = image.shape[:2]
    asked = image
    if (
        form.handwriting
        and form.fit == "resize"
        and (height, width) == (form.shape or (height,) * 2)
    ):
        asked = fit_images(image[None], form.size, "resize")[0]
    if form.is_met_by(asked) or not form.handwriting:
        return [Character((0, 0, width, height), asked, inverted=False)]
    characters = find_characters(image[..., 0], form.size, form.box)
    if not characters:
        raise UserError("no character found")
    if form.dark_on_light:
        characters = [
            c._replace(pixels=255 - c.pixels, inverted=not c.inverted) for c in characters
        ]
    return [c._replace(pixels=c.pixels[..., None]) for c in characters]


def fit_form(
    images: Sequence[UInt8[np.ndarray, "h w c"]], form: ImageForm, size: int
) -> UInt8[np.ndarray, "n size size c"]:
    """Brings images to the network's size, as the dataset's were."""
    fitted = [np.zeros((0, size, size, 1), np.uint8)] if not images else []
    for image in images:
        if image.shape[:2] not in (form.native, (form.size, form.size)):
            image = fit_images(image[None], form.size, "resize")[0]
        fitted.append(fit_images(image[None], size, form.fit))
    return np.concatenate(fitted)


def has_other_ground(
    images: UInt8[np.ndarray, "n h w 1"], form: ImageForm
) -> Bool[np.ndarray, " n"]:
    """Whether each image has a light ground where the data's is dark, or the reverse.

    That is so where three quarters of its border are light, and something dark is on it.
    """
    ink = images[..., 0] if not form.dark_on_light else 255 - images[..., 0]
    light = ink >= 128
    edges = light[:, 0], light[:, -1], light[:, :, 0], light[:, :, -1]
    return (np.concatenate(edges, axis=1).mean(1) >= LIGHT) & ~light.all((1, 2))


def _padding(images: UInt8[np.ndarray, "n size size c"]) -> int:
    """The width of the margin that is black in every image."""
    rows, columns = (np.flatnonzero(images.any(axes)) for axes in ((0, 2, 3), (0, 1, 3)))
    if not len(rows):
        return 0
    size = images.shape[1]
    # Of an odd number of pixels, padding has one more below and to the right.
    below = size - 1 - int(max(rows[-1], columns[-1]))
    return min(int(rows[0]), int(columns[0]), below)


def _border(ink: UInt8[np.ndarray, "n h w"]) -> UInt8[np.ndarray, " m"]:
    return np.concatenate([s.ravel() for s in (ink[:, 0], ink[:, -1], ink[:, :, 0], ink[:, :, -1])])


def _sides(ink: UInt8[np.ndarray, "n h w"]) -> np.ndarray:
    """The longer side of the box around what is drawn in each image."""
    extents = []
    for axis in (2, 1):
        drawn = ink.max(axis) >= INK  # which rows, and which columns
        extent = drawn.shape[1] - drawn.argmax(1) - drawn[:, ::-1].argmax(1)
        extents.append(np.where(drawn.max(1), extent, 0))
    return np.maximum(*extents)


def _offsets(ink: UInt8[np.ndarray, "n h w"]) -> np.ndarray:
    """How far each image's centre of mass is from its middle, along the axis where it is more."""
    mass = np.maximum(ink.sum((1, 2), dtype=np.float64), 1e-9)
    offsets = []
    for axis in (1, 2):
        places = np.arange(ink.shape[axis]) + 0.5 - ink.shape[axis] / 2
        offsets.append(np.abs(ink.sum(3 - axis, dtype=np.float64) @ places) / mass)
    return np.maximum(*offsets)


def _is_handwriting(ink: UInt8[np.ndarray, "n h w"]) -> bool:
    """Whether it is thin strokes: little is left where a small square fits."""
    if np.mean(_border(ink) >= INK) > 0.25:
        return False
    side = max(3, round(STROKE * ink.shape[1]))
    strokes = ink >= np.maximum(ink.max((1, 2), keepdims=True) // 2, 1)
    return _share_of_thick(strokes, side) < 0.25


def _share_of_thick(strokes: Bool[np.ndarray, "n h w"], side: int) -> float:
    """How much of what is drawn lies in squares of `side` pixels that are drawn on."""
    n, height, width = strokes.shape
    columns = strokes.transpose(1, 0, 2).reshape(height, n * width)
    tall = longer_runs(columns, side).reshape(height, n, width)
    squares = longer_runs(tall.transpose(2, 1, 0).reshape(width, n * height), side)
    return int(squares.sum()) / max(int(strokes.sum()), 1)
