import errno
import os
import pickle
import re
import resource
import shutil
import subprocess
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding

from lenet_jax import checkpoint, train
from lenet_jax.checkpoint import ARRAYS, MANIFEST, Checkpoints, find_damage, manifest
from lenet_jax.errors import UserError

NOTES = {"epoch": 3, "best_accuracy": 0.1 + 0.2, "train_seconds": 1e-17}


@pytest.fixture(scope="module")
def state():
    """All that a run has to save: parameters, the optimiser's buffers, counters, and keys."""
    params = nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Param)
    buffers = optax.adam(0.1).init(params)
    return train.TrainState(
        params=params,
        opt_state=jax.tree.map(lambda leaf: leaf + jnp.ones((), leaf.dtype), buffers),
        step=jnp.int32(7),
        order_key=jax.random.key(5),
        augment_key=jax.random.key(6),
    )


def zeroed(tree):
    def zero(leaf):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        return jnp.zeros_like(leaf)

    return jax.tree.map(zero, tree)


def bits(tree):
    return [
        np.asarray(jax.random.key_data(leaf))
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else np.asarray(leaf)
        for leaf in jax.tree.leaves(tree)
    ]


def restore(directory, like):
    """The arrays, the words, and the warnings on the way."""
    warnings = []
    with Checkpoints(directory, keep=2) as checkpoints:
        restored = checkpoints.restore(like, warnings.append)
        assert restored is not None
        return *restored, warnings


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
    for a, b in zip(bits(found), bits(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("abstract", [True, False])
def test_what_was_saved_comes_back_to_the_bit(tmp_path, state, abstract):
    like = jax.eval_shape(lambda: zeroed(state)) if abstract else zeroed(state)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest() is None
        assert checkpoints.restore(like, pytest.fail) is None
        checkpoints.save(3, state, NOTES)
        assert checkpoints.latest() == 3
    restored, notes, warnings = restore(tmp_path, like)
    assert (notes, warnings) == (NOTES, [])
    assert_same(restored, state)


def test_a_population_is_one_checkpoint_like_any_other(tmp_path, state):
    def stack(*leaves):
        return jnp.stack(leaves)

    members = [state, zeroed(state), jax.tree.map(jnp.copy, state)]
    population = jax.tree.map(stack, *members)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, population, NOTES)
    restored, _, _ = restore(tmp_path, jax.eval_shape(lambda: population))
    assert_same(restored, population)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_numbers_that_are_hard_to_write_come_back(tmp_path):
    hard = [0.0, -0.0, 1e-45, np.nextafter(np.float32(1), np.float32(2)), np.inf, np.nan]
    values = {"hard": jnp.asarray(hard, jnp.float32), "last": jnp.int32(2**31 - 1)}
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, values, {})
    restored, _, _ = restore(tmp_path, zeroed(values))
    assert np.asarray(restored["hard"]).tobytes() == np.asarray(values["hard"]).tobytes()
    assert restored["last"] == 2**31 - 1


def test_an_array_comes_back_however_it_lies_in_memory(tmp_path):
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


def test_what_is_donated_while_it_is_written_is_saved_as_it_was(tmp_path):
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.zeros(4_000_000)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, {"x": x}, {})
        for _ in range(10):
            x = step(x)
        x.block_until_ready()
    restored, _, _ = restore(tmp_path, {"x": x})
    assert np.unique(np.asarray(restored["x"])).tolist() == [0.0]


@pytest.fixture(scope="module")
def two_saves(tmp_path_factory, state):
    """A directory with checkpoint 1, of zeros, and checkpoint 2."""
    directory = tmp_path_factory.mktemp("two")
    with Checkpoints(directory, keep=2) as checkpoints:
        checkpoints.save(1, zeroed(state), {"epoch": 1})
        checkpoints.save(2, state, {"epoch": 2})
    return directory


def test_the_manifest_is_one_that_sha256sum_reads(two_saves):
    check = ["sha256sum", "--check", "--strict", "--quiet", MANIFEST]
    assert subprocess.run(check, cwd=two_saves / "2").returncode == 0


