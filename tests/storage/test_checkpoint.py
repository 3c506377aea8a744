import errno
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding

from lenet_jax.storage import checkpoint
from lenet_jax.storage.checkpoint import Checkpoints
from tests.support.checkpoints import assert_same, make_state, restore, zeroed

METADATA = {"epoch": 3, "best_accuracy": 0.1 + 0.2, "train_seconds": 1e-17}


@pytest.fixture(scope="module")
def state():
    return make_state()


@pytest.mark.parametrize("abstract", [True, False])
def test_a_restored_state_is_bit_identical(tmp_path, state, abstract):
    like = jax.eval_shape(lambda: zeroed(state)) if abstract else zeroed(state)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest() is None
        assert checkpoints.restore(like, pytest.fail) is None
        checkpoints.save(3, state, METADATA)
        assert checkpoints.latest() == 3
    restored, metadata, warnings = restore(tmp_path, like)
    assert (metadata, warnings) == (METADATA, [])
    assert_same(restored, state)


def test_a_population_is_one_checkpoint_like_any_other(tmp_path, state):
    def stack(*leaves):
        return jnp.stack(leaves)

    members = [state, zeroed(state), jax.tree.map(jnp.copy, state)]
    population = jax.tree.map(stack, *members)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, population, METADATA)
    restored, _, _ = restore(tmp_path, jax.eval_shape(lambda: population))
    assert_same(restored, population)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_extreme_floats_are_restored_exactly(tmp_path):
    hard = [0.0, -0.0, 1e-45, np.nextafter(np.float32(1), np.float32(2)), np.inf, np.nan]
    values = {"hard": jnp.asarray(hard, jnp.float32), "last": jnp.int32(2**31 - 1)}
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, values, {})
    restored, _, _ = restore(tmp_path, zeroed(values))
    assert np.asarray(restored["hard"]).tobytes() == np.asarray(values["hard"]).tobytes()
    assert restored["last"] == 2**31 - 1


def test_arrays_of_any_memory_layout_are_restored(tmp_path):
    columns_first = Format(Layout((1, 0)), SingleDeviceSharding(jax.devices()[0]))
    x = jax.device_put(jnp.arange(12.0).reshape(3, 4), columns_first)
    assert not np.asarray(x).flags.c_contiguous
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, {"x": x}, {})
    restored, _, _ = restore(tmp_path, {"x": x})
    np.testing.assert_array_equal(restored["x"], x)


def test_the_latest_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for epoch in (1, 2, 9, 10):
            checkpoints.save(epoch, {"x": jnp.full(3, epoch)}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "9"]
    for epoch in (10, 9):
        restored, _, _ = restore(tmp_path, {"x": jnp.zeros(3, jnp.int32)})
        np.testing.assert_array_equal(restored["x"], [epoch] * 3)
        shutil.rmtree(tmp_path / str(epoch))


def test_buffers_donated_during_a_save_are_saved_unchanged(tmp_path):
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.zeros(4_000_000)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, {"x": x}, {})
        for _ in range(10):
            x = step(x)
        x.block_until_ready()
    restored, _, _ = restore(tmp_path, {"x": x})
    assert np.unique(np.asarray(restored["x"])).tolist() == [0.0]


def test_what_a_process_that_died_was_writing_is_cleared_away(tmp_path):
    stale = [".2.draft", ".1.old.draft"]
    for name in (*stale, "mine"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".2.draft" / "notes.json").touch()
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest() is None
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_failed_save_is_raised_by_the_next_and_keeps_the_previous(tmp_path, monkeypatch):
    x = {"x": jnp.zeros(3)}
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, x, {"epoch": 1})

        def fail(*_, **__):
            raise OSError(errno.EROFS, "Read-only file system")

        assert checkpoints.latest() == 1
        monkeypatch.setattr("lenet_jax.storage.checkpoint.encode", fail)
        checkpoints.save(2, x, {"epoch": 2})
        with pytest.raises(OSError) as caught:
            checkpoints.save(3, x, {"epoch": 3})
        assert caught.value.errno == errno.EROFS
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    _, metadata, warnings = restore(tmp_path, x)
    assert (metadata, warnings) == ({"epoch": 1}, [])


def test_a_failure_of_the_last_save_is_raised_on_close(tmp_path):
    with pytest.raises(OSError, match="No such file"), Checkpoints(tmp_path / "a", keep=1) as it:
        shutil.rmtree(tmp_path / "a")
        it.save(1, {"x": jnp.zeros(3)}, {})


def test_training_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    lock = threading.Lock()
    lock.acquire()
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        encode = checkpoint.encode

        def wait_and_encode(arrays):
            with lock:
                return encode(arrays)

        monkeypatch.setattr(checkpoint, "encode", wait_and_encode)
        checkpoints.save(1, {"x": jnp.zeros(3)}, {})  # returns, though the disk does not
        assert list(tmp_path.glob("1")) == []
        lock.release()
        assert checkpoints.latest() == 1


def test_where_files_may_not_grow_a_save_fails_in_one_word(tmp_path, state, capfd):
    """The system itself refuses: a process may be forbidden files beyond a size."""
    resource = pytest.importorskip("resource")  # Windows has none
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, state, METADATA)
    assert checkpoints.latest() == 1
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        checkpoints.save(2, state, METADATA)
        with pytest.raises(OSError, match="File too large"):
            checkpoints.latest()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoints.latest() == 1
    checkpoints.close()
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert capfd.readouterr().err == ""
    restored, _, warnings = restore(tmp_path, zeroed(state))
    assert_same(restored, state)
    assert warnings == []
