"""LeNet-5 on CIFAR-10 from TFDS: 32×32 colour images, shifted by up to 2 pixels.

    python -m lenet_jax.main --config=configs/cifar10.py --workdir=runs/cifar10

Expect: not measured yet.
"""

from ml_collections import ConfigDict

from lenet_jax.config import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config; the argument is `smoke` or empty."""
    config = base.get_config(arg)
    config.update(
        data={"name": "cifar10"},
        model={"channels": (6, 16)},
        augment={"shift": 2.0},
    )
    return config
