"""Chunks as tasks of executors: a process pool, and executors that fail."""

import contextlib
import io
import multiprocessing
import os
import re
import shutil
from collections import Counter
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from pathlib import Path

import jax
import numpy as np
import pytest

import lenet_jax
from lenet_jax import config as configs
from lenet_jax import machine
from lenet_jax.errors import UserError
from lenet_jax.storage.columns import Columns
from lenet_jax.storage.sweep_dir import SweepDir
from lenet_jax.sweeps import job as jobs
from lenet_jax.sweeps.file import product, sweep
from lenet_jax.sweeps.job import TrainedChunk
from lenet_jax.sweeps.members import Members
from lenet_jax.sweeps.options import Options
from lenet_jax.sweeps.recording import make_recording
from lenet_jax.sweeps.run import run
from lenet_jax.terminal.interrupt import Interrupt
from tests.support import tiny

pytestmark = pytest.mark.slow

SWEEP = product(sweep("train.batch_size", (16, 8)), sweep("seed", range(4)))
NETWORK = """
from flax import nnx
from beside import SIZE

class Net(nnx.Module):
    def __init__(self, image_shape, num_classes, *, rngs: nnx.Rngs):
        self.linear = nnx.Linear(SIZE, num_classes, rngs=rngs)

    def __call__(self, images):
        return self.linear(images.reshape(images.shape[0], -1))
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A network, a measurement and a subset of one's own, in files."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "net.py").write_text(NETWORK)
    (folder / "beside.py").write_text("SIZE = 256\n")
    (folder / "peak.py").write_text("def peak(logits, labels):\n    return logits.max(axis=1)\n")
    (folder / "subset.txt").write_text("".join(f"{i}\n" for i in range(0, 70, 2)))
    values = {key: value for key, value in tiny.CONFIG.items() if not key.startswith("model.")}
    values |= {
        "data.name": str(tiny.write_idx_folder(folder / "bars")),
        "data.subset_file": str(folder / "subset.txt"),
        "model.name": f"{folder / 'net.py'}:Net",
        "train.micro_batch_size": 8,
        "train.measurements": (f"{folder / 'peak.py'}:peak",),
    }
    return configs.load("configs/notes.py", values.items())


def start(path, config, executor=None, overrides=SWEEP, **options):
    record = make_recording("logits,weights", every=2)
    all_options = Options(str(path), **{"chunk_size": 2, "record": record} | options)
    members = Members(config, Columns.of(overrides))
    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = run(config, members, all_options, ["python"], executor=executor)
    return code, output.getvalue()


@pytest.fixture(scope="module")
def local(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("sweeps") / "local"
    assert start(path, config)[0] == 0
    return path


def contents(path):
    """All bytes of a sweep's chunks but the seconds and what has their sum, and its table's."""
    files = {file.relative_to(path): file.read_bytes() for file in path.glob("chunks/*/*")}
    kept = {str(name): c for name, c in files.items() if name.name not in UNEQUAL}
    lines = (path / "results.csv").read_text().splitlines()
    return kept, [line.rpartition(",")[0] for line in lines]


UNEQUAL = ("results.json", "SHA256SUMS")
GONE = RuntimeError("node n7 is gone")


class Failing(Executor):
    """Runs tasks here at once, but for those that fail, as many times as is said."""

    def __init__(self, failures, error: Exception = GONE, at_once=2):
        self.failures, self.error, self.at_once = dict(failures), error, at_once
        self.submitted = []

    def submit(self, fn, /, job, number):  # pyright: ignore
        self.submitted.append(number)
        future = Future()
        if self.failures.get(number, 0):
            self.failures[number] -= 1
            future.set_exception(self.error)
        else:
            future.set_result(fn(job, number))
        return future

    def room(self):
        return self.at_once


class Moving(Executor):
    """A process pool; while a task runs, a folder is not where the driver has it."""

    def __init__(self, pool, folder):
        self._pool, self._folder = pool, folder

    def submit(self, fn, /, job, number):  # pyright: ignore
        away = self._folder.rename(self._folder.with_name("away"))
        try:
            future = self._pool.submit(fn, job, number)
            future.exception()
        finally:
            away.rename(self._folder)
        return future


@pytest.fixture(scope="module")
def pool():
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


def test_a_process_pool_gives_the_bytes_of_a_local_sweep(config, local, pool, tmp_path):
    """Without the user's files and data, which travel with the job."""
    folder = Path(config.data.name).parent
    code, output = start(tmp_path / "pool", config, Moving(pool, folder))
    assert code == 0 and "device         Moving" in output
    assert output.count("\nchunk ") == 4
    assert contents(tmp_path / "pool") == contents(local)


