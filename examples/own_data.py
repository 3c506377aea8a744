"""Trains on data of one's own: arrays, here of discs and squares that are drawn, or files.

    python -m examples.own_data RUN [DATA]

DATA is what `config.data.name` takes, such as a folder with a folder of images for each class.
"""

import sys
from collections.abc import Sequence

import numpy as np

import lenet_jax
from lenet_jax import config as configs
from lenet_jax.errors import ExitCode, UserError, run_command


def draw(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 28, 28) in 0..1, and the name of what is on each."""
    rng = np.random.default_rng(seed)
    names = rng.choice(["disc", "square"], count)
    x = np.abs(np.arange(28) - rng.uniform(8, 20, (count, 1, 1)))
    y = np.abs(np.arange(28)[:, None] - rng.uniform(8, 20, (count, 1, 1)))
    distance = np.where(names[:, None, None] == "disc", np.hypot(x, y), np.maximum(x, y))
    return (rng.uniform(4, 9, (count, 1, 1)) - distance).clip(0, 1), names


def main(arguments: Sequence[str]) -> int:
    """Trains six epochs and prints the network."""
    if not 1 <= len(arguments) <= 2:
        raise UserError("usage: python -m examples.own_data RUN [DATA]")
    run, *name = arguments
    values = [("train.num_epochs", 6), *(("data.name", value) for value in name)]
    config = configs.load("configs/notes.py", values)
    print(lenet_jax.train(config, run, data=None if name else draw(3000)))
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
