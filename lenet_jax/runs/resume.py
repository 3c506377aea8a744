"""Whether a run may resume what its directory holds, and the state to resume from."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from lenet_jax import config as configs
from lenet_jax import data
from lenet_jax.config.source import files_text
from lenet_jax.errors import UserError, show
from lenet_jax.reading import convert, read_json
from lenet_jax.storage.checkpoint import Checkpoints
from lenet_jax.storage.formats import Metrics as RowOfMetrics
from lenet_jax.storage.formats import RunRecord, Summary
from lenet_jax.storage.run_dir import CONFIG, NETWORK, RECORD, SUMMARY, Row, RunDir, check
from lenet_jax.training import training_set
from lenet_jax.training.environment import sum_of_files
from lenet_jax.training.evaluation import Metrics, no_metrics
from lenet_jax.training.hyperparameters import hyperparameters
from lenet_jax.training.loop import Trainer
from lenet_jax.training.optim import depends_on_length
from lenet_jax.training.spec import Spec, make_spec
from lenet_jax.training.step import TrainState, learning_rate

LOW_RATE = 0.01  # of the peak; below, training hardly changes a network


class RunState(NamedTuple):
    """The arrays that change during a run, which a checkpoint holds.

    Attributes:
      state: of the training.
      sums: over the epoch that the state is in.
      best_params: the parameters of the epoch that was best on validation, or without it the last.
    """

    state: TrainState
    sums: Metrics
    best_params: nnx.State


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of a run and its best epoch on validation; a checkpoint holds it as JSON.

    Attributes:
      epoch: the last complete epoch, counted from 1.
      best_epoch: likewise; 0 before the first.
      best_accuracy: on validation, in that epoch; -1 without validation.
      train_seconds: of the complete epochs.
      epoch_seconds: of the current one, so far.
    """

    epoch: int
    best_epoch: int
    best_accuracy: float
    train_seconds: float
    epoch_seconds: float

    def with_epoch(self, row: Row) -> "Progress":
        """The progress after one more epoch.

        The first of equal accuracies counts as best; without validation the last epoch does.
        """
        epoch, accuracy = int(row["epoch"]), row.get("valid/accuracy")
        seconds = self.train_seconds + self.epoch_seconds
        if accuracy is None or accuracy > self.best_accuracy:
            best = self.best_accuracy if accuracy is None else accuracy
            return Progress(epoch, epoch, best, seconds, 0.0)
        return Progress(epoch, self.best_epoch, self.best_accuracy, seconds, 0.0)

    def is_stalled(self, patience: int | None) -> bool:
        """Whether so many epochs have passed since the best one; None: never."""
        return patience is not None and self.epoch - self.best_epoch >= patience


