"""What the bits of training may depend on, beside its config and data."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lenet_jax import machine
from lenet_jax.nn import native, ops


def training_environment(backend: ops.Backend, command: Sequence[str]) -> dict[str, Any]:
    """The machine, its devices, the backend that is chosen there, and the command."""
    backend, devices = ops.choose_backend(backend), machine.devices()
    return machine.environment() | {
        "command": shlex.join(command),
        "working_directory": str(Path.cwd()),
        "jax_backend": devices[0].platform,
        "devices": [device.device_kind for device in devices],
        "backend": backend,
        "native_code": native.key() if backend == "native" else None,
    }
