"""The console script `lenet-jax`: each of its commands is the `main` of a module.

    lenet-jax train --config=FILE.py --workdir=DIR

is `python -m lenet_jax.main --config=FILE.py --workdir=DIR`, and likewise for the others.
"""

import difflib
import importlib
import sys
from collections.abc import Sequence

import lenet_jax
from lenet_jax.errors import ExitCode, UserError, end_at_once_on_signals, run_command, run_program

# The module and help of each command. Modules are imported when their command is run.
COMMANDS = {
    "train": ("main", "train a network, or resume a run"),
    "sweep": ("sweep", "train many networks from one sweep file"),
    "find-rate": ("find_rate", "find a learning rate"),
    "inspect": ("inspect", "show what a trained network has learned"),
    "predict": ("predict", "classify images"),
    "export": ("export", "export a trained network for use in other programs"),
    "torch-bridge": ("torch_bridge", "inspect, convert and evaluate PyTorch weights"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    Args:
      argv: the command and its arguments; None: those of this process, which ends with it.
    """
    if argv is None:
        end_at_once_on_signals()  # once `run_program` is done
        run_program(_run, sys.argv[1:])
    return run_command(_run, argv)


def _run(argv: Sequence[str]) -> int:
    name, *rest = argv or ["--help"]
    if name in ("--help", "-h"):
        print(help_text())
        return ExitCode.DONE
    if name == "--version":
        print(f"lenet-jax {lenet_jax.__version__}")
        return ExitCode.DONE
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, [*COMMANDS, "--help", "--version"], n=1)
        hint = f"did you mean {near[0]}?" if near else f"the commands: {', '.join(COMMANDS)}"
        raise UserError(f"unknown command {name!r}; {hint}")
    module = importlib.import_module(f"lenet_jax.{COMMANDS[name][0]}")
    return module.main(rest, f"lenet-jax {name}")


def help_text() -> str:
    """Returns the usage and one line per command."""
    rows = [f"  {name:<14}{meaning}" for name, (_, meaning) in COMMANDS.items()]
    usage = ["lenet-jax COMMAND [ARGUMENT ...]", "lenet-jax --version"]
    return "\n".join([*usage, "", *rows, "", "lenet-jax COMMAND --help shows its arguments."])


if __name__ == "__main__":
    sys.exit(main())
