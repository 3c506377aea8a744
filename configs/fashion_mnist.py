"""LeNet on Fashion-MNIST from TFDS.

    python -m lenet_jax.main --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist

Expect: not measured yet.
"""

from ml_collections import ConfigDict

from lenet_jax.config import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config; the argument is `smoke` or empty."""
    config = base.get_config(arg)
    config.update(data={"name": "fashion_mnist"})
    return config
