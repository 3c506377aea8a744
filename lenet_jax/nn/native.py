"""Compiles and loads the C++ kernels in `cpp/`.

Each `.cc` file is a unit: a library of its own, compiled for this machine's processor when it is
first needed, beside others, and cached in the user's cache folder. XLA calls the functions as
custom calls from any compiled function.

They are written with the vector extensions of GCC and Clang, which MSVC lacks. `CXX` may hold flags
too; `CXXFLAGS` is not read, for what it holds is rarely meant for this machine's own processor.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from lenet_jax import machine, timeline
from lenet_jax.errors import UserError

FOLDER = Path(__file__).with_name("cpp")
COMPILERS = ("c++", "g++", "clang++")
MSVC = ("cl", "clang-cl")  # and what takes its flags
CALLS = {
    "convolution": ("conv_pool_forward",),
    "winners": ("conv_pool_kernel_gradient", "conv_pool_input_gradient"),
    "linear": ("linear_forward", "linear_kernel_gradient", "linear_input_gradient"),
    "windows": ("convolution_forward", "convolution_kernel_gradient"),
    "bfloat16": ("conv_pool_forward_bfloat16",),
}
LENET = ("winners", "linear", "convolution")  # units; what takes longest comes first
WINDOWS = ("windows",)
BFLOAT16 = ("bfloat16",)


def _flags(unit: str) -> tuple[str, ...]:
    """The compiler's flags on this system."""
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    flags = "-std=c++17", "-O3", "-mcpu=native" if apple else "-march=native"
    if sys.platform == "win32":  # a `long` has 32 bits, and a library shows what is exported
        exports = (f"-Wl,/EXPORT:{call}" for call in CALLS[unit])
        return (*flags, "-shared", "-Wno-narrowing", *exports)
    return (*flags, "-fPIC", "-shared")


LONGEST_BUILD = 300  # seconds
OTHERWISE = (
    "Install g++ or clang++, or set CXX to a compiler of C++17; or leave --config.model.backend"
    " out, which needs none."
)


@functools.cache
def missing(units: tuple[str, ...] = LENET) -> str | None:
    """The reason why units are not available, in one line; None if they are."""
    try:
        load(units)
    except UserError as error:
        return str(error).splitlines()[0]
    return None


