"""A run killed at any moment resumes to bit-identical results: 7 kills here, 40 with --long."""

import pytest

from experiments import faults
from tests.support import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    values = tiny.CONFIG | {
        "data.name": tiny.write_idx_folder(tmp_path_factory.mktemp("data") / "bars"),
        "model.backend": "plain",
        "train.num_epochs": faults.EPOCHS,
        "checkpoint.keep": 1,
    }
    overrides = [f"--config.{path}={value}" for path, value in values.items()]
    return ["--config=configs/notes.py", *overrides]


@pytest.fixture(scope="module")
def undisturbed(arguments, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert not faults.run_until("never:0:0", arguments, workdir)
    return faults.fingerprint(workdir)


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(5 if metafunc.config.getoption("--long") else 1))


def test_a_run_killed_at_any_moment_resumes_bit_identically(
    arguments, undisturbed, tmp_path, seed, request
):
    assert undisturbed["epochs"] == list(range(1, faults.EPOCHS + 1))
    kills = 8 if request.config.getoption("--long") else 7
    for moment in faults.draw_moments(seed)[:kills]:
        assert faults.run_until(moment, arguments, tmp_path), moment
    assert not faults.run_until("never:0:0", arguments, tmp_path)
    assert faults.fingerprint(tmp_path) == undisturbed
