"""Arrays of all members of a sweep, in the files of its chunks."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenet_jax.errors import UserError
from lenet_jax.storage.recorded import (
    is_recorded,
    load_logits,
    load_weights,
    logits_file,
    recorded_epochs,
    weights_file,
    write_logits,
)
from lenet_jax.storage.sums import write_manifest
from lenet_jax.storage.sweep_weights import write_weights

CHUNKS = [0, 3, 4], [2, 1]  # the members of each
ALL = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)
KEYS = [
    *(0, -1, slice(None), slice(4, None, -2), slice(9, 9), Ellipsis, [3, 0, 3], np.arange(2)),
    *([True, False, True, False, True], (slice(None), 2), (slice(1, 4), slice(0, 5, 2), 1)),
    *((Ellipsis, 0), (2, Ellipsis, 1), ([4, 1], slice(None), -1), (slice(None), [6, 0])),
    *((1, [6, 0]), np.array([[0, 1], [4, 4]]), np.int64(3)),
]


def write(path, dtype="float32", epoch=None):
    """The folders of two chunks, with their sums."""
    folders = []
    for number, members in enumerate(CHUNKS):
        folder = path / f"{number:04d}"
        folder.mkdir(exist_ok=True)
        own = ALL[members]
        blocks = np.split(own, [2, 5], axis=1)
        write_logits(folder / logits_file("test", epoch), own.shape, dtype, blocks)
        saved = {m: {"a.weight": ALL[m].astype(dtype), "b": ALL[m, 0, 0]} for m in members}
        write_weights(folder, saved, {"mean": "1.0"}, epoch)
        write_manifest(folder)
        folders.append((folder, members))
    return folders


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write(tmp_path_factory.mktemp("chunks"))


@given(st.sampled_from(KEYS))
def test_an_index_reads_what_numpy_gives(folders, key):
    for array in (load_logits(folders, "test"), load_weights(folders)["a.weight"]):
        got = array[key]
        np.testing.assert_array_equal(got, ALL[key])
        assert got.dtype == np.float32


def test_it_is_an_array_on_the_disk(folders):
    array = load_logits(folders, "test")
    assert (array.shape, array.dtype, array.ndim, len(array)) == (ALL.shape, np.float32, 3, 5)
    assert array.nbytes == ALL.nbytes and "files=2" in repr(array)
    np.testing.assert_array_equal(np.asarray(array), ALL)
    np.testing.assert_array_equal(np.mean(array, axis=0), ALL.mean(axis=0))
    np.testing.assert_array_equal(list(array), ALL)
    np.testing.assert_array_equal(load_weights(folders)["b"][:], ALL[:, 0, 0])
    assert isinstance(array._parts[0].array, np.memmap)
    for key in (5, [0, 7], -6, (0, 7), ([0, 1], [0, 1]), (None, 0), np.ones(4, bool)):
        with pytest.raises(IndexError):
            array[key]
    with pytest.raises(ValueError, match="without a copy"):
        np.array(array, copy=False)


def test_half_precision_is_rounded_and_large_numbers_become_infinite(tmp_path):
    folders = write(tmp_path, "float16", epoch=3)
    array = load_logits(folders, "test", 3)
    assert array.dtype == np.float16
    np.testing.assert_array_equal(array[:], ALL.astype(np.float16))
    assert load_weights(folders, 3)["a.weight"].dtype == np.float16
    write_logits(tmp_path / "x.npy", (1, 1, 2), np.float16, [np.array([[[1e6, -1]]], np.float32)])
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), [[[np.inf, -1]]])


def test_the_names_of_files_have_the_epoch():
    names = [logits_file("test"), logits_file("train", 12), weights_file(3), weights_file(12345)]
    assert names == [
        *("logits_test.npy", "logits_train_0012.npy"),
        *("weights_0003.safetensors", "weights_12345.safetensors"),
    ]
    assert all(map(is_recorded, names))
    assert not any(map(is_recorded, (weights_file(), "results.json", "logits_test.npy.bak")))


def test_the_epochs_are_those_of_all_chunks(tmp_path):
    for epoch in (2, 10):
        folders = write(tmp_path, epoch=epoch)
    (tmp_path / "0001" / weights_file(10)).unlink()
    paths = [folder for folder, _ in folders]
    assert recorded_epochs(paths, "weights") == [2]
    assert recorded_epochs(paths, "logits") == [2, 10]
    assert recorded_epochs([], "logits") == []


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def cut_all(file):
    file.write_bytes(file.read_bytes()[:5])


def flip(file):
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)


def unseal(file):
    (file.parent / "SHA256SUMS").unlink()


def of_another(file):
    other = file.parent.parent / "0000" / file.name
    file.write_bytes(other.read_bytes())


def no_array(file):
    file.write_bytes(b"\x93NUMPY" + b"x" * 200)


@pytest.mark.parametrize("name", ["logits_test.npy", "weights.safetensors"])
@pytest.mark.parametrize("damage", [cut, cut_all, flip, unseal, of_another, no_array])
def test_a_damaged_file_is_a_short_error(tmp_path, name, damage):
    folders = write(tmp_path)
    damage(tmp_path / "0001" / name)
    message = "does not have the weights of every member"
    if damage is not of_another or name == "logits_test.npy":
        message = r"0001 is damaged: .*\n.*run the same command"
    with pytest.raises(UserError, match=message):
        array = (
            load_logits(folders, "test")
            if name == "logits_test.npy"
            else load_weights(folders)["a.weight"]
        )
        np.testing.assert_array_equal(array[[0, 3, 4]], ALL[[0, 3, 4]])  # of the other file
        array[2]


def test_what_is_not_recorded_is_a_short_error(tmp_path):
    folders = write(tmp_path)
    for load in (lambda: load_logits(folders, "train"), lambda: load_weights(folders, 2)):
        with pytest.raises(UserError, match=r"it has logits_test.npy, weights.*\nA sweep records"):
            load()
    (tmp_path / "0001" / "logits_test.npy").unlink()
    with pytest.raises(UserError, match=re.escape("0001 has no logits_test.npy")):
        load_logits(folders, "test")


def test_members_of_several_shapes_are_no_one_array(tmp_path):
    folders = write(tmp_path)
    file = tmp_path / "0001" / "logits_test.npy"
    file.unlink()
    write_logits(file, (2, 7, 4), np.float32, [np.zeros((2, 7, 4), np.float32)])
    with pytest.raises(UserError, match="logits has another shape in"):
        load_logits(folders, "test")
