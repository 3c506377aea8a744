"""What the bits of training may depend on, beside its config and data."""

import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lenet_jax import machine
from lenet_jax.config.file import Config
from lenet_jax.config.networks import LENET, source_of
from lenet_jax.config.source import text_of
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
        "network_sha256": _sum(source_of(config.model.name)),
        "loss_sha256": _sum(text_of(config.train.loss, "loss")),
        "native_code": native.key() if backend == "native" else None,
    }


def _sum(text: bytes | None) -> str | None:
    return None if text is None else hashlib.sha256(text).hexdigest()