def test_weights_that_members_name_travel_with_the_job(config, local, pool, tmp_path):
    """Those of a run in a file, and of another sweep's members, without their folders."""
    sources = shutil.copytree(local, tmp_path / "sources" / "sweep").parent
    names = [f"{sources}/sweep:{member}" for member in (1, 2)] + [f"{sources}/sweep:0@0"]
    overrides = product(sweep("train.initial_weights", names), sweep("seed", range(2)))
    record = {"record": None, "save": "all"}
    assert start(tmp_path / "local", config, overrides=overrides, **record)[0] == 0
    moving = Moving(pool, sources)
    assert start(tmp_path / "pool", config, moving, overrides=overrides, **record)[0] == 0
    assert contents(tmp_path / "pool") == contents(tmp_path / "local")


def test_a_process_trains_from_the_weights_that_are_there(config, local, tmp_path, monkeypatch):
    """After they changed, or with those of another chunk of the same sweep."""
    monkeypatch.setattr(jobs, "_workplace", None)
    source = tmp_path / "source"
    names = [f"{source}:0@0", f"{local}:0@0"]
    overrides = product(sweep("train.initial_weights", names), sweep("seed", range(2)))
    for seed in (5, 6):
        shutil.rmtree(source, ignore_errors=True)
        start(source, config, overrides=sweep("seed", [seed]))
        path = tmp_path / str(seed)
        start(path, config, Failing({}), overrides)
        named, started = (lenet_jax.load_sweep(each).weights(0) for each in (source, path))
        for name, array in named.items():
            np.testing.assert_array_equal(started[name][0], array[0])
    monkeypatch.setattr(jobs, "_workplace", None)
    for chunk in (0, 1):
        shutil.rmtree(path / "chunks" / f"{chunk:04d}")
        assert start(path, config, Failing({}), overrides)[0] == 0


def test_a_worker_has_the_settings_of_the_driver(config, monkeypatch):
    """Whatever its own environment has, which JAX has read by then."""
    jax.devices()  # which start with this process's own flags
    members, found = Members(config, Columns.of(SWEEP)), []
    try:
        for precision in (None, "highest"):
            monkeypatch.setenv("XLA_FLAGS", "--xla_dump_max_hlo_modules=1")
            jax.config.update("jax_default_matmul_precision", precision)
            job = jobs.make_job(members, [], [], Options("sweep"), "plan")
            monkeypatch.setenv("XLA_FLAGS", "--xla_dump_max_hlo_modules=2")
            jax.config.update("jax_default_matmul_precision", "high")
            jobs.Workplace(job)
            assert os.environ["XLA_FLAGS"] == "--xla_dump_max_hlo_modules=1"
            assert jax.config.jax_default_matmul_precision == precision  # pyright: ignore
            found.append(job.key)
    finally:
        jax.config.update("jax_default_matmul_precision", None)
    assert found[0] != found[1]


def test_errors_of_a_task_name_the_users_file(config, pool, tmp_path):
    file, flag = tmp_path / "own" / "failing.py", tmp_path / "here"
    flag.mkdir()
    file.parent.mkdir()
    file.write_text(
        "import os\n\ndef peak(logits, labels):\n"
        f"    if not os.path.isdir({str(flag)!r}):\n        raise ValueError('no such layer')\n"
        "    return logits.max(axis=1)\n"
    )
    changed = configs.replace(config, {"train.measurements": (f"{file}:peak",)})
    with pytest.raises(UserError, match=r"/own/failing.py:5: ValueError: no such layer"):
        start(tmp_path / "sweep", changed, Moving(pool, flag), record=None)


def test_a_task_that_fails_is_repeated_and_one_that_always_fails_is_named(config, local, tmp_path):
    failing = Failing({0: 2, 1: 3})
    code, output = start(tmp_path / "sweep", config, failing)
    assert code == 5
    assert Counter(failing.submitted) == {0: 3, 1: 3, 2: 1, 3: 1}
    assert output.count("RuntimeError: node n7 is gone; it is trained again") == 4
    assert "chunk 1: members 2–3: RuntimeError: node n7 is gone; not again" in output
    assert "1 chunk failed 3 times: 1; the same command tries again" in output
    assert not SweepDir(tmp_path / "sweep").is_done(1)
    code, output = start(tmp_path / "sweep", config, Failing({}))
    assert code == 0 and "3 of 4 chunks are already done" in output
    assert contents(tmp_path / "sweep") == contents(local)


