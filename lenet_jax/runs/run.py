"""One run, from its config to its finished directory: iterates over segments, writes results."""

import contextlib
import dataclasses
import functools
import math
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from lenet_jax import config as configs
from lenet_jax import data
from lenet_jax.config.networks import is_code, source_of
from lenet_jax.errors import IF_DIVERGED, ExitCode, UserError, expand, writing
from lenet_jax.inference.description import Description, disagreements
from lenet_jax.inference.load import load, load_model
from lenet_jax.inference.state_dict import from_state_dict, to_state_dict
from lenet_jax.inference.variables import from_arrays
from lenet_jax.nn import native
from lenet_jax.nn.lenet import LeNet
from lenet_jax.nn.variables import split_variables
from lenet_jax.runs import figures
from lenet_jax.runs.hooks import Hooks
from lenet_jax.runs.record import Record
from lenet_jax.runs.resume import (
    Progress,
    RunState,
    extended_config,
    last_rate,
    look_back,
    low_rate,
    repeated_config,
    restore,
)
from lenet_jax.statistics import shortest
from lenet_jax.storage.checkpoint import Checkpoints
from lenet_jax.storage.files import make_folder, write_atomically
from lenet_jax.storage.run_dir import (
    CHECKPOINTS,
    CONFIG,
    EMA_WEIGHTS,
    NETWORK,
    SUMMARY,
    WEIGHTS,
    Row,
    RunDir,
    check,
)
from lenet_jax.storage.sweep_dir import is_sweep
from lenet_jax.terminal.console import Console
from lenet_jax.terminal.interrupt import Interrupt
from lenet_jax.training import sizes
from lenet_jax.training.loop import Segment, Trainer, train_in_segments
from lenet_jax.training.step import Metrics, no_metrics


class Outcome(NamedTuple):
    """How a run ended: the exit code, and the status and the reason for `run.json`."""

    code: int
    status: str
    reason: str


def run(
    config: configs.Config,
    workdir: str,
    command: Sequence[str],
    started: float,
    *,
    profile: bool = False,
    extend: bool = False,
    repeats: Path | None = None,
    dataset: data.Dataset | None = None,
    hooks: Any = (),
) -> int:
    """Trains, evaluates and writes the run directory; resumes what it already holds.

    Args:
      config: validated.
      workdir: the run directory.
      command: resumes this run; for messages.
      started: when the process began, on `time.perf_counter`'s clock.
      profile: whether to trace the last epoch, for TensorBoard or Perfetto, into `profile/`.
      repeats: the `config.json` of the run to repeat; what may make a difference is reported.
      dataset: the data; None: those that the config names.
      extend: whether epochs beyond those of the run in `workdir` keep its last learning rate.
      hooks: see `lenet_jax.train`.

    Returns:
      The exit code: 0 done, 3 diverged, 129, 130, 141 or 143 stopped, see `Interrupt`.

    Raises:
      UserError: the data or the directory is not as required, or a hook failed.
      WriteError: the disk is full, or has failed; earlier checkpoints stay intact.
    """
    console, called = Console(), Hooks(hooks)
    if is_sweep(expand(workdir, "--workdir=")):
        raise UserError(f"--workdir={workdir} holds a sweep; choose another folder for a run")
    if repeats is not None and (remark := check(repeats.parent)):
        console.warn(remark)
    change = extended_config if extend else repeated_config
    config = change(expand(workdir, "--workdir="), config)
    trainer = Trainer(config, dataset or data.load(**config.data))
    sizes.check_memory(trainer.spec)
    checkpoints = expand(workdir, "--workdir=") / CHECKPOINTS
    # Once there is a checkpoint, the initial weights are no longer needed, and may be gone.
    has_checkpoint = any(checkpoints.glob("[0-9]*"))
    initial = None if has_checkpoint else _initial_params(trainer, console.warn)
    with (
        writing(workdir),
        Interrupt(console.release, console.is_closed) as interrupt,
        RunDir(workdir) as directory,
    ):
        extended_from, summary = look_back(directory, config, trainer.dataset, console.warn)
        if summary is not None:
            epochs = summary.get("epochs", 0)
            longer = epochs > config.train.num_epochs
            extended = f", and extended to {epochs} epochs" if longer else ""
            console.note(f"this run is already finished{extended}")
            console.result(summary, directory.files())
            return ExitCode.DONE
        with Checkpoints(directory.checkpoints, config.checkpoint.keep) as checkpoints:
            # May raise; nothing is written before.
            saved, progress, rows = restore(trainer, directory, checkpoints, console.warn)
            record = Record(directory, trainer, command, console.warn)
            if saved is not None and (changed := record.differences()):
                console.warn(
                    f"results may differ in the last bits from an uninterrupted run: {changed}"
                )
            if repeats is not None and (changed := record.changes_since(repeats)):
                console.warn(
                    f"results may differ from those of the run in {repeats.parent}: {changed}"
                )
            if directory.lock_note:
                console.warn(directory.lock_note)
            record.values["has_checkpoint"] = saved is not None
            if extended_from is not None:
                rate = last_rate(trainer.spec, config)
                console.note(record.note_extension(extended_from, trainer.spec, rate))
                if remark := low_rate(trainer.spec, config, directory.path):
                    console.warn(remark)
            interrupt.before_exit = lambda: record.close("interrupted", interrupt.reason)
            with record:  # first: an extended run is no longer done
                directory.restart_rows(rows)
                directory.write_json(CONFIG, configs.to_dict(config))
                if source := source_of(config.model.name):
                    write_atomically(directory.path / NETWORK, source)
                _print_header(console, trainer, record, directory.path)
                with console.compiling():
                    trainer.compile()
                    state = _place(trainer, saved, initial)
                job = _Job(trainer, directory, checkpoints, record, console, interrupt, called)
                trace = make_folder(directory.path / "profile") if profile else None
                outcome = job.train(state, progress, started, trace)
                checkpoints.close()
                record.values["has_checkpoint"] |= checkpoints.saved is not None
                record.close(outcome.status, outcome.reason)
            done = outcome.code == ExitCode.DONE
            called.end(outcome.status, directory.read_json(SUMMARY, dict) or {} if done else {})
            return outcome.code


