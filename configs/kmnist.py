"""LeNet on Kuzushiji-MNIST from TFDS.

    python -m lenet_jax.main --config=configs/kmnist.py --workdir=runs/kmnist

Expect: not measured yet.
"""

from ml_collections import ConfigDict

from lenet_jax.config import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config; the argument is `smoke` or empty."""
    config = base.get_config(arg)
    config.update(data={"name": "kmnist"})
    return config
