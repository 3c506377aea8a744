"""Shows what a network has learned: `python -m lenet_jax.inspect --workdir=RUN`.

Writes figures as PNG and to TensorBoard, and two self-contained pages: `report.html`, and, of a
LeNet, `network.html`, in which it reads what one draws. With `--compare=RUN,RUN,…`, writes a page
that compares several runs.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lenet_jax.errors import (
    ExitCode,
    UserError,
    counted,
    expand,
    is_url,
    print_remarks,
    run_program,
    show,
    writing,
)
from lenet_jax.network_name import NetworkName, parse
from lenet_jax.reading import read_json
from lenet_jax.storage.fetching import fetch
from lenet_jax.storage.files import check_replaceable, refuse_link, write_atomically
from lenet_jax.storage.formats import RunRecord
from lenet_jax.storage.run_dir import RECORD, TENSORBOARD
from lenet_jax.terminal.arguments import (
    add_force,
    description,
    find_network,
    make_parser,
    require_out,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lenet_jax.data.dataset import Dataset
    from lenet_jax.inference.network import Network
    from lenet_jax.report.findings import Example, Findings

PROGRAM = "python -m lenet_jax.inspect"
LIVE = "network.html"
EVENTS = ".inspect"  # how the names of its event files end
DESCRIPTION = (
    "Show what a trained network has learned, as figures and on one page: what excites its"
    " filters, one image layer by layer, its mistakes, and its calibration."
)


def main(argv: Sequence[str], program: str = PROGRAM) -> int:
    """Runs the command and returns its exit code.

    Args:
      argv: its arguments.
      program: the program's name, for the help.
    """
    parser = make_parser(program, DESCRIPTION)
    parser.add_argument(
        "--data", default="mnist", help="with --weights: what to test on (default: %(default)s)"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--index",
        type=int,
        metavar="N",
        help="show the activations of test image N (from 0)",
    )
    which.add_argument("--image", metavar="FILE", help="show the activations of a PNG or JPEG file")
    parser.add_argument(
        "--compare",
        metavar="DIR,DIR",
        help="compare these runs, or members such as SWEEP:7, instead of --workdir",
    )
    parser.add_argument(
        "--corruptions",
        action="store_true",
        help="also test on corrupted images, the fifteen of MNIST-C, which takes some seconds",
    )
    parser.add_argument(
        "--format",
        default="png",
        metavar="FORMAT,…",
        help="of the figures: png, svg, pdf, or several of them (default: %(default)s)",
    )
    parser.add_argument("--out", metavar="DIR", help="default: DIR/inspect")
    add_force(parser)
    arguments = parser.parse_args(argv)
    if arguments.compare is not None:
        return _compare(arguments)
    name = find_network(arguments, fetch)
    path = expand(name.path)
    from lenet_jax.plots.output import parse_formats, png, render

    suffixes = parse_formats(arguments.format)

    # Late: an error in the arguments is reported at once.
    from lenet_jax.device import require_device
    from lenet_jax.machine import use_compilation_cache

    use_compilation_cache()
    require_device()
    from lenet_jax.inference.description import Description
    from lenet_jax.inference.load import load
    from lenet_jax.report import page
    from lenet_jax.report.corruptions import find_corrupted
    from lenet_jax.report.figures import draw_figures
    from lenet_jax.report.findings import find
    from lenet_jax.report.live import live_page, why_not

    remarks: list[str] = []
    given = Description(**description(arguments))
    network = load(path, name.member, given, remarks.append, name.epoch)
    if network.config is None and arguments.weights is None:
        raise UserError(
            f"{path} is a file, see --weights; --workdir must be a run, which has a config"
        )
    changed: list[str] = []
    dataset = _load_data(arguments, network, changed.append)
    remarks += changed
    if (network.channels, len(network.class_names)) != (
        dataset.image_shape[2],
        dataset.num_classes,
    ):
        raise UserError(f"{path} is for other data than {dataset.name!r}: see --data")
    example = _example(arguments, network, dataset)
    folders = [path / "inspect" if path.is_dir() else path.with_name(f"inspect_{path.stem}")]
    if name.member is not None:
        folders.append(folders[0] / name.label)
    out = _make_folder(arguments.out, *folders)  # before what takes seconds
    findings = find(network, dataset.test, example)
    if arguments.corruptions:
        findings = replace(findings, corrupted=find_corrupted(network, dataset.test))
    figures = draw_figures(network, dataset, findings)
    record = read_json(path / RECORD, RunRecord) or {}
    files = {
        f"{name}{suffix}": render(figure, suffix, PROGRAM)
        for name, figure in figures.items()
        for suffix in suffixes
    }
    reason = why_not(network)
    live = None if reason else LIVE
    report = page.report(network, dataset, findings, figures, record, changed, live)
    pages = {"report.html": report}
    if live:
        pages[live] = live_page(network, dataset, findings.logits)
    else:
        remarks.append(f"{LIVE} is left out: {reason}")
    with writing(out):
        _write(out, {**files, **pages}, force=arguments.force)
        images = {name: files.get(f"{name}.png") or png(f) for name, f in figures.items()}
        _write_events(out / TENSORBOARD, figures, images)
    _print_summary(network, findings)
    print(f"{counted(len(figures), 'figure')} in {out}, and")
    for file in pages:
        print(f"  {out / file}")
    print_remarks([*findings.left_out, *remarks])
    return ExitCode.DONE


def _load_data(
    arguments: argparse.Namespace, network: "Network", say: Callable[[str], None]
) -> "Dataset":
    """The data that the network was trained on; of a file of weights, those of --data."""
    from lenet_jax import data

    if network.config is not None:
        return network.load_data(say)
    size, fit = network.image_size, network.form.fit
    return data.load(arguments.data, image_size=size, fit=fit, valid_examples=1)


def _write(out: Path, contents: Mapping[str, str | bytes], *, force: bool) -> None:
    """Writes files to a folder; unless forced, only over what this command wrote."""
    for name, content in contents.items():
        check_replaceable(out / name, content, force=force, mark=PROGRAM.encode())
    for name, content in contents.items():
        write_atomically(out / name, content)


def _write_events(
    folder: Path, figures: "Mapping[str, Figure]", images: Mapping[str, bytes]
) -> None:
    """Writes the figures for TensorBoard, in place of those of an earlier inspection."""
    from lenet_jax.storage.tensorboard import EventFile

    old = list(folder.glob(f"events*{EVENTS}"))
    events = EventFile(folder, suffix=EVENTS)
    for (name, figure), content in zip(figures.items(), images.values(), strict=True):
        events.add_image(name, content, *figure.canvas.get_width_height())
    events.close()
    for file in old:
        file.unlink()


def _example(arguments: argparse.Namespace, network: "Network", dataset: "Dataset") -> "Example":
    """The image whose activations are shown: as requested, or a clearly classified test image."""
    from lenet_jax.plots.results import example_index
    from lenet_jax.report.findings import Example

    if arguments.image is not None:
        return Example(network.prepare(arguments.image)[0], f"The picture {arguments.image}")
    index, test = arguments.index, dataset.test
    if index is None:
        probabilities = network.probabilities(test.images)
        index = example_index(test.labels, probabilities.argmax(1), probabilities)
    if not 0 <= index < len(test):
        raise UserError(f"--index={index}: test images are numbered 0 to {len(test) - 1}")
    true = int(test.labels[index])
    name = network.class_names[true]
    return Example(test.images[index], f"Test image {index} of {dataset.name}, class {name}", true)


def _make_folder(out: str | None, *default: Path) -> Path:
    """The folder to write to, created: `out`, or the last by default, of which none is a link."""
    path = expand(out or default[-1], "--out=")
    with writing(path):
        for folder in () if out else default:
            refuse_link(folder)
        path.mkdir(parents=True, exist_ok=True)
    return path


def _print_summary(network: "Network", findings: "Findings") -> None:
    count, wrong = len(findings.test), len(findings.mistakes())
    accuracy = 100 * (1 - wrong / count)
    print(network.source)
    print(f"test accuracy {accuracy:.2f} %, {wrong:,} of {count:,} images wrong")
    print(f"calibration error {100 * findings.calibration.error:.2f} %")
    if findings.survey.active:
        dead = {name: len(units) for name, units in findings.survey.dead().items() if len(units)}
        counts = ", ".join(f"{number} in {name}" for name, number in dead.items())
        print(f"dead ReLUs: {counts or 'none'}")
    if findings.corrupted is not None:
        robustness = findings.corrupted.robustness
        worst = robustness.worst
        print(
            f"mean corruption error {100 * robustness.mean_error:.2f} % over"
            f" {len(robustness.corrupted)} corruptions, worst:"
            f" {worst} {100 * robustness.corrupted[worst]:.2f} %"
        )


def _compare(arguments: argparse.Namespace) -> int:
    others = (
        arguments.workdir,
        arguments.weights,
        arguments.member,
        arguments.image,
        arguments.index,
        arguments.corruptions or None,
        arguments.format if arguments.format != "png" else None,
    )
    if any(value is not None for value in others):
        raise UserError("--compare=DIR,DIR cannot be combined with other flags than --out")
    names = [name for name in arguments.compare.split(",") if name]
    if len(names) < 2:
        raise UserError("--compare takes two or more runs: --compare=runs/first,runs/second")
    if any(map(is_url, names)):
        require_out(arguments)
    sources = [_source(name) for name in names]

    from lenet_jax.device import require_device  # late, as above

    require_device()
    from lenet_jax.inference.load import load, load_results
    from lenet_jax.report.compare import answer, compare

    results = [load_results(Path(path), member, epoch) for path, member, epoch in sources]
    answers, remark = None, ""
    try:
        answers = answer([load(path, member, epoch=epoch) for path, member, epoch in sources])
    except UserError as error:  # such as of a class whose file would run
        remark = f"their answers are not compared: {str(error).splitlines()[0]}"
    page, lines = compare(results, answers)
    out = _make_folder(arguments.out, Path(sources[0].path, "inspect"))
    with writing(out):
        _write(out, {"compare.html": page}, force=arguments.force)
    for line in lines:
        print(line)
    print(f"  {out / 'compare.html'}")
    print_remarks([remark] if remark else [])
    return ExitCode.DONE


def _source(name: str) -> NetworkName:
    """A run directory, or a sweep's member, where it is."""
    found = parse(name)
    path = expand(fetch(found.path))
    if not path.is_dir():
        raise UserError(f"{show(name)} is not a directory")
    return found._replace(path=str(path))


if __name__ == "__main__":
    run_program(main, sys.argv[1:])
