r"""Does a larger batch need a larger learning rate? 4 batch sizes × 5 learning rates, 3 seeds each.

    python -m lenet_jax.sweep --config=configs/lenet5.py --workdir=runs/batch_and_rate \
        --sweep=configs/sweeps/batch_and_rate.py --config.train.num_epochs=5

Each batch size needs its own compiled program, so it is a group; the learning rates share it.
`--dry_run` prints the expected time on your machine: seven minutes at 25 µs per image and member.
"""

from lenet_jax.sweeps.file import Sweep, product, sweep


def get_sweep(seeds: str = "3") -> Sweep:
    """Returns the sweep; the argument is the number of seeds."""
    return product(
        sweep("train.batch_size", (32, 64, 128, 256)),
        sweep("optimizer.learning_rate", (0.0125, 0.025, 0.05, 0.1, 0.2)),
        sweep("seed", range(int(seeds))),
    )
