"""Inspects, converts and evaluates weights files: `python -m lenet_jax.torch_bridge COMMAND`.

python -m lenet_jax.torch_bridge inspect network.pt
python -m lenet_jax.torch_bridge convert network.pt first.safetensors --mean=0.1307 --std=0.3081
python -m lenet_jax.torch_bridge evaluate first.safetensors --data=mnist
python -m lenet_jax.torch_bridge evaluate network.pt --try
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from lenet_jax import data
from lenet_jax.device import require_device
from lenet_jax.errors import ExitCode, UserError, expand, print_remarks, printable, run_program
from lenet_jax.storage.run_dir import CONFIG
from lenet_jax.terminal.arguments import Parser, add_description, add_force, description

if TYPE_CHECKING:
    from lenet_jax.nn.lenet import LeNet
PROGRAM = "python -m lenet_jax.torch_bridge"


def main(argv: Sequence[str], program: str = PROGRAM) -> int:
    """Runs the command and returns its exit code.

    Args:
      argv: its arguments.
      program: the program's name, for the help.
    """
    arguments = _parser(program).parse_args(argv)
    require_device()
    arguments.function(arguments)
    return ExitCode.DONE


def _inspect(arguments: argparse.Namespace) -> None:
    from flax import nnx  # late: errors in the arguments are reported at once

    from lenet_jax.inference.description import as_flags, pixel_statistics
    from lenet_jax.inference.state_dict import infer_sizes, to_state_dict

    model, metadata, remarks = _load(arguments)
    state_dict = to_state_dict(nnx.state(model, nnx.Param))
    sizes = infer_sizes(state_dict, padding=model.padding)
    size, channels = sizes.pop("image_size"), sizes.pop("in_channels")
    print(f"{arguments.file}: a LeNet for images of {size}×{size}×{channels}")
    for key, value in sizes.items():
        print(f"  {key}: {value}")
    for name, array in state_dict.items():
        print(f"  {name:<12} {array.shape!s:<16} {array.size:>9,}")
    print(f"  {'parameters':<29} {sum(array.size for array in state_dict.values()):>9,}")
    for key, value in metadata.items():
        print(f"  {printable(key)}: {printable(', '.join(value.splitlines()), 400)}")
    if {"mean", "std"} <= set(metadata):
        mean, std = pixel_statistics(metadata, channels, arguments.file)
        print(f"  as flags, of pixels in 0..1: {as_flags(mean, std)}")
    print_remarks(remarks)


def _convert(arguments: argparse.Namespace) -> None:
    out = expand(arguments.out)
    if out.suffix != ".safetensors":
        raise UserError(
            f"{out}: the name must end in .safetensors\n"
            f"Load it in PyTorch with network.load_state_dict(safetensors.torch.load_file('{out}'))"
        )
    from flax import nnx  # late, as above

    from lenet_jax.inference.description import pixel_statistics
    from lenet_jax.inference.load import save_params

    model, metadata, remarks = _load(arguments)
    if "mean" in metadata or "std" in metadata:
        pixel_statistics(metadata, model.conv1.in_features, arguments.file)
    save_params(out, nnx.state(model, nnx.Param), metadata, force=arguments.force)
    print(out)
    print_remarks(remarks)


def _evaluate(arguments: argparse.Namespace) -> None:
    from lenet_jax.inference.description import pixel_statistics
    from lenet_jax.inference.load import load
    from lenet_jax.inference.network import Network  # late, as above
    from lenet_jax.inference.state_dict import read_form

    if getattr(arguments, "try"):
        _try_all(arguments)
        return
    model, metadata, remarks = _load(arguments)
    mean, std = pixel_statistics(metadata, model.conv1.in_features, arguments.file)
    network = Network(model, tuple(mean), tuple(std), (), arguments.file)
    form, _ = read_form(metadata, network.channels, network.image_size, arguments.file)
    path, trained = expand(arguments.file), None
    if (path / CONFIG).is_file() and not (arguments.fit or arguments.data_dir):
        trained = load(path, arguments.member, say=lambda _: None)
    if trained and trained.config is not None and trained.config.data.name == arguments.data:
        dataset = trained.load_data(remarks.append)
    else:
        dataset = data.load(
            arguments.data,
            data_dir=arguments.data_dir,
            image_size=network.image_size,
            fit=arguments.fit or form.fit,
            valid_examples=0,
        )
    _check_data(arguments.file, model, metadata, dataset)
    labels = dataset.test.labels
    correct = int((network.predict(dataset.test.images) == labels).sum())
    print(
        f"{arguments.file} on {dataset.name}: test accuracy {correct / len(labels):.2%},"
        f" {len(labels) - correct:,} of {len(labels):,} images wrong"
    )
    print_remarks(remarks)


def _try_all(arguments: argparse.Namespace) -> None:
    """Prints the accuracy on validation images of all networks that the weights may be of."""
    from lenet_jax.inference.description import Description  # late, as above
    from lenet_jax.inference.trials import EXAMPLES, try_all

    model, metadata, remarks = _load(arguments, unsaid=False)

    def load(image_size: int, fit: str) -> data.Dataset:
        dataset = data.load(
            arguments.data,
            data_dir=arguments.data_dir,
            image_size=image_size,
            fit=fit,
            valid_examples=EXAMPLES,
        )
        _check_data(arguments.file, model, metadata, dataset)
        return dataset

    best, count = try_all(model, Description(**description(arguments)), load)
    tied = sum(trial.tied for trial in best)
    ties = f"; the {tied} with ≈ are not distinguishable, most common first" if tied > 1 else ""
    print(
        f"{arguments.file} in {count} networks, on {EXAMPLES:,} validation images of"
        f" {arguments.data}; the best {len(best)}, with accuracy and loss{ties}:"
    )
    for trial in best:
        mark = "≈" if trial.tied and tied > 1 else " "
        print(f"{mark} {trial.accuracy:7.2%}  {trial.loss:7.4f}  {trial.flags()}")
    print_remarks(remarks)


def _check_data(
    file: str, model: "LeNet", metadata: Mapping[str, str], dataset: data.Dataset
) -> None:
    """Raises UserError unless the data have the channels and classes of the network."""
    expected = model.conv1.in_features, model.fc3.out_features
    given = dataset.image_shape[2], dataset.num_classes
    if expected != given:
        raise UserError(
            f"{file} is for {expected[0]} channels and {expected[1]} classes,"
            f" but the data {dataset.name!r} has {given[0]} and {given[1]}"
        )
    classes = metadata.get("classes", "\n".join(dataset.class_names)).splitlines()
    if classes != list(dataset.class_names):
        raise UserError(
            f"{file} was trained on other classes than those of {dataset.name!r}:"
            f" {printable(', '.join(classes))}"
        )


def _load(
    arguments: argparse.Namespace, *, unsaid: bool = True
) -> tuple["LeNet", dict[str, str], list[str]]:
    """The model, the metadata with what the flags say, and remarks to print in the end."""
    from lenet_jax.inference import description as descriptions  # late, as above
    from lenet_jax.inference.load import load_model

    remarks: list[str] = []
    given = descriptions.Description(**description(arguments))
    model, metadata = load_model(arguments.file, arguments.member, given, remarks.append)
    if unsaid and not expand(arguments.file).is_dir():
        remark = descriptions.unsaid(metadata, arguments.file)
        remarks += [remark] if remark else []
    return model, metadata, remarks


def _parser(program: str) -> argparse.ArgumentParser:
    parser = Parser(
        prog=program,
        description="Inspect, convert and evaluate LeNets trained by PyTorch or this package.",
        epilog="FILE is a file of safetensors or PyTorch (needs torch), a run directory, or, with"
        " --member, a sweep's. Its entries are conv1.weight, conv1.bias, conv2, fc1, fc2, fc3, or"
        " others of such shapes; the sizes are inferred from them.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, function: Callable[[argparse.Namespace], None], meaning: str
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=meaning, description=meaning, allow_abbrev=False)
        command.add_argument(
            "file", metavar="FILE", help="of safetensors or PyTorch, a run or a sweep"
        )
        command.add_argument("--member", type=int, metavar="N", help="member of a sweep")
        add_description(command)
        command.set_defaults(function=function)
        return command

    add("inspect", _inspect, "check that FILE is a LeNet; print its sizes, entries and metadata")
    convert = add("convert", _convert, "check FILE and write it as safetensors, with its metadata")
    convert.add_argument("out", metavar="OUT.safetensors", help="a new file")
    add_force(convert)
    evaluate = add("evaluate", _evaluate, "print the accuracy of FILE on the whole test set")
    evaluate.epilog = "Images are fitted first, then normalised: transforms.Pad, then Normalize."
    evaluate.add_argument("--data", default="mnist", help="`mnist`, a path, or a TFDS name")
    evaluate.add_argument("--data_dir", help="prepared TFDS datasets")
    evaluate.add_argument(
        "--try",
        action="store_true",
        help="try all networks that the weights may be of, on validation images",
    )
    return parser


if __name__ == "__main__":
    run_program(main, sys.argv[1:])
