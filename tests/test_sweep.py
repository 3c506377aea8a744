"""The command of a sweep: its flags, and what it does when it is killed."""

import os
import shlex
import signal
import subprocess
import sys

import pytest

from lenet_jax import sweep
from lenet_jax.config.flags import parse
from lenet_jax.errors import run_command
from lenet_jax.machine import DETERMINISTIC_FLAGS
from tests.support import tiny

pytestmark = pytest.mark.slow

FLAGS = ["--config=configs/lenet5.py:smoke", "--sweep=configs/sweeps/seeds.py:6"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--worker=0/4"], "--worker=0/4: must be i/n with i from 1 to n"),
        (["--worker=5/4"], "--worker=5/4: must be"),
        (["--worker=two"], "--worker=two: must be"),
        (["--config.seed=3"], "seed is swept, but also set by --config.seed"),
        (["--config.lr=3"], "unknown flag --config.lr; did you mean"),
        (["--sweep="], "missing --sweep=FILE.py"),
        (["--record=logit"], "--record=logit: must be one or more of logits, weights"),
        (["--record_every=1"], "--record_every needs --record=logits, weights"),
        (["--record_every=0"], "flag --record_every=0: 0 is not a positive"),
        (["--record_dtype=int8"], "flag --record_dtype=int8: value should be one of"),
        (["--save=some"], "flag --save=some: value should be one of"),
        (["--colect"], "unknown flag --colect; did you mean --collect?"),
        (["--collect"], "holds no sweep yet: nothing to collect"),
    ],
)
def test_mistakes_are_short_and_write_nothing(environment, tmp_path, capsys, flags, message):
    assert run_command(sweep.main, [*FLAGS, f"--workdir={tmp_path / 'sweep'}", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) <= 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flags",
    [
        ["--print_sbatch", "--slurm.time=60", "--slurm.partition=gpu", "--executor=slurm"],
        ["--print_sbatch", "--slurm.time", "60", "--slurm.partition", "gpu", "--executor", "slurm"],
        ["-noprint_sbatch", "-print_sbatch", "-slurm.time", "60", "-slurm.partition=gpu"],
        ["--slurm.time", "60", "--slurm.partition", "gpu", "--print_sbatch=true"],
    ],
)
def test_jobs_of_an_array_have_the_arguments_that_are_not_about_slurm(flags):
    own = [*FLAGS, "--workdir", "runs/a b", "--save=all"]
    values = sweep.make_sweep_flags()
    parse([*own[:2], *flags, *own[2:]], values)
    script = sweep._sbatch_script(values, sweep.PROGRAM, [*own[:2], *flags, *own[2:]])
    command = shlex.split(script.splitlines()[-1])
    assert command[-1] == "--worker=$SLURM_ARRAY_TASK_ID/100"
    assert command[4:-1] == own
    assert "#SBATCH --partition=gpu\n#SBATCH --time=60\n" in script


def test_deterministic_flags_are_set_as_for_a_run(environment, tmp_path):
    os.environ["XLA_FLAGS"] = ""
    arguments = [*FLAGS, f"--workdir={tmp_path}", "--collect", "--deterministic"]
    assert run_command(sweep.main, arguments) == 2  # there is nothing to collect
    assert os.environ["XLA_FLAGS"] == DETERMINISTIC_FLAGS


def test_a_run_directory_is_not_accepted_for_a_sweep(environment, tmp_path, capsys):
    (tmp_path / "run.json").write_text("{}")
    assert run_command(sweep.main, [*FLAGS, f"--workdir={tmp_path}"]) == 2
    assert "holds a run; choose another --workdir" in capsys.readouterr().err


def test_a_killed_and_resumed_sweep_gives_the_same_table_and_recordings(tmp_path):
    """`kill -9` once the first chunk is there; the whole command again, and one uninterrupted."""
    folder = tiny.write_idx_folder(tmp_path / "bars")
    settings = {f"config.{key}": value for key, value in tiny.CONFIG.items()}
    settings |= {"config.data.name": folder, "config.model.backend": "plain", "chunk_size": 2}
    settings |= {"config.train.num_epochs": 30, "config.train.ema_decay": 0.9}
    settings |= {"record": "logits,weights", "record_every": 10, "record_split": "test,train"}
    shown = {k: ",".join(map(str, v)) if isinstance(v, tuple) else v for k, v in settings.items()}
    command = [sys.executable, "-m", "experiments.sweep", *FLAGS[1:], "--config=configs/notes.py"]
    command += [f"--{key}={value}" for key, value in shown.items()]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}

    def start(name):
        return subprocess.Popen(
            [*command, f"--workdir={tmp_path / name}"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )

    killed = start("killed")
    assert killed.stdout is not None
    header = iter(killed.stdout.readline, "")
    assert any(line.startswith("chunk 0: members 0–1") for line in header)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    done = sorted(path.name for path in (tmp_path / "killed" / "chunks").glob("[0-9]*"))
    assert "0000" in done and len(done) < 3

    whole = [start("killed"), start("whole")]
    outputs = [process.communicate()[0] for process in whole]
    assert [process.returncode for process in whole] == [0, 0]
    verb = "is" if len(done) == 1 else "are"
    assert f"{len(done)} of 3 chunks {verb} already done" in outputs[0]
    tables = [
        [line.rpartition(",")[0] for line in (tmp_path / name / "results.csv").read_text().split()]
        for name in ("killed", "whole")
    ]
    assert tables[0] == tables[1]
    assert len(tables[0]) == 7
    whole_chunks = tmp_path / "whole" / "chunks"
    recorded = [*whole_chunks.glob("*/logits_*"), *whole_chunks.glob("*/weights*")]
    assert len(recorded) == 3 * (2 * 4 + 5)  # weights also before the first epoch
    for file in recorded:
        again = tmp_path / "killed" / file.relative_to(tmp_path / "whole")
        assert again.read_bytes() == file.read_bytes(), file