@functools.cache
def key() -> str:
    """A hash of what results depend on: source, compiler and flags, processor, XLA's interface.

    Raises:
      UserError: there is no compiler, or it fails.
    """
    command = _compiler()
    # Predefined macros identify the compiler and the processor; XLA's header, the interface.
    defined = _macros()
    interface = (_include() / "xla" / "ffi" / "api" / "c_api.h").read_bytes()
    flags = shlex.join([*command, *(flag for unit in CALLS for flag in _flags(unit))]).encode()
    sources = [path.read_bytes() for path in sorted(FOLDER.glob("*.[ch]*"))]
    return _hash(b"\0".join((*sources, flags, defined, interface)))


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 (AVX-512 BF16) and the C++ can be compiled."""
    if missing() is not None or b"__AVX512BF16__" not in _macros():
        return False
    return missing(LENET + BFLOAT16) is None


@functools.cache
def _macros() -> bytes:
    """What the compiler defines for this processor."""
    unit = next(iter(CALLS))
    return _run([*_compiler(), _flags(unit)[2], "-dM", "-E", "-x", "c++", os.devnull], unit)


def start(units: tuple[str, ...] = LENET) -> None:
    """Begins to compile units that are not in the cache, for `load`, which waits for them.

    It does not import JAX, so that both may happen at once. A failure is left to `load`.
    """
    # Not on a thread, which might find a module that another has imported by half.
    with contextlib.suppress(ImportError):
        import filelock  # noqa: F401
    for unit in units:
        if unit not in _building:
            thread = threading.Thread(target=_fill_cache, args=[unit], daemon=True)
            thread.start()
            _building[unit] = thread


def load(units: tuple[str, ...] = LENET) -> None:
    """Compiles units that are not in the cache, and registers their functions with XLA, once.

    Raises:
      UserError: there is no compiler, or it fails.
    """
    units = tuple(unit for unit in units if unit not in _registered)
    start(units)
    for unit in units:
        _building[unit].join()
    libraries = {unit: _load(unit) for unit in units}

    import jax  # late: `start` has to be early

    for unit, library in libraries.items():
        try:
            functions = {name: getattr(library, name) for name in CALLS[unit]}
        except AttributeError as error:
            text = f"what {_compiler()[0]} made of {_source(unit)} is not complete: {error}"
            raise UserError(f"{text}\n{OTHERWISE}") from error
        for name, function in functions.items():
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(function), platform="cpu")
        _registered.add(unit)


_registered: set[str] = set()
_building: dict[str, threading.Thread] = {}
_one_at_a_time = threading.Lock()


def _fill_cache(unit: str) -> None:
    with contextlib.suppress(UserError, OSError):  # which `load` meets again
        with _one_at_a_time:  # the first computes it for all
            key()
        if machine.make_private(machine.cache_folder()) is None:
            _load(unit)


def _load(unit: str) -> ctypes.CDLL:
    """Loads the cached library of a unit; builds it first if it is missing, damaged or not ours.

    Its own hash is part of its name, since loading a truncated library kills the process.
    """
    folder = machine.cache_folder()
    problem = machine.make_private(folder)
    if problem:
        text = f"warning: {folder} {problem}; the C++ is compiled for this process alone"
        print(text, file=sys.stderr)
        return _build(unit, None)
    if (library := _cached(unit, folder)) is not None:
        return library
    import filelock  # late: `experiments.accelerator` runs without it

    # Processes that start together wait for the first to build it; one that cannot, builds its own.
    lock = filelock.FileLock(folder / f"native-{key()}-{unit}.lock", timeout=LONGEST_BUILD)
    with contextlib.suppress(OSError, NotImplementedError):
        lock.acquire()
    try:
        library = _cached(unit, folder)
        return _build(unit, folder) if library is None else library
    finally:
        lock.release()


def _cached(unit: str, folder: Path) -> ctypes.CDLL | None:
    """The library of a unit in the cache; what is damaged or not ours is deleted."""
    for kept in folder.glob(f"native-{key()}-{unit}-*.so"):
        with contextlib.suppress(OSError):
            ours = machine.exposure(kept) is None
            if ours and kept.stem.endswith(_hash(kept.read_bytes())):
                return ctypes.CDLL(str(kept))
            kept.unlink()
    return None


def _build(unit: str, folder: Path | None) -> ctypes.CDLL:
    """Compiles a unit in a private folder, caches it if there is a folder, and loads it."""
    command = [*_compiler(), *_flags(unit), "-isystem", str(_include()), str(FOLDER / f"{unit}.cc")]
    # Windows does not delete a library in use.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        built = Path(scratch) / f"{unit}.so"
        with timeline.span(f"C++: {unit}"):
            _run([*command, "-o", str(built)], unit)
        try:
            library = ctypes.CDLL(str(built))
        except OSError as error:
            text = f"what {command[0]} made of {_source(unit)} does not load: {error}"
            raise UserError(f"{text}\n{OTHERWISE}") from error
        if folder is None:
            return library
        draft = folder / f"native-{os.getpid()}-{unit}"
        kept = folder / f"native-{key()}-{unit}-{_hash(built.read_bytes())}.so"
        try:
            built.chmod(0o600)
            draft.unlink(missing_ok=True)
            shutil.copy(built, draft)
            draft.replace(kept)
            return ctypes.CDLL(str(kept))  # as whoever asks next: XLA takes no function twice
        except OSError:  # it serves this process alone
            with contextlib.suppress(OSError):
                draft.unlink()
            return library


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _source(unit: str) -> str:
    """The unit's file, for messages."""
    return f"lenet_jax/nn/cpp/{unit}.cc"


def _include() -> Path:
    """The folder of XLA's headers, as `jax.ffi.include_dir` has it."""
    package = importlib.util.find_spec("jaxlib")
    assert package is not None and package.origin is not None
    return Path(package.origin).with_name("include")


def _compiler() -> list[str]:
    """The command of the C++ compiler: the environment's `CXX`, or the first one installed."""
    asked = os.environ.get("CXX", "").strip()
    try:
        chosen = [asked] if shutil.which(asked) else shlex.split(asked)
    except ValueError:  # an unclosed quotation
        chosen = [asked]
    if chosen and Path(chosen[0]).stem.lower() in MSVC:
        raise UserError(f"{chosen[0]} lacks the vector extensions of GCC and Clang\n{OTHERWISE}")
    names = chosen[:1] or COMPILERS
    for name in names:
        if shutil.which(name):
            return chosen or [name]
    raise UserError(f"there is no C++ compiler here, no {' or '.join(names)}\n{OTHERWISE}")


def _run(command: Sequence[str], unit: str) -> bytes:
    try:
        answer = subprocess.run(command, capture_output=True, check=True, timeout=LONGEST_BUILD)
        return answer.stdout
    except subprocess.TimeoutExpired as error:
        text = f"{command[0]} takes more than {LONGEST_BUILD} s to compile {_source(unit)}"
        raise UserError(f"{text}\n{OTHERWISE}") from error
    except (OSError, subprocess.CalledProcessError) as error:
        stderr = getattr(error, "stderr", None) or str(error).encode()
        lines = stderr.decode(errors="replace").splitlines()
        first = next((line for line in lines if "error" in line), lines[0] if lines else "")
        raise UserError(
            f"{command[0]} does not compile {_source(unit)}: {first}\n{OTHERWISE}"
        ) from error
