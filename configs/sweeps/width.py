r"""How wide must the network be? 4 widths of the convolutions × 3 of the linear layers × 3 seeds.

    python -m lenet_jax.sweep --config=configs/lenet5.py --workdir=runs/width \
        --sweep=configs/sweeps/width.py --config.train.num_epochs=5

Each width needs its own compiled program: 12 groups, each compiled once. `--dry_run` prints the
expected time on your machine; the widest members take most of it.
"""

from lenet_jax.sweeps.file import Sweep, product, sweep


def get_sweep(seeds: str = "3") -> Sweep:
    """Returns the sweep; the argument is the number of seeds."""
    return product(
        sweep("model.channels", ((3, 8), (6, 16), (12, 32), (24, 64))),
        sweep("model.features", ((60, 42), (120, 84), (240, 168))),
        sweep("seed", range(int(seeds))),
    )
