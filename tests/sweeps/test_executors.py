"""Sweeps on a Ray cluster and on Slurm, disturbed; more trials with --long, or in experiments."""

import importlib.util
import os
import pickle
import socket
import subprocess
import sys
from concurrent.futures import BrokenExecutor
from types import SimpleNamespace

import pytest

from experiments import cluster_faults, slurm_cluster
from experiments.cluster_faults import SLOW
from lenet_jax import sweep
from lenet_jax.errors import UserError, run_command
from lenet_jax.executors.ray_cluster import RayExecutor
from tests.support.root import ROOT

pytestmark = pytest.mark.slow

REQUIRED = bool(os.environ.get("LENET_JAX_REQUIRE_CLUSTERS"))
FLAGS = ["--config=configs/notes.py:smoke", "--sweep=configs/sweeps/seeds.py:6"]


def missing(engine):
    """Why an engine cannot be started here; None if it can."""
    name = {"ray": "ray", "slurm": "submitit"}[engine]
    if importlib.util.find_spec(name) is None:
        return f"{name} is not installed"
    return slurm_cluster.missing() if engine == "slurm" else None


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("local") / "sweep"
    assert cluster_faults.start(cluster_faults.FLAGS, workdir).wait() == 0
    return cluster_faults.table(workdir)