START = Progress(0, 0, -1.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a checkpoint holds beside the arrays: the progress, and the rows of `metrics.jsonl`."""

    run: Progress
    rows: list[RowOfMetrics]


def look_back(
    directory: RunDir,
    config: configs.Config,
    dataset: data.Dataset,
    warn: Callable[[str], None],
) -> tuple[int | None, Summary | None]:
    """Checks that a run may resume what the directory holds; `warn` says what cannot be checked.

    Returns:
      The number of epochs from which the config extends the existing run, if it does; and the
      summary of that run, if it is finished.

    Raises:
      UserError: the existing run has another config or other data, or is damaged.
    """
    file, previous = directory.path / CONFIG, directory.read_json(RECORD, RunRecord)
    if previous is None or not file.exists():
        if directory.has_checkpoints():
            missing = RECORD if previous is None else file.name
            raise UserError(
                f"{directory.path} has checkpoints, but no {missing} that says what they belong"
                " to\n"
                "Restore a backup, or choose another --workdir to start over."
            )
        if previous is None:
            directory.refuse_others()
        return None, None
    old = configs.load_json(file)
    finished = previous["status"] == "done" and (directory.path / SUMMARY).exists()
    if finished and (remark := check(directory.path)):
        warn(remark)
    changed = _changed_code(old, config, previous)
    if changed and finished:
        warn(f"{changed} changed since {directory.path} was trained")
    different = configs.differing_keys(old, config)
    extended = [key for key in different if key.startswith("train.num_epochs:")]
    if finished and different == extended and _was_extended(previous, config, "from_epochs"):
        return None, directory.read_json(SUMMARY, Summary)
    longer = config.train.num_epochs >= old.train.num_epochs
    kept = [key for key in different if key.startswith("train.schedule_epochs:")]
    if not longer or different != extended + kept or (kept and not extended):
        raise UserError(
            f"{directory.path} holds a run of another config: {'; '.join(different)}\n"
            "Use the same config to resume it, or choose another --workdir to start over."
        )
    if depends_on_length(config.schedule.name) and _span(config) != _span(old):
        rate = last_rate(make_spec(old, dataset), old)
        raise UserError(
            f"{directory.path} trains {_span(old)} epochs on the schedule {config.schedule.name},"
            f" whose rates would differ if it spanned {_span(config)}\n"
            f"Add --extend=continue to keep its last learning rate, {rate:.3g} (the peak is"
            f" {old.optimizer.learning_rate:g}), for the additional epochs,"
            " or choose another --workdir to start over."
        )
    if changed and (extended or not finished):
        kept_text = f" (its text is {NETWORK} there)" if "network" in changed else ""
        raise UserError(
            f"{changed} changed since {directory.path} was started\n"
            f"Restore it{kept_text}, or choose another --workdir to start over."
        )
    if previous["data_fingerprint"] != dataset.fingerprint:
        raise UserError(
            f"the data {dataset.name!r} changed since {directory.path} was started\n"
            "Restore the old data, or choose another --workdir to start over."
        )
    if extended:
        return old.train.num_epochs, None
    return None, directory.read_json(SUMMARY, Summary) if finished else None


def _changed_code(old: configs.Config, config: configs.Config, record: RunRecord) -> str | None:
    """The file of the user's own code, or of its subset, that is not as the run's record has it."""
    for kind, was, now in (
        ("network", [old.model.name], [config.model.name]),
        ("loss", [old.train.loss], [config.train.loss]),
        ("measurement", old.train.measurements, config.train.measurements),
    ):
        before = record.get(f"{kind}_sha256")
        if before and was == now and sum_of_files(now, kind) not in (None, before):
            return ", ".join(dict.fromkeys(map(files_text, now)))
    file, before = config.data.subset_file, record.get("subset_sha256")
    if before and old.data.subset_file == file and training_set.sum_of_files([file]) != before:
        return show(file)
    return None


def last_rate(spec: Spec, config: configs.Config) -> float:
    """The learning rate of the last step that the schedule spans."""
    step = jnp.int32(spec.schedule_epochs * spec.steps_per_epoch - 1)
    return float(learning_rate(spec, hyperparameters(config), step))


def low_rate(spec: Spec, config: configs.Config, folder: Path) -> str | None:
    """What to do instead of extending a run, if the rate that stays is too low to change much."""
    rate, peak = last_rate(spec, config), config.optimizer.learning_rate
    if spec.schedule_epochs >= spec.num_epochs or rate >= LOW_RATE * peak:
        return None
    return (
        f"a learning rate of {rate:.3g}, {100 * rate / peak:.2g} % of the peak, hardly changes the"
        " network; to train further, choose another --workdir and start over with more epochs, or"
        f" start from these weights: --config.train.initial_weights={folder}"
    )


def repeated_config(folder: Path, config: configs.Config) -> configs.Config:
    """The config of an extended run in a folder, where `config` is its own but for the flag.

    That is the config itself, or, if the run was extended from or to as many epochs with
    `--extend=continue`, one with the epochs that its schedule spans.

    Raises:
      UserError: the run's record or config is damaged.
    """
    previous = read_json(folder / RECORD, RunRecord)
    if previous is None or config.train.schedule_epochs is not None:
        return config
    if not any(_was_extended(previous, config, end) for end in ("from_epochs", "to_epochs")):
        return config
    old = configs.load_json(folder / CONFIG)
    if old.train.num_epochs < config.train.num_epochs:
        return config
    return configs.replace(config, {"train.schedule_epochs": old.train.schedule_epochs})


def extended_config(folder: Path, config: configs.Config) -> configs.Config:
    """The config that extends the run in a folder beyond its schedule, at its last learning rate.

    Raises:
      UserError: there is no run, or its config is damaged.
    """
    if not (folder / CONFIG).exists():
        raise UserError(
            f"--extend=continue: there is no run in {folder} to extend\n"
            "Leave the flag out to start one."
        )
    check(folder)
    old = configs.load_json(folder / CONFIG)
    longer = config.train.num_epochs > old.train.num_epochs
    if not (depends_on_length(config.schedule.name) and (longer or old.train.schedule_epochs)):
        return config
    return configs.replace(config, {"train.schedule_epochs": _span(old)})


def restore(
    trainer: Trainer, directory: RunDir, checkpoints: Checkpoints, warn: Callable[[str], None]
) -> tuple[RunState | None, Progress, Sequence[Row]]:
    """Restores the newest intact checkpoint; writes nothing.

    Returns:
      The arrays, or None if there is no checkpoint; the run's progress; and its rows until then.

    Raises:
      UserError: as `Checkpoints.restore` does; or the checkpoints are gone, or of another version.
    """
    state = trainer.abstract_state()
    like = RunState(state, jax.eval_shape(no_metrics), state.params)
    restored = checkpoints.restore(like, warn)
    if restored is None:
        record = directory.read_json(RECORD, RunRecord) or {}
        if record.get("has_checkpoint", directory.num_logged() > 0):
            raise UserError(
                f"{directory.path} logged {directory.num_logged()} epochs, but its checkpoints are"
                " gone\n"
                "Restore a backup, or choose another --workdir to start over."
            )
        return None, START, []
    run_state, metadata = restored
    try:
        progress = convert(metadata, Metadata, "its metadata")
    except UserError as error:
        raise UserError(
            f"{directory.checkpoints} is of another version of lenet-jax: {error}\n"
            "Choose another --workdir to start over."
        ) from error
    return run_state, progress.run, progress.rows


def _was_extended(record: RunRecord, config: configs.Config, end: str) -> bool:
    """Whether the run was extended from, or to, the epochs of a config."""
    epochs = config.train.num_epochs
    return any(extension.get(end) == epochs for extension in record.get("extensions", ()))


def _span(config: configs.Config) -> int:
    """The epochs that the learning-rate schedule spans."""
    return config.train.schedule_epochs or config.train.num_epochs