@dataclasses.dataclass(frozen=True)
class _Job:
    """What a run trains, writes to and reports to."""

    trainer: Trainer
    directory: RunDir
    checkpoints: Checkpoints
    record: Record
    console: Console
    interrupt: Interrupt
    hooks: Hooks

    def train(
        self, run_state: RunState, progress: Progress, started: float, trace: Path | None
    ) -> Outcome:
        """Trains to the end, or until a signal or a divergence, and writes the results."""
        config, spec = self.trainer.config, self.trainer.spec
        if step := int(run_state.state.step):
            self._note_resumption(step, progress)
        seconds_to_first_step = time.perf_counter() - started
        if self.interrupt.notice():
            return self._interrupted()
        self.hooks.start(self.trainer, self.directory.path, progress.epoch)
        stalled = progress.is_stalled(config.train.patience)  # it was stopped before its results
        segments = train_in_segments(
            self.trainer,
            run_state.state,
            run_state.sums,
            num_epochs=progress.epoch if stalled else spec.num_epochs,
            trace=trace,
        )
        display = self.console.epochs(spec.num_epochs, progress.epoch + 1)
        with display as epochs, contextlib.closing(segments):
            for segment in segments:
                seconds = progress.epoch_seconds + segment.seconds
                progress = dataclasses.replace(progress, epoch_seconds=seconds)
                run_state = run_state._replace(state=segment.state, sums=segment.sums)
                failed = _failed_step(segment)
                if failed is not None:
                    return self._diverged(failed, progress)
                if segment.valid is None:
                    epochs.advance(segment.step / spec.steps_per_epoch)
                else:
                    row = self._row(segment, segment.valid, progress)
                    progress = progress.with_epoch(row)
                    is_best = progress.best_epoch == progress.epoch
                    if is_best:
                        run_state = run_state._replace(best_params=segment.state.params)
                    self.directory.log(row)
                    epochs.finish(row, best=is_best)
                ends = segment.valid is not None
                stalled = ends and progress.is_stalled(config.train.patience)
                last = stalled or progress.epoch == spec.num_epochs
                stop = not last and self.interrupt.notice()
                due = ends and progress.epoch % config.checkpoint.every_epochs == 0
                save = functools.partial(self._save, segment.step, run_state, progress)
                if stop or last or due:
                    save()
                if ends:
                    self._call_hooks(segment.state.params, None if stop or last or due else save)
                if stop:
                    return self._interrupted()
                if last:
                    break
        reason = "all epochs are trained"
        if progress.epoch < spec.num_epochs:
            reason = f"no better validation accuracy since epoch {progress.best_epoch}"
            self.console.note(f"stopped early: {reason}; train.patience={config.train.patience}")
        self._finish(run_state, progress, seconds_to_first_step)
        return Outcome(ExitCode.DONE, "done", reason)

    def _save(self, step: int, run_state: RunState, progress: Progress) -> None:
        """Starts saving a checkpoint, whose predecessor is on the disk then."""
        metadata = {"run": dataclasses.asdict(progress), "rows": list(self.directory.rows)}
        self.checkpoints.save(step, run_state, metadata)
        if self.checkpoints.saved is not None:
            self.record.note_checkpoint()

    def _call_hooks(self, variables: nnx.State, save: Callable[[], None] | None) -> None:
        """Calls the hooks after an epoch; if one fails, a checkpoint is on the disk first.

        Args:
          variables: of the network.
          save: saves the checkpoint of this epoch; None: it is saved.
        """
        try:
            self.hooks.epoch(self.trainer, self.directory.rows[-1], variables)
        except UserError:
            if save is not None:
                save()
            self.checkpoints.close()
            self.record.note_checkpoint()
            raise

    def _note_resumption(self, step: int, progress: Progress) -> None:
        if step % self.trainer.spec.steps_per_epoch:
            self.console.note(f"resumed after step {step}, in epoch {progress.epoch + 1}")
        else:
            self.console.note(f"resumed after epoch {progress.epoch}")

    def _interrupted(self) -> Outcome:
        return Outcome(self.interrupt.exit_code, "interrupted", self.interrupt.reason)

    def _diverged(self, step: int, progress: Progress) -> Outcome:
        at = f"step {step}, in epoch {progress.epoch + 1}"
        reason = f"the loss or the weights stopped being finite at {at}"
        latest = self.checkpoints.latest()
        checkpoint = "none" if latest is None else f"that of step {latest}"
        self.console.warn(f"{reason}; latest checkpoint: {checkpoint}; {IF_DIVERGED}")
        return Outcome(ExitCode.DIVERGED, "diverged", reason)

    def _row(self, segment: Segment, valid: Metrics, progress: Progress) -> Row:
        """The metrics of the epoch that ends with a segment."""
        other = self.trainer.config.train.label_smoothing > 0 or self.trainer.spec.loss is not None
        sums, valid, ema, rate = jax.device_get(
            (segment.sums, valid, segment.ema_valid, segment.learning_rate)
        )
        averaged = {}
        if ema is not None:
            averaged["valid/ema_loss"] = shortest(ema.loss / ema.count)
            averaged["valid/ema_accuracy"] = shortest(ema.correct / ema.count)
        return {
            "epoch": progress.epoch + 1,
            "step": segment.step,
            "train/loss": shortest(sums.loss / sums.count),
            **({"train/objective": shortest(sums.objective / sums.count)} if other else {}),
            "train/accuracy": shortest(sums.correct / sums.count),
            "valid/loss": shortest(valid.loss / valid.count),
            "valid/accuracy": shortest(valid.correct / valid.count),
            **averaged,
            "learning_rate": shortest(rate),
            "images_per_second": self.trainer.spec.num_examples / progress.epoch_seconds,
        }

    def _finish(
        self, run_state: RunState, progress: Progress, seconds_to_first_step: float
    ) -> None:
        """Tests the best parameters on every test image; writes the weights, summary, figures."""
        params, averaged = run_state.best_params, run_state.state.averaged
        spec, dataset, folder = self.trainer.spec, self.trainer.dataset, self.directory.path
        test, logits = self.trainer.evaluate(params, "test")
        summary = {
            "status": "done",
            "test_accuracy": shortest(test.accuracy),
            "test_loss": shortest(test.mean_loss),
            "test_examples": int(test.count),
            "test_mistakes": int(test.count - test.correct),
            "best_epoch": progress.best_epoch,
            "valid_accuracy": progress.best_accuracy,
            "num_params": sizes.num_params(spec),
            "epochs": progress.epoch,
            "steps": progress.epoch * spec.steps_per_epoch,
            "train_seconds": progress.train_seconds,
            "images_per_second": spec.num_examples * progress.epoch / progress.train_seconds,
            "seconds_to_first_step": seconds_to_first_step,
        }
        if self.trainer.config.train.patience is not None:
            summary["stopped_early"] = progress.epoch < spec.num_epochs
        valid = dataset.valid
        scores = self.trainer.evaluate(params, "valid")[1] if len(valid) else np.empty((0, 1))
        form = figures.measure_images(
            dataset, self.trainer.config.data.fit, np.asarray(scores)[: len(valid)]
        )
        figures.save_weights(folder / WEIGHTS, spec, params, dataset, form)
        if averaged is not None:
            summary["test_ema_accuracy"] = shortest(
                self.trainer.evaluate(averaged, "test")[0].accuracy
            )
            figures.save_weights(folder / EMA_WEIGHTS, spec, averaged, dataset, form)
        self.directory.write_json(SUMMARY, summary)
        self.directory.write_sums()
        rows, warn = self.directory.rows, self.console.warn
        logits = jax.device_get(logits)[: len(dataset.test)]
        figures.draw_figures(folder, spec, params, dataset, logits, rows, warn)
        self.console.result(summary, self.directory.files())


