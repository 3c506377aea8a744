"""Compiles and loads the C++ kernels in `cpp/`.

They are compiled for this machine's processor on first use, which takes seconds, and cached in the
user's cache folder. XLA calls them as custom calls from any compiled function.

They are written with the vector extensions of GCC and Clang, which MSVC lacks. `CXX` may hold flags
too; `CXXFLAGS` is not read, for what it holds is rarely meant for this machine's own processor.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax

from lenet_jax import machine
from lenet_jax.errors import UserError

FOLDER = Path(__file__).with_name("cpp")
SOURCE = FOLDER / "native.cc"  # which includes the others
COMPILERS = ("c++", "g++", "clang++")
MSVC = ("cl", "clang-cl")  # and what takes its flags
CALLS = (
    *("conv_pool_forward", "conv_pool_kernel_gradient", "conv_pool_input_gradient"),
    *("linear_forward", "linear_kernel_gradient", "linear_input_gradient"),
    *("convolution_forward", "convolution_kernel_gradient"),
)


def _flags() -> tuple[str, ...]:
    """The compiler's flags on this system."""
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    flags = "-std=c++17", "-O3", "-mcpu=native" if apple else "-march=native"
    if sys.platform == "win32":  # a `long` has 32 bits, and a library shows what is exported
        return (*flags, "-shared", "-Wno-narrowing", *(f"-Wl,/EXPORT:{call}" for call in CALLS))
    return (*flags, "-fPIC", "-shared")


LONGEST_BUILD = 300  # seconds
OTHERWISE = (
    "Install g++ or clang++, or set CXX to a compiler of C++17; or leave --config.model.backend"
    " out, which needs none."
)


@functools.cache
def missing() -> str | None:
    """The reason why native code is not available, in one line; None if it is."""
    try:
        load()
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
    defined = _run([*command, _flags()[2], "-dM", "-E", "-x", "c++", os.devnull])
    interface = (_include() / "xla" / "ffi" / "api" / "c_api.h").read_bytes()
    flags = shlex.join([*command, *_flags()]).encode()
    sources = [path.read_bytes() for path in (SOURCE, *sorted(FOLDER.glob("*.h")))]
    return _hash(b"\0".join((*sources, flags, defined, interface)))


@functools.cache
def load() -> None:
    """Compiles the C++ unless it is cached, and registers its functions with XLA.

    Raises:
      UserError: there is no compiler, or it fails.
    """
    build = [*_compiler(), *_flags(), "-isystem", str(_include()), str(SOURCE), "-o"]
    library = _load(key(), build)
    try:
        functions = {name: getattr(library, name) for name in CALLS}
    except AttributeError as error:
        text = f"what {build[0]} made of lenet_jax/nn/cpp/{SOURCE.name} is not complete: {error}"
        raise UserError(f"{text}\n{OTHERWISE}") from error
    for name, function in functions.items():
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(function), platform="cpu")


def _load(key: str, build: Sequence[str]) -> ctypes.CDLL:
    """Loads the cached library of a key; builds it first if it is missing, damaged or not ours.

    Its own hash is part of its name, since loading a truncated library kills the process.
    """
    folder = machine.cache_folder()
    problem = machine.make_private(folder)
    if problem:
        text = f"warning: {folder} {problem}; the C++ is compiled for this process alone"
        print(text, file=sys.stderr)
        return _build(build, None, key)
    if (library := _cached(folder, key)) is not None:
        return library
    import filelock  # late: `experiments.accelerator` runs without it

    # Processes that start together wait for the first to build it; one that cannot, builds its own.
    lock = filelock.FileLock(folder / f"native-{key}.lock", timeout=LONGEST_BUILD)
    with contextlib.suppress(OSError, NotImplementedError):
        lock.acquire()
    try:
        library = _cached(folder, key)
        return _build(build, folder, key) if library is None else library
    finally:
        lock.release()


def _cached(folder: Path, key: str) -> ctypes.CDLL | None:
    """The library of a key in the cache; what is damaged or not ours is deleted."""
    for kept in folder.glob(f"native-{key}-*.so"):
        with contextlib.suppress(OSError):
            ours = machine.exposure(kept) is None
            if ours and kept.stem.endswith(_hash(kept.read_bytes())):
                return ctypes.CDLL(str(kept))
            kept.unlink()
    return None


def _build(build: Sequence[str], folder: Path | None, key: str) -> ctypes.CDLL:
    """Compiles the library in a private folder, caches it if there is a folder, and loads it."""
    # Windows does not delete a library in use.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        built = Path(scratch) / "native.so"
        _run([*build, str(built)])
        try:
            library = ctypes.CDLL(str(built))
        except OSError as error:
            text = f"what {build[0]} made of lenet_jax/nn/cpp/{SOURCE.name} does not load: {error}"
            raise UserError(f"{text}\n{OTHERWISE}") from error
        if folder is None:
            return library
        draft = folder / f"native-{os.getpid()}"
        kept = folder / f"native-{key}-{_hash(built.read_bytes())}.so"
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


def _include() -> Path:
    return Path(jax.ffi.include_dir())


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


def _run(command: Sequence[str]) -> bytes:
    try:
        return subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        stderr = getattr(error, "stderr", None) or str(error).encode()
        lines = stderr.decode(errors="replace").splitlines()
        first = next((line for line in lines if "error" in line), lines[0] if lines else "")
        raise UserError(
            f"{command[0]} does not compile lenet_jax/nn/cpp/{SOURCE.name}: {first}\n{OTHERWISE}"
        ) from error
