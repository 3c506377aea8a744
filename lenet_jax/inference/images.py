"""Images as people have them, files, PIL images or arrays, fitted to a network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lenet_jax.data.characters import Character
from lenet_jax.data.decode import from_pil
from lenet_jax.data.form import ImageForm, fit_form
from lenet_jax.data.image_files import find_form, read_characters
from lenet_jax.data.image_sources import Content, Entry
from lenet_jax.errors import UserError
from lenet_jax.inference.pixels import fit_array, fit_item, items_of

# Arrays, PIL images, or names of files, one or many; `prepare` checks what it is given.
Images: TypeAlias = Any


def prepare(
    images: Images, channels: int, form: ImageForm, size: int
) -> UInt8[np.ndarray, "n size size c"]:
    """Images as a network takes them, before normalisation.

    Args:
      images: see `inference.network.Network`.
      channels: of the network.
      form: of its data.
      size: of the images that it takes, in pixels.

    Raises:
      UserError: they are no images, cannot be read, or are arrays of another range or shape.
    """
    items = items_of(images)
    if items is None:
        return fit_array(images, channels, form, size)
    fitted, errors = [], []
    for item in items:
        try:
            fitted.append(_prepare_item(item, channels, form, size))
        except UserError as error:
            errors.append(error)
    if errors:
        first, *remedy = str(errors[0]).split("\n")
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise UserError("\n".join([first + more, *remedy]))
    return np.concatenate(fitted)


def largest(characters: Sequence[Character]) -> Character:
    """Returns the character whose box is largest."""
    return max(characters, key=lambda c: (c.box[2] - c.box[0]) * (c.box[3] - c.box[1]))


def _prepare_item(
    item: Any, channels: int, form: ImageForm, size: int
) -> UInt8[np.ndarray, "1 size size c"]:
    """One image of a list: the largest character of a file or a PIL image, or an array."""
    if isinstance(item, str | Path | Entry | Content):
        characters = read_characters(item, channels, form).characters
    elif isinstance(item, Image.Image):
        characters = find_form(from_pil(item, channels), form)
    else:
        return fit_item(item, channels, form, size)
    return fit_form([largest(characters).pixels], form, size)
