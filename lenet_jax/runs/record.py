"""`run.json`: what runs, where, and how it ended."""

import contextlib
import shlex
from collections.abc import Callable, Sequence
from types import TracebackType

import jax

from lenet_jax.errors import UserError, printable
from lenet_jax.machine import environment, what_changed
from lenet_jax.nn import native, ops
from lenet_jax.storage.run_dir import RECORD, RunDir
from lenet_jax.training.loop import Trainer

PACKAGES = ("jax", "jaxlib", "flax", "optax", "safetensors", "numpy")


class Record:
    """The `run.json` of this process; entering it records that the run has started.

    Attributes:
      values: the file's contents until the run ends.
    """

    def __init__(
        self,
        directory: RunDir,
        trainer: Trainer,
        command: Sequence[str],
        warn: Callable[[str], None],
    ):
        """Collects the values; nothing is written yet.

        Args:
          directory: where to write.
          trainer: the run's.
          command: resumes this run.
          warn: is called with how to resume if the run is interrupted.
        """
        backend = ops.choose_backend(trainer.config.model.backend)
        self.values = environment(PACKAGES) | {
            "command": shlex.join(command),
            "jax_backend": jax.default_backend(),
            "devices": [device.device_kind for device in jax.devices()],
            "devices_sharing_a_batch": trainer.spec.num_devices,
            "backend": backend,
            "native_code": native.key() if backend == "native" else None,
            "seed": trainer.config.seed,
            "data_fingerprint": trainer.dataset.fingerprint,
            "status": "running",
            "exit_reason": None,
        }
        self._directory, self._warn = directory, warn

    def __enter__(self) -> "Record":
        self._directory.write_json(RECORD, self.values)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, OSError | UserError):
            with contextlib.suppress(OSError):
                self.close("failed", printable(error))

    def close(self, status: str, reason: str) -> None:
        """Writes how the run ended."""
        self._directory.write_json(RECORD, self.values | {"status": status, "exit_reason": reason})
        if status == "interrupted":
            self._warn(f"{reason}; to resume: {self.values['command']}")

    def differences(self) -> str | None:
        """What changed since the file was written; None if the bits of the run do not change."""
        return what_changed(self._directory.read_json(RECORD) or {}, self.values)
