"""Every command on a disk that fails; `python -m experiments.faults` fails each operation."""

import shutil

import pytest
from matplotlib.figure import Figure

from experiments import failing
from experiments.failing import Command
from lenet_jax import export, inspect, main, sweep, torch_bridge
from lenet_jax.plots import output
from lenet_jax.report import figures, page
from lenet_jax.runs import figures as run_figures
from lenet_jax.runs import run as runs
from lenet_jax.sweeps import plan, train
from lenet_jax.sweeps import run as sweeps
from lenet_jax.training.loop import Trainer
from lenet_jax.training.population import population_of
from tests.support import tiny
from tests.support.runs import contents

TRIED = 3  # faults of each command, spread over all of its operations

pytestmark = pytest.mark.slow


def once(function):
    """The function, which gives what its first call gave: here all calls are alike."""
    results = []

    def call(*arguments, **options):
        if not results:
            results.append(function(*arguments, **options))
        return results[0]

    return call


@pytest.fixture(scope="module", autouse=True)
def cheap():
    """One blank figure instead of all, and one compilation of each function."""
    with pytest.MonkeyPatch.context() as patch:
        blank = output.png(Figure((0.1, 0.1)))
        patch.setattr("lenet_jax.machine.use_compilation_cache", lambda: None)
        patch.setattr(run_figures, "draw", lambda _, stem, *__: {f"{stem}.png": blank})
        patch.setattr(sweeps, "draw", lambda _, stem, *__: {f"{stem}.png": blank})
        patch.setattr(figures, "draw_figures", lambda *_: {"curves": Figure((0.1, 0.1))})
        patch.setattr(page, "report", lambda *_: "<html></html>")
        patch.setattr(runs, "Trainer", once(Trainer))
        patch.setattr(Trainer, "compile", once(Trainer.compile))
        patch.setattr(train, "population_of", once(population_of))
        patch.setattr(plan, "chunk_size", lambda *_: 2)
        yield


def sweep_arguments(folder):
    values = tiny.CONFIG | {"data.name": folder, "model.backend": "plain", "train.num_epochs": 1}
    flags = [f"--config.{path}={value}" for path, value in values.items()]
    return ["--config=configs/notes.py", "--sweep=configs/sweeps/seeds.py:2", "--save=all", *flags]


@pytest.fixture(scope="module")
def commands(finished, folder, tmp_path_factory):
    base = tmp_path_factory.mktemp("swept")
    train = [
        f"--config={finished.path}",
        "--config.train.num_epochs=2",
        "--config.checkpoint.every_epochs=1",
    ]
    flags = sweep_arguments(folder)
    train_all = Command("sweep", sweep.main, lambda out: [*flags, f"--workdir={out}"])
    failing.undisturbed(train_all, base / "sweep")
    network = f"--workdir={finished.path}"
    return [
        Command("main", main.main, lambda out: [*train, f"--workdir={out}"]),
        train_all,
        Command(
            "collect",
            sweep.main,
            lambda out: [*flags, f"--workdir={out}", "--collect"],
            base / "sweep",
        ),
        Command("inspect", inspect.main, lambda out: [network, f"--out={out}"]),
        Command(
            "export",
            export.main,
            lambda out: [network, "--format=safetensors", f"--out={out / 'net.safetensors'}"],
        ),
        Command(
            "convert",
            torch_bridge.main,
            lambda out: ["convert", str(finished.path), str(out / "net.safetensors")],
            folder,
        ),
    ]


def test_a_failing_disk_is_4_and_the_repeated_command_ends_as_undisturbed(commands, tmp_path):
    for command in commands:
        expected, counts = failing.undisturbed(command, tmp_path / command.name)
        faults = failing.faults(counts)
        for fault in faults[1 :: max(1, len(faults) // TRIED)][:TRIED]:
            assert failing.try_command(command, tmp_path / command.name, fault, expected) == []


def test_inspect_replaces_nothing_of_a_run(finished, run_command, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished.path, run)
    before = contents(run)
    arguments = [f"--workdir={run}", f"--out={run}"]
    code, _, error = run_command(inspect.main, *arguments)
    assert code == 2 and "curves.png already exists" in error and len(error.splitlines()) == 2
    assert contents(run) == before
    for force in (["--force"], []):  # what it wrote itself, it replaces
        assert run_command(inspect.main, *arguments, *force)[0] == 0
    assert {file for file in before if file not in contents(run)} == set()
    assert len(list((run / "tensorboard").iterdir())) == 2
    outside = tmp_path / "outside"
    outside.mkdir()
    (run / "inspect").symlink_to(outside)
    code, _, error = run_command(inspect.main, f"--workdir={run}")
    assert code == 2 and "symbolic link" in error and not list(outside.iterdir())


def test_a_sweep_replaces_no_file_in_a_folder_without_a_sweep(folder, run_command, tmp_path):
    (tmp_path / "results.csv").write_text("mine")
    code, _, error = run_command(sweep.main, *sweep_arguments(folder), f"--workdir={tmp_path}")
    assert code == 2 and "holds results.csv, but no sweep.json" in error
    assert (tmp_path / "results.csv").read_text() == "mine"
