import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lenet_jax import machine


def test_the_environment_names_revision_versions_and_processor(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_example=1")
    environment = machine.environment(["jax", "numpy"])
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    assert environment["git_revision"] == (head.stdout.strip() if head.returncode == 0 else None)
    assert environment["versions"].keys() == {"jax", "numpy"}
    assert environment["versions"]["numpy"] == np.__version__
    assert environment["processor"]
    if Path("/proc/cpuinfo").exists() and platform.machine() == "x86_64":
        assert re.fullmatch(r"\d+\.\d+", environment["processor_family"])
    assert environment["cores"] >= 1
    assert environment["xla_flags"] == "--xla_example=1"
    json.dumps(environment)


def test_without_git_the_revision_is_unknown(monkeypatch):
    monkeypatch.setenv("PATH", "")
    environment = machine.environment([])
    assert environment["git_revision"] is None
    assert environment["git_dirty"] is None


def test_a_jax_that_was_imported_before_uses_all_cores_and_the_cache(tmp_path):
    """As it is by the file of a network, which a config names."""
    code = """
import jax, lenet_jax.machine as machine
if SET: jax.config.update("jax_num_cpu_devices", 3)
if STARTED: jax.devices()
machine.cores = lambda: 2
machine.use_cores(), machine.use_compilation_cache()
print(jax.device_count(), jax.config.jax_compilation_cache_dir)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path)}
    for program, started, count in ((False, False, 2), (True, False, 3), (False, True, 1)):
        text = code.replace("SET", str(program)).replace("STARTED", str(started))
        answer = subprocess.run(
            [sys.executable, "-c", text],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        devices, folder = answer.stdout.split()
        assert int(devices) == count
        assert folder.startswith(str(tmp_path))


def test_all_cores_are_counted_without_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert machine.cores() == os.cpu_count()


STAT = "anon 500\n{0}inactive_file 30\n{0}active_file 70\n"


@pytest.mark.parametrize(
    ("own", "files", "free"),
    [
        # A job of Slurm: the limit is on a group above that of its step.
        (
            "0::/job_1/step_0",
            {
                "job_1": {"memory.max": "1000", "memory.current": "600", "memory.stat": STAT},
                "job_1/step_0": {"memory.max": "max", "memory.current": "1", "memory.stat": STAT},
            },
            500,
        ),
        # A container, whose own groups are the root that it sees.
        ("0::/", {"": {"memory.max": "99", "memory.current": "140", "memory.stat": STAT}}, 59),
        ("0::/", {"": {"memory.max": "99", "memory.current": "300", "memory.stat": STAT}}, 0),
        (
            "4:cpu,memory:/docker/1a\n0::/",
            {
                "memory": {
                    "memory.limit_in_bytes": "1000",
                    "memory.usage_in_bytes": "300",
                    "memory.stat": STAT.format("total_"),
                }
            },
            800,
        ),
        ("1:cpu:/\n0::/", {"memory": {"memory.limit_in_bytes": "1"}}, 10**6),
        (None, {}, 10**6),
    ],
)
def test_free_memory_is_what_the_container_or_the_job_has_left(
    monkeypatch, tmp_path, own, files, free
):
    """Files that are cached in memory are dropped when it is needed."""
    monkeypatch.setattr(machine, "_free_on_machine", lambda: 10**6)
    monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(machine, "GROUPS", tmp_path / "groups")
    if own is not None:
        (tmp_path / "own").write_text(own)
    for folder, contents in files.items():
        (tmp_path / "groups" / folder).mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            (tmp_path / "groups" / folder / name).write_text(text.format(""))
    assert machine.free_memory() == free


def test_written_results_do_not_make_a_revision_dirty(monkeypatch, tmp_path):
    for name in ("results", "lenet_jax"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("old")
    identity = ("-c", "user.name=me", "-c", "user.email=me@example.org")
    for arguments in (("init", "-q"), ("add", "."), (*identity, "commit", "-q", "-m", "all")):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "lenet_jax" / "machine.py"))
    (tmp_path / "results" / "file").write_text("new")
    assert machine.environment([])["git_dirty"] is False
    (tmp_path / "lenet_jax" / "file").write_text("new")
    assert machine.environment([])["git_dirty"] is True


def test_a_share_of_a_gpu_is_that_share_of_its_usable_memory(environment, monkeypatch):
    names = "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_MEM_FRACTION"
    for name in names:
        monkeypatch.delenv(name, raising=False)
    machine.use_share_of_gpu(0.25)
    assert [os.environ[name] for name in names] == ["false", "0.225"]
    machine.use_share_of_gpu(0.5)  # what is set stays
    assert os.environ[names[1]] == "0.225"