# Ray forks where it starts a node, and execs at once; JAX, if a test before has started it, warns.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
@pytest.mark.parametrize("name", ["ray", "slurm"])
def test_a_disturbed_sweep_gives_the_table_of_a_local_one(name, expected, tmp_path, request):
    if (reason := missing(name)) is not None:
        assert not REQUIRED, reason
        pytest.skip(reason)
    long = request.config.getoption("--long")
    trials = 10 if long else 1
    with cluster_faults.ENGINES[name]() as engine:
        for seed in range(trials):
            faults = cluster_faults.draw(engine, seed)
            if not long:
                faults = {kind: at for kind, at in faults.items() if kind not in SLOW}
            assert len(faults) >= 4
            cluster_faults.disturb(engine, cluster_faults.FLAGS, tmp_path / str(seed), faults)
            assert cluster_faults.table(tmp_path / str(seed)) == expected
            assert not list(tmp_path.glob(f"{seed}/chunks/.*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--executor=dask"], "--executor=dask: must be local, ray, ray:HOST:PORT or slurm"),
        (["--executor=slurm:x"], "--executor=slurm:x: must be local"),
        (["--slurm.partition=gpu"], "--slurm.partition needs --executor=slurm, or"),
        (["--executor=ray", "--slurm.jobs=2"], "--slurm.jobs needs --executor=slurm"),
        (["--slurm.time=0"], "flag --slurm.time=0: 0 is not a positive"),
        (["--worker=1/2", "--executor=ray"], "--worker trains in this process: it cannot be"),
        (["--attempts=0"], "flag --attempts=0: 0 is not a positive"),
        (["--slurm.partitoin=x"], "did you mean --slurm.partition?"),
    ],
)
def test_mistakes_are_short_and_write_nothing(environment, tmp_path, capsys, flags, message):
    assert run_command(sweep.main, [*FLAGS, f"--workdir={tmp_path / 'sweep'}", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) <= 3
    assert list(tmp_path.iterdir()) == []


def test_an_address_where_nothing_listens_is_refused_at_once(environment, tmp_path, capsys):
    if (reason := missing("ray")) is not None:
        assert not REQUIRED, reason
        pytest.skip(reason)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for address in (f"127.0.0.1:{port}", "127.0.0.1:99999"):
        arguments = [*FLAGS, f"--workdir={tmp_path / 'sweep'}", f"--executor=ray:{address}"]
        assert run_command(sweep.main, arguments) == 2
        error = capsys.readouterr().err
        assert f"no Ray cluster at {address}: " in error and len(error.splitlines()) <= 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_without_its_package_an_executor_says_what_to_install(
    environment, tmp_path, capsys, monkeypatch, name, package
):
    monkeypatch.setitem(sys.modules, package, None)
    arguments = [*FLAGS, f"--workdir={tmp_path / 'sweep'}", f"--executor={name}"]
    assert run_command(sweep.main, arguments) == 2
    assert f"pip install {package}, or '.[{name}]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


COMMANDS = {
    "srun": "",
    "scontrol": "echo MaxArraySize = 4",
    "sbatch": 'echo "$SBATCH_SAYS"',
    "squeue": 'echo "$SQUEUE_SAYS"',
    "scancel": 'echo "$@" >> "$0.log"',
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """An executor; Slurm's commands say what the environment has, and no job is run."""
    if importlib.util.find_spec("submitit") is None:
        assert not REQUIRED
        pytest.skip("submitit is not installed")
    from lenet_jax.executors import slurm

    (tmp_path / "bin").mkdir()
    for name, text in COMMANDS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SBATCH_SAYS", "Submitted batch job 1")
    monkeypatch.setenv("SQUEUE_SAYS", "1 RUNNING")
    monkeypatch.setattr(slurm, "LOOK", 1)
    with slurm.SlurmExecutor(tmp_path / "slurm", poll=0.02) as executor:
        yield executor


def test_jobs_of_slurm_are_cancelled_by_a_driver_that_has_tasks_alone(slurm, tmp_path):
    """And not by one that the sweep's lock sends away."""
    log = tmp_path / "bin" / "scancel.log"
    slurm.shutdown()
    assert not log.exists()
    slurm.submit(max, 1, 2)
    assert len(log.read_text().splitlines()) == 1
    slurm.shutdown()
    assert len(log.read_text().splitlines()) == 2


def test_a_scancel_that_is_missing_is_an_error_about_slurm(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin" / "scancel").unlink()
    with pytest.raises(UserError, match=r"--executor=slurm: .*scancel"):
        slurm.submit(max, 1, 2)


def test_a_result_that_is_no_pickle_is_an_error_of_its_task(slurm, tmp_path):
    from lenet_jax.executors.slurm import _digest

    (tmp_path / "slurm").mkdir(mode=0o700)
    file = tmp_path / "slurm" / f"{_digest(hex(id(1)), 'max', '2')}.result.pkl"
    file.write_bytes(b"half")
    assert isinstance(slurm.submit(max, 1, 2).exception(30), pickle.UnpicklingError)
    assert not file.exists()


def test_lines_of_squeue_without_a_state_are_left_out(slurm, monkeypatch):
    monkeypatch.setenv("SQUEUE_SAYS", "\n2\n1 FAILED")
    assert "job 1 is failed, see " in str(slurm.submit(max, 1, 2).exception(30))


def test_when_jobs_cannot_be_watched_all_tasks_end(slurm, monkeypatch):
    monkeypatch.setenv("SBATCH_SAYS", "good morning")
    future = slurm.submit(max, 1, 2)
    assert isinstance(future.exception(30), BrokenExecutor)
    with pytest.raises(BrokenExecutor, match="Slurm: Could not make sense of sbatch output"):
        slurm.submit(max, 1, 3)


def test_when_ray_fails_all_tasks_end(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("the head is gone")

    task = SimpleNamespace(remote=lambda *_: object())
    ray = SimpleNamespace(
        is_initialized=lambda: True,
        cluster_resources=dict,
        put=lambda value: value,
        remote=lambda **_: lambda _: task,
        wait=fail,
        cancel=lambda *_, **__: None,
        exceptions=SimpleNamespace(RayError=OSError),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    with RayExecutor() as executor:
        assert isinstance(executor.submit(max, 1, 2).exception(30), BrokenExecutor)
        with pytest.raises(BrokenExecutor, match="Ray: the head is gone"):
            executor.submit(max, 1, 3)


def test_the_script_of_a_job_array_trains_all_shares(tmp_path):
    """Run here by a shell, a job after the other, as `sbatch` starts it with its number."""
    flags = [
        *cluster_faults.FLAGS[:-1],
        "--config.train.num_epochs=1",
        f"--workdir={tmp_path / 's'}",
    ]
    command = [sys.executable, "-m", "lenet_jax.sweep", *flags]
    options = ["--print_sbatch", "--slurm.jobs=2", "--slurm.time=30", "--slurm.setup=export A=1"]

    def run(command, **environment):
        return subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    script = tmp_path / "job.sh"
    script.write_text(run([*command, *options]))
    lines = script.read_text().splitlines()
    assert lines[:4] == [
        "#!/bin/bash",
        "#SBATCH --job-name=lenet",
        "#SBATCH --array=1-2",
        "#SBATCH --time=30",
    ]
    assert "export A=1" in lines and f"cd {ROOT}" in lines
    for job in ("1", "2"):
        run(["bash", script], SLURM_ARRAY_TASK_ID=job)
    assert len(list((tmp_path / "s" / "chunks").iterdir())) == cluster_faults.CHUNKS
    assert "best member on validation" in run([*command, "--collect"])
