"""What the bits of training may depend on, beside its config and data."""

import hashlib
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lenet_jax import machine
from lenet_jax.config.file import Config
from lenet_jax.config.networks import LENET
from lenet_jax.config.source import code_of
from lenet_jax.device_defaults import defaults_of
from lenet_jax.nn import native, ops
from lenet_jax.training import training_set


def training_environment(config: Config, command: Sequence[str]) -> dict[str, Any]:
    """The machine, its devices, the backend that is chosen there, the user's code, the command."""
    devices = machine.devices()
    is_lenet = config.model.name == LENET
    backend = ops.choose_backend(config.model.backend if is_lenet else "auto")
    if backend != "native" and not is_lenet:  # which has no other choice
        backend = "plain"
    return machine.environment() | {
        "command": shlex.join(command),
        "working_directory": str(Path.cwd()),
        "jax_backend": devices[0].platform,
        "devices": [device.device_kind for device in devices],
        "backend": backend,
        **own_code([config.model.name], [config.train.loss], config.train.measurements),
        **own_subsets([config.data.subset_file]),
        "native_code": native.key() if backend == "native" else None,
    }


def remark_on_device(config: Config) -> str | None:
    """What the device makes of a config that a user should know, in one line; None: nothing."""
    device, precision, model = machine.devices()[0], config.train.precision, config.model
    if device.platform == "cpu" and precision != "float32":
        is_native = model.name == LENET and model.backend in ("auto", "native")
        rounds = is_native and (model.activation, model.pool) == ("relu", "max")
        if not (rounds and precision == "bfloat16" and native.has_bfloat16()):
            return f"train.precision={precision} changes nothing: this is computed in float32 here"
    return defaults_of(device).faster(config)


def own_code(
    networks: Iterable[str], losses: Iterable[str], measurements: Iterable[str] = ()
) -> dict[str, str | None]:
    """The sums of the files of networks, losses and measurements by name, see `sum_of_files`.

    Of measurements there is one only if one has a file.

    Raises:
      UserError: one cannot be read.
    """
    measured = sum_of_files(measurements, "measurement")
    return {
        "network_sha256": sum_of_files(networks, "network"),
        "loss_sha256": sum_of_files(losses, "loss"),
        **({"measurement_sha256": measured} if measured else {}),
    }


def own_subsets(names: Iterable[str | None]) -> dict[str, str]:
    """The sum of the files that `data.subset_file` names, by name, if it names any.

    Raises:
      UserError: one cannot be read.
    """
    total = training_set.sum_of_files(names)
    return {"subset_sha256": total} if total else {}


def sum_of_files(names: Iterable[str], kind: str) -> str | None:
    """The SHA-256 of the code that names have, see `source.code_of`; None if none is in a file.

    Args:
      names: such as `FILE.py:Class`.
      kind: `network`, `loss` or `measurement`, for messages.

    Raises:
      UserError: one cannot be read.
    """
    texts = [text for name in names if (text := code_of(name, kind)) is not None]
    return hashlib.sha256(b"".join(texts)).hexdigest() if texts else None
