"""Training where parts of Linux are missing, as on Windows: what is missing is not imported."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.root import ROOT
from tests.test_errors import draw_one

pytestmark = pytest.mark.slow

MISSING = ("fcntl", "resource", "array_record", "tensorflow_datasets", "termios", "pwd", "grp")

# Starts a command like `python -m`, where modules cannot be imported and names are missing.
START = """
import os, runpy, signal, sys

for name in sys.argv.pop(1).split(","):
    sys.modules[name] = None
for owner, names in ((signal, ("SIGPIPE", "SIGHUP")), (os, ("sched_getaffinity",))):
    for name in names:
        if name in sys.argv[1].split(","):
            delattr(owner, name)
sys.argv.pop(1)
module = sys.argv[1]
sys.argv = sys.argv[1:]
runpy.run_module(f"lenet_jax.{module}", run_name="__main__", alter_sys=True)
"""


def start(*arguments, modules=MISSING, names=(), **options):
    script = [sys.executable, "-c", START, ",".join(modules), ",".join(names), *map(str, arguments)]
    # Of filelock, which jax imports too: it knows Windows, but no Unix without fcntl.
    environment = os.environ | {"PYTHONWARNINGS": "ignore:only soft file lock:UserWarning"}
    return subprocess.Popen(
        script, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, **options
    )


def finish(process):
    with process:
        out, error = process.communicate()
    return process.returncode, out, error


def test_mnist_trains_and_is_read_without_what_windows_lacks(tmp_path):
    names = ("SIGPIPE", "SIGHUP", "sched_getaffinity")
    workdir = f"--workdir={tmp_path / 'run'}"
    arguments = ["--config=configs/notes.py:smoke", workdir, "--config.model.backend=plain"]
    code, out, error = finish(start("main", *arguments, names=names, stdout=subprocess.PIPE))
    assert (code, error) == (0, "")
    assert "stands in" in out  # without fcntl there are no locks of the system
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test_examples"] == 10_000
    arguments = [workdir, "--json", draw_one(tmp_path)]
    code, out, error = finish(start("predict", *arguments, names=names, stdout=subprocess.PIPE))
    assert (code, error) == (0, "")
    assert json.loads(out)[0]["image"] == str(tmp_path / "one.png")


def test_without_sigpipe_a_closed_output_stops_a_run(tmp_path):
    """Python ignores SIGPIPE, and a write fails; where there is none, that is all there is."""
    arguments = ["--config=configs/notes.py", f"--workdir={tmp_path}"]
    sizes = ["--config.data.train_examples=600", "--config.train.num_epochs=10000"]
    with start(
        *("main", *arguments, *sizes, "--config.model.backend=plain"),
        modules=["resource"],
        names=("SIGPIPE", "SIGHUP"),
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        next(line for line in process.stdout if line.startswith("epoch "))
        process.stdout.close()
        (line,) = process.stderr.read().splitlines()
    assert line.startswith("warning: stopped by SIGPIPE; to resume: ")
    assert process.returncode == 141


def test_a_tfds_dataset_says_what_is_missing(tmp_path):
    arguments = ["--config=configs/fashion_mnist.py:smoke", f"--workdir={tmp_path / 'run'}"]
    arguments += [f"--config.data.data_dir={tmp_path / 'data'}"]
    code, out, error = finish(start("main", *arguments, stdout=subprocess.PIPE))
    assert (code, out) == (2, "")
    first, second = error.splitlines()
    assert "TFDS datasets need tensorflow_datasets, which is not installed" in first
    assert second.startswith("Use mnist, which is included, or a folder of idx files")
    assert list(tmp_path.iterdir()) == []
