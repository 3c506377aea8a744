"""The command of `torch_bridge`: inspect, convert and evaluate files of weights."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Int32, UInt8

from lenet_jax import data
from lenet_jax.data.dataset import FITS
from lenet_jax.errors import UserError, WriteError
from lenet_jax.inference import load as trained
from lenet_jax.inference import state_dict as torch_bridge
from lenet_jax.nn.lenet import LeNet
from lenet_jax.storage.weights import printable
from lenet_jax.terminal.arguments import Parser

PROGRAM = "python -m lenet_jax.torch_bridge"
EVAL_BATCH = 500  # images per forward pass
MISTAKE, UNWRITABLE = 2, 4


def main(argv: Sequence[str], program: str = PROGRAM) -> int:
    """Runs a command: the exit code.

    Args:
      argv: its arguments.
      program: what starts it, for the help.
    """
    try:
        arguments = _parser(program).parse_args(argv)
        arguments.function(arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        return UNWRITABLE if isinstance(error, WriteError) else MISTAKE
    return 0


def count_hits(
    model: LeNet,
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int32[np.ndarray, " n"],
    mean: Sequence[float],
    std: Sequence[float],
) -> int:
    """How many images the network gives its largest logit to the label's class."""
    graphdef, params = nnx.split(model)
    shift, scale = np.array(mean, np.float32), np.array(std, np.float32)

    @jax.jit
    def predict(images: jax.Array) -> jax.Array:
        return jnp.argmax(nnx.merge(graphdef, params)(images), axis=-1)

    hits = 0
    for start in range(0, len(labels), EVAL_BATCH):
        batch = images[start : start + EVAL_BATCH].astype(np.float32)
        predictions = np.asarray(predict(jnp.asarray((batch - shift) / scale)))
        hits += int(np.sum(predictions == labels[start : start + EVAL_BATCH]))
    return hits


def _load(arguments: argparse.Namespace) -> tuple[LeNet, dict[str, str]]:
    """The network that the command line names, and the notes beside it."""
    if arguments.member is None and not (Path(arguments.file) / "sweep.json").is_file():
        return torch_bridge.load_model(arguments.file)
    network = trained.load(arguments.file, arguments.member)
    return network.model, dict(network.notes)


def _inspect(arguments: argparse.Namespace) -> None:
    model, notes = _load(arguments)
    state_dict = torch_bridge.to_state_dict(nnx.state(model, nnx.Param))
    sizes = torch_bridge.infer_sizes(state_dict)
    size, channels = sizes.pop("image_size"), sizes.pop("in_channels")
    print(f"{arguments.file}: a LeNet for images of {size}×{size}×{channels}")
    for key, value in sizes.items():
        print(f"  {key}: {value}")
    for name, array in state_dict.items():
        print(f"  {name:<12} {array.shape!s:<16} {array.size:>9,}")
    print(f"  {'parameters':<29} {sum(array.size for array in state_dict.values()):>9,}")
    for key, note in notes.items():
        lines = note.splitlines()
        print(f"  {printable(key)}: {printable(', '.join(lines), 400)}")


def _convert(arguments: argparse.Namespace) -> None:
    out = Path(arguments.out)
    if out.suffix != ".safetensors":
        raise UserError(
            f"{out}: the name must end in .safetensors\n"
            f"PyTorch reads that: network.load_state_dict(safetensors.torch.load_file('{out}'))"
        )
    if out.exists():
        raise UserError(f"{out} exists already; remove it, or choose another name")
    model, notes = _load(arguments)
    notes |= _given_pixel_notes(arguments)
    if "mean" in notes or "std" in notes:
        torch_bridge.pixel_statistics(notes, model.conv1.in_features, arguments.file)
    torch_bridge.save(out, nnx.state(model, nnx.Param), notes)
    print(out)


