r"""Which learning rate, and how sure is that? 8 rates, with 16 seeds each.

    python -m experiments.sweep --config=configs/lenet5.py --workdir=runs/learning_rate \
        --sweep=configs/sweeps/learning_rate.py --config.train.num_epochs=5

The argument is the number of seeds. All 128 members are one group: the program is compiled once.
It took 18 minutes on two cores that had other work besides, see results/learning_rate/; `--dry_run`
tells what to expect on yours.
"""

from lenet_jax.sweeps.file import Sweep, product, sweep

RATES = (0.003, 0.006, 0.0125, 0.025, 0.05, 0.1, 0.2, 0.4)


def get_sweep(seeds: str = "16") -> Sweep:
    """Returns the sweep; the argument is the number of seeds."""
    return product(sweep("optimizer.learning_rate", RATES), sweep("seed", range(int(seeds))))
