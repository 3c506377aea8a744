"""`run.json`: what runs, where, and how it ended."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from lenet_jax import timeline
from lenet_jax.errors import UserError, printable
from lenet_jax.machine import next_command, what_changed
from lenet_jax.reading import read_json
from lenet_jax.storage.formats import RunRecord
from lenet_jax.storage.run_dir import RECORD, RunDir
from lenet_jax.training.environment import training_environment
from lenet_jax.training.loop import Trainer
from lenet_jax.training.spec import Spec


def next_commands(command: Sequence[str], folder: Path) -> list[str]:
    """What to do with a finished run: look at what it has learned, and use it.

    Args:
      command: which trained it, and may name the folder as the user does.
      folder: of the run.
    """
    given = [word for word in command if word.startswith("--workdir=")]
    workdir = given[-1] if given else f"--workdir={folder}"
    predict = next_command(command, "predict", workdir)
    return [next_command(command, "inspect", workdir), f"{predict} IMAGE"]


class Record:
    """The `run.json` of this process; entering it records that the run has started.

    Attributes:
      values: the file's contents until the run ends.
      command: resumes this run.
    """

    def __init__(
        self,
        directory: RunDir,
        trainer: Trainer,
        command: Sequence[str],
        warn: Callable[[str], None],
        weights_sum: str | None = None,
        started: float = 0.0,
    ):
        """Collects the values; nothing is written yet.

        Args:
          directory: where to write.
          trainer: the run's.
          command: resumes this run.
          warn: is called with how to resume if the run is interrupted.
          weights_sum: of the weights that a new run starts from or is pruned by, if there are any.
          started: when the process began, on `time.perf_counter`'s clock.
        """
        self.values = training_environment(trainer.config, command) | {
            "devices_sharing_a_batch": trainer.spec.num_devices,
            "precision": trainer.config.train.precision,
            "seed": trainer.config.seed,
            "data_fingerprint": trainer.dataset.fingerprint,
            "has_checkpoint": False,
            "has_sums": False,
            "extensions": list(
                (directory.read_json(RECORD, RunRecord) or {}).get("extensions", ())
            ),
            "data_remarks": list(trainer.dataset.remarks),
            "status": "running",
            "exit_reason": None,
        }
        previous = directory.read_json(RECORD, RunRecord) or {}
        if known := weights_sum or previous.get("weights_sha256"):
            self.values["weights_sha256"] = known
        self.command = command
        self._directory, self._warn, self._started = directory, warn, started

    def __enter__(self) -> "Record":
        self._directory.write_json(RECORD, self.values)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            if isinstance(error, OSError | UserError):
                self.close("failed", printable(error))
            elif isinstance(error, KeyboardInterrupt):  # where `Interrupt` leaves signals alone
                self.close("interrupted", "stopped by SIGINT")

    def note_checkpoint(self) -> None:
        """Records, once, that a checkpoint is on the disk: the run no longer starts afresh."""
        if not self.values["has_checkpoint"]:
            self.values["has_checkpoint"] = True
            self._directory.write_json(RECORD, self.values)

    def note_extension(self, epochs: int, spec: Spec, last_rate: float) -> str:
        """Records that a run of some epochs is extended; what that means for the learning rate.

        Args:
          epochs: those of the run so far.
          spec: of the longer run.
          last_rate: the learning rate of the last step that the schedule spans.
        """
        last = spec.schedule_epochs < spec.num_epochs
        rate = (
            f"the last learning rate of its {spec.schedule_epochs} epochs, {last_rate:.3g}, stays"
            if last
            else "its schedule goes on"
        )
        extension = {"from_epochs": epochs, "to_epochs": spec.num_epochs, "learning_rate": rate}
        self.values["extensions"] += [extension]
        return f"this run is extended: train.num_epochs: {epochs} → {spec.num_epochs}; {rate}"

    def close(self, status: str, reason: str) -> None:
        """Writes how the run ended."""
        ended = {"status": status, "exit_reason": reason, "has_sums": status == "done"}
        ended |= {"timeline": timeline.since(self._started)}
        self._directory.write_json(RECORD, self.values | ended)
        if status == "interrupted":
            self._warn(f"{reason}; to resume: {self.values['command']}")

    def changes_since(self, config: Path) -> str | None:
        """What is not as in another run, in one line; None if all is, or that is not known.

        Args:
          config: the `config.json` of the other run, whose record lies beside it.
        """
        try:
            previous = read_json(config.with_name(RECORD), RunRecord)
        except UserError as error:
            return str(error)
        if previous is None or config.parent.absolute() == self._directory.path:
            return None
        changes = [what_changed(previous, self.values)]
        for key, what in (
            ("data_fingerprint", "the data"),
            ("network_sha256", "the network's file"),
            ("loss_sha256", "the loss's file"),
            ("measurement_sha256", "the measurements' files"),
            ("subset_sha256", "the file of the subset"),
            ("weights_sha256", "the weights that it starts from"),
            ("git_revision", "the revision"),
        ):
            was, now = previous.get(key), self.values.get(key)
            changes += [f"{what} changed"] if None not in (was, now) and was != now else []
        return "; ".join(filter(None, changes)) or None

    def differences(self) -> str | None:
        """What changed since the file was written; None if the bits of the run do not change."""
        return what_changed(self._directory.read_json(RECORD, RunRecord) or {}, self.values)
