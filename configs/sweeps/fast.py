r"""With how few epochs does validation reach 99 %, and at which rate? 18 settings of fast.py.

    python -m lenet_jax.sweep --config=configs/fast.py --workdir=runs/fast_choice --save=none \
        --sweep=configs/sweeps/fast.py

Epochs × learning rates × label smoothing, each over the seeds from 100: those from 0 measure what
was chosen. The argument is the number of seeds; 20 without one. The results are in results/fast/.
"""

from lenet_jax.sweeps.file import Sweep, product, sweep

FIRST_SEED = 100


def get_sweep(seeds: str = "20") -> Sweep:
    """Returns the sweep; the argument is the number of seeds."""
    return product(
        sweep("train.num_epochs", (2, 3, 4)),
        sweep("optimizer.learning_rate", (0.035, 0.05, 0.07)),
        sweep("train.label_smoothing", (0.0, 0.05)),
        sweep("seed", range(FIRST_SEED, FIRST_SEED + int(seeds))),
    )
