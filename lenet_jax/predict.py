"""Classifies images: `python -m lenet_jax.predict --workdir=RUN image.png folder …`."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lenet_jax.errors import ExitCode, UserError, run_command
from lenet_jax.terminal.arguments import make_parser, network_path

if TYPE_CHECKING:
    from lenet_jax.inference.network import Network

PROGRAM = "python -m lenet_jax.predict"
DESCRIPTION = (
    "Classify images. A drawn or photographed character may have any size and shade: it is"
    " inverted if need be, cropped and centred like the images that the network was trained on."
)


def main(argv: Sequence[str], program: str = PROGRAM) -> int:
    """Runs the command: the exit code, 2 if any image could not be read.

    Args:
      argv: its arguments.
      program: what starts it, for the help.
    """
    parser = make_parser(program, DESCRIPTION)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="PNG, JPEG, or a folder of them")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args(argv)
    path = network_path(arguments)

    from lenet_jax.data import image_files  # late: an error in the arguments is reported at once

    files = image_files.find(arguments.images)
    from lenet_jax.machine import use_compilation_cache

    use_compilation_cache()
    from lenet_jax.inference.load import load

    network = load(path, arguments.member)
    images = image_files.read_all(files, network.channels, network.character_size)
    good = [(str(f), i) for f, i in zip(files, images, strict=True) if not isinstance(i, UserError)]
    mistakes = [image for image in images if isinstance(image, UserError)]
    rows = answers(network, [name for name, _ in good], [image for _, image in good])
    if arguments.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        print_table(rows)
    for mistake in mistakes:
        print(mistake, file=sys.stderr)
    return ExitCode.USAGE if mistakes else ExitCode.DONE


def answers(network: "Network", names: Sequence[str], images: Sequence[Any]) -> list[dict]:
    """The predictions for each image.

    Args:
      network: the network.
      names: of the files.
      images: each an `image_files.Picture`.

    Returns:
      For each `image`, `class`, `probability`, `runner_up`, `runner_up_probability`, and whether it
      was `inverted`.
    """
    probabilities = network.probabilities(network.fit([image.pixels for image in images]))
    rows = []
    for name, image, row in zip(names, images, probabilities, strict=True):
        first, second = (-row).argsort(kind="stable")[:2]
        rows.append(
            {
                "image": name,
                "class": network.class_names[first],
                "probability": float(row[first]),
                "runner_up": network.class_names[second],
                "runner_up_probability": float(row[second]),
                "inverted": image.inverted,
            }
        )
    return rows


def print_table(rows: Sequence[dict]) -> None:
    """Prints a line per image, and which were inverted."""
    if not rows:
        return
    lines = [("image", "class", "", "runner-up", "", "")]
    lines += [
        (
            row["image"],
            row["class"],
            f"{100 * row['probability']:.1f} %",
            row["runner_up"],
            f"{100 * row['runner_up_probability']:.1f} %",
            "inverted" if row["inverted"] else "",
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    for image, name, probability, other, less, note in lines:
        line = f"{image:<{widths[0]}}  {name:<{widths[1]}}  {probability:>{widths[2]}}"
        print(f"{line}   {other:<{widths[3]}}  {less:>{widths[4]}}  {note}".rstrip())
    inverted = sum(row["inverted"] for row in rows)
    if inverted:
        were = "was dark on light and is" if inverted == 1 else "were dark on light and are"
        print(f"\n{inverted:,} of {len(rows):,} {were} inverted: the network knows light on dark.")


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
