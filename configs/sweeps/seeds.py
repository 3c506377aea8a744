r"""How much does a result vary with the seed? n seeds of one config.

    python -m lenet_jax.sweep --config=configs/lenet5.py --workdir=runs/seeds \
        --sweep=configs/sweeps/seeds.py

The argument is the number of seeds, `--sweep=configs/sweeps/seeds.py:64`, 16 without one; or the
first and the last, `seeds.py:64-127`. A seed decides initial weights, data order and augmentation;
sweep `seeds.init` or `seeds.order` to vary one of them. `--dry_run` prints the expected time on
your machine: 17 s per seed (12 epochs) at 25 µs per image and member.
"""

from lenet_jax.sweeps.file import Sweep, sweep


def get_sweep(seeds: str = "16") -> Sweep:
    """Returns the sweep; the argument is the number of seeds, or FIRST-LAST."""
    first, dash, last = seeds.partition("-")
    return sweep("seed", range(int(first), int(last) + 1) if dash else range(int(first)))
