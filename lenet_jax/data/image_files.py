"""Image files of any format and size, decoded and given the form of a dataset's images."""

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import NamedTuple

from lenet_jax.data.characters import LONGEST, Character
from lenet_jax.data.decode import ENOUGH, Picture, decode
from lenet_jax.data.fit import fit_images
from lenet_jax.data.form import ImageForm, give_form
from lenet_jax.data.image_sources import ImageSource, label, open_source
from lenet_jax.errors import UserError
from lenet_jax.machine import cores

MANY = 500  # files: from there on, starting processes is worth while
CHUNK = 32  # files that a process takes at a time


class Reading(NamedTuple):
    """What a file shows.

    Attributes:
      characters: at least one; of data that are no handwriting, the image as a whole.
      first_only: whether the file has more images, frames or pages, than this, its first.
    """

    characters: list[Character]
    first_only: bool


def read_all(
    files: Sequence[ImageSource], channels: int, form: ImageForm, workers: int | None = None
) -> Iterator[Reading | UserError]:
    """Reads files as `read_characters` does, in their order; an error stands in its file's place.

    No more than what lies between the reading and the caller is kept in memory.

    Args:
      files: the files.
      channels: 1 for grey, 3 for colour.
      form: of the dataset's images.
      workers: processes that read, if the files are many; None: one for each core. A script that
        is not guarded by `if __name__ == "__main__"` must have 1: a process runs it again.

    Raises:
      UserError: a process was killed.
    """
    attempt = partial(_attempt, channels=channels, form=form)
    workers = cores() if workers is None else workers
    if len(files) < MANY or workers == 1:
        yield from map(attempt, files)
        return
    # Forking a process in which JAX's threads run may stop it for ever.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_leave_interrupts) as pool:
        try:
            yield from pool.map(attempt, files, chunksize=CHUNK)
        except BrokenProcessPool as error:
            raise UserError(
                "a process that reads images was killed, perhaps for want of memory\n"
                "Give fewer images, or smaller ones."
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def read_characters(file: ImageSource, channels: int, form: ImageForm) -> Reading:
    """Reads a file, and gives what it shows the form of a dataset's images.

    Raises:
      UserError: the file cannot be read, or shows no character.
    """
    picture = read(file, channels, 2 * LONGEST if form.handwriting else ENOUGH)
    try:
        characters = find_form(picture, form)
    except UserError as error:
        raise UserError(f"{label(file)}: {error}") from error
    return Reading(characters, picture.first_only)


def read(file: ImageSource, channels: int, enough: int = ENOUGH) -> Picture:
    """Decodes a file; see `decode`.

    Raises:
      UserError: the file cannot be read, is no image, or is damaged.
    """
    with open_source(file) as stream:
        return decode(stream, label(file), channels, enough)


def find_form(picture: Picture, form: ImageForm) -> list[Character]:
    """Gives a picture the form of a dataset's images; boxes are of the file's pixels.

    Raises:
      UserError: there is no character in it.
    """
    characters = give_form(picture.pixels, form)
    if not form.handwriting and picture.pixels.shape[:2] != form.native:
        # Now, as `fit_form` would: many large images are not to be kept.
        characters = [
            c._replace(pixels=fit_images(c.pixels[None], form.size, "resize")[0])
            for c in characters
        ]
    if picture.scale == 1:
        return characters
    return [
        c._replace(box=tuple(round(edge * picture.scale) for edge in c.box)) for c in characters
    ]


def _attempt(file: ImageSource, channels: int, form: ImageForm) -> Reading | UserError:
    try:
        return read_characters(file, channels, form)
    except UserError as error:
        return error


def _leave_interrupts() -> None:
    """Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
