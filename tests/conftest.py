"""Every test runs under strict dtypes, no silent broadcasting of ranks, and checked shapes."""

import importlib
import inspect
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

# Tests spend most of their time compiling: processes share a compilation cache.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lenet_jax" / "tests"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# Under nohup, or in the background of a script, the processes that tests start would ignore the
# signals that tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

os.environ["JAX_NUM_CPU_DEVICES"] = "2"  # as on a machine of two cores

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("lenet_jax", "beartype.beartype")

import filelock  # noqa: E402
import hypothesis  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from lenet_jax.nn import native  # noqa: E402
from lenet_jax.training import population  # noqa: E402
from lenet_jax.training.evaluation import Metrics  # noqa: E402
from lenet_jax.training.step import TrainState  # noqa: E402

if TYPE_CHECKING:
    from tests.support import runs

# JAX also builds these of leaves that are not arrays, such as the argument info of `lower`.
for pytree in (TrainState, Metrics, population.Members):
    pytree.__init__ = inspect.unwrap(pytree.__init__)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci")


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_programs() -> Iterator[None]:
    """Keeps a worker's memory from growing with every module."""
    yield
    jax.clear_caches()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --long, for tests that take minutes."""
    parser.addoption(
        "--long",
        action="store_true",
        help="kill a run 40 times instead of 7, and disturb sweeps on clusters 10 times",
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Compiles as the markers ask; skips tests without their compiler, or fails where none may."""
    optimized = item.get_closest_marker("optimized")
    cheap = optimized is not None and not optimized.args[0]
    if cheap != jax.config.read("jax_disable_most_optimizations"):
        jax.clear_caches()  # of what was compiled the other way
        jax.config.update("jax_disable_most_optimizations", cheap)
    if item.get_closest_marker("torch") and os.environ.get("LENET_JAX_REQUIRE_TORCH"):
        importlib.import_module("torch")
    if item.get_closest_marker("compiler") and (missing := native.missing()):
        assert not os.environ.get("LENET_JAX_REQUIRE_COMPILER"), missing
        pytest.skip(missing)


@pytest.fixture
def run_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command with arguments; returns its exit code, stdout and stderr."""
    from lenet_jax import errors

    monkeypatch.setattr("lenet_jax.machine.use_compilation_cache", lambda: None)

    def run(main: Callable[[Sequence[str]], int], *arguments: object) -> tuple[int, str, str]:
        code = errors.run_command(main, [str(argument) for argument in arguments])
        out, error = capsys.readouterr()
        return code, out, error

    return run


@pytest.fixture(scope="session")
def notes_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of `configs/notes.py` on MNIST, of 97 % accuracy; read-only.

    One process trains it, the others wait.
    """
    from lenet_jax import config as configs
    from lenet_jax.runs.run import run

    base = tmp_path_factory.getbasetemp()
    folder = base / "notes_run"
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = base.parent / "notes_run"
    values = {"data.train_examples": 12_000, "train.num_epochs": 3}
    with filelock.FileLock(folder.with_suffix(".lock")):
        if not (folder / "mistakes.png").exists():
            code = run(configs.load("configs/notes.py", values.items()), str(folder), [], 0.0)
            assert code == 0
    return folder


@pytest.fixture(scope="session")
def sweep(notes_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep's directory whose member 7 is the network of `notes_run`, and 8 has no weights."""
    from lenet_jax.storage import weights
    from lenet_jax.storage.chunk import write_chunk
    from lenet_jax.storage.sweep_dir import SweepDir

    folder = tmp_path_factory.mktemp("sweep")
    shutil.copy(notes_run / "config.json", folder)
    members = [{"member": m, "overrides": {"seed": m, "train.num_epochs": 3}} for m in range(9)]
    chunks = [{"members": [3, 7, 8], "size": 3}]
    plan = {"settings": {}, "data_fingerprints": [], "members": members, "chunks": chunks}
    (folder / "sweep.json").write_text(json.dumps(plan))
    state_dict, metadata = weights.read(notes_run / "model.safetensors")
    stacked = {
        name: np.stack([np.asarray(array) * 0.5, np.asarray(array)])
        for name, array in state_dict.items()
    }
    (folder / "chunks").mkdir()
    same = {"status": "done", "best_epoch": 2, "diverged_step": None, "seconds": 1.0}
    same |= {"valid_loss": 0.5, "valid_accuracy": 0.5, "test_loss": 0.5}
    rows = [{"member": m, "test_accuracy": 0.1 * m, **same} for m in (3, 7, 8)]
    curves = np.array([[0.1, 0.2, 0.3], [0.7, 0.8, 0.9], [0.0, 0.0, 0.0]], np.float32)
    names = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy")
    store = SweepDir(folder)
    with store.draft(0) as chunk:
        weights.write(chunk / "weights.safetensors", stacked, metadata | {"members": "3 7"})
        write_chunk(chunk, rows, dict.fromkeys(names, curves))
        store.publish(0, chunk)
    return folder


@pytest.fixture
def state_dict() -> dict[str, np.ndarray]:
    """A state_dict of a small network with random bits."""
    from lenet_jax.inference.state_dict import to_state_dict
    from tests.support.weights import SIZES, random_params

    return to_state_dict(random_params(**SIZES))


@pytest.fixture
def saved(tmp_path: Path, state_dict: dict[str, np.ndarray]) -> Callable[..., Path]:
    """A function that writes a changed `state_dict`; None removes an entry."""
    from lenet_jax.storage import weights

    def save(changes: dict[str, np.ndarray | None], name: str = "network.safetensors") -> Path:
        changed = {k: v for k, v in (state_dict | changes).items() if v is not None}
        weights.write(tmp_path / name, changed, {})
        return tmp_path / name

    return save


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of idx files with `tiny`'s data."""
    from tests.support import tiny

    return tiny.write_idx_folder(tmp_path_factory.mktemp("data") / "bars")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> "runs.Run":
    """A finished run; read-only."""
    from tests.support.runs import make_config, start

    return start(tmp_path_factory.mktemp("runs") / "finished", make_config(folder))


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the variables that a command sets for the JAX that it starts; here it runs already."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disables the drawing of figures of runs and sweeps."""
    from lenet_jax.runs import figures as report
    from lenet_jax.sweeps import run as sweeps

    monkeypatch.setattr(report, "draw_figures", lambda *_: [])
    monkeypatch.setattr(sweeps, "draw", lambda *_: {})


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives a run on a busy machine enough time to notice a signal."""
    from lenet_jax.terminal import interrupt

    monkeypatch.setattr(interrupt, "GRACE", 600.0)
