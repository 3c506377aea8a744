"""Devices that are not there, and what else the environment may ask of JAX: short errors."""

import os
import re
import subprocess
import sys

import pytest

from lenet_jax import device
from tests.support.root import ROOT

pytestmark = pytest.mark.slow

COMMANDS = ["main", "sweep", "inspect", "predict", "export", "torch_bridge", "graph"]
NVIDIA = 'install JAX for NVIDIA GPUs: pip install "jax[cuda13]"'


def run(*arguments, **environment):
    """A command's exit code and its lines on standard error, with nothing on standard output."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) <= 3
    assert max(map(len, lines)) <= 200
    return done.returncode, lines


@pytest.mark.parametrize("name", [*COMMANDS, "compare"])
def test_every_command_says_that_there_is_no_gpu(name, finished, tmp_path):
    network, new = f"--workdir={finished.path}", f"--workdir={tmp_path / 'new'}"
    arguments = {
        "main": ["--config=configs/notes.py", new],
        "sweep": ["--config=configs/notes.py", "--sweep=configs/sweeps/seeds.py:2", new],
        "inspect": [network, f"--out={tmp_path / 'new'}"],
        "compare": [f"--compare={finished.path},{finished.path}", f"--out={tmp_path / 'new'}"],
        "predict": [network, ROOT / "results" / "accuracy_notes.png"],
        "export": [network, "--format=safetensors", f"--out={tmp_path / 'out.safetensors'}"],
        "torch_bridge": ["inspect", finished.path],
        "graph": [],
    }[name]
    module = "inspect" if name == "compare" else name
    code, lines = run(f"lenet_jax.{module}", *arguments, JAX_PLATFORMS="cuda")
    assert code == 2
    assert lines == [
        "JAX_PLATFORMS=cuda: there is no such device here; installed: cpu",
        f"Unset it to run on the best of these, or {NVIDIA}",
    ]
    assert list(tmp_path.iterdir()) == []


def test_no_command_starts_jax_before_it_checks_the_environment():
    """So that whatever is wrong there is reported by `require_device`."""
    names = [*COMMANDS, "cli"]
    script = f"""
import importlib, sys
for name in {names}:
    importlib.import_module(f"lenet_jax.{{name}}")
    assert "jax" not in sys.modules, name
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


@pytest.mark.parametrize("call", ["train('configs/notes.py', 'new')", "load('configs')"])
def test_so_does_the_api(call, tmp_path):
    script = f"""
import lenet_jax
from lenet_jax.errors import UserError
try:
    lenet_jax.{call}
except UserError as error:
    raise SystemExit(str(error))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "tpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines()[0].startswith("JAX_PLATFORMS=tpu: there is no such device")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"JAX_PLATFORMS": "gpu"}, f"JAX_PLATFORMS=gpu: there is no .*{re.escape(NVIDIA)}"),
        ({"JAX_PLATFORMS": "tpu"}, r'there is no such device.*TPUs: pip install "jax\[tpu\]"'),
        (
            {"JAX_PLATFORMS": "rocm"},
            r'AMD GPUs: pip install "jax\[rocm7-local\]"',
        ),
        ({"JAX_PLATFORMS": "CPU"}, "in lower case: JAX_PLATFORMS=cpu$"),
        ({"JAX_PLATFORMS": "Cuda, cpu"}, "in lower case: JAX_PLATFORMS=cuda,cpu$"),
        ({"JAX_PLATFORMS": "metal"}, "name one of cpu, cuda, gpu, tpu, rocm"),
        ({"JAX_PLATFORMS": "cpu,nonsense"}, "JAX_PLATFORMS=cpu,nonsense: .*name one of cpu, cuda"),
        ({"JAX_PLATFORMS": "a\nb"}, r"JAX_PLATFORMS='a\\nb': there is no such device"),
        ({"XLA_FLAGS": "--xla_nonsense=1 --xla_x"}, "Unknown flags in XLA_FLAGS: --xla_nonsense=1"),
        ({"XLA_FLAGS": "--xla_cpu_ftz=maybe"}, "interpret value maybe for flag xla_cpu_ftz"),
        ({"XLA_FLAGS": "nonsense"}, 'Could not open file "nonsense"'),
        ({"JAX_NUM_CPU_DEVICES": "many"}, 'JAX does not start: .*"many".*JAX_NUM_CPU_DEVICES'),
        ({"JAX_NUM_CPU_DEVICES": "0"}, "JAX does not start: .*JAX_NUM_CPU_DEVICES"),
        ({"JAX_DEFAULT_DEVICE": "gpu"}, "JAX does not start: .*'gpu'.*JAX_DEFAULT_DEVICE"),
        ({"JAX_DEFAULT_DEVICE": "card"}, "JAX does not start: .*'card'.*JAX_DEFAULT_DEVICE"),
        ({"JAX_ENABLE_X64": "maybe"}, "JAX does not start: .*'maybe'.*JAX_ENABLE_X64"),
    ],
)
def test_what_the_environment_asks_for_is_checked(environment, expected, finished):
    code, lines = run("lenet_jax.torch_bridge", "inspect", finished.path, **environment)
    assert code == 2
    assert re.search(expected, " ".join(lines))


def test_an_installed_plugin_that_fails_is_not_installed_again(monkeypatch):
    monkeypatch.setattr(device, "_installed_platforms", lambda: ["cpu", "cuda", "gpu"])
    error = "Unable to initialize backend 'cuda': INTERNAL: no driver (set JAX_PLATFORMS='' to x)"
    assert device._explain_platforms("cuda", error).splitlines() == [
        "JAX_PLATFORMS=cuda: cuda does not start: INTERNAL: no driver",
        "Check its driver, or unset JAX_PLATFORMS to run on what there is.",
    ]
