"""The command in a separate process, as a user runs it."""

import json
import signal
import subprocess
import sys

import pytest

from tests.support import tiny
from tests.support.root import ROOT

pytestmark = pytest.mark.slow

# Runs `lenet_jax.main` without network access, and reports whether TensorFlow was imported.
GUARDED = """
import runpy, sys

def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise RuntimeError(f"{event} {args}")

sys.addaudithook(refuse)
try:
    runpy.run_module("lenet_jax.main", run_name="__main__", alter_sys=True)
finally:
    print("tensorflow:", "tensorflow" in sys.modules)
"""


def test_one_command_trains_on_mnist_without_network_or_tensorflow(tmp_path):
    arguments = ["--config=configs/notes.py:smoke", f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "tensorflow: False"
    assert "\x1b" not in done.stdout and "\r" not in done.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "done"
    assert summary["test_examples"] == 10_000
    assert summary["num_params"] == 49_102
    assert summary["test_accuracy"] > 0.85
    assert f"test accuracy  {100 * summary['test_accuracy']:.2f} %" in done.stdout
    assert (tmp_path / "run" / "curves.png").stat().st_size > 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_ends_the_command_with_the_shells_code(tmp_path, number, code):
    values = tiny.CONFIG | {
        "data.name": tiny.write_idx_folder(tmp_path / "bars"),
        "model.backend": "plain",
        "train.num_epochs": 100_000,
    }
    arguments = [f"--config.{path}={value}" for path, value in values.items()]
    command = [sys.executable, "-m", "lenet_jax.main", "--config=configs/notes.py", *arguments]
    with subprocess.Popen(
        [*command, f"--workdir={tmp_path / 'run'}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch"):
                process.send_signal(number)
                break
        rest, error = process.communicate()
    assert process.returncode == code
    assert error == ""
    assert rest.splitlines()[-1].startswith(f"warning: stopped by {number.name}; to resume: ")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "interrupted"
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert (tmp_path / "run" / "checkpoints" / str(last["step"])).is_dir()


@pytest.mark.parametrize(
    ("arguments", "code", "lines"),
    [
        (["--help"], 0, 0),
        ([], 2, 2),
        (["--config=configs/notes.py", "--workdir=x", "--lr=1"], 2, 1),
    ],
)
def test_help_and_usage_errors_exit_at_once(arguments, code, lines):
    done = subprocess.run(
        [sys.executable, "-m", "lenet_jax.main", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == lines
    assert ("train.batch_size" in done.stdout) == (code == 0)