def _initial_params(trainer: Trainer, warn: Callable[[str], None]) -> nnx.State | None:
    """The parameters that `train.initial_weights` names: `PATH` or `SWEEP:MEMBER`.

    Raises:
      UserError: they do not exist, or are of another network.
    """
    name = trainer.config.train.initial_weights
    if name is None:
        return None
    path, _, number = name.rpartition(":")
    member = int(number) if path and re.fullmatch(r"\d{1,9}", number) else None
    spec, start = trainer.spec, name if member is None else path
    if spec.network is not LeNet:
        given = Description(model=spec.network_name if is_code(spec.network_name) else None)
        arrays = load(start, member, given, warn).state_dict
        return from_arrays(arrays, spec.variables, name)
    model, metadata = load_model(start, member, say=warn)
    like = nnx.state(spec.abstract_model, nnx.Param)
    for remark in disagreements(metadata, dict(trainer.config.model), (spec.mean, spec.std)):
        warn(f"{name} {remark}")
    return from_state_dict(to_state_dict(nnx.state(model, nnx.Param)), like, name)


def _place(trainer: Trainer, saved: RunState | None, initial: nnx.State | None) -> RunState:
    """The state to train from, on the devices: the saved one, or a new one."""
    if saved is not None:
        return trainer.place(saved)
    state = trainer.init()
    if initial is not None:
        params = nnx.merge_state(state.params, trainer.place(initial))
        ema = None if state.ema is None else split_variables(params, trainer.spec.frozen)[0]
        state = dataclasses.replace(state, params=params, ema=ema)
    return RunState(state, trainer.place(no_metrics()), state.params)


