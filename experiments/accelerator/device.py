"""What device a result is of, and what software ran on it."""

import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from experiments.accelerator import record
from lenet_jax.machine import environment
from lenet_jax.storage.files import write_json

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "ml_collections", "absl-py")
CUDA_PACKAGES = ("jax-cuda13-plugin", "jax-cuda12-plugin", "nvidia-cudnn-cu13", "nvidia-cublas")


def find_name() -> str:
    """The first device's kind as part of a file's name; asked in a process that then lets it go."""
    command = "import jax; print(jax.devices()[0].device_kind)"
    done = subprocess.run(
        [sys.executable, "-c", command], check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.splitlines()[-1].lower().replace(" ", "_").replace("/", "_")


def describe(file: Path) -> None:
    """Writes what the device and the software are into the results."""
    import jax  # late: the process that starts the stages leaves the device alone

    results = record.read(file)
    results["environment"] = environment(_installed(PACKAGES + CUDA_PACKAGES)) | {
        "jax_backend": jax.devices()[0].platform,
        "devices": [device.device_kind for device in jax.devices()],
        "platform_version": jax.devices()[0].client.platform_version,
        "memory": record.memory(),
        "nvidia_smi": _nvidia_smi(),
    }
    write_json(file, results)


def _installed(packages: tuple[str, ...]) -> list[str]:
    names = {distribution.name.lower().replace("_", "-") for distribution in distributions()}
    return [name for name in packages if name.lower().replace("_", "-") in names]


def _nvidia_smi() -> Any:
    if shutil.which("nvidia-smi") is None:
        return None
    query = "name,driver_version,memory.total,clocks.max.sm,clocks.sm,power.limit"
    done = subprocess.run(
        ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout.strip().splitlines()
