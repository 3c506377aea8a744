"""Stage `single`: one network of `configs/notes.py`, trained to its end, for each backend.

Training, validation and the look at the test images are timed apart. The time to 99 % counts
training alone, up to the end of the first epoch whose weights get that share of the test images
right, as in `experiments.time_to_accuracy`. `segments` is the speed of a run's own loop, whose
number of steps is an argument: a GPU then asks the host after each step whether there is another.
"""

import functools
import time
from typing import Any

import jax
import numpy as np

from experiments.accelerator.record import Stage, log, memory
from lenet_jax import config as configs
from lenet_jax import data
from lenet_jax.nn import ops
from lenet_jax.training import evaluation, step
from lenet_jax.training.batches import DeviceSplit, EpochSlice
from lenet_jax.training.hyperparameters import hyperparameters, seeds
from lenet_jax.training.loop import Trainer
from lenet_jax.training.spec import make_spec

TARGET = 0.99
# Backend, images per gradient: the config's, and the whole batch at once.
VARIANTS = (("phase", 64), ("plain", 64), ("phase", 32))
SHORT = {"data.train_examples": 512, "data.valid_examples": 100, "train.num_epochs": 2}


def measure(stage: Stage) -> None:
    """Trains a network for each variant, as many as there is time for."""
    runs: list[dict[str, Any]] = []
    for backend, micro_batch_size in VARIANTS[:1] if stage.short else VARIANTS:
        run = train_network(make_changes(backend, micro_batch_size, stage), stage)
        runs.append({"backend": backend, "micro_batch_size": micro_batch_size} | run)
        log(
            f"{backend}, {micro_batch_size} images a gradient: {run['images_per_second']:,.0f}"
            f" images/s, {100 * run['test_accuracy']:.2f} % after {run['epochs']} epochs,"
            f" compiled in {run['compile_seconds']:.1f} s"
        )
        stage.save(runs=runs)
        if stage.seconds_left < 0:
            return
    speed = train_in_segments(make_changes(*VARIANTS[0], stage))
    stage.save(segments={"images_per_second": speed})
    log(f"the first of these in a run's own loop: {speed:,.0f} images/s")


def make_changes(backend: str, micro_batch_size: int, stage: Stage) -> dict[str, Any]:
    """The changes of a variant to the config."""
    changes = {"model.backend": backend, "train.micro_batch_size": micro_batch_size}
    return changes | (SHORT if stage.short else {})


def train_in_segments(changes: dict[str, Any]) -> float:
    """Images a second of the best of three epochs of a run's `Trainer`, each in one segment."""
    config = configs.load("configs/notes.py", changes.items())
    trainer = Trainer(config, data.load_section(config.data))
    trainer.compile()
    state, sums, seconds = trainer.init(), trainer.place(evaluation.no_metrics()), []
    for epoch in range(3):
        order = trainer.order(state, epoch)
        begun = time.perf_counter()
        steps = EpochSlice(order, 0, trainer.spec.steps_per_epoch)
        state, *_ = jax.block_until_ready(trainer.take_steps(state, sums, steps))
        seconds.append(time.perf_counter() - begun)
    return trainer.spec.num_examples / min(seconds)


def train_network(changes: dict[str, Any], stage: Stage) -> dict[str, Any]:
    """Trains the network of the notes with some changes, to its end or the stage's."""
    config = configs.load("configs/notes.py", changes.items())
    dataset = data.load_section(config.data)
    spec, settings = make_spec(config, dataset), hyperparameters(config)
    train_split, valid_split, test_split = (
        jax.device_put(DeviceSplit.of(split))
        for split in (dataset.train, dataset.valid, dataset.test)
    )
    compile_jit = functools.partial(jax.jit, compiler_options=ops.compiler_options())
    state = compile_jit(functools.partial(step.init_state, spec))(seeds(config), settings)
    started = time.perf_counter()
    arguments = (state, train_split, np.int32(0), settings)
    train_epoch = compile_jit(functools.partial(step.train_epoch, spec))
    train_epoch = train_epoch.lower(*arguments).compile()
    compile_seconds = time.perf_counter() - started
    started = time.perf_counter()
    evaluate = compile_jit(lambda params, split: evaluation.evaluate(spec, params, split)[0])
    for split in (valid_split, test_split):
        jax.block_until_ready(evaluate(state.params, split))
    evaluation_compile_seconds = time.perf_counter() - started

    epochs: list[dict[str, float]] = []
    best, best_params, best_epoch = -1.0, state.params, 0
    for epoch in range(config.train.num_epochs):
        begun = time.perf_counter()
        state, _ = train_epoch(state, train_split, np.int32(epoch), settings)
        jax.block_until_ready(state.params)
        trained = time.perf_counter()
        valid = float(evaluate(state.params, valid_split).accuracy)
        validated = time.perf_counter()
        test = float(evaluate(state.params, test_split).accuracy)
        epochs.append(
            {
                "train_seconds": trained - begun,
                "valid_seconds": validated - trained,
                "test_seconds": time.perf_counter() - validated,
                "valid_accuracy": valid,
                "test_accuracy": test,
            }
        )
        if valid > best:
            best, best_params, best_epoch = valid, state.params, epoch + 1
        if stage.seconds_left < 0:
            break
    seconds = np.cumsum([epoch["train_seconds"] for epoch in epochs])
    reached = [bool(epoch["test_accuracy"] >= TARGET) for epoch in epochs]
    return {
        "config": "configs/notes.py",
        "changes": changes,
        "test_accuracy": float(evaluate(best_params, test_split).accuracy),
        "best_epoch": best_epoch,
        "epochs": len(epochs),
        "epochs_asked_for": config.train.num_epochs,
        "diverged": bool(state.step < 0),
        "images_per_second": spec.num_examples / float(np.median(np.diff(seconds, prepend=0))),
        "train_seconds": float(seconds[-1]),
        "seconds_to_target": float(seconds[reached.index(True)]) if any(reached) else None,
        "target": TARGET,
        "compile_seconds": compile_seconds,
        "evaluation_compile_seconds": evaluation_compile_seconds,
        "per_epoch": epochs,
        "memory": memory(),
    }
