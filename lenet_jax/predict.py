"""Classifies images: `python -m lenet_jax.predict --workdir=RUN image.png folder …`."""

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lenet_jax.errors import (
    LINES,
    ExitCode,
    UserError,
    print_error,
    print_remarks,
    run_program,
    show,
)
from lenet_jax.storage.fetching import fetch
from lenet_jax.terminal.arguments import description, find_network, make_parser

if TYPE_CHECKING:
    from lenet_jax.data.characters import Character
    from lenet_jax.data.image_files import Reading
    from lenet_jax.data.image_sources import ImageSource
    from lenet_jax.inference.network import Network

PROGRAM = "python -m lenet_jax.predict"
DESCRIPTION = (
    "Classify images. Characters are found in photographs, scans and drawings of any size, and"
    " brought to the form of the images that the network was trained on."
)
IMAGES = (
    "an image of any format, a folder or a .zip of them, a pattern such as 'scans/**/*.png',"
    " or - for standard input"
)
BATCH = 512  # characters that are classified at a time
LONGEST_NAME = 1000  # characters of a file's name, of which the table shows the end
MANY = 50  # images: from there on, progress is shown


@dataclasses.dataclass(frozen=True)
class ImageCharacter:
    """A character of an image.

    Attributes:
      image: its name.
      first_only: whether the file has more frames or pages than this, its first.
      in_image: how many characters it has.
      character: this one.
    """

    image: str
    first_only: bool
    in_image: int
    character: "Character"


def main(argv: Sequence[str], program: str = PROGRAM) -> int:
    """Runs the command: the exit code, 2 if any image could not be read or has no character.

    Args:
      argv: its arguments.
      program: what starts it, for the help.
    """
    parser = make_parser(program, DESCRIPTION)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help=IMAGES)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--one", action="store_true", help="only the largest character of an image")
    arguments = parser.parse_args(argv)
    name = find_network(arguments, fetch)

    from lenet_jax.data import image_sources  # late: an error in the arguments is reported at once

    found = image_sources.find(arguments.images)
    if found.left_out:
        print_error(image_sources.describe_left_out(found.left_out))
    from lenet_jax.device import require_device
    from lenet_jax.machine import use_compilation_cache

    use_compilation_cache()
    require_device()
    from lenet_jax.inference.description import Description
    from lenet_jax.inference.load import load

    remarks: list[str] = []
    given = Description(**description(arguments))
    network = load(name.path, name.member, given, remarks.append, name.epoch)
    print_remarks(remarks)
    rows, errors = classify(network, found.images, one=arguments.one)
    if arguments.json:
        print(to_json(rows, getattr(sys.stdout, "encoding", None) or "utf-8"))
    else:
        print_table(rows)
    shown = errors if len(errors) <= LINES else errors[: LINES - 1]
    for error in shown:
        print_error(str(error).splitlines()[0])
    if len(shown) < len(errors):
        print_error(f"and {len(errors) - len(shown):,} more images could not be read")
    return ExitCode.USAGE if errors else ExitCode.DONE


def classify(
    network: "Network", files: Sequence["ImageSource"], *, one: bool = False
) -> tuple[list[dict], list[UserError]]:
    """Classifies the characters in image files, with a progress bar on a terminal if they are many.

    Args:
      network: the network.
      files: the images.
      one: whether only the largest character of an image counts.

    Returns:
      A row for each character, see `answers`, and what was wrong with the files that have none.
    """
    from lenet_jax.data.image_files import read_all
    from lenet_jax.inference.images import largest

    rows: list[dict] = []
    errors: list[UserError] = []
    waiting: list[ImageCharacter] = []
    readings = read_all(files, network.channels, network.form)
    for file, reading in zip(files, track(readings, len(files)), strict=True):
        if isinstance(reading, UserError):
            errors.append(reading)
            continue
        characters = [largest(reading.characters)] if one else reading.characters
        image = str(file), reading.first_only, len(reading.characters)
        waiting += [ImageCharacter(*image, character) for character in characters]
        if len(waiting) >= BATCH:
            rows += answers(network, waiting)
            waiting = []
    return rows + answers(network, waiting), errors


def track(readings: Iterator["Reading | UserError"], total: int) -> Iterator["Reading | UserError"]:
    """Shows how far reading is, on a terminal's standard error."""
    if total < MANY or not sys.stderr.isatty():
        yield from readings
        return
    from rich.console import Console
    from rich.progress import track as show

    yield from show(readings, "reading", total, console=Console(stderr=True), transient=True)