def test_a_chunk_too_large_for_a_machine_is_named_with_what_fits(config, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "_workplace", None)
    free = iter([10**10, 10**5, 10**5])  # of the driver, and of the machines of three tasks
    monkeypatch.setattr(machine, "available_memory", lambda _: next(free, 10**5))
    with ThreadPoolExecutor(1) as pool:
        code, output = start(tmp_path, config, pool, record=None)
    assert code == 5 and not SweepDir(tmp_path).done()
    assert re.search(
        r"chunk 0: members 0–1: LittleMemoryError: 2 members at once need [0-9.]+ GB, and 0.0 GB"
        r" are free on .*: a new --workdir with a smaller --chunk_size fits",
        output,
    )


def test_what_the_user_can_mend_ends_the_sweep_at_once(config, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "_workplace", None)
    monkeypatch.setattr(machine, "sum_of_package", iter(["one", "other"]).__next__)
    with pytest.raises(UserError, match="has another lenet_jax than this one"):
        start(tmp_path, config, Failing({}))
    assert not SweepDir(tmp_path).done() and not list(tmp_path.glob("chunks/.*"))


class Damaging(Failing):
    """Changes the results of tasks on their way, in place of a failure."""

    def submit(self, fn, /, job, number):  # pyright: ignore
        changed, self.failures[number] = self.failures.get(number, 0), 0
        future = super().submit(fn, job, number)
        if changed:
            self.failures[number] = changed - 1
            files = {**future.result().files, "results.json": b"{}"}
            future = Future()
            future.set_result(TrainedChunk(files, "", {}))
        return future


def test_a_result_that_is_damaged_on_its_way_is_trained_again(config, tmp_path):
    code, output = start(tmp_path, config, Damaging({0: 1, 2: 3}))
    said = "members 0–1: its result is damaged: it was changed on its way; it is trained again"
    assert code == 5 and f"chunk 0: {said}" in output and "Delete it" not in output
    assert SweepDir(tmp_path).done() == {0, 1, 3}


@pytest.mark.parametrize("error", [UserError("no such layer"), BrokenExecutor("a node died")])
@pytest.mark.parametrize("refuses", [False, True])
def test_what_is_trained_is_kept_when_an_error_ends_the_sweep(config, tmp_path, error, refuses):
    class Refusing(Failing):
        def submit(self, fn, /, job, number):  # pyright: ignore
            if refuses and number == 3:
                raise error
            return super().submit(fn, job, number)

    executor = Refusing({} if refuses else {1: 9}, error, at_once=4)
    with pytest.raises(UserError, match=str(error)):
        start(tmp_path, config, executor)
    assert SweepDir(tmp_path).done() == {0, 1, 2, 3} - {3 if refuses else 1}


def test_a_signal_cancels_the_tasks_and_the_same_command_resumes(config, tmp_path, monkeypatch):
    submitted = []

    class Slow(Executor):
        def submit(self, fn, /, *args):  # pyright: ignore
            submitted.append(Future())
            return submitted[-1]

    with monkeypatch.context() as patch:
        patch.setattr(Interrupt, "notice", lambda _: True)
        patch.setattr(Interrupt, "exit_code", 130)
        patch.setattr(Interrupt, "reason", "stopped by SIGINT")
        code, output = start(tmp_path, config, Slow())
    assert code == 130 and "stopped by SIGINT; to resume: python" in output
    assert len(submitted) == 4 and all(future.cancelled() for future in submitted)


def test_an_error_is_said_also_beside_a_signal(config, tmp_path, monkeypatch):
    class Refusing(Executor):
        def submit(self, fn, /, job, number):  # pyright: ignore
            if number == 1:
                raise UserError("no such layer")
            return Future()

    monkeypatch.setattr(Interrupt, "notice", lambda _: True)
    with pytest.raises(UserError, match="no such layer"):
        start(tmp_path, config, Refusing())


def test_a_pool_whose_process_died_is_one_error(config, tmp_path):
    class Broken(Executor):
        def submit(self, fn, /, *args):  # pyright: ignore
            raise BrokenExecutor("a process died")

    with pytest.raises(UserError, match="the executor has broken: a process died"):
        start(tmp_path, config, Broken())
