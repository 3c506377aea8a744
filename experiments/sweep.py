"""The sweep command, `lenet_jax.sweep`, beside the experiments: `python -m experiments.sweep`."""

import sys

from lenet_jax.errors import run_command
from lenet_jax.sweep import main

if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:], "python -m experiments.sweep"))
