"""The networks of 1998 on MNIST, trained as they are now, or were then; the argument names one.

    python -m lenet_jax.main --config=configs/lenet_1998.py --workdir=runs/lenet5_1998

`linear`, `mlp_300`, `mlp_300_100`, `lenet1`, `lenet4`, `boosted_lenet4` or `lenet5` (the default).
With `,then` after the name, `lenet5,then`, it is trained as in the paper, see `protocol_1998`.
docs/lenet_1998.md draws them and says where they are chosen, and not published.

Expect: the errors of 1998 are in docs/lenet_1998.md; `python -m experiments.lenet_1998` measures
these over seeds.
"""

from ml_collections import ConfigDict

from lenet_jax.config import base
from lenet_jax.config.protocol_1998 import train_as_published
from lenet_jax.errors import UserError

MLP = {"name": "mlp", "activation": "squash", "init": "lecun_1998"}
# The network, the side of its images, and the peak learning rate.
NETWORKS = {
    "linear": (MLP | {"features": ()}, 28, 0.01),
    "mlp_300": (MLP | {"features": (300,)}, 28, 0.05),
    "mlp_300_100": (MLP | {"features": (300, 100)}, 28, 0.05),
    "lenet1": ({"name": "lenet1"}, 28, 0.05),
    "lenet4": ({"name": "lenet4"}, 32, 0.05),
    "boosted_lenet4": ({"name": "boosted_lenet4"}, 32, 0.05),
    "lenet5": ({"name": "lenet5_1998"}, 32, 0.005),
}


def get_config(arg: str = "lenet5") -> ConfigDict:
    """Returns the config of a network; the argument `smoke` is a short run of LeNet-5."""
    if arg == "smoke":
        return base.smoke(get_config())
    name, _, then = arg.partition(",")
    if name not in NETWORKS or then not in ("", "then"):
        raise UserError(
            f"unknown config argument {arg!r}; one of {', '.join(NETWORKS)}, smoke, or NAME,then"
        )
    model, side, rate = NETWORKS[name]
    config = base.get_config()
    config.update(model=model, data={"image_size": side}, optimizer={"learning_rate": rate})
    is_lenet5 = name == "lenet5"
    if is_lenet5:
        config.update(train={"loss": "map"})
    if then:
        train_as_published(config, mu=0.5 if is_lenet5 else 0.02)
        config.update(train={"loss": "map" if is_lenet5 else "squashed_mse"})
    return config
