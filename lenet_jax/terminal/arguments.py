"""Command lines of the tools that read a trained network: their parser, their flags, their end."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from lenet_jax.errors import UserError

DONE, MISTAKE = 0, 2


class Parser(argparse.ArgumentParser):
    """Tells mistakes as the rest of the package does."""

    def error(self, message: str) -> NoReturn:
        """Raises what argparse would print.

        Raises:
          UserError: always.
        """
        words = " ".join(message.split())
        words = words if len(words) <= 160 else f"{words[:159]}…"
        raise UserError(f"{words}\nSee {self.prog} --help.")


def make_parser(program: str, description: str, *, weights: bool = True) -> Parser:
    """A parser with the flags that name a trained network: --workdir, --weights, --member.

    Args:
      program: what starts the command: `python -m lenet_jax.predict`.
      description: what the command does.
      weights: whether a bare file of weights will do.
    """
    parser = Parser(program, description=description, allow_abbrev=False)
    parser.add_argument("--workdir", metavar="DIR", help="a run directory, or a sweep's")
    if weights:
        parser.add_argument("--weights", metavar="FILE", help="a file: .safetensors, .pt or .pth")
    parser.add_argument("--member", type=int, metavar="N", help="which network of a sweep")
    return parser


def network_path(arguments: argparse.Namespace) -> Path:
    """Where the network is that the flags name.

    Raises:
      UserError: they name none, or two, or nothing that exists.
    """
    weights = getattr(arguments, "weights", None)
    if (arguments.workdir is None) == (weights is None):
        either = " or --weights=FILE" if "weights" in arguments else ""
        told = "missing" if arguments.workdir is None else "not both of"
        raise UserError(f"{told} --workdir=DIR{either}, for example --workdir=runs/first")
    path = Path(weights or arguments.workdir).expanduser()
    if not path.exists():
        raise UserError(f"there is no {path}")
    return path


def run(function: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Runs a command: its exit code, 2 for a mistake, which is told, and 130 for Ctrl-C."""
    try:
        return function(argv)
    except UserError as error:
        print(error, file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        return 130
