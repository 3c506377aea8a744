"""What the bits of training may depend on, beside its config and data."""

import hashlib
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lenet_jax import machine
from lenet_jax.config.file import Config
from lenet_jax.config.networks import LENET, code_of_network
from lenet_jax.config.source import code_of
from lenet_jax.nn import native, ops


def training_environment(config: Config, command: Sequence[str]) -> dict[str, Any]:
    """The machine, its devices, the backend that is chosen there, the user's code, the command."""
    devices = machine.devices()
    backend = ops.choose_backend(config.model.backend if config.model.name == LENET else "plain")
    return machine.environment() | {
        "command": shlex.join(command),
        "working_directory": str(Path.cwd()),
        "jax_backend": devices[0].platform,
        "devices": [device.device_kind for device in devices],
        "backend": backend,
        **own_code([config.model.name], [config.train.loss]),
        "native_code": native.key() if backend == "native" else None,
    }


def own_code(networks: Iterable[str], losses: Iterable[str]) -> dict[str, str | None]:
    """The SHA-256 of the files of networks and losses by name, in order; None if none has a file.

    Raises:
      UserError: one cannot be read.
    """
    texts = {
        "network_sha256": [code_of_network(name) for name in networks],
        "loss_sha256": [code_of(name, "loss") for name in losses],
    }
    return {key: _sum([text for text in each if text is not None]) for key, each in texts.items()}


def _sum(texts: Sequence[bytes]) -> str | None:
    return hashlib.sha256(b"".join(texts)).hexdigest() if texts else None
