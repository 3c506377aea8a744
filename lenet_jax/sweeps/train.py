"""Trains a chunk of a sweep: its members, from their first step to their results."""

import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lenet_jax.analysis.robustness import Robustness
from lenet_jax.corruptions.mnist_c import CORRUPTIONS, corrupt
from lenet_jax.data.dataset import Split
from lenet_jax.data.form import measure_form
from lenet_jax.inference.state_dict import form_metadata
from lenet_jax.statistics import shortest
from lenet_jax.storage.chunk import CORRUPTED, MEAN_CORRUPTION_ERROR, Row, write_chunk
from lenet_jax.sweeps.options import Options
from lenet_jax.sweeps.plan import Chunk, Group
from lenet_jax.sweeps.recorder import Recorder
from lenet_jax.sweeps.starts import Weights, load_starts
from lenet_jax.terminal.interrupt import Interrupt
from lenet_jax.terminal.progress import MemberEpochs
from lenet_jax.training.evaluation import Metrics
from lenet_jax.training.population import EpochMetrics, population_of
from lenet_jax.training.start import count_pruned
from lenet_jax.training.training_set import make_training_set


class Outcome(NamedTuple):
    """What is left of each member of a trained population, see `population.Members`.

    Attributes:
      step: taken, or negative.
      stopped_epoch: the one after which it stopped for want of patience.
      best_epoch: on validation; without it the last.
      valid: the sums over the validation images in that epoch.
      test: those over the test images, under its parameters of that epoch.
      averaged: those under the average of its parameters, if there is one.
      corrupted: those over the test images under each corruption, by name.
    """

    step: Any
    stopped_epoch: Any
    best_epoch: Any
    valid: Metrics
    test: Metrics
    averaged: Metrics | None
    corrupted: dict[str, Metrics]


class ChunkTrainer:
    """Trains chunks; those of one group share the compiled functions and the data."""

    def __init__(self, options: Options):
        self._options = options
        self._group: Group | None = None

    def train(
        self,
        chunk: Chunk,
        folder: Path,
        progress: MemberEpochs,
        interrupt: Interrupt,
        weights: Weights | None = None,
    ) -> list[Row] | None:
        """Trains a chunk and writes it to `folder`.

        Args:
          chunk: the chunk.
          folder: an empty one.
          progress: counts the epochs.
          interrupt: ends the training.
          weights: that its members name; None: they are read.

        Returns:
          A row of results for each member; None if stopped by a signal.
        """
        compiles = self._group is not chunk.group
        if compiles:
            progress.compiling()
            self._prepare(chunk)
        population, count, spec = self._population, len(chunk.members), chunk.group.spec
        started = time.perf_counter()
        configs, sets = [member.config for member in chunk.members], []
        if chunk.group.has_own_training_sets:
            sets = [make_training_set(config, chunk.group.dataset) for config in configs]
        members, settings = population.start(configs, sets)
        if starts := load_starts(chunk, weights=weights):
            members = population.restart(members, configs, starts)
        masks = population.pick(members.state.masks, count)
        self._recorder.write_epoch(chunk, folder, members.state.params, 0, np.ones(count, bool))
        epochs = []
        for epoch in range(spec.num_epochs):
            members, metrics = population.train_epoch(
                members, settings, self._train_split, self._valid_split, epoch
            )
            epochs.append(population.pick(metrics, count))
            alive = ~np.isnan(epochs[-1].train_loss)
            self._recorder.write_epoch(chunk, folder, members.state.params, epoch + 1, alive)
            if interrupt.notice():
                return None
            if compiles and epoch == 0:
                progress.skip(count)
            else:
                progress.advance(count, count * spec.num_examples)
            if (population.pick(members.state.step, count) < 0).all():  # all are frozen
                break
        for epoch in range(len(epochs), spec.num_epochs):
            nobody = np.zeros(count, bool)
            self._recorder.write_epoch(chunk, folder, members.state.params, epoch + 1, nobody)
        missing = spec.num_epochs - len(epochs)
        progress.skip(count * missing)
        nothing = jax.tree.map(lambda values: np.full_like(values, np.nan), epochs[-1])
        stacked = jax.tree.map(
            lambda *values: np.stack(values, axis=1), *epochs, *[nothing] * missing
        )
        outcome = Outcome(
            members.state.step,
            members.stopped_epoch,
            members.best_epoch,
            members.best_valid,
            population.test(members, self._test_split),
            population.test_averaged(members, self._test_split),
            {
                name: population.test(members, population.put(split))
                for name, split in self._corrupted.items()
            },
        )
        outcome = population.pick(outcome, count)
        seconds = time.perf_counter() - started
        rows = [_row(chunk, index, outcome, stacked, seconds) for index in range(count)]
        if masks is not None:
            for index, row in enumerate(rows):
                own = jax.tree.map(lambda mask, i=index: mask[i], masks)
                row["pruned_weights"] = count_pruned(own)
        curves = {name: curve for name, curve in stacked._asdict().items() if curve is not None}
        measured = {f"valid_{name}": curve for name, curve in curves.pop("measured").items()}
        write_chunk(folder, rows, curves | measured, chunk.group.chance)
        self._recorder.write_final(chunk, folder, members.best_params, rows)
        if compiles:
            progress.skip()  # the test was compiled
        return rows

    def _prepare(self, chunk: Chunk) -> None:
        """Compiles for the chunk's group; groups of one dataset share its copies on the devices."""
        former, self._group = self._group, chunk.group
        self._population = population_of(
            chunk.group.spec,
            chunk.size,
            strategy=self._options.strategy,
            shared_data_order=self._options.shared_data_order,
        )
        dataset = chunk.group.dataset
        if former is None or former.dataset is not dataset:
            self._train_split, self._valid_split, self._test_split = map(
                self._population.put, (dataset.train, dataset.valid, dataset.test)
            )
            fit = chunk.members[0].config.data.fit
            form = measure_form(dataset.train.images, fit, dataset.native_size)
            self._form = form_metadata(form, None)
            self._corrupted = {}
            if self._options.corruptions:
                self._corrupted = corrupted_splits(dataset.test, form.native)
        self._recorder = Recorder(self._options, self._population, chunk.group, self._form)