def answers(network: "Network", characters: Sequence[ImageCharacter]) -> list[dict]:
    """What the network says of each character.

    Returns:
      For each `image`, `box` (left, top, right, bottom in pixels of the image), how many
      `characters` the image has, `class`, `probability`, `runner_up`, `runner_up_probability`,
      whether the class is a `guess`, `energy` (of the logits), whether it is `unlike` all classes
      (None where that is not known), whether it `may_be_several` characters that touch, whether it
      was `inverted`, and whether the file has more frames or pages than this, its first
      (`first_only`).
    """
    import jax
    import numpy as np

    from lenet_jax.data.characters import may_be_several
    from lenet_jax.inference.forward import GUESS, energy

    if not characters:
        return []
    images = network.fit([found.character.pixels for found in characters])
    logits = network.logits(images)
    probabilities, energies = np.asarray(jax.nn.softmax(logits)), energy(logits)
    least = network.least_energy
    rows = []
    for found, row, score in zip(characters, probabilities, energies, strict=True):
        first, second = (-row).argsort(kind="stable")[:2]
        unlike = None if least is None else bool(score < least)
        box = found.character.box
        rows.append(
            {
                "image": found.image,
                "box": list(box),
                "characters": found.in_image,
                "class": network.class_names[first],
                "probability": float(row[first]),
                "runner_up": network.class_names[second],
                "runner_up_probability": float(row[second]),
                "guess": bool(row[first] < GUESS),
                "energy": float(score),
                "unlike": unlike,
                "may_be_several": network.form.handwriting and may_be_several(box, bool(unlike)),
                "inverted": found.character.inverted,
                "first_only": found.first_only,
            }
        )
    return rows


def to_json(rows: Sequence[dict], encoding: str) -> str:
    """JSON that can be printed in `encoding`; what is unprintable, as in names, is escaped."""
    text = json.dumps(rows, indent=2, ensure_ascii=False)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(rows, indent=2)
    return text if text.replace("\n", "").isprintable() else json.dumps(rows, indent=2)


def print_table(rows: Sequence[dict]) -> None:
    """Prints a line a character; says which were inverted, and which are unlike all classes."""
    if not rows:
        return
    places = {(row["image"], tuple(row["box"])) for row in rows}
    count = Counter(image for image, _ in places)
    lines = [("image", "class", "", "runner-up", "", "")]
    for row in rows:
        left, top, right, bottom = row["box"]
        in_image = row["characters"]
        remarks = [
            f"at {left},{top}–{right},{bottom}" if count[row["image"]] > 1 else "",
            f"the largest of {in_image}" if in_image > count[row["image"]] else "",
            "a guess" if row["guess"] else "",
            "may be several characters" if row["may_be_several"] else "",
            "inverted" if row["inverted"] else "",
            "the first of several frames or pages" if row["first_only"] else "",
            "unlike any class" if row["unlike"] else "",
        ]
        lines.append(
            (
                show(Path(row["image"]), LONGEST_NAME),
                show(row["class"]),
                f"{100 * row['probability']:.1f} %",
                show(row["runner_up"]),
                f"{100 * row['runner_up_probability']:.1f} %",
                ", ".join(filter(None, remarks)),
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    for image, name, probability, other, less, remark in lines:
        line = f"{image:<{widths[0]}}  {name:<{widths[1]}}  {probability:>{widths[2]}}"
        print(f"{line}   {other:<{widths[3]}}  {less:>{widths[4]}}  {remark}".rstrip())
    inverted = sum(row["inverted"] for row in rows)
    if inverted:
        were = "was dark on light and is" if inverted == 1 else "were dark on light and are"
        print(f"\n{inverted:,} of {len(rows):,} {were} inverted: the network knows light on dark.")
    if unlike := sum(bool(row["unlike"]) for row in rows):
        print(
            f"\n{unlike:,} of {len(rows):,} may be none of the classes:"
            " of the validation images one in a hundred is as unlike them."
        )
    if guesses := sum(row["guess"] for row in rows):
        print(f"\n{guesses:,} of {len(rows):,} guessed: no class has a probability of 50 %.")
    if all(row["unlike"] is None for row in rows):
        print("\nWhat is none of the classes is not marked: these weights have no such threshold.")


if __name__ == "__main__":
    run_program(main, sys.argv[1:])
