"""Prints the computation graph of a forward pass: `python -m lenet_jax.graph --backend plain`."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lenet_jax.config.rules import RULES
from lenet_jax.device import require_device
from lenet_jax.errors import ExitCode, run_program
from lenet_jax.terminal.arguments import Parser

if TYPE_CHECKING:
    import jax
    from flax import nnx

PROGRAM = "python -m lenet_jax.graph"


def main(argv: Sequence[str], program: str = PROGRAM) -> int:
    """Prints the graph of LeNet for one image; returns the exit code.

    Args:
      argv: command-line arguments.
      program: name of the command in its help.
    """
    parser = Parser(
        program, description="Print the computation graph of LeNet.", allow_abbrev=False
    )
    parser.add_argument(
        "--backend",
        choices=RULES["model.backend"],
        default="auto",
        help="implementation of the layers; auto: the fastest available (default: %(default)s)",
    )
    for name in ("activation", "pool"):
        values = RULES[f"model.{name}"]
        parser.add_argument(
            f"--{name}", choices=values, default=values[0], help="default: %(default)s"
        )
    form = vars(parser.parse_args(argv))
    require_device()
    import jax  # late: an error in the environment is reported by `require_device`
    from flax import nnx

    from lenet_jax.nn.graph import describe
    from lenet_jax.nn.lenet import LeNet

    graphdef, params = nnx.split(nnx.eval_shape(lambda: LeNet(**form, rngs=nnx.Rngs(0))))

    def forward(params: "nnx.State", x: "jax.Array") -> "jax.Array":
        return nnx.merge(graphdef, params)(x)

    print(describe(forward, params, jax.ShapeDtypeStruct((1, 32, 32, 1), "float32")))
    return ExitCode.DONE


if __name__ == "__main__":
    run_program(main, sys.argv[1:])
