"""What a finished chunk says is held to its plan, whatever its sums are."""

import json

import numpy as np
import pytest

from lenet_jax.errors import UserError
from lenet_jax.storage.chunk import Curves, DamagedError, write_chunk
from lenet_jax.storage.sums import manifest
from lenet_jax.storage.sweep_dir import SweepDir
from lenet_jax.storage.sweep_weights import SweepWeights

NAMES = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy")
DONE = {"status": "done", "best_epoch": 3, "diverged_step": None, "seconds": 1.0}
DONE |= {"valid_loss": 0.5, "valid_accuracy": 0.5, "test_loss": 0.5, "test_accuracy": 1.0}
DIVERGED = dict.fromkeys(DONE) | {"status": "diverged", "diverged_step": 4, "seconds": 1.0}
ROWS = [{"member": 0, **DONE}, {"member": 1, **DIVERGED}]
CURVES: Curves = dict.fromkeys(
    NAMES, np.array([[0.1, 0.2, 0.3], [0.1, np.nan, np.nan]], np.float32)
)
VALID_LOSS = CURVES["valid_loss"]


@pytest.fixture
def sweep(tmp_path):
    """A sweep of two members of three epochs, in one chunk that is not there yet."""
    return make_sweep(tmp_path, num_epochs=3)


def make_sweep(path, **train):
    members = [{"member": member, "overrides": {"seed": member}} for member in range(2)]
    plan = {"settings": {}, "data_fingerprints": [], "members": members}
    chunks = [{"members": [0, 1], "size": 2}]
    with SweepDir(path) as sweep:
        sweep.open({**plan, "chunks": chunks}, {"train": train})
    return sweep


def write(sweep, rows=ROWS, curves=CURVES):
    with sweep.draft(0) as folder:
        write_chunk(folder, rows, curves)
        assert sweep.publish(0, folder)


def test_what_a_sweep_writes_is_read(sweep):
    write(sweep)
    rows, curves = sweep.read_chunk(0)
    assert rows == ROWS
    np.testing.assert_array_equal(curves["valid_loss"], VALID_LOSS)
    for name in ("0000.bak", "0001x", "1", "٠٠٠٠"):
        (sweep.path / "chunks" / name).mkdir()
        (sweep.path / "chunks" / name / "weights.safetensors").touch()
    assert sweep.done() == {0}
    with pytest.raises(UserError, match="has no weights of member 0"):
        SweepWeights(sweep).read_member(0)


@pytest.mark.parametrize("config", [{}, {"train": {}}, {"train": {"num_epochs": "3"}}])
@pytest.mark.parametrize("name", ["sweep.json", "config.json"])
def test_a_config_that_does_not_say_how_many_epochs_is_refused(sweep, config, name):
    write(sweep)
    path = sweep.path / "sweep.json"
    plan = json.loads(path.read_text())
    plan["config"] = config
    if name == "config.json":  # as an older version wrote it
        (sweep.path / name).write_text(json.dumps(plan.pop("config")))
    path.write_text(json.dumps(plan))
    with pytest.raises(UserError, match=rf"{name}: .*`(train|num_epochs|\$\..*num_epochs)`"):
        SweepDir(sweep.path).config()


def test_a_file_in_place_of_a_chunk_is_found_before_training(sweep):
    (sweep.path / "chunks" / "0001.txt").touch()
    with sweep:
        sweep.open({}, {})
    (sweep.path / "chunks" / "0001").touch()
    with pytest.raises(UserError, match=r"chunks/0001 is damaged: it is not a folder"), sweep:
        sweep.open({}, {})


@pytest.mark.parametrize(
    "changes",
    [
        {"test_accuracy": float("nan")},
        {"valid_accuracy": 7.0},
        {"test_accuracy": -0.1},
        {"test_accuracy": None},
        {"test_loss": -0.1},
        {"valid_loss": float("inf")},
        {"best_epoch": 4},
        {"best_epoch": None},
        {"diverged_step": 1},
        {"status": "diverged"},
        {"seconds": float("inf")},
        {"epochs": 2},
        {"epochs": 4},
        {"epochs": None},
        {"valid_ema_accuracy": 1.5},
        {"test_ema_accuracy": None},
        {"member": 1},
        {"member": 99},
        None,
    ],
)
def test_impossible_results_are_refused(sweep, changes):
    write(sweep, [] if changes is None else [ROWS[0] | changes, ROWS[1]])
    with pytest.raises(UserError, match=r"0000 is damaged: results\.json ") as caught:
        sweep.read_chunk(0)
    assert "run the same command" in str(caught.value)


