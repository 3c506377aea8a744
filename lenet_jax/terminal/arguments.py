"""The arguments of commands that read a trained network."""

import argparse
from pathlib import Path
from typing import NoReturn

from lenet_jax.errors import UserError, expand, printable


class Parser(argparse.ArgumentParser):
    """Reports errors as the rest of the package does."""

    def error(self, message: str) -> NoReturn:
        """Raises what argparse would print.

        Raises:
          UserError: always.
        """
        raise UserError(f"{printable(message)}\nSee {self.prog} --help.")


def make_parser(program: str, description: str, *, weights: bool = True) -> Parser:
    """A parser with the flags that name a trained network: --workdir, --weights, --member.

    Args:
      program: name of the command in its help: `python -m lenet_jax.predict`.
      description: what the command does.
      weights: whether to add --weights.
    """
    parser = Parser(program, description=description, allow_abbrev=False)
    parser.add_argument("--workdir", metavar="DIR", help="a run directory, or a sweep's")
    if weights:
        parser.add_argument("--weights", metavar="FILE", help="a file: .safetensors, .pt or .pth")
    parser.add_argument("--member", type=int, metavar="N", help="which network of a sweep")
    return parser


def network_path(arguments: argparse.Namespace) -> Path:
    """The path of the network that the arguments name.

    Raises:
      UserError: they name none, or two, or one that does not exist.
    """
    weights = getattr(arguments, "weights", None)
    if (arguments.workdir is None) == (weights is None):
        either = " or --weights=FILE" if "weights" in arguments else ""
        reason = "missing" if arguments.workdir is None else "not both of"
        raise UserError(f"{reason} --workdir=DIR{either}, for example --workdir=runs/first")
    path = expand(weights or arguments.workdir)
    if not path.exists():
        raise UserError(f"{path} does not exist")
    return path
