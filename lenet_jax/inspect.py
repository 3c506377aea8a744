"""Shows what a network has learned: `python -m lenet_jax.inspect --workdir=RUN`.

Pictures for slides, TensorBoard images, and `report.html`, one page that opens anywhere. With
`--compare=RUN,RUN,…`, a page with several runs side by side.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lenet_jax.errors import ExitCode, UserError, run_command, write_error
from lenet_jax.storage.files import read_json, write_atomically
from lenet_jax.storage.run_dir import RECORD
from lenet_jax.terminal.arguments import make_parser, network_path

if TYPE_CHECKING:
    from lenet_jax.data.dataset import Dataset
    from lenet_jax.inference.network import Network
    from lenet_jax.report.findings import Example, Findings

PROGRAM = "python -m lenet_jax.inspect"
DESCRIPTION = (
    "Show what a trained network has learned, in pictures and on one page: what excites its"
    " filters, one image's way through it, what it gets wrong, and how sure it is."
)


def main(argv: Sequence[str], program: str = PROGRAM) -> int:
    """Runs the command: the exit code.

    Args:
      argv: its arguments.
      program: what starts it, for the help.
    """
    parser = make_parser(program, DESCRIPTION, weights=False)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--index", type=int, metavar="N", help="follow test image N, from 0 on")
    which.add_argument("--image", metavar="FILE", help="follow this PNG or JPEG")
    parser.add_argument(
        "--compare",
        metavar="DIR,DIR",
        help="put these runs, or members SWEEP@7, side by side; no --workdir then",
    )
    parser.add_argument("--out", metavar="DIR", help="default: the folder `inspect` of DIR")
    arguments = parser.parse_args(argv)
    if arguments.compare is not None:
        return _compare(arguments)
    path = network_path(arguments)

    # Late: an error in the arguments is reported at once.
    from lenet_jax.machine import use_compilation_cache

    use_compilation_cache()
    from lenet_jax import data
    from lenet_jax.inference.load import load
    from lenet_jax.report import page
    from lenet_jax.report.findings import find

    network = load(path, arguments.member)
    if network.config is None:
        raise UserError(f"{path} is a file of weights; --workdir takes a run, which has a config")
    dataset = data.load(**network.config.data)
    example = _example(arguments, network, dataset)
    findings = find(network, dataset.test, example)
    name = "inspect" if arguments.member is None else f"inspect/member_{arguments.member}"
    out = _make_folder(Path(arguments.out or path / name))
    try:
        draw_figures(out, network, dataset, findings)
    except OSError as error:
        raise write_error(error, out) from error
    record = read_json(path / RECORD) or {}
    report = out / "report.html"
    _write(report, page.report(network, dataset, findings, record))
    _print_summary(network, findings)
    for file in sorted(out.glob("*.png")):
        print(f"  {file}")
    print(f"  {report}")
    return ExitCode.DONE


def draw_figures(out: Path, network: "Network", dataset: "Dataset", findings: "Findings") -> None:
    """Draws the figures as PNG into a folder, and hands them to TensorBoard."""
    import numpy as np

    from lenet_jax.plots import filters as filter_figures
    from lenet_jax.plots import results as figures
    from lenet_jax.report.findings import CONVOLUTIONS, exciting_patches
    from lenet_jax.runs import figures as report

    labels, names, test = dataset.test.labels, network.class_names, dataset.test
    calibration, example = findings.calibration, findings.example
    probabilities = network.probabilities(example.image[None])[0]
    confusion = report.confusion_matrix(labels, findings.predictions, len(names))
    dead = findings.survey.dead()
    notes = {
        name: f"{100 * float((findings.activations[name] == 0).mean()):.0f} % are 0,"
        f" {len(units)} units dead"
        for name, units in dead.items()
    }
    weights = {
        name.removesuffix(".weight"): array
        for name, array in network.state_dict.items()
        if name.endswith(".weight")
    }
    plots: dict[str, Callable[[Path], Any]] = {
        "journey": lambda path: filter_figures.plot_journey(
            example.image, findings.steps, probabilities, names, path, label=example.label
        ),
        "saliency": lambda path: filter_figures.plot_saliency(
            example.image, findings.saliency, path, prediction=names[probabilities.argmax()]
        ),
        "confusion_matrix": lambda path: figures.plot_confusion_matrix(confusion, names, path),
        "mistakes": lambda path: figures.plot_mistakes(
            test.images, labels, findings.predictions, findings.probabilities, names, path
        ),
        "calibration": lambda path: figures.plot_calibration(
            calibration.confidence, calibration.accuracy, calibration.count, calibration.error, path
        ),
        "histograms": lambda path: figures.plot_histograms(
            {"Weights": weights, "Activations": findings.activations}, notes, path
        ),
    }
    for layer in CONVOLUTIONS:
        kernel = np.asarray(getattr(network.model, layer).kernel[...])
        patches = exciting_patches(findings.survey, test.images, layer)
        plots[f"{layer}_filters"] = functools.partial(
            filter_figures.plot_exciting_patches, kernel, patches, layer=layer
        )
    if network.history:
        plots["curves"] = lambda path: figures.plot_curves(
            network.history, path, title=dataset.name
        )
    for name, plot in plots.items():
        plot(out / f"{name}.png")
    _show_in_tensorboard(out, list(plots))


def _show_in_tensorboard(out: Path, names: Sequence[str]) -> None:
    from PIL import Image

    from lenet_jax.storage.tensorboard import Board

    folder = out / "tensorboard"
    for old in folder.glob("events*"):
        old.unlink()  # what an earlier inspection showed
    board = Board(folder, first_step=0)
    for name in names:
        file = out / f"{name}.png"
        with Image.open(file) as image:
            board.add_image(name, file.read_bytes(), *image.size)
    board.close()


def _example(arguments: argparse.Namespace, network: "Network", dataset: "Dataset") -> "Example":
    """The image to follow: the file or the test image asked for, or a clear one."""
    from lenet_jax.report.findings import Example
    from lenet_jax.runs import figures as report

    if arguments.image is not None:
        return Example(network.prepare(arguments.image)[0], f"The picture {arguments.image}")
    index, test = arguments.index, dataset.test
    if index is None:
        probabilities = network.probabilities(test.images)
        index = report.example_index(test.labels, probabilities.argmax(1), probabilities)
    if not 0 <= index < len(test):
        raise UserError(f"--index={index}: there are the test images 0 to {len(test) - 1}")
    name = network.class_names[test.labels[index]]
    return Example(test.images[index], f"Test image {index} of {dataset.name}, class {name}")


def _make_folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(error, path) from error
    return path


def _print_summary(network: "Network", findings: "Findings") -> None:
    count, wrong = len(findings.test), len(findings.mistakes())
    accuracy = 100 * (1 - wrong / count)
    print(f"{network.source}: {accuracy:.2f} % right, {wrong:,} of {count:,} test images wrong")
    print(f"calibration error {100 * findings.calibration.error:.2f} %")
    dead = {name: len(units) for name, units in findings.survey.dead().items() if len(units)}
    counts = ", ".join(f"{number} in {name}" for name, number in dead.items())
    print(f"dead ReLUs: {counts or 'none'}")


def _compare(arguments: argparse.Namespace) -> int:
    others = (arguments.workdir, arguments.member, arguments.image, arguments.index)
    if any(value is not None for value in others):
        raise UserError("--compare=DIR,DIR takes runs; it goes with no flag but --out")
    names = [name for name in arguments.compare.split(",") if name]
    if len(names) < 2:
        raise UserError("--compare takes two or more runs: --compare=runs/first,runs/second")
    places = [_place(name) for name in names]

    from lenet_jax.inference.load import load  # late, as above
    from lenet_jax.report.compare import compare

    page, lines = compare([load(path, member) for path, member in places])
    out = _make_folder(Path(arguments.out or places[0][0] / "inspect")) / "compare.html"
    _write(out, page)
    for line in lines:
        print(line)
    print(f"  {out}")
    return ExitCode.DONE


def _place(name: str) -> tuple[Path, int | None]:
    """The directory of a run, or, of `SWEEP@7`, a sweep's and the number of its member."""
    path, member = Path(name).expanduser(), None
    if not path.is_dir():
        folder, _, number = name.rpartition("@")
        if not (folder and number.isdecimal() and Path(folder).expanduser().is_dir()):
            raise UserError(f"there is no run {path}")
        path, member = Path(folder).expanduser(), int(number)
    return path, member


def _write(file: Path, text: str) -> None:
    try:
        write_atomically(file, text)
    except OSError as error:
        raise write_error(error, file) from error


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
