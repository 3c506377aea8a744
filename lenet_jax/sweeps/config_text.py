"""Configs of a sweep as text: what its members have in common, and the winner's as a file."""

from collections.abc import Collection
from operator import attrgetter

from lenet_jax.config import base
from lenet_jax.config.file import Config, replace
from lenet_jax.config.networks import LENET
from lenet_jax.config.schema import keys
from lenet_jax.errors import counted
from lenet_jax.storage.chunk import Row
from lenet_jax.sweeps.members import Overrides


def describe_config(config: Config, swept: Collection[str]) -> str:
    """What the members of a sweep have in common: the network, the data and the epochs.

    Args:
      config: which they override.
      swept: the keys that they override, which are left out.
    """
    model, sizes = config.model, {"model.channels", "model.features"}
    network = "networks" if "model.name" in swept else model.name
    if network == LENET and not sizes & set(swept):
        network = f"LeNet {'–'.join(map(str, (*model.channels, *model.features)))}"
    data = "" if "data.name" in swept else f" on {config.data.name}"
    about = f"{network}{data}"
    if config.data.train_examples is not None and "data.train_examples" not in swept:
        about += f", {counted(config.data.train_examples, 'image')}"
    if "train.num_epochs" not in swept:
        about += f", {counted(config.train.num_epochs, 'epoch')}"
    return about


def winner_file(config: Config, row: Row, overrides: Overrides) -> str:
    """The content of a config file that returns the winner's config.

    Args:
      config: the winner's.
      row: its results.
      overrides: its values of the swept keys, which are written even where they are the defaults.
    """
    network = config.model.name
    known = keys(network)
    required = {path: attrgetter(path)(config) for path, key in known.items() if key.required}
    default: Config = replace(base.get_config(), {"model.name": network} | required)
    different = {}
    for path in known:
        section, _, name = path.rpartition(".")
        ours, theirs = (c[section][name] if section else c[name] for c in (config, default))
        written = path in overrides or path in required
        if ours != theirs or written or (path == "model.name" and network != LENET):
            different[path] = ours
    lines = "".join(f"            {path!r}: {value!r},\n" for path, value in different.items())
    return (
        f'"""The winner of a sweep, member {row["member"]}, chosen on validation.\n\n'
        f"Validation accuracy {row['valid_accuracy']:.4f}, test accuracy"
        f' {row["test_accuracy"]:.4f}.\n"""\n\n'
        "from lenet_jax.config import base\n\n\n"
        "def get_config():\n"
        '    """Returns the config."""\n'
        "    config = base.get_config()\n"
        "    config.update_from_flattened_dict(\n        {\n"
        f"{lines}        }}\n    )\n    return config\n"
    )
