"""The learning-rate range test: what it measures, writes and suggests."""

import csv
import errno

import numpy as np
import pytest

from lenet_jax import find_rate
from lenet_jax.runs.rate_test import summarise
from tests.support import tiny
from tests.support.root import ROOT


@pytest.fixture
def start(folder, run_command, monkeypatch, tmp_path):
    """A function that runs the command on the tiny data with more flags."""
    monkeypatch.setattr("lenet_jax.machine.use_cores", lambda: None)
    monkeypatch.setattr("lenet_jax.find_rate.require_device", lambda: None)
    values = tiny.CONFIG | {"data.name": folder, "model.backend": "plain"}
    values |= {"train.batch_size": 4, "train.micro_batch_size": 4}
    flags = [f"--config.{path}={value}" for path, value in values.items()]
    flags += [f"--config={ROOT / 'configs' / 'notes.py'}"]

    def run(*more, workdir=tmp_path / "rates"):
        return run_command(find_rate.main, *flags, f"--workdir={workdir}", *more)

    return run


def test_it_writes_a_table_and_a_figure_and_replaces_its_own(start, tmp_path):
    code, out, error = start("--lowest=1e-4", "--highest=1e9")
    assert (code, error) == (0, "")
    assert "of 18 steps from 0.0001 on, stopped at" in out
    with (tmp_path / "rates" / "rates.csv").open() as file:
        rows = list(csv.DictReader(file))
    rates = [float(row["learning_rate"]) for row in rows]
    assert 2 < len(rates) < 18 and [int(row["step"]) for row in rows] == [*range(1, len(rows) + 1)]
    np.testing.assert_allclose(rates, np.geomspace(1e-4, 1e9, 18)[: len(rates)])
    assert float(rows[0]["loss"]) == pytest.approx(np.log(6), abs=0.5)
    assert (tmp_path / "rates" / "rates.png").read_bytes().startswith(b"\x89PNG")
    assert start("--steps=2")[0] == 0
    assert len((tmp_path / "rates" / "rates.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("name", ["rates.csv", "rates.png"])
def test_it_refuses_a_file_of_somebody_else_before_the_test(start, tmp_path, monkeypatch, name):
    monkeypatch.setattr("lenet_jax.runs.rate_test.run_test", None)
    (tmp_path / "rates").mkdir()
    (tmp_path / "rates" / name).write_text("mine")
    code, out, error = start("--steps=2")
    assert (code, out) == (2, "") and f"{name} already exists" in error
    assert [file.read_text() for file in (tmp_path / "rates").iterdir()] == ["mine"]


def test_it_refuses_a_folder_in_the_place_of_a_file_before_the_test(start, tmp_path, monkeypatch):
    monkeypatch.setattr("lenet_jax.runs.rate_test.run_test", None)
    (tmp_path / "rates" / "rates.csv").mkdir(parents=True)
    code, out, error = start("--steps=2", "--force")
    assert (code, out) == (2, "") and "A folder is where a file belongs" in error


def test_it_creates_the_folders_above_its_own(start, tmp_path):
    code, _, error = start("--steps=2", workdir=tmp_path / "runs" / "rates")
    assert (code, error) == (0, "")
    assert (tmp_path / "runs" / "rates" / "rates.csv").is_file()


def test_the_suggestion_is_shown_though_the_disk_is_full(start, tmp_path, monkeypatch):
    def fail(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("lenet_jax.find_rate.write_atomically", fail)
    code, out, error = start("--steps=18")
    assert code == 4 and "No space left" in error
    assert "suggestion: --config.optimizer.learning_rate=" in out


def test_the_suggestion_is_a_third_of_the_rate_of_the_lowest_loss():
    rates = np.geomspace(1e-5, 10, 600)
    fall = 2.3 / (1 + (rates / 0.01) ** 2) + np.exp(rates / 0.1) - 0.9  # steepest at 0.01
    test = summarise(rates, np.where(rates < 1, fall, np.nan), 600)
    assert test.rates[-1] < 1 and len(test.rates) == len(test.losses) == len(test.averages)
    lowest = rates[np.nanargmin(fall[rates < 1])]
    assert lowest / 1.3 < test.rates[test.lowest] < 1.3 * lowest
    assert test.suggestion == pytest.approx(test.rates[test.lowest] / 3)
    assert test.steepest is not None and 0.005 < test.rates[test.steepest] < 0.02
    assert summarise(rates, np.linspace(2.3, 2.4, 600), 600).suggestion is None
    assert summarise(rates, np.full(600, np.nan), 600).suggestion is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lowest=0"], "--lowest=0 must be above 0 and below --highest=10"),
        (["--lowest=2", "--highest=1"], "--lowest=2 must be above 0 and below --highest=1"),
        (["--highest=nan"], "--lowest=1e-05 must be above 0 and below --highest=nan"),
        (["--steps=1"], "flag --steps=1: 1 is not integer >= 2"),
        (["--steps=19"], "--steps=19: an epoch has 18 steps"),
        (["--config.seed=-1"], "seed=-1: must be an integer of at least 0"),
    ],
)
def test_wrong_input_is_a_short_error(start, tmp_path, flags, message):
    code, out, error = start(*flags)
    assert (code, out) == (2, "")
    assert error.startswith(message) and error.count("\n") <= 3
    assert not (tmp_path / "rates").exists()
