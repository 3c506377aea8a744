"""The arguments of commands that read a trained network."""

import argparse
import shlex
from collections.abc import Callable
from typing import Any, NoReturn

from lenet_jax.errors import UserError, expand, is_url, printable, show
from lenet_jax.machine import command_line
from lenet_jax.network_name import NetworkName, parse


class Parser(argparse.ArgumentParser):
    """Reports errors as the rest of the package does."""

    def print_help(self, file: Any = None) -> None:
        """Prints the help; argparse would ignore that nobody can read it.

        Raises:
          OSError: the output is closed, or its disk is full.
        """
        print(self.format_help(), end="", file=file)

    def error(self, message: str) -> NoReturn:
        """Raises what argparse would print.

        Raises:
          UserError: always.
        """
        command = shlex.join(command_line(self.prog, ["--help"]))
        raise UserError(f"{printable(message)}\nSee {command}.")


def make_parser(program: str, description: str, *, weights: bool = True) -> Parser:
    """A parser with the flags that name a trained network: --workdir, --weights, --member.

    Args:
      program: name of the command in its help: `python -m lenet_jax.predict`.
      description: what the command does.
      weights: whether to add --weights.
    """
    parser = Parser(program, description=description, allow_abbrev=False)
    parser.add_argument(
        "--workdir", metavar="DIR", help="a run directory, or a sweep's member: SWEEP:7"
    )
    if weights:
        parser.add_argument(
            "--weights", metavar="FILE", help="a file of safetensors or PyTorch (.pt, .ckpt, …)"
        )
    parser.add_argument("--member", type=int, metavar="N", help="of a sweep, the same as SWEEP:N")
    add_description(parser)
    return parser


def add_description(parser: argparse.ArgumentParser) -> None:
    """Adds the flags for what a weights file does not say, see `inference.description`."""
    group = parser.add_argument_group("what a weights file does not say")
    group.add_argument(
        "--activation", metavar="NAME", help="relu (default), tanh, sigmoid, leaky_relu, elu, …"
    )
    group.add_argument("--pool", metavar="NAME", help="max (default) or avg")
    group.add_argument(
        "--padding", type=int, metavar="N", help="of conv1, as Conv2d(padding=N); default: 0"
    )
    for name, meaning in (("mean", "mean"), ("std", "standard deviation")):
        group.add_argument(
            f"--{name}",
            type=_parse_floats,
            metavar="X[,Y,Z]",
            help=f"{meaning} of a pixel per channel, as in transforms.Normalize (pixels in 0..1);"
            " default: from the file's metadata",
        )
    group.add_argument(
        "--fit",
        choices=("pad", "resize"),
        help="how images are brought to the network's size; default: pad, resize in colour",
    )
    group.add_argument(
        "--map",
        type=_parse_map,
        metavar="LAYER=NAME,…",
        help="what layers are called in the file: conv1=features.0,fc1=classifier.1",
    )
    group.add_argument(
        "--model",
        metavar="FILE.py:Class",
        help="the class of a network of your own; the file runs as code",
    )


def add_force(parser: argparse.ArgumentParser) -> None:
    """Adds --force, without which no file is replaced that the command did not write."""
    parser.add_argument("--force", action="store_true", help="replace files that differ")


def description(arguments: argparse.Namespace) -> dict[str, Any]:
    """The values of `add_description`'s flags, as `inference.description.Description` has them."""
    names = "activation", "pool", "padding", "mean", "std", "fit", "model"
    return {name: getattr(arguments, name) for name in names} | {"layers": arguments.map}


def _parse_floats(text: str) -> list[float]:
    try:
        return [float(item) for item in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not X or X,Y,Z") from error


def _parse_map(text: str) -> dict[str, str]:
    pairs = [item.partition("=") for item in text.split(",")]
    layers = {layer.strip(): name.strip() for layer, _, name in pairs}
    if not all(layers) or not all(layers.values()) or len(layers) < len(pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not LAYER=NAME,LAYER=NAME,…")
    return layers


def find_network(arguments: argparse.Namespace, fetch: Callable[[str], str]) -> NetworkName:
    """What the arguments name.

    Args:
      arguments: of a parser from `make_parser`.
      fetch: gives the path of a copy, for that of a sweep at a URL.

    Raises:
      UserError: they name none, or two, or one that does not exist; or --out is missing, where what
        they name is at a URL.
    """
    weights = getattr(arguments, "weights", None)
    if (arguments.workdir is None) == (weights is None):
        either = " or --weights=FILE" if "weights" in arguments else ""
        reason = "missing" if arguments.workdir is None else "not both of"
        raise UserError(f"{reason} --workdir=DIR{either}, for example --workdir=runs/first")
    name = NetworkName(weights) if weights else parse(arguments.workdir)
    if is_url(name.path):
        require_out(arguments)
        name = name._replace(path=fetch(name.path))
    if not expand(name.path).exists():
        raise UserError(f"{expand(name.path)} does not exist")
    if None not in (name.member, arguments.member):
        raise UserError(f"--workdir={show(arguments.workdir)} names a member: omit --member")
    return name if name.member is not None else name._replace(member=arguments.member)


def require_out(arguments: argparse.Namespace) -> None:
    """Raises UserError if a command that writes files beside a network has no --out."""
    if "out" in arguments and arguments.out is None:
        raise UserError("of a sweep at a URL, --out must say where to write")
