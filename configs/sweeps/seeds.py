r"""How much of a result is luck? n seeds of one config: the honest error bar.

    python -m experiments.sweep --config=configs/lenet5.py --workdir=runs/seeds \
        --sweep=configs/sweeps/seeds.py

The argument is the number of seeds: `--sweep=configs/sweeps/seeds.py:64`; 16 without one. A seed
decides initial weights, data order and augmentation; sweep `seeds.init` or `seeds.order` to part
them. Add `--dry_run` for the time on your machine: at 25 µs a model-image 17 s a seed (12 epochs).
"""

from lenet_jax.sweeps.file import Sweep, sweep


def get_sweep(count: str = "16") -> Sweep:
    """Returns the sweep; the argument is the number of seeds."""
    return sweep("seed", range(int(count)))
