"""One run, from its config to its finished directory: the loop over epochs, and the writing."""

import contextlib
import dataclasses
import math
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from flax import nnx

from lenet_jax import config as configs
from lenet_jax import data
from lenet_jax.nn import native
from lenet_jax.nn import ops
from lenet_jax.runs import figures as report
from lenet_jax.inference.state_dict import from_state_dict
from lenet_jax.inference.load import load
from lenet_jax.storage.checkpoint import Checkpoints
from lenet_jax.terminal.console import Console
from lenet_jax.errors import ExitCode, UserError, WriteError, printable
from lenet_jax.terminal.interrupt import Interrupt
from lenet_jax.machine import environment
from lenet_jax.training.loop import Segment, Trainer, train_in_segments
from lenet_jax.training.step import Metrics, TrainState, no_metrics
from lenet_jax.runs.resume import look_back, what_changed
from lenet_jax.storage.run_dir import CHECKPOINTS, CONFIG, RECORD, SUMMARY, WEIGHTS, Row, RunDir

PACKAGES = ("jax", "jaxlib", "flax", "optax", "safetensors", "numpy")


class Arrays(NamedTuple):
    """The arrays that change during a run: what a checkpoint holds."""

    state: TrainState
    sums: Metrics  # over the epoch that the state is in
    best_params: nnx.State


class Notes(NamedTuple):
    """The numbers beside them: how far the run is, and what was best on validation."""

    epoch: int = 0  # the last one that is whole
    best_epoch: int = 0
    best_accuracy: float = -1.0
    train_seconds: float = 0.0  # of the whole epochs
    epoch_seconds: float = 0.0  # of the one that is not

    def with_epoch(self, row: Row) -> "Notes":
        """The notes after one more epoch; of equally many hits on validation the first is best."""
        epoch, accuracy = int(row["epoch"]), row["valid/accuracy"]
        seconds = self.train_seconds + self.epoch_seconds
        notes = self._replace(epoch=epoch, train_seconds=seconds, epoch_seconds=0.0)
        if accuracy > self.best_accuracy:
            notes = notes._replace(best_epoch=epoch, best_accuracy=accuracy)
        return notes


def run(
    config: configs.Config,
    workdir: str,
    command: Sequence[str],
    started: float,
    *,
    profile: bool = False,
) -> int:
    """Trains, evaluates and writes everything down; resumes what the directory already holds.

    Args:
      config: checked.
      workdir: the run directory.
      command: what starts this run again, for the person who has to.
      started: when the process began, on `time.perf_counter`'s clock.
      profile: whether to trace the last epoch, for TensorBoard or Perfetto, into `profile/`.

    Returns:
      The exit code: 0 done, 3 diverged, 130 or 143 stopped by a signal.

    Raises:
      UserError: the data or the directory is not what it should be.
      WriteError: the disk is full, or has failed; what was saved before is still there.
    """
    console = Console()
    trainer = Trainer(config, data.load(**config.data))
    begun = (Path(workdir) / CHECKPOINTS).exists()
    initial = None if begun else _initial_params(trainer)
    try:
        with Interrupt(console.release) as interrupt, RunDir(workdir) as directory:
            extension, summary = look_back(directory, config, trainer.dataset)
            if summary is not None:
                console.note("this run is finished")
                console.result(summary, directory.files())
                return ExitCode.DONE
            with Checkpoints(directory.checkpoints, config.checkpoint.keep) as checkpoints:
                job = _Job(trainer, initial, directory, checkpoints, console, interrupt)
                job.profile = profile
                return job.run(command, started, extension)
    except OSError as error:
        raise WriteError(error, workdir) from error


