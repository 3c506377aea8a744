"""What happened to a checkpoint after it was written: damage, foreign files, another network."""

import errno
import os
import pickle
import re
import shutil
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import faults
from lenet_jax.errors import UserError, show
from lenet_jax.storage.checkpoint import ARRAYS, Checkpoints
from lenet_jax.storage.sums import MANIFEST, find_damage, manifest
from tests.support.checkpoints import assert_same, make_state, restore, zeroed


@pytest.fixture(scope="module")
def state():
    return make_state()


@pytest.fixture(scope="module")
def two_saves(tmp_path_factory, state):
    """A directory with checkpoint 1, of zeros, and checkpoint 2."""
    directory = tmp_path_factory.mktemp("two")
    with Checkpoints(directory, keep=2) as checkpoints:
        checkpoints.save(1, zeroed(state), {"epoch": 1})
        checkpoints.save(2, state, {"epoch": 2})
    return directory


def test_sha256sum_accepts_the_manifest(two_saves):
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


@pytest.mark.parametrize("damage", faults.DAMAGES)
def test_damage_to_any_file_goes_back_to_the_checkpoint_before(two_saves, state, tmp_path, damage):
    files = sorted(p.relative_to(two_saves) for p in (two_saves / "2").rglob("*") if p.is_file())
    assert len(files) == 3
    for file in files:
        shutil.rmtree(tmp_path)
        shutil.copytree(two_saves, tmp_path)
        faults.DAMAGES[damage](tmp_path / file)
        restored, metadata, (warning,) = restore(tmp_path, zeroed(state))
        assert metadata == {"epoch": 1}
        assert_same(restored, zeroed(state))
        assert re.fullmatch(
            r"checkpoint 2 is damaged \(.*\); going back to checkpoint 1", warning
        ), warning


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda step: (step / ARRAYS).unlink(), f"{ARRAYS} is missing"),
        (lambda step: (step / "stray").write_text("?"), f"stray differs from {MANIFEST}"),
        (lambda step: (shutil.rmtree(step), step.mkdir()), f"it has no {MANIFEST}"),
        (lambda step: (shutil.rmtree(step), step.write_text("")), f"it has no {MANIFEST}"),
        (
            lambda step: (shutil.rmtree(step), step.mkdir(), (step / MANIFEST).touch()),
            f"{MANIFEST} was changed",
        ),
    ],
)
def test_a_damaged_folder_is_reported(two_saves, state, tmp_path, make, message):
    shutil.copytree(two_saves, tmp_path, dirs_exist_ok=True)
    make(tmp_path / "2")
    _, metadata, warnings = restore(tmp_path, state)
    assert metadata == {"epoch": 1}
    assert warnings == [f"checkpoint 2 is damaged ({message}); going back to checkpoint 1"]


def test_a_file_that_cannot_be_read_is_damage(two_saves, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("hashlib.file_digest", fail)
    assert find_damage(two_saves / "2") == "it cannot be read: Input/output error"


def test_the_next_save_replaces_a_damaged_checkpoint(two_saves, state, tmp_path):
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
    message = f"is damaged (notes.json differs from {MANIFEST})"
    assert first == (
        f"{show(tmp_path, 60)} has no intact checkpoint:"
        f" checkpoint 2 {message}, checkpoint 1 {message}"
    )
    assert second == "Restore a backup, or choose another --workdir to start over."
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: {**x, "w": x["w"].astype(jnp.float16)}, "w is float32(3, 2), not float16(3, 2)"),
        (lambda x: {**x, "w": x["w"].T}, "w is float32(3, 2), not float32(2, 3)"),
        (lambda x: {**x, "w": x["w"][:2]}, "w is float32(3, 2), not float32(2, 2)"),
        (lambda x: {**x, "n": jnp.float32(0)}, "n is int32(), not float32()"),
        (lambda x: {**x, "more": x["w"]}, "more is absent, not float32(3, 2)"),
        (lambda x: {"w": x["w"]}, "n is int32(), not absent"),
    ],
)
def test_other_shapes_and_dtypes_are_refused(tmp_path, change, message):
    saved = {"n": jnp.int32(3), "w": jnp.ones((3, 2))}
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, saved, {})
    with pytest.raises(UserError) as caught:
        restore(tmp_path, change(saved))
    first, _ = str(caught.value).splitlines()
    assert first == f"{tmp_path / '1'} belongs to another network: {message}"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (ARRAYS, pickle.dumps(print)),
        ("notes.json", b"[]"),
        ("notes.json", b"{"),
        ("notes.json", b"[" * 200_000),
    ],
)
def test_a_foreign_checkpoint_with_valid_sums_is_refused(two_saves, state, tmp_path, name, content):
    shutil.copytree(two_saves, tmp_path, dirs_exist_ok=True)
    (tmp_path / "2" / name).write_bytes(content)
    (tmp_path / "2" / MANIFEST).write_text(manifest(tmp_path / "2"))
    with pytest.raises(UserError) as caught:
        restore(tmp_path, state)
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{tmp_path / '2'} is intact, but cannot be read here: ")
    assert second == "Install the versions that run.json lists, or choose another --workdir."


def test_a_foreign_name_is_reported_in_one_line(tmp_path):
    foreign = "z\n" * 50 + "\x1b[31m"
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, {foreign: jnp.zeros(3)}, {})
    with pytest.raises(UserError) as caught:
        restore(tmp_path, {})
    first, _ = str(caught.value).splitlines()
    assert first.isprintable()
    assert first.startswith(f"{tmp_path / '1'} belongs to another network: z z")
