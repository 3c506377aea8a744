r"""Does a larger batch want a larger learning rate? 4 batch sizes × 5 rates, 3 seeds each.

    python -m experiments.sweep --config=configs/lenet5.py --workdir=runs/batch_and_rate \
        --sweep=configs/sweeps/batch_and_rate.py --config.train.num_epochs=5

The batch size shapes the program, so each is a group of its own; the rate is a number in it.
Add `--dry_run` for the time on your machine: at 25 µs a model-image seven minutes.
"""

from lenet_jax.sweeps.file import Sweep, product, sweep


def get_sweep(seeds: str = "3") -> Sweep:
    """Returns the sweep; the argument is the number of seeds."""
    return product(
        sweep("train.batch_size", (32, 64, 128, 256)),
        sweep("optimizer.learning_rate", (0.0125, 0.025, 0.05, 0.1, 0.2)),
        sweep("seed", range(int(seeds))),
    )
