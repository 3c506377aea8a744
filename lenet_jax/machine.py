"""The machine: its description for records, its compilation cache, and its cores."""

import contextlib
import functools
import hashlib
import os
import platform
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

# What arrays are computed with.
PACKAGES = ("jax", "jaxlib", "flax", "optax", "safetensors", "numpy")
# Kernels with a fixed order of summation, chosen without timing them.
DETERMINISTIC_FLAGS = "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"

POSIX = hasattr(os, "geteuid")  # Windows has no modes; a user's profile is private there
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH if POSIX else 0
ASSUMED_MEMORY = 4_000_000_000  # bytes, where neither the device nor the system says
# Where Linux says what limits a process: its control groups, and which are its own.
GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
USABLE = 0.9  # of a GPU's memory, by JAX in all processes that share it; CUDA needs some for each
# Keys of a record that the bits of what is trained depend on, beside its config and data.
ENVELOPE = (
    *("versions", "processor", "xla_flags", "jax_backend", "devices_sharing_a_batch"),
    *("backend", "native_code"),
)


def environment(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """What a result may depend on: revision, versions, processor, XLA's flags.

    `git_dirty` is true if anything outside `results` differs from the revision; both are None
    without git or a repository.
    """
    outside_results = ":/", ":(exclude,top)results"
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", *outside_results)
    return {
        "git_revision": _git("rev-parse", "HEAD"),
        "git_dirty": None if changes is None else changes != "",
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
        "processor": processor(),
        "processor_family": processor_family(),
        "cores": cores(),
        "platform": platform.platform(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


@functools.cache
def sum_of_package() -> str:
    """The SHA-256 of this package's Python and C++ code."""
    root = Path(__file__).parent
    files = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".cc", ".h"))
    total = hashlib.sha256()
    for path in files:
        total.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return total.hexdigest()


def what_changed(previous: Mapping[str, Any], record: Mapping[str, Any]) -> str | None:
    """The differences between two records that may change a run's bits, in one line, or None.

    Args:
      previous: `run.json`, or a sweep's `environment.json`, as an earlier process wrote it.
      record: the same of this process.
    """
    if "jax_backend" not in previous:  # written before the keys were renamed
        former = {"backend": "jax_backend", "lowering": "backend"}
        previous = {former.get(key, key): value for key, value in previous.items()}
    changed = []
    for key in ENVELOPE:
        if key not in previous or key not in record:
            continue
        was, now = previous[key], record[key]
        if isinstance(was, Mapping) and isinstance(now, Mapping):  # only the versions that differ
            changed += [f"{k} {was[k]} → {now[k]}" for k in now if was.get(k, now[k]) != now[k]]
        elif was != now:
            changed.append(f"{key} {was} → {now}")
    return "; ".join(changed) or None


def cache_folder() -> Path:
    """The folder that caches compiled code."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lenet_jax"


def cores() -> int:
    """The number of cores this process may use; all of them where the system has no affinity."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory() -> int:
    """Free memory in bytes, of the machine and of the container or job that this process is in.

    All of the machine's, or a guess, where the system does not say.
    """
    return min((_free_on_machine(), *_free_in_groups()))


def _free_on_machine() -> int:
    info = Path("/proc/meminfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    if not hasattr(os, "sysconf"):  # on Windows
        return ASSUMED_MEMORY
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _free_in_groups() -> Iterator[int]:
    """Memory in bytes that is left of each limit on this process's control groups.

    Cached files are not counted as used: Linux drops them first.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
    """
    for line in OWN_GROUPS.read_text().splitlines() if OWN_GROUPS.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit, usage, of_all = GROUPS, "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):  # of version 1
            root = GROUPS / "memory"
            limit, usage, of_all = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
        else:
            continue
        own = root / path.lstrip("/")
        for group in (own, *own.parents):
            if not group.is_relative_to(root):
                break
            # A container does not see all; the root has no limit, an old Linux not all lines.
            with contextlib.suppress(OSError, KeyError):
                most = (group / limit).read_text().strip()
                used = int((group / usage).read_text())
                stat = dict(map(str.split, (group / "memory.stat").read_text().splitlines()))
                cached = sum(int(stat[f"{of_all}{kind}_file"]) for kind in ("active", "inactive"))
                if most != "max":
                    yield max(0, int(most) - max(0, used - cached))


def available_memory(device: Any) -> int | None:
    """Free memory in bytes: the device's own on an accelerator, the machine's on a CPU.

    None if the device's allocator does not say.
    """
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        limit = stats.get("bytes_limit")
        return limit - stats.get("bytes_in_use", 0) if limit else None
    return free_memory()


def processor() -> str:
    """The name of the CPU."""
    return _cpu_info().get("model name") or platform.processor() or platform.machine()


def processor_family() -> str | None:
    """The CPU's family and model, as x86 counts them; None where the system does not say.

    A virtual machine may name its processor without its generation, as in "AMD EPYC".
    """
    info = _cpu_info()
    return f"{info['cpu family']}.{info['model']}" if {"cpu family", "model"} <= {*info} else None


@functools.cache
def _cpu_info() -> dict[str, str]:
    """What Linux says of the first core."""
    file = Path("/proc/cpuinfo")
    first = file.read_text().split("\n\n")[0] if file.exists() else ""
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def use_compilation_cache() -> None:
    """Caches compiled functions in the user's cache folder, unless another one is configured.

    What is cached runs as code: a folder that other users may change is not used, with a warning.
    """
    _set_default("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", 0.01, unset=1.0)
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = cache_folder()
    problem = make_private(folder)
    if problem is None:
        _set_default("JAX_COMPILATION_CACHE_DIR", str(folder), unset=None)
    else:
        text = f"warning: {folder} {problem}; what JAX compiles is not cached"
        print(text, file=sys.stderr)


def make_private(folder: Path) -> str | None:
    """Makes a folder that only this user may write to.

    Returns:
      Why it is not usable as such; None if it is.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _owner_problem(folder) is None and folder.stat().st_mode & OTHERS_WRITE:
            folder.chmod(0o700)
        return exposure(folder)
    except OSError as error:
        return f"cannot be used: {error.strerror}"


def exposure(path: Path) -> str | None:
    """Why other users may change a file or folder, or may have put it there; None if none may."""
    problem = _owner_problem(path)
    if problem is None and path.lstat().st_mode & OTHERS_WRITE:
        return "can be written by other users"
    return problem


def _owner_problem(path: Path) -> str | None:
    state = path.lstat()
    if stat.S_ISLNK(state.st_mode):
        return "is a symbolic link, which is not followed"
    if POSIX and state.st_uid not in (os.geteuid(), 0):
        return "belongs to another user"
    return None


def use_cores(count: int | None = None) -> None:
    """Makes each core a device that takes its share of a batch, unless configured otherwise.

    Args:
      count: how many of the cores to use; None: all that this process may.
    """
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        # A JAX that has started keeps its devices.
        with contextlib.suppress(RuntimeError):
            _set_default("JAX_NUM_CPU_DEVICES", count or cores(), unset=-1)


def use_share_of_gpu(share: float) -> None:
    """Limits this process to a share of a GPU's memory, which it takes as it needs it.

    Without effect where the environment says how much, or JAX has started.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{USABLE * share:.3f}")


def _set_default(variable: str, value: str | int | float, unset: Any) -> None:
    """Sets an option of JAX that neither the environment nor the program has set.

    JAX reads the environment when it is imported, which the file of a network may have done.

    Args:
      variable: of the environment, the option's name in capitals.
      value: what to set.
      unset: the option's value where nobody has set it.
    """
    if variable in os.environ:
        return
    os.environ[variable] = str(value)
    if "jax" in sys.modules:
        import jax

        option = variable.lower()
        if getattr(jax.config, option) == unset:
            jax.config.update(option, value)


def use_deterministic_kernels() -> None:
    """Has GPUs compute the same bits every time, at some cost; JAX must not have started yet."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    flags += [flag for flag in DETERMINISTIC_FLAGS.split() if flag not in flags]
    os.environ["XLA_FLAGS"] = " ".join(flags)


def devices() -> list[Any]:
    """The devices to compute on: all of the best platform, or what `jax_default_device` names.

    Raises:
      RuntimeError: JAX does not start on them.
    """
    import jax

    chosen = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if chosen is None or isinstance(chosen, str):  # a platform
        return jax.devices(chosen)
    return [chosen]


def command_line(program: str, arguments: Sequence[str]) -> list[str]:
    """The command that starts a program again from this folder, with the interpreter in use.

    Args:
      program: `python -m MODULE` or the name of a console script.
      arguments: its arguments.
    """
    first, *rest = program.split()
    if first == "python":
        interpreter, here = Path(sys.executable), Path.cwd()
        inside = interpreter.is_relative_to(here)
        first = str(interpreter.relative_to(here) if inside else interpreter)
    return [first, *rest, *arguments]


def next_command(command: Sequence[str], name: str, *arguments: str) -> str:
    """A command of this package, to paste into a shell, started as `command` was.

    Args:
      command: from `command_line`, or nothing.
      name: of the module, such as `inspect`.
      arguments: its arguments.
    """
    script = command and Path(command[0]).stem == "lenet-jax"
    program = f"lenet-jax {name.replace('_', '-')}" if script else f"python -m lenet_jax.{name}"
    return shlex.join(command_line(program, arguments))


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
