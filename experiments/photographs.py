"""How well are digits read off photographs, scans and drawings? It counts, a kind at a time.

    python -m experiments.photographs --workdir=RUN

RUN is a finished run of `configs/notes.py`. Of each kind in `drawings.py`, pictures are made from
random MNIST test digits, written to files and read as `predict` reads them. A picture is right if
just one character is found in it, and its class is the digit's; a page without a digit, if none is
found. The answer is `results/photographs.json` and `.png`; the accuracy `before`, with the box
around all that is dark which was taken until characters were found, is kept from that file.

With `--speed=N`, the `predict` command is timed on N photographs too; else what is there is kept.
"""

import argparse
import functools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from experiments import drawings, study
from experiments.drawings import Drawing
from lenet_jax import data
from lenet_jax.data.characters import Character
from lenet_jax.data.image_files import read_all
from lenet_jax.errors import UserError
from lenet_jax.inference.load import load
from lenet_jax.inference.network import Network
from lenet_jax.machine import cores, environment
from lenet_jax.plots import style
from lenet_jax.plots.style import (
    BLUE,
    FAINT,
    HEADER,
    INK,
    VERMILION,
    Figure,
    chart,
    key,
    styled,
)

QUESTION = "How well are digits read off photographs, scans and drawings, a kind at a time?"
GROUPS = {
    "read well before": drawings.GUARDS,
    "one thing beside it": drawings.STRAY,
    "pens, papers, files": drawings.SIBLINGS,
    "forms, boards, cameras": drawings.FURTHER,
}

# Reads image files: the characters of each, or why there are none.
Reader: TypeAlias = Callable[[Sequence[Path], Network], list[list[Character] | UserError]]


def main() -> None:
    """Draws, reads and counts; prints a line for each kind, and writes the results."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--workdir", type=Path, required=True, help="a run of configs/notes.py")
    parser.add_argument("--pictures", type=int, default=200, help="pictures of each kind")
    parser.add_argument("--speed", type=int, metavar="N", help="time `predict` on N photographs")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder to write to")
    arguments = parser.parse_args()
    file = arguments.results / "photographs.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    before = kept.get("kinds", {})
    network = load(arguments.workdir)

    kinds = {}
    for group, members in GROUPS.items():
        for drawing in members:
            share, pictures = accuracy(drawing, arguments.pictures, network, read)
            name = title(drawing)
            kinds[name] = {
                "group": group,
                "description": (drawing.__doc__ or "").strip(),
                "pictures": pictures,
                "before": before.get(name, {}).get("before"),
                "after": share,
            }
            print(f"{name:<24} {100 * share:5.1f} % of {pictures}", flush=True)
    empty = {
        title(d): share_found_empty(d, arguments.pictures // 10, network) for d in drawings.EMPTY
    }
    for name, share in empty.items():
        print(f"empty: {name:<17} {100 * share:5.1f} %")
    answer = {
        "question": QUESTION,
        "network": "configs/notes.py",
        "test_accuracy": network.summary.get("test_accuracy"),
        "kinds": kinds,
        "empty": {"pictures": arguments.pictures // 10, "nothing_found": empty},
        "speed": measure(arguments.workdir, arguments.speed)
        if arguments.speed
        else kept.get("speed"),
        "environment": environment(),
    }
    study.write(file, answer, plot)


def read(files: Sequence[Path], network: Network) -> list[list[Character] | UserError]:
    """Reads files as `predict` does."""
    readings = read_all(files, network.channels, network.form)
    return [r if isinstance(r, UserError) else r.characters for r in readings]


def accuracy(
    drawing: Drawing, pictures: int, network: Network, reader: Reader
) -> tuple[float, int]:
    """Returns how many pictures of a kind are right, as a share, and how many there were."""
    if drawing is drawings.large_file:
        pictures = max(1, pictures // 10)
    test = _test_split()
    name = title(drawing)
    picks = np.random.default_rng(_seed(name)).integers(len(test), size=pictures)
    with tempfile.TemporaryDirectory() as folder:
        files = write(drawing, test.images[picks, ..., 0], Path(folder))
        readings = reader(files, network)
    alone = [
        (reading[0], label)
        for reading, label in zip(readings, test.labels[picks], strict=True)
        if not isinstance(reading, UserError) and len(reading) == 1
    ]
    if not alone:
        return 0.0, pictures
    classes = network.predict(network.fit([character.pixels for character, _ in alone]))
    right = int((classes == np.array([label for _, label in alone])).sum())
    return right / pictures, pictures


def share_found_empty(drawing: Drawing, pictures: int, network: Network) -> float:
    """Returns in how many pages without a digit nothing is found, as a share."""
    with tempfile.TemporaryDirectory() as folder:
        files = write(drawing, [drawings.BLANK] * pictures, Path(folder))
        return sum(isinstance(reading, UserError) for reading in read(files, network)) / pictures


def write(drawing: Drawing, digits: Sequence[np.ndarray] | np.ndarray, folder: Path) -> list[Path]:
    """Draws a picture of each digit into a file."""
    files = []
    for index, digit in enumerate(digits):
        rng = np.random.default_rng([_seed(title(drawing)), index])
        files.append(folder / f"{index:04}.png")
        Image.fromarray(drawing(rng, digit)).save(files[-1], compress_level=1)
    return files


def measure(workdir: Path, count: int) -> dict:
    """Times the `predict` command on photographs of 400×600 pixels, its start included."""
    scenes = (drawings.plain, drawings.hard_shadow, drawings.form_box, drawings.underlined)
    digits = _test_split().images[..., 0]
    with tempfile.TemporaryDirectory() as folder:
        for index in range(count):
            picture = scenes[index % len(scenes)](
                np.random.default_rng(index), digits[index % len(digits)]
            )
            Image.fromarray(picture).save(Path(folder, f"{index:06}.jpg"), quality=92)
        command = [sys.executable, "-m", "lenet_jax.predict", "--json", f"--workdir={workdir}"]
        start = time.perf_counter()
        subprocess.run([*command, folder], stdout=subprocess.DEVNULL, check=True)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # Linux counts in KiB
    print(f"{count} photographs in {seconds:.1f} s: {count / seconds:.0f} a second")
    return {
        "photographs": count,
        "seconds": seconds,
        "images_per_second": count / seconds,
        "cores": cores(),
        "largest_process_mib": peak,
    }


def title(drawing: Drawing) -> str:
    """Returns the kind's name, in words."""
    return getattr(drawing, "__name__", "").strip("_").replace("_", " ")