def corrupted_splits(test: Split, native: tuple[int, int]) -> dict[str, Split]:
    """The test images under each corruption.

    Args:
      test: as they are.
      native: their height and width before they were padded.
    """
    return {name: Split(corrupt(test.images, name, native), test.labels) for name in CORRUPTIONS}


def _row(chunk: Chunk, index: int, outcome: Outcome, curves: EpochMetrics, seconds: float) -> Row:
    """The results of a member of a chunk; those of a diverged one are None."""
    step, stopped, best_epoch, valid, test, averaged, corrupted = jax.tree.map(
        lambda values: values[index].item(), outcome
    )
    diverged = step < 0 and not stopped
    row: Row = {"member": int(chunk.members.numbers[index])}
    row["status"] = "diverged" if diverged else "done"
    results: Row = {}
    for name, sums in (("valid", valid), ("test", test)):
        totals = {"loss": sums.loss, "accuracy": sums.correct, **sums.measured}
        for measured, total in totals.items():
            # A diverged member may have no best epoch, and a sweep no validation images.
            mean = None
            if sums.count:
                mean = total / sums.count
                mean = mean if measured == "accuracy" else shortest(mean)
            results[f"{name}_{measured}"] = mean
    if corrupted:
        for corruption in CORRUPTIONS:  # a mapping that JAX returns is sorted
            sums = corrupted[corruption]
            results[f"{CORRUPTED}{corruption}"] = sums.correct / sums.count
        errors = {name: 1 - results[f"{CORRUPTED}{name}"] for name in CORRUPTIONS}
        robustness = Robustness(1 - results["test_accuracy"], errors)
        results[MEAN_CORRUPTION_ERROR] = shortest(robustness.mean_error)
    results["best_epoch"] = best_epoch
    epochs = stopped or chunk.group.spec.num_epochs
    if curves.valid_ema_accuracy is not None:
        last = shortest(curves.valid_ema_accuracy[index, epochs - 1])
        results["valid_ema_accuracy"] = None if math.isnan(last) else last
        results["test_ema_accuracy"] = averaged.correct / averaged.count
    if chunk.group.members.values("train.patience") != [None]:
        results |= {"epochs": epochs, "stopped_early": epochs < chunk.group.spec.num_epochs}
    row |= dict.fromkeys(results) if diverged else results
    row["diverged_step"] = -step if diverged else None
    row["seconds"] = round(seconds / len(chunk.members), 3)
    return row