@pytest.mark.parametrize(
    "array",
    [
        VALID_LOSS[:1],
        VALID_LOSS[:, :2],
        np.float32(0.5),
        VALID_LOSS.astype(str),
        np.ones((2, 3), np.int32),
        VALID_LOSS[::-1],
        VALID_LOSS - 1,
        None,
    ],
)
def test_impossible_curves_are_refused(sweep, array):
    others = {name: CURVES[name] for name in NAMES[:3]}
    write(sweep, curves=others if array is None else others | {"valid_accuracy": array})
    with pytest.raises(UserError, match=r"0000 is damaged: .*history.npz"):
        sweep.read_chunk(0)


def test_averaged_weights_and_members_that_stopped_have_their_curves(sweep):
    averaged = {"valid_ema_accuracy": 0.25, "test_ema_accuracy": 0.5}
    stopped = ROWS[0] | averaged | {"best_epoch": 1, "epochs": 2, "stopped_early": True}
    nothing = dict.fromkeys(averaged) | {"epochs": None, "stopped_early": None}
    curve = np.where(np.arange(3) < 2, VALID_LOSS, np.nan)
    curves = dict.fromkeys((*NAMES, "valid_ema_loss", "valid_ema_accuracy"), curve)
    write(sweep, [stopped, ROWS[1] | nothing], curves)
    rows, read = sweep.read_chunk(0)
    assert rows[0] == stopped and read.keys() == curves.keys()


def test_measurements_may_be_any_numbers_but_must_be_there(tmp_path):
    own = [{"valid_m": -1.0, "test_m": float("nan")}, dict.fromkeys(("valid_m", "test_m"))]
    rows = [row | more for row, more in zip(ROWS, own, strict=True)]
    curves = CURVES | {"valid_m": np.full((2, 3), np.nan, np.float32)}
    for place, (written, arrays, reason) in enumerate(
        [
            (rows, curves, None),
            (ROWS, curves, "impossible results for member 0"),
            ([rows[0], ROWS[1]], curves, "impossible results for member 1"),
            (rows, CURVES, "does not have the curves"),
            (rows, curves | {"valid_m": VALID_LOSS[:1]}, "valid_m in history.npz is not a curve"),
        ]
    ):
        sweep = make_sweep(tmp_path / str(place), num_epochs=3, measurements=["a.py:m"])
        write(sweep, written, arrays)
        if reason is None:
            assert sweep.read_chunk(0)[1].keys() == curves.keys()
            continue
        with pytest.raises(UserError, match=reason):
            sweep.read_chunk(0)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", b"text"])
def test_what_is_no_npz_is_refused(sweep, content):
    with sweep.draft(0) as folder:
        (folder / "results.json").write_text(json.dumps({"rows": ROWS}))
        (folder / "history.npz").write_bytes(content)
        sweep.publish(0, folder)
    with pytest.raises(UserError, match="0000 is damaged: "):
        sweep.read_chunk(0)


def test_the_first_result_stays_and_a_late_one_changes_nothing(sweep):
    write(sweep)
    before = {path.name: path.read_bytes() for path in (sweep.path / "chunks/0000").iterdir()}
    with sweep.draft(0, shared=True) as folder, sweep.draft(0) as driver:
        assert folder != driver
        write_chunk(folder, ROWS[::-1], CURVES)
        assert not sweep.publish(0, folder)
    assert before == {p.name: p.read_bytes() for p in (sweep.path / "chunks/0000").iterdir()}
    assert [path.name for path in (sweep.path / "chunks").iterdir()] == ["0000"]


def test_what_comes_from_elsewhere_is_checked_before_it_is_published(sweep, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    write_chunk(folder, ROWS, CURVES)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    sums = manifest(folder)
    with pytest.raises(DamagedError, match="it was changed on its way"):
        sweep.unpack(0, files | {"history.npz": files["history.npz"][:-1] + b"?"}, sums)
    with pytest.raises(UserError, match=r"would have a file \.\./x"):
        sweep.unpack(0, files | {"../x": b""}, sums)
    write_chunk(folder, ROWS[::-1], CURVES)
    others = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(DamagedError, match="does not have each of its members once"):
        sweep.unpack(0, others, manifest(folder))
    assert not list((sweep.path / "chunks").iterdir())
    assert sweep.unpack(0, files, sums) == sweep.unpack(0, files, sums) == ROWS
    assert sweep.read_chunk(0)[0] == ROWS


def test_one_process_drives_a_sweep_and_removes_its_own_drafts_alone(sweep):
    chunks = sweep.path / "chunks"
    for name in (".0003.draft", ".0003.0a1b2c3d.draft"):
        (chunks / name).mkdir()
    with sweep, SweepDir(sweep.path) as other:
        sweep.lock()
        with pytest.raises(UserError, match="another process trains"):
            other.open({}, {})
    with SweepDir(sweep.path) as other:
        other.open({}, {})
        assert [path.name for path in chunks.iterdir()] == [".0003.0a1b2c3d.draft"]
        other.remove_shared_drafts()
    assert not list(chunks.iterdir())