class _Job:
    """The wired parts of a run, and what it does with them."""

    def __init__(
        self,
        trainer: Trainer,
        initial: nnx.State | None,
        directory: RunDir,
        checkpoints: Checkpoints,
        console: Console,
        interrupt: Interrupt,
    ):
        self.trainer, self.config = trainer, trainer.config
        self.spec, self.dataset = trainer.spec, trainer.dataset
        self.directory, self.checkpoints = directory, checkpoints
        self.console, self.interrupt, self.profile = console, interrupt, False
        self.initial = initial  # parameters to begin with; None: drawn

    def run(self, command: Sequence[str], started: float, extension: str | None) -> int:
        """Trains, and records from the beginning what runs and how it ended: the exit code."""
        directory, console = self.directory, self.console
        arrays, notes = self._restore()  # which may refuse, before anything is written
        backend = ops.choose_backend(self.config.model.backend)
        record = environment(PACKAGES) | {
            "command": shlex.join(command),
            "jax_backend": jax.default_backend(),
            "devices": [device.device_kind for device in jax.devices()],
            "devices_sharing_a_batch": self.spec.num_devices,
            "backend": backend,
            "native_code": native.key() if backend == "native" else None,
            "seed": self.config.seed,
            "data_fingerprint": self.dataset.fingerprint,
            "status": "running",
            "exit_reason": None,
        }
        changed = what_changed(directory.read_json(RECORD) or {}, record)
        if changed and arrays is not None:
            console.warn(f"the bits will not be those of a run without a break: {changed}")
        if extension:
            console.note(f"this run is extended: {extension}")

        def close_record(status: str, reason: str) -> None:
            directory.write_json(RECORD, record | {"status": status, "exit_reason": reason})
            if status == "interrupted":
                console.warn(f"{reason}; to resume: {shlex.join(command)}")

        self.interrupt.last_words = lambda: close_record("interrupted", self.interrupt.reason)
        directory.write_json(RECORD, record)  # first: an extended run is no longer done
        directory.write_json(CONFIG, configs.to_dict(self.config))
        layers = report.layers(self.spec)
        console.header(
            device=f"{record['devices'][0]}: {record['processor']}, {record['cores']} cores;"
            f" backend {backend}",
            dataset=_describe(self.dataset),
            workdir=directory.path,
            layers=layers,
            num_params=sum(size for *_, size in layers),
        )
        if self.config.model.backend == "auto" and record["jax_backend"] == "cpu" and native.missing():
            console.note(f"training is slower than it could be: {native.missing()}")
        try:
            code, status, reason = self._execute(arrays, notes, started)
            self.checkpoints.close()
        except (OSError, UserError) as error:
            with contextlib.suppress(OSError):
                close_record("failed", printable(error))
            raise
        close_record(status, reason)
        return code

    def _restore(self) -> tuple[Arrays | None, Notes]:
        """What the directory holds of this run; the arrays are None if it has yet to begin."""
        state = self.trainer.abstract_state()
        like = Arrays(state, jax.eval_shape(no_metrics), state.params)
        restored = self.checkpoints.restore(like, self.console.warn)
        if restored is None:
            logged = self.directory.num_logged()
            if logged >= 2 * self.config.checkpoint.every_epochs:  # then one was on the disk
                raise UserError(
                    f"{self.directory.path} logged {logged} epochs, but its checkpoints are gone\n"
                    "Restore a backup, or choose another --workdir to start over."
                )
            self.directory.restart_rows([])
            return None, Notes()
        arrays, words = restored
        noted = words.get("run") if words.keys() == {"run", "rows"} else None
        if not isinstance(noted, dict) or noted.keys() != set(Notes._fields):
            raise UserError(
                f"{self.directory.checkpoints} is of another version of lenet-jax\n"
                "Choose another --workdir to start over."
            )
        self.directory.restart_rows(words["rows"])
        return arrays, Notes(**noted)

    def _execute(self, arrays: Arrays | None, notes: Notes, started: float) -> tuple[int, str, str]:
        """Trains and reports: the exit code, the status, and the reason in words."""
        with self.console.compiling():
            self.trainer.compile()
            arrays = self._begin() if arrays is None else self.trainer.place(arrays)
            assert arrays is not None
        step = int(arrays.state.step)
        if step:
            part_way = step % self.spec.steps_per_epoch
            after = (
                f"step {step}, in epoch {notes.epoch + 1}" if part_way else f"epoch {notes.epoch}"
            )
            self.console.note(f"resumed after {after}")
        seconds_to_first_step = time.perf_counter() - started
        if self.interrupt.notice():
            return self.interrupt.exit_code, "interrupted", self.interrupt.reason
        trace = self.directory.path / "profile" if self.profile else None
        segments = train_in_segments(self.trainer, arrays.state, arrays.sums, trace=trace)
        shown = self.console.epochs(self.spec.num_epochs, notes.epoch + 1)
        with shown as progress, contextlib.closing(segments):
            for segment in segments:
                notes = notes._replace(epoch_seconds=notes.epoch_seconds + segment.seconds)
                arrays = arrays._replace(state=segment.state, sums=segment.sums)
                failed = _failed_step(segment)
                if failed is not None:
                    at = f"step {failed}, in epoch {notes.epoch + 1}"
                    reason = f"the loss or the weights stopped being finite at {at}"
                    kept = self.checkpoints.latest()
                    told = "none" if kept is None else f"that of step {kept}"
                    self.console.warn(f"{reason}; latest checkpoint: {told}")
                    return ExitCode.DIVERGED, "diverged", reason
                if segment.valid is not None:
                    row = self._row(segment, segment.valid, notes)
                    notes = notes.with_epoch(row)
                    best = notes.best_epoch == notes.epoch
                    if best:
                        arrays = arrays._replace(best_params=segment.state.params)
                    self.directory.log(row)
                    progress.finish(row, best=best)
                else:
                    progress.advance(segment.step / self.spec.steps_per_epoch)
                last = notes.epoch == self.spec.num_epochs
                stop = not last and self.interrupt.notice()
                due = (
                    segment.valid is not None and not notes.epoch % self.config.checkpoint.every_epochs
                )
                if stop or last or due:
                    words = {"run": notes._asdict(), "rows": list(self.directory.rows)}
                    self.checkpoints.save(segment.step, arrays, words)
                if stop:
                    return self.interrupt.exit_code, "interrupted", self.interrupt.reason
        self._finish(arrays.best_params, notes, seconds_to_first_step)
        return ExitCode.DONE, "done", "all epochs are trained"

    def _begin(self) -> Arrays:
        state = self.trainer.init()
        if self.initial is not None:
            params = self.trainer.place(self.initial)
            state = dataclasses.replace(state, params=params)
        return Arrays(state, self.trainer.place(no_metrics()), state.params)

    def _row(self, segment: Segment, valid: Metrics, notes: Notes) -> Row:
        """The metrics of the epoch that ends with a segment."""
        sums, valid, rate = jax.device_get((segment.sums, valid, segment.learning_rate))
        return {
            "epoch": notes.epoch + 1,
            "step": segment.step,
            "train/loss": float(sums.loss / sums.count),
            "train/accuracy": float(sums.correct / sums.count),
            "valid/loss": float(valid.loss / valid.count),
            "valid/accuracy": float(valid.correct / valid.count),
            "learning_rate": float(rate),
            "images_per_second": self.spec.num_examples / notes.epoch_seconds,
        }

    def _finish(self, params: nnx.State, notes: Notes, seconds_to_first_step: float) -> None:
        """Tests the best parameters on every test image, and writes what people look at."""
        test, logits = self.trainer.evaluate(params, "test")
        trained = self.spec.num_examples * notes.epoch
        summary = {
            "status": "done",
            "test_accuracy": float(test.accuracy),
            "test_loss": float(test.mean_loss),
            "test_examples": int(test.count),
            "test_mistakes": int(test.count - test.correct),
            "best_epoch": notes.best_epoch,
            "valid_accuracy": notes.best_accuracy,
            "num_params": sum(leaf.size for leaf in jax.tree.leaves(params)),
            "epochs": notes.epoch,
            "steps": notes.epoch * self.spec.steps_per_epoch,
            "train_seconds": notes.train_seconds,
            "images_per_second": trained / notes.train_seconds,
            "seconds_to_first_step": seconds_to_first_step,
        }
        folder = self.directory.path
        report.save_weights(folder / WEIGHTS, self.spec, params, self.dataset)
        self.directory.write_json(SUMMARY, summary)
        rows, warn = self.directory.rows, self.console.warn
        logits = jax.device_get(logits)[: len(self.dataset.test)]
        report.draw_figures(folder, self.spec, params, self.dataset, logits, rows, warn)
        self.console.result(summary, self.directory.files())