def flip(file, position, bit):
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << bit
    file.write_bytes(content)


def test_every_flipped_bit_is_found(two_saves, tmp_path):
    shutil.copytree(two_saves / "2", tmp_path, dirs_exist_ok=True)
    assert find_damage(tmp_path) is None
    rng, damaged = np.random.default_rng(0), 0
    for file in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        content = file.read_bytes()
        assert content, file
        for position in {0, len(content) - 1, *rng.integers(0, len(content), 99)}:
            flip(file, position, int(rng.integers(8)))
            assert find_damage(tmp_path) is not None, (file, position)
            file.write_bytes(content)
            damaged += 1
    assert damaged > 150


DAMAGES = {
    "a flipped bit": lambda file: flip(file, file.stat().st_size // 2, 3),
    "its end cut off": lambda file: os.truncate(file, file.stat().st_size - 1),
    "emptied": lambda file: os.truncate(file, 0),
    "a byte more": lambda file: file.write_bytes(file.read_bytes() + b"\n"),
    "missing": lambda file: file.unlink(),
    "another file of the kind": lambda file: file.write_bytes(file.read_bytes()[::-1]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_goes_back_to_the_checkpoint_before(two_saves, state, tmp_path, damage):
    files = sorted(p.relative_to(two_saves) for p in (two_saves / "2").rglob("*") if p.is_file())
    assert len(files) == 3
    for file in files:
        shutil.rmtree(tmp_path)
        shutil.copytree(two_saves, tmp_path)
        DAMAGES[damage](tmp_path / file)
        restored, notes, (warning,) = restore(tmp_path, zeroed(state))
        assert notes == {"epoch": 1}
        assert_same(restored, zeroed(state))
        assert re.fullmatch(
            r"checkpoint 2 is damaged \(.*\); going back to checkpoint 1", warning
        ), warning


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda step: (step / ARRAYS).unlink(), f"{ARRAYS} is missing"),
        (lambda step: (step / "stray").write_text("?"), f"stray is not as {MANIFEST} has it"),
        (lambda step: (shutil.rmtree(step), step.mkdir()), f"it has no {MANIFEST}"),
        (lambda step: (shutil.rmtree(step), step.write_text("")), f"it has no {MANIFEST}"),
        (
            lambda step: (shutil.rmtree(step), step.mkdir(), (step / MANIFEST).touch()),
            f"{MANIFEST} is not as it was",
        ),
    ],
)
def test_a_damaged_folder_is_told(two_saves, state, tmp_path, make, told):
    shutil.copytree(two_saves, tmp_path, dirs_exist_ok=True)
    make(tmp_path / "2")
    _, notes, warnings = restore(tmp_path, state)
    assert notes == {"epoch": 1}
    assert warnings == [f"checkpoint 2 is damaged ({told}); going back to checkpoint 1"]


def test_a_file_that_cannot_be_read_is_damage(two_saves, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("hashlib.file_digest", fail)
    assert find_damage(two_saves / "2") == "it cannot be read: Input/output error"


def test_what_comes_after_the_damage_takes_its_place(two_saves, state, tmp_path):
    shutil.copytree(two_saves, tmp_path, dirs_exist_ok=True)
    for number in (3, 4):
        (tmp_path / str(number)).mkdir()
    os.truncate(tmp_path / "2" / MANIFEST, 10)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        warnings = []
        assert checkpoints.restore(state, warnings.append) is not None
        assert len(warnings) == 1 and warnings[0].endswith("going back to checkpoint 1")
        checkpoints.save(2, state, {"epoch": 2})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]
    assert restore(tmp_path, state)[2] == []


