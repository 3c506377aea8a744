"""Trains a network: `python -m lenet_jax.main --config=FILE.py[:ARG] --workdir=DIR`."""

import time

STARTED = time.perf_counter()  # before the imports, which count towards the time to the first step

import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402

from absl import flags  # noqa: E402

from lenet_jax import machine  # noqa: E402
from lenet_jax.config import saved_config  # noqa: E402
from lenet_jax.config.flags import make_flags, parse  # noqa: E402
from lenet_jax.device import require_device  # noqa: E402
from lenet_jax.errors import run_command  # noqa: E402

PROGRAM = "python -m lenet_jax.main"


def main(argv: Sequence[str], program: str = PROGRAM) -> int:
    """Parses the flags, runs the training, and returns the exit code.

    Args:
      argv: the arguments.
      program: the program's name, for the help and the command to resume with.
    """
    flag_values = make_flags()
    flags.DEFINE_enum(
        "extend",
        None,
        ["continue"],
        "`continue`: more epochs than the run in DIR was planned for keep its last learning rate",
        flag_values,
    )
    flags.DEFINE_bool("profile", False, "trace the last epoch into DIR/profile", flag_values)
    config = parse(argv, flag_values, program)
    if flag_values.deterministic:
        machine.use_deterministic_kernels()
    machine.use_compilation_cache()
    machine.use_cores()
    require_device()
    from lenet_jax.runs.run import run  # late: an error in the arguments is reported at once

    command = machine.command_line(program, argv)
    return run(
        config,
        flag_values.workdir,
        command,
        STARTED,
        profile=flag_values.profile,
        extend=flag_values.extend is not None,
        repeats=saved_config(flag_values["config"].value or ""),
    )


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
