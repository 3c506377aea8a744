"""Inspects, converts and evaluates weights files: `python -m lenet_jax.torch_bridge COMMAND`.

python -m lenet_jax.torch_bridge inspect network.pt
python -m lenet_jax.torch_bridge convert network.pt first.safetensors --mean=0.1307 --std=0.3081
python -m lenet_jax.torch_bridge evaluate first.safetensors --data=mnist
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lenet_jax import data
from lenet_jax.data.dataset import FITS
from lenet_jax.errors import ExitCode, UserError, printable, run_command
from lenet_jax.terminal.arguments import Parser

PROGRAM = "python -m lenet_jax.torch_bridge"


def main(argv: Sequence[str], program: str = PROGRAM) -> int:
    """Runs the command and returns its exit code.

    Args:
      argv: its arguments.
      program: the program's name, for the help.
    """
    arguments = _parser(program).parse_args(argv)
    arguments.function(arguments)
    return ExitCode.DONE


def _inspect(arguments: argparse.Namespace) -> None:
    from flax import nnx  # late: errors in the arguments are reported at once

    from lenet_jax.inference.load import load_model
    from lenet_jax.inference.state_dict import infer_sizes, to_state_dict

    model, metadata = load_model(arguments.file, arguments.member)
    state_dict = to_state_dict(nnx.state(model, nnx.Param))
    sizes = infer_sizes(state_dict)
    size, channels = sizes.pop("image_size"), sizes.pop("in_channels")
    print(f"{arguments.file}: a LeNet for images of {size}×{size}×{channels}")
    for key, value in sizes.items():
        print(f"  {key}: {value}")
    for name, array in state_dict.items():
        print(f"  {name:<12} {array.shape!s:<16} {array.size:>9,}")
    print(f"  {'parameters':<29} {sum(array.size for array in state_dict.values()):>9,}")
    for key, value in metadata.items():
        print(f"  {printable(key)}: {printable(', '.join(value.splitlines()), 400)}")


def _convert(arguments: argparse.Namespace) -> None:
    out = Path(arguments.out)
    if out.suffix != ".safetensors":
        raise UserError(
            f"{out}: the name must end in .safetensors\n"
            f"Load it in PyTorch with network.load_state_dict(safetensors.torch.load_file('{out}'))"
        )
    if out.exists():
        raise UserError(f"{out} already exists; remove it, or choose another name")
    from flax import nnx  # late, as above

    from lenet_jax.inference.load import load_model, save_params
    from lenet_jax.inference.state_dict import pixel_statistics

    model, metadata = load_model(arguments.file, arguments.member)
    metadata |= _given_metadata(arguments)
    if "mean" in metadata or "std" in metadata:
        pixel_statistics(metadata, model.conv1.in_features, arguments.file)
    save_params(out, nnx.state(model, nnx.Param), metadata)
    print(out)


def _evaluate(arguments: argparse.Namespace) -> None:
    from lenet_jax.inference.load import load_model  # late, as above
    from lenet_jax.inference.network import Network
    from lenet_jax.inference.state_dict import pixel_statistics

    model, metadata = load_model(arguments.file, arguments.member)
    metadata |= _given_metadata(arguments)
    mean, std = pixel_statistics(metadata, model.conv1.in_features, arguments.file)
    network = Network(model, tuple(mean), tuple(std), (), arguments.file)
    dataset = data.load(
        arguments.data,
        data_dir=arguments.data_dir,
        image_size=network.image_size,
        fit=arguments.fit,
        valid_examples=0,
    )
    expected = network.channels, model.fc3.out_features
    given = dataset.image_shape[2], dataset.num_classes
    if expected != given:
        raise UserError(
            f"{arguments.file} is for {expected[0]} channels and {expected[1]} classes,"
            f" but the data {dataset.name!r} has {given[0]} and {given[1]}"
        )
    classes = metadata.get("classes", "\n".join(dataset.class_names)).splitlines()
    if classes != list(dataset.class_names):
        raise UserError(
            f"{arguments.file} was trained on other classes than those of {dataset.name!r}:"
            f" {printable(', '.join(classes))}"
        )
    labels = dataset.test.labels
    correct = int((network.predict(dataset.test.images) == labels).sum())
    print(
        f"{arguments.file} on {dataset.name}: test accuracy {correct / len(labels):.2%},"
        f" {len(labels) - correct:,} of {len(labels):,} images wrong"
    )


def _given_metadata(arguments: argparse.Namespace) -> dict[str, str]:
    """The metadata for --mean and --std, which are given for pixels in 0..1."""
    mean, std = arguments.mean, arguments.std
    if mean is None and std is None:
        return {}
    if mean is None or std is None:
        raise UserError("--mean and --std must be given together")
    if not all(0 <= value <= 1 for value in mean) or not all(0 < value <= 1 for value in std):
        raise UserError("--mean must be in [0, 1] and --std in (0, 1], as in transforms.Normalize")
    from lenet_jax.inference.state_dict import make_metadata  # late, as above

    return make_metadata([255 * value for value in mean], [255 * value for value in std])


def _parse_floats(text: str) -> list[float]:
    try:
        return [float(item) for item in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not X or X,Y,Z") from error


def _parser(program: str) -> argparse.ArgumentParser:
    parser = Parser(
        prog=program,
        description="Inspect, convert and evaluate LeNets trained by PyTorch or this package.",
        epilog="FILE is .safetensors, .pt or .pth (the last two need torch), a run directory,"
        " or, with --member, a sweep's. Its entries are conv1.weight, conv1.bias, conv2, fc1, fc2,"
        " fc3; the sizes are inferred from them.",
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
        command.add_argument("--member", type=int, metavar="N", help="member of a sweep")
        command.set_defaults(function=function)
        return command

    def add_pixels(command: argparse.ArgumentParser) -> None:
        for name, meaning in (("mean", "mean"), ("std", "standard deviation")):
            command.add_argument(
                f"--{name}",
                type=_parse_floats,
                metavar="X[,Y,Z]",
                help=f"{meaning} of a pixel per channel, as in transforms.Normalize (pixels in "
                "0..1); default: from the file's metadata",
            )

    add("inspect", _inspect, "check that FILE is a LeNet; print its sizes, entries and metadata")
    convert = add("convert", _convert, "check FILE and write it as safetensors, with its metadata")
    convert.add_argument("out", metavar="OUT.safetensors", help="a new file")
    add_pixels(convert)
    evaluate = add("evaluate", _evaluate, "print the accuracy of FILE on the whole test set")
    evaluate.epilog = "Images are fitted first, then normalised: transforms.Pad, then Normalize."
    evaluate.add_argument(
        "--data", default="mnist", help="`mnist`, a TFDS name, or a folder of idx files"
    )
    evaluate.add_argument("--data_dir", help="prepared TFDS datasets")
    evaluate.add_argument(
        "--fit", default="pad", choices=FITS, help="how images are fitted to the network's size"
    )
    add_pixels(evaluate)
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
