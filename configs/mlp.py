"""LeNet-300-100 on MNIST: three linear layers, 266,610 parameters, the net of the pruning papers.

    python -m lenet_jax.main --config=configs/mlp.py --workdir=runs/mlp

Expect: 98.52 ± 0.08 % test accuracy (mean ± sd over 20 seeds), see results/accuracy_mlp.json.
"""

from ml_collections import ConfigDict

from lenet_jax.config import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config; the argument is `smoke` or empty."""
    config = base.get_config(arg)
    config.update(
        model={"name": "mlp"},
        data={"image_size": 28},
        train={"micro_batch_size": 512},  # without windows to hold, larger products are faster
    )
    return config