def _initial_params(trainer: Trainer) -> nnx.State | None:
    """The parameters that `train.initial_weights` names: `PATH` or `SWEEP:MEMBER`.

    Raises:
      UserError: they are not there, or are of another network.
    """
    name, spec = trainer.config.train.initial_weights, trainer.spec
    if name is None:
        return None
    path, _, number = name.rpartition(":")
    member = int(number) if path and number.isdecimal() else None
    network = load(name if member is None else path, member)
    like = nnx.state(nnx.eval_shape(lambda: spec.make_model(jax.random.key(0))), nnx.Param)
    return from_state_dict(network.state_dict, like, name)


def _failed_step(segment: Segment) -> int | None:
    """The step after which the run is no longer finite, counted from 1; None if it still is."""
    step = int(segment.state.step)
    if step < 0:
        return -step
    # Of an epoch's last step the validation may tell: finite parameters can give infinite losses.
    finite = segment.valid is None or math.isfinite(float(segment.valid.loss))
    return None if finite else step


def _describe(dataset: data.Dataset) -> str:
    height, width, channels = dataset.image_shape
    sizes = f"{len(dataset.train):,} train, {len(dataset.valid):,} validation"
    return (
        f"{dataset.name}: {sizes}, {len(dataset.test):,} test images of"
        f" {height}×{width}×{channels}, {dataset.num_classes} classes"
    )
