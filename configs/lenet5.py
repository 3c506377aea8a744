"""LeNet-5 on MNIST: 16 feature maps in the second convolution, 61,706 parameters.

    python -m lenet_jax.main --config=configs/lenet5.py --workdir=runs/lenet5

Expect: 99.31 ± 0.06 % test accuracy (mean ± sd over 100 seeds), see results/accuracy_lenet5.json.
"""

from ml_collections import ConfigDict

from lenet_jax.config import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config; the argument is `smoke` or empty."""
    config = base.get_config(arg)
    config.update(model={"channels": (6, 16)})
    return config
