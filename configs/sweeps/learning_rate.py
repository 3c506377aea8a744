r"""Which learning rate is best, and how certain is that? 8 learning rates, 16 seeds each.

    python -m lenet_jax.sweep --config=configs/lenet5.py --workdir=runs/learning_rate \
        --sweep=configs/sweeps/learning_rate.py --config.train.num_epochs=5

The argument is the number of seeds. All 128 members form one group, which is compiled once.
The results are in results/learning_rate/; `--dry_run` prints the expected time on your machine.
"""

from lenet_jax.sweeps.file import Sweep, product, sweep

RATES = (0.003, 0.006, 0.0125, 0.025, 0.05, 0.1, 0.2, 0.4)


def get_sweep(seeds: str = "16") -> Sweep:
    """Returns the sweep; the argument is the number of seeds."""
    return product(sweep("optimizer.learning_rate", RATES), sweep("seed", range(int(seeds))))