def test_where_no_checkpoint_is_sound_all_is_left_as_it_is(two_saves, state, tmp_path):
    shutil.copytree(two_saves, tmp_path, dirs_exist_ok=True)
    for number in ("1", "2"):
        flip(tmp_path / number / "notes.json", 3, 0)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(UserError) as caught:
        restore(tmp_path, state)
    first, second = str(caught.value).splitlines()
    told = f"is damaged (notes.json is not as {MANIFEST} has it)"
    assert first == (
        f"{tmp_path} has no sound checkpoint: checkpoint 2 {told}, checkpoint 1 {told}"
    )
    assert second == "Bring a copy of one back, or take another --workdir to start anew."
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: {**x, "w": x["w"].astype(jnp.float16)}, "w is float32(3, 2), not float16(3, 2)"),
        (lambda x: {**x, "w": x["w"].T}, "w is float32(3, 2), not float32(2, 3)"),
        (lambda x: {**x, "w": x["w"][:2]}, "w is float32(3, 2), not float32(2, 2)"),
        (lambda x: {**x, "n": jnp.float32(0)}, "n is int32(), not float32()"),
        (lambda x: {**x, "more": x["w"]}, "more is absent, not float32(3, 2)"),
        (lambda x: {"w": x["w"]}, "n is int32(), not absent"),
    ],
)
def test_other_shapes_and_dtypes_are_refused(tmp_path, change, told):
    saved = {"n": jnp.int32(3), "w": jnp.ones((3, 2))}
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, saved, {})
    with pytest.raises(UserError) as caught:
        restore(tmp_path, change(saved))
    assert str(caught.value).splitlines()[0] == f"{tmp_path / '1'} is of another network: {told}"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (ARRAYS, pickle.dumps(print)),
        ("notes.json", b"[]"),
        ("notes.json", b"{"),
        ("notes.json", b"[" * 200_000),
    ],
)
def test_a_foreign_checkpoint_of_sound_sums_is_refused(two_saves, state, tmp_path, name, content):
    shutil.copytree(two_saves, tmp_path, dirs_exist_ok=True)
    (tmp_path / "2" / name).write_bytes(content)
    (tmp_path / "2" / MANIFEST).write_text(manifest(tmp_path / "2"))
    with pytest.raises(UserError) as caught:
        restore(tmp_path, state)
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{tmp_path / '2'} is sound, but cannot be read here: ")
    assert second == "Install the versions that run.json names, or take another --workdir."


def test_a_foreign_name_is_told_in_one_line(tmp_path):
    foreign = "z\n" * 50 + "\x1b[31m"
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, {foreign: jnp.zeros(3)}, {})
    with pytest.raises(UserError) as caught:
        restore(tmp_path, {})
    first, _ = str(caught.value).splitlines()
    assert first.isprintable() and first.startswith(f"{tmp_path / '1'} is of another network: z z")


def test_what_a_process_that_died_was_writing_is_cleared_away(tmp_path):
    stale = [".2.draft", ".1.old.draft"]
    for name in (*stale, "mine"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".2.draft" / "notes.json").touch()
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest() is None
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_save_that_fails_is_told_at_the_next_and_leaves_the_one_before(tmp_path, monkeypatch):
    x = {"x": jnp.zeros(3)}
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, x, {"epoch": 1})

        def fail(*_, **__):
            raise OSError(errno.EROFS, "Read-only file system")

        assert checkpoints.latest() == 1
        monkeypatch.setattr("lenet_jax.checkpoint.encode", fail)
        checkpoints.save(2, x, {"epoch": 2})
        with pytest.raises(OSError) as caught:
            checkpoints.save(3, x, {"epoch": 3})
        assert caught.value.errno == errno.EROFS
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    _, notes, warnings = restore(tmp_path, x)
    assert (notes, warnings) == ({"epoch": 1}, [])


def test_the_last_save_is_told_to_have_failed_when_the_checkpoints_are_closed(tmp_path):
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
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, state, NOTES)
    assert checkpoints.latest() == 1
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        checkpoints.save(2, state, NOTES)
        with pytest.raises(OSError, match="File too large"):
            checkpoints.latest()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoints.latest() == 1
    checkpoints.close()
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert capfd.readouterr().err == ""
    found, _, warnings = restore(tmp_path, zeroed(state))
    assert_same(found, state)
    assert warnings == []