def _evaluate(arguments: argparse.Namespace) -> None:
    model, notes = _load(arguments)
    notes |= _given_pixel_notes(arguments)
    sizes = torch_bridge.infer_sizes(torch_bridge.to_state_dict(nnx.state(model, nnx.Param)))
    mean, std = torch_bridge.pixel_statistics(notes, sizes["in_channels"], arguments.file)
    dataset = data.load(
        arguments.data,
        data_dir=arguments.data_dir,
        image_size=sizes["image_size"],
        fit=arguments.fit,
        valid_examples=0,
    )
    asked = sizes["in_channels"], sizes["num_classes"]
    given = dataset.image_shape[2], dataset.num_classes
    if asked != given:
        raise UserError(
            f"{arguments.file} is for {asked[0]} channels and {asked[1]} classes,"
            f" but the data {dataset.name!r} has {given[0]} and {given[1]}"
        )
    if notes.get("classes", "\n".join(dataset.class_names)) != "\n".join(dataset.class_names):
        raise UserError(
            f"{arguments.file} was trained on other classes than those of {dataset.name!r}:"
            f" {printable(', '.join(notes['classes'].splitlines()))}"
        )
    images, labels = dataset.test.images, dataset.test.labels
    hits = count_hits(model, images, labels, mean, std)
    print(
        f"{arguments.file} on {dataset.name}: test accuracy {hits / len(labels):.2%},"
        f" {len(labels) - hits:,} of {len(labels):,} images wrong"
    )


def _given_pixel_notes(arguments: argparse.Namespace) -> dict[str, str]:
    """The notes that --mean and --std ask for; they are of pixels in 0..1."""
    mean, std = arguments.mean, arguments.std
    if mean is None and std is None:
        return {}
    if mean is None or std is None:
        raise UserError("--mean and --std go together")
    if not all(0 <= value <= 1 for value in mean) or not all(0 < value <= 1 for value in std):
        raise UserError(
            "--mean must be in [0, 1] and --std in (0, 1], as transforms.Normalize has them"
        )
    return torch_bridge.pixel_notes([255 * value for value in mean], [255 * value for value in std])


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not X or X,Y,Z") from error


def _parser(program: str) -> argparse.ArgumentParser:
    parser = Parser(
        prog=program,
        description="Look at, convert and test LeNets that PyTorch or this package trained.",
        epilog="FILE is .safetensors, .pt or .pth (these two need torch), a run directory, or, with"
        " --member, a sweep's. Its entries are conv1.weight, conv1.bias, conv2, fc1, fc2, fc3; the"
        " sizes are read off them.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, function: Callable[[argparse.Namespace], None], meaning: str
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=meaning, description=meaning, allow_abbrev=False)
        command.add_argument(
            "file", metavar="FILE", help=".safetensors, .pt, .pth, a run or a sweep"
        )
        command.add_argument("--member", type=int, metavar="N", help="which network of a sweep")
        command.set_defaults(function=function)
        return command

    def add_pixels(command: argparse.ArgumentParser) -> None:
        for name, meaning in (("mean", "mean"), ("std", "standard deviation")):
            command.add_argument(
                f"--{name}",
                type=_numbers,
                metavar="X[,Y,Z]",
                help=f"{meaning} of a pixel per channel, as in transforms.Normalize (pixels in "
                "0..1); default: what the file's notes say",
            )

    add("inspect", _inspect, "check that FILE is a LeNet; print its sizes, entries and notes")
    convert = add("convert", _convert, "check FILE and write it as safetensors, with its notes")
    convert.add_argument("out", metavar="OUT.safetensors", help="a new file")
    add_pixels(convert)
    evaluate = add("evaluate", _evaluate, "print the accuracy of FILE on every test image")
    evaluate.epilog = "Images are fitted first and normalised then: transforms.Pad, then Normalize."
    evaluate.add_argument(
        "--data", default="mnist", help="`mnist`, a TFDS name, or a folder of idx files"
    )
    evaluate.add_argument("--data_dir", help="prepared TFDS datasets")
    evaluate.add_argument(
        "--fit", default="pad", choices=FITS, help="how images come to the network's size"
    )
    add_pixels(evaluate)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
