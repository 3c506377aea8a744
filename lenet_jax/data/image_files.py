"""Image files of any size, in grey or colour, decoded and given the form of a dataset's images."""

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from lenet_jax.data.characters import LONGEST, Character
from lenet_jax.data.form import ImageForm, give_form
from lenet_jax.errors import UserError
from lenet_jax.machine import cores

SUFFIXES = (".png", ".jpg", ".jpeg")  # of the files read from a folder
FORMATS = ("PNG", "JPEG")
MANY = 500  # files: from there on, starting processes is worth while
CHUNK = 32  # files that a process takes at a time

# What a file shows, or why it cannot be read.
Reading: TypeAlias = list[Character] | UserError


class Picture(NamedTuple):
    """A decoded file: its pixels, and how many of the file's pixels each is wide."""

    pixels: UInt8[np.ndarray, "h w c"]
    scale: float


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


def read_all(paths: Sequence[str | Path], channels: int, form: ImageForm) -> Iterator[Reading]:
    """Reads files as `read_characters` does, in their order; an error stands in its file's place.

    Many files are read by a process for each core. No more than what lies between them and the
    caller is kept in memory.
    """
    attempt = partial(_attempt, channels=channels, form=form)
    workers = cores()
    if len(paths) < MANY or workers == 1:
        yield from map(attempt, paths)
        return
    # Forking a process in which JAX's threads run may stop it for ever.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_leave_interrupts) as pool:
        try:
            yield from pool.map(attempt, paths, chunksize=CHUNK)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def read_characters(path: str | Path, channels: int, form: ImageForm) -> list[Character]:
    """Reads a file, and gives what it shows the form of a dataset's images.

    Raises:
      UserError: the file cannot be read, or shows no character.
    """
    enough = 2 * LONGEST if form.handwriting else None
    picture = read(path, channels, enough)
    try:
        characters = give_form(picture.pixels, form)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if picture.scale == 1:
        return characters
    return [
        c._replace(box=tuple(round(edge * picture.scale) for edge in c.box)) for c in characters
    ]


def read(path: str | Path, channels: int, enough: int | None = None) -> Picture:
    """Decodes a PNG or a JPEG; transparent areas count as paper.

    Args:
      path: the file.
      channels: 1 for grey, 3 for colour.
      enough: pixels that the longer side should have at least; a larger JPEG is decoded reduced,
        which is faster. None: as it is.

    Raises:
      UserError: the file cannot be read, is not a PNG or JPEG, or is damaged.
    """
    try:
        with Image.open(path, formats=FORMATS) as file:
            longer = max(file.size)
            if enough is not None:
                file.draft(None, (enough, enough))
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
    pixels = pixels.reshape(*pixels.shape[:2], channels)
    return Picture(pixels, longer / max(pixels.shape[:2]))


def _attempt(path: str | Path, channels: int, form: ImageForm) -> Reading:
    try:
        return read_characters(path, channels, form)
    except UserError as error:
        return error


def _leave_interrupts() -> None:
    """Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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
