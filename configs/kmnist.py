"""The network of the notes on Kuzushiji-MNIST, through TFDS.

    python -m lenet_jax.main --config=configs/kmnist.py --workdir=runs/kmnist

Expect: not measured yet, for want of the data.
"""

from ml_collections import ConfigDict

from lenet_jax.config import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config; the argument is `smoke` or empty."""
    config = base.get_config(arg)
    config.update(data={"name": "kmnist"})
    return config
