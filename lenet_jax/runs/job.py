"""The loop of a run: takes segment after segment, saves, reports, and writes the results."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from lenet_jax import timeline
from lenet_jax.data.dataset import Dataset
from lenet_jax.data.form import ImageForm, measure_form
from lenet_jax.errors import IF_DIVERGED, ExitCode, UserError
from lenet_jax.runs.hooks import Hooks
from lenet_jax.runs.record import Record, next_commands
from lenet_jax.runs.resume import Progress, RunState
from lenet_jax.statistics import chance, is_stuck, shortest
from lenet_jax.storage.checkpoint import Checkpoints
from lenet_jax.storage.run_dir import EMA_WEIGHTS, SUMMARY, WEIGHTS, Row, RunDir
from lenet_jax.terminal.console import Console
from lenet_jax.terminal.interrupt import Interrupt
from lenet_jax.training import sizes
from lenet_jax.training.evaluation import Metrics
from lenet_jax.training.loop import Segment, Trainer, train_in_segments
from lenet_jax.training.start import count_pruned

# What the summary says instead of the validation accuracy where there is no validation.
LAST_EPOCH = {"tested_weights": "those of the last epoch: there are no validation images"}


class Outcome(NamedTuple):
    """How a run ended: the exit code, and the status and the reason for `run.json`."""

    code: int
    status: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Job:
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
        thread = concurrent.futures.ThreadPoolExecutor(1, "results")
        form = thread.submit(_prepare_results, self.trainer.dataset, config.data.fit)
        thread.shutdown(wait=False)  # it ends with its task
        began = time.perf_counter()
        display = self.console.epochs(spec.num_epochs, progress.epoch + 1, spec.measured)
        with display as epochs, contextlib.closing(segments):
            for segment in segments:
                form.result()  # what follows may import too, which two threads cannot at once
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
                    epochs.finish(row, best=is_best and "valid/accuracy" in row)
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
        timeline.record("training", began)
        reason = "all epochs are trained"
        if progress.epoch < spec.num_epochs:
            reason = f"no better validation accuracy since epoch {progress.best_epoch}"
            self.console.note(f"stopped early: {reason}; train.patience={config.train.patience}")
        self._finish(run_state, progress, seconds_to_first_step, form.result())
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
        config, spec = self.trainer.config, self.trainer.spec
        other = config.train.label_smoothing > 0 or spec.loss is not None
        other |= bool(config.data.class_weights)
        sums, valid, ema, rate = jax.device_get(
            (segment.sums, valid, segment.ema_valid, segment.learning_rate)
        )
        validated, averaged = {}, {}
        if valid.count:
            validated["valid/loss"] = shortest(valid.loss / valid.count)
            validated["valid/accuracy"] = shortest(valid.correct / valid.count)
            validated |= _measured("valid/", valid)
        if ema is not None and ema.count:
            averaged["valid/ema_loss"] = shortest(ema.loss / ema.count)
            averaged["valid/ema_accuracy"] = shortest(ema.correct / ema.count)
            averaged |= _measured("valid/ema_", ema)
        return {
            "epoch": progress.epoch + 1,
            "step": segment.step,
            "train/loss": shortest(sums.loss / sums.count),
            **({"train/objective": shortest(sums.objective / sums.count)} if other else {}),
            "train/accuracy": shortest(sums.correct / sums.count),
            **validated,
            **averaged,
            "learning_rate": shortest(rate),
            "images_per_second": self.trainer.spec.num_examples / progress.epoch_seconds,
        }

    def _finish(
        self,
        run_state: RunState,
        progress: Progress,
        seconds_to_first_step: float,
        images: ImageForm,
    ) -> None:
        """Tests the best parameters on every test image; writes the weights, summary, figures."""
        from lenet_jax.runs import figures

        params, averaged = run_state.best_params, run_state.state.averaged
        masks = run_state.state.masks
        spec, dataset, folder = self.trainer.spec, self.trainer.dataset, self.directory.path
        with timeline.span("evaluation"):
            test, logits = jax.block_until_ready(self.trainer.evaluate(params, "test"))
        summary = {
            "status": "done",
            "test_accuracy": shortest(test.accuracy),
            "test_loss": shortest(test.mean_loss),
            "test_examples": int(test.count),
            "test_mistakes": int(test.count - test.correct),
            **_measured("test_", test),
            "best_epoch": progress.best_epoch,
            **({"valid_accuracy": progress.best_accuracy} if len(dataset.valid) else LAST_EPOCH),
            "num_params": sizes.num_params(spec),
            **({} if masks is None else {"pruned_weights": count_pruned(masks)}),
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
        with timeline.span("files"):
            form = figures.describe_images(images, np.asarray(scores)[: len(valid)])
            figures.save_weights(folder / WEIGHTS, spec, params, dataset, form)
        if averaged is not None:
            ema = self.trainer.evaluate(averaged, "test")[0]
            summary["test_ema_accuracy"] = shortest(ema.accuracy)
            summary |= _measured("test_ema_", ema)
            figures.save_weights(folder / EMA_WEIGHTS, spec, averaged, dataset, form)
        self.directory.write_json(SUMMARY, summary)
        self.directory.write_sums()
        rows, warn = self.directory.rows, self.console.warn
        logits = jax.device_get(logits)[: len(dataset.test)]
        with timeline.span("figures"):
            figures.draw_figures(folder, spec, params, dataset, logits, rows, warn)
        commands = next_commands(self.record.command, folder)
        self.console.result(summary, commands, spec.measured)
        if is_stuck(summary["test_accuracy"], chance(dataset.test.labels)):
            warn("hardly better than chance: it has learned nothing; try another learning rate")


def _prepare_results(dataset: Dataset, fit: str) -> ImageForm:
    """Does while the network trains what its results need: imports, and the form of the images.

    Args:
      dataset: what it is trained on.
      fit: how that was brought to its size.
    """
    with timeline.span("import of figures"):
        from lenet_jax.plots import output
        from lenet_jax.runs import figures  # noqa: F401

        output.prepare()
    with timeline.span("form of the images"):
        return measure_form(dataset.train.images, fit, dataset.native_size)


def _measured(prefix: str, metrics: Metrics) -> dict[str, float]:
    """The means of the measurements, their names prefixed."""
    sums, count = metrics.measured, metrics.count
    return {f"{prefix}{name}": shortest(total / count) for name, total in sums.items()}


def _failed_step(segment: Segment) -> int | None:
    """The step after which the run is no longer finite, counted from 1; None if it still is."""
    step = int(segment.state.step)
    if step < 0:
        return -step
    # After an epoch's last step only the validation shows it: finite parameters can give infinite
    # losses.
    finite = segment.valid is None or math.isfinite(float(segment.valid.loss))
    return None if finite else step
