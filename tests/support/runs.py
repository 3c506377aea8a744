"""Runs of a tiny network: helpers that start them and read their results."""

import contextlib
import functools
import io
import json
import os
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from lenet_jax import config as configs
from lenet_jax import data
from lenet_jax.runs import run as runs
from lenet_jax.runs.resume import RunState
from lenet_jax.storage.checkpoint import Checkpoints
from lenet_jax.storage.run_dir import SUMMED, RunDir
from lenet_jax.storage.sums import write_sums
from lenet_jax.training.evaluation import no_metrics
from lenet_jax.training.hyperparameters import hyperparameters, seeds
from lenet_jax.training.spec import make_spec
from lenet_jax.training.step import init_state
from tests.support import tiny

EPOCHS, STEPS, TRAIN, TEST = 3, 5, 70, 33

COMMAND = ["python", "-m", "lenet_jax.main", "--workdir=a folder"]


class Run(NamedTuple):
    """A finished run: its directory, config, exit code and output."""

    path: Path
    config: configs.Config
    code: int
    output: str

    def read(self, name):
        return json.loads((self.path / name).read_text())

    def rows(self):
        return [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]


def renew_sums(folder):
    """Makes the sums of a finished run those of its files as they are."""
    write_sums(folder, SUMMED)


def make_config(folder, **sections):
    """A schedule that does not depend on the number of epochs, and a backend that compiles fast.

    Nearly all runs differ in hyperparameters alone, so that they share one compilation.
    """
    defaults = {
        "data": {"name": str(folder)},
        "model": {"backend": "plain"},
        "train": {"num_epochs": EPOCHS},
        "schedule": {"name": "step", "step_epochs": 1, "step_scale": 0.5},
    }
    sections = {
        name: defaults.get(name, {}) | sections.get(name, {}) for name in defaults | sections
    }
    return tiny.config(**sections)


def start(path, config, **options):
    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = runs.run(config, str(path), COMMAND, time.perf_counter(), **options)
    return Run(path, config, code, output.getvalue())


def send_in_epoch(monkeypatch, epoch, number):
    """Sends this process a signal when the epoch's metrics are written."""
    log = RunDir.log

    def log_and_send(self, row):
        log(self, row)
        if row["epoch"] == epoch:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(RunDir, "log", log_and_send)


def restore(run):
    """The arrays of a run's last checkpoint."""
    spec = make_spec(run.config, data.load_section(run.config.data))
    init = jax.jit(functools.partial(init_state, spec))
    state = init(seeds(run.config), hyperparameters(run.config))
    with Checkpoints(run.path / "checkpoints", keep=2) as checkpoints:
        restored = checkpoints.restore(RunState(state, no_metrics(), state.params), pytest.fail)
        assert restored is not None
        return restored[0]


def assert_same_end(one, other):
    """Asserts equal rows except for the speed, and bit-identical state and weights."""
    for a, b in zip(one.rows(), other.rows(), strict=True):
        assert a | {"images_per_second": 0} == b | {"images_per_second": 0}
    a, b = (jax.tree.map(bits, restore(run)) for run in (one, other))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    a, b = (load_file(run.path / "model.safetensors") for run in (one, other))
    jax.tree.map(np.testing.assert_array_equal, a, b)


def bits(leaf):
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def contents(path):
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    return {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}