def _failed_step(segment: Segment) -> int | None:
    """The step after which the run is no longer finite, counted from 1; None if it still is."""
    step = int(segment.state.step)
    if step < 0:
        return -step
    # After an epoch's last step only the validation shows it: finite parameters can give infinite
    # losses.
    finite = segment.valid is None or math.isfinite(float(segment.valid.loss))
    return None if finite else step


def _print_header(console: Console, trainer: Trainer, record: Record, workdir: Path) -> None:
    values, dataset = record.values, trainer.dataset
    height, width, channels = dataset.image_shape
    counts = f"{len(dataset.train):,} train, {len(dataset.valid):,} validation"
    console.header(
        device=f"{values['devices'][0]}: {values['processor']}, {values['cores']} cores;"
        f" backend {values['backend']}",
        dataset=f"{dataset.name}: {counts}, {len(dataset.test):,} test images of"
        f" {height}×{width}×{channels}, {dataset.num_classes} classes",
        workdir=workdir,
        layers=sizes.layers(trainer.spec),
        num_params=sizes.num_params(trainer.spec),
    )
    for remark in dataset.remarks:
        console.note(remark)
    on_cpu = values["jax_backend"] == "cpu"
    auto = trainer.config.model.get("backend") == "auto" and trainer.spec.network is LeNet
    if auto and on_cpu and native.missing():
        console.note(f"training is slower than it could be: {native.missing()}")
