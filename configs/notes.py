"""The network of the notes on MNIST: the base as it is.

    python -m lenet_jax.main --config=configs/notes.py --workdir=runs/notes

Expect: not measured yet. In seconds, to see that all works: `--config=configs/notes.py:smoke`.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config; the argument is `smoke` or empty."""
    return base.get_config(arg)
