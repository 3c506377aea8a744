"""The results file of a device: one JSON object, rewritten atomically whenever a stage adds to it.

Stages run in processes of their own, one after the other, and share this file alone.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from lenet_jax.errors import UserError
from lenet_jax.storage.files import write_json

# What JAX, XLA and Pallas raise for what they do not compile, or a device cannot run.
REFUSALS = (RuntimeError, ValueError, TypeError, AssertionError, UserError)


def read(file: Path) -> dict[str, Any]:
    """The results in a file; the results of no stage, if there is no file."""
    return json.loads(file.read_text()) if file.exists() else {"stages": {}}


def update_stage(file: Path, stage: str, **values: Any) -> None:
    """Adds to what a file says of a stage, or replaces it."""
    results = read(file)
    results["stages"].setdefault(stage, {}).update(values)
    write_json(file, results)


@dataclasses.dataclass
class Stage:
    """A stage at work: how much it may do, and where its results go.

    Attributes:
      name: of the stage.
      file: the results of all stages.
      deadline: of `time.monotonic`; when the stage should have ended.
      short: whether to take sizes that a CPU trains in seconds.
    """

    name: str
    file: Path
    deadline: float
    short: bool

    @property
    def seconds_left(self) -> float:
        """Until the deadline; negative after it."""
        return self.deadline - time.monotonic()

    def save(self, **values: Any) -> None:
        """Writes results of this stage, beside those that it has written already."""
        results = read(self.file)["stages"].get(self.name, {}).get("results", {})
        update_stage(self.file, self.name, results=results | values)

    def results_of(self, stage: str) -> dict[str, Any]:
        """The results of an earlier stage; empty, if it has none."""
        return read(self.file)["stages"].get(stage, {}).get("results", {})


def log(text: str) -> None:
    """Prints a line at once."""
    print(text, flush=True)


def memory() -> dict[str, int | None]:
    """Bytes on the first device; None where it does not tell. The peak is of the whole process."""
    import jax  # late: not in the process that starts the stages, which leaves the device alone

    stats = jax.devices()[0].memory_stats() or {}
    return {name: stats.get(name) for name in ("bytes_in_use", "peak_bytes_in_use", "bytes_limit")}