@styled
def plot(answer: dict[str, Any]) -> Figure:
    """Draws a row for each kind, from its accuracy before to that after."""
    rows: list[tuple[str, dict[str, Any] | None]] = []
    for group in GROUPS:
        own = [(name, kind) for name, kind in answer["kinds"].items() if kind["group"] == group]
        rows += [(group, None), *own]
    pictures = max(kind["pictures"] for kind in answer["kinds"].values())
    figure = chart(
        760,
        HEADER + 70 + 20 * len(rows),
        f"Pictures of MNIST test digits that are read right by LeNet ({answer['network']})",
        margins=(210, 24, 46, 0),
    )
    figure_of = f"n = {pictures} of each kind (large file: {pictures // 10})"
    key(
        figure,
        [
            ("○ box around all that is dark", VERMILION),
            ("● characters found", BLUE),
            (figure_of, INK),
        ],
    )
    axes = figure.subplots()
    for row, (name, kind) in enumerate(rows):
        if kind is None:
            at = {"transform": axes.get_yaxis_transform(), "ha": "right", "weight": "bold"}
            style.write(axes, -0.015, row, name, **at)
            continue
        before, after = kind["before"], kind["after"]
        if before is not None:
            axes.plot([100 * before, 100 * after], [row, row], color=FAINT, linewidth=1)
            axes.plot(
                100 * before, row, "o", color=VERMILION, markerfacecolor="white", markersize=5
            )
        axes.plot(100 * after, row, "o", color=BLUE, markersize=5)
    ticks = [(row, name) for row, (name, kind) in enumerate(rows) if kind]
    axes.set_yticks([row for row, _ in ticks], [name for _, name in ticks])
    axes.tick_params("y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set(xlim=(-1, 101), ylim=(len(rows) - 0.5, -0.7), xlabel="pictures read right, %")
    return figure


@functools.cache
def _test_split() -> data.Split:
    return data.load("mnist", image_size=28).test


def _seed(name: str) -> int:
    return int.from_bytes(name.encode()[:12].ljust(12, b"\0"), "big")


if __name__ == "__main__":
    main()
