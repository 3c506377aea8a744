"""LeNet-300-100 on MNIST: three linear layers, 266,610 parameters, the net of the pruning papers.

python -m lenet_jax.main --config=configs/mlp.py --workdir=runs/mlp
"""

from ml_collections import ConfigDict

from lenet_jax.config import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config; the argument is `smoke` or empty."""
    config = base.get_config(arg)
    config.update(model={"name": "mlp"}, data={"image_size": 28})
    return config
