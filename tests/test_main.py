import os
import subprocess
import sys
from unittest import mock

import pytest

from lenet_jax.errors import run_command
from lenet_jax.machine import DETERMINISTIC_FLAGS, use_compilation_cache
from lenet_jax.main import main
from lenet_jax.runs import run
from lenet_jax.terminal.console import Console
from tests.support.root import ROOT

RESULTS = "results_0"  # the thread that prepares them
CONFIG = f"--config={ROOT / 'configs' / 'notes.py'}"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Starts in an empty folder, and restores the environment."""
    monkeypatch.chdir(tmp_path)
    with mock.patch.dict(os.environ):
        yield


@pytest.mark.parametrize("code", [0, 3, 143])
def test_the_exit_code_is_the_runs(monkeypatch, code):
    calls = []

    def record(*args, profile, extend, repeats, dataset, console):
        assert repeats is None and isinstance(console, Console)
        assert len(dataset().test) == 10_000
        calls.append(args)
        return code

    monkeypatch.setattr(run, "run", record)
    arguments = [f"{CONFIG}:smoke", "--workdir=a folder", "--config.seed=3"]
    assert main(arguments) == code
    ((config, workdir, command, started),) = calls
    assert (config.seed, config.train.num_epochs) == (3, 2)
    assert workdir == "a folder"
    assert command == [sys.executable, "-m", "lenet_jax.main", *arguments]
    assert started > 0


def test_ctrl_c_before_training_prints_no_traceback(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", interrupt)
    assert run_command(main, [CONFIG, "--workdir=run"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("environment", "cache"),
    [
        ({"XDG_CACHE_HOME": "{}/cache"}, "{}/cache/lenet_jax"),
        ({"XDG_CACHE_HOME": "", "HOME": "{}/me"}, "{}/me/.cache/lenet_jax"),
        ({"JAX_COMPILATION_CACHE_DIR": "/mine", "XDG_CACHE_HOME": "{}/cache"}, "/mine"),
    ],
)
def test_the_compilation_cache_is_configurable(tmp_path, environment, cache):
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    os.environ.update({key: value.format(tmp_path) for key, value in environment.items()})
    use_compilation_cache()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == cache.format(tmp_path)


def test_a_compilation_cache_that_others_may_fill_is_not_used(tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "lenet_jax").symlink_to("elsewhere")
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    os.environ["XDG_CACHE_HOME"] = str(tmp_path)
    use_compilation_cache()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path}/lenet_jax is a symbolic link")


@pytest.mark.parametrize(
    ("arguments", "before", "after"),
    [
        ([], "", ""),
        (["--deterministic"], "", DETERMINISTIC_FLAGS),
        (["--deterministic"], "--xla_cpu_ftz=true", f"--xla_cpu_ftz=true {DETERMINISTIC_FLAGS}"),
    ],
)
def test_deterministic_flags_are_set_before_jax_starts(monkeypatch, arguments, before, after):
    os.environ["XLA_FLAGS"] = before
    monkeypatch.setattr(run, "run", lambda *_, **__: 0)
    assert main([CONFIG, "--workdir=run", *arguments]) == 0
    assert os.environ["XLA_FLAGS"] == after


def test_xla_accepts_the_deterministic_flags():
    code = "import jax; jax.devices()"  # an unknown flag ends the process
    environment = os.environ | {"XLA_FLAGS": DETERMINISTIC_FLAGS, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


WATCH = """
import builtins, sys, threading
importing, others, together = builtins.__import__, [], []
def watch(*args, **kwargs):
    known = len(sys.modules)
    module = importing(*args, **kwargs)
    if len(sys.modules) > known:
        thread = threading.current_thread()
        if thread is not threading.main_thread():
            others.append(thread.name)
        elif RESULTS in [each.name for each in threading.enumerate()]:
            together.append(args[0])
    return module
from lenet_jax import config, main
from lenet_jax.nn import native
builtins.__import__ = watch
"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        # JAX, which would be imported on the main thread meanwhile, is not.
        (
            "main._load_beside(config.load('configs/notes.py', ()))(); native.start()\n"
            "for thread in native._building.values(): thread.join()",
            set(),
        ),
        ("main.main(['--config=configs/notes.py:smoke', '--workdir=WORKDIR'])", {RESULTS}),
    ],
    ids=["what begins a run", "a run"],
)
def test_no_two_threads_import_at_once(tmp_path, code, expected):
    """Of two that do, either may find a module of the other's half done."""
    code = f"RESULTS = {RESULTS!r}" + WATCH + code.replace("WORKDIR", str(tmp_path / "run"))
    code += (
        f"\nassert set(others) == {expected or 'set()'} and not together, (set(others), together)"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
