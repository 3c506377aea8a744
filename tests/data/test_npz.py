"""Datasets in NumPy's archives: read exactly, or refused in one line before memory is allocated."""

import io
import os
import struct
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lenet_jax import data
from lenet_jax.data import npz
from lenet_jax.errors import UserError
from tests.support.datasets import arrays, digits, write_idx_folder


def load(name, **settings):
    defaults: dict[str, Any] = {"image_size": 8, "valid_examples": 10}
    return data.load(str(name), **defaults | settings)


def npy_bytes(array, **options):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **options)
    return buffer.getvalue()


def write_zip(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def plain(tmp_path):
    return load(write_idx_folder(tmp_path / "plain"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("X_train", "Y_train", "X_test", "Y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("trainImages", "trainLabels", "testImages", "testLabels"),
        ("images_train", "labels_train", "images_test", "labels_test"),
        ("train_x", "train_y", "valid_x", "valid_y"),
        ("train_x", "train_y", "dev_x", "dev_y"),
        ("data_train", "target_train", "data_test", "target_test"),
    ],
)
def test_archives_are_read_under_every_convention(tmp_path, plain, save, names):
    save(tmp_path / "mnist.npz", **dict(zip(names, arrays().values(), strict=True)))
    dataset = load(tmp_path / "mnist.npz")
    assert dataset.fingerprint == plain.fingerprint
    remark = "there is no test set: its 10 validation images are taken as one"
    assert dataset.remarks == ((remark,) if {"valid_x", "dev_x"} & set(names) else ())


def test_the_archive_of_keras_in_its_place(tmp_path, monkeypatch, plain):
    folder = tmp_path / ".keras" / "datasets"
    folder.mkdir(parents=True)
    np.savez(folder / "mnist.npz", **arrays())
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("~/.keras/datasets/mnist.npz").fingerprint == plain.fingerprint
    assert load("~/.keras/datasets").fingerprint == plain.fingerprint
    monkeypatch.chdir(folder)
    assert load("mnist.npz").fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.astype(np.int64),
        lambda x: x.astype(np.float64),
        lambda x: x.astype(">u2"),
        lambda x: x / 255,
        lambda x: (x / 255).astype(np.float32),
        lambda x: np.asfortranarray(x),
        lambda x: x[..., None],
    ],
)
def test_images_of_any_type_are_the_same(tmp_path, plain, change):
    values = arrays()
    changed = {key: change(values[key]) if key[0] == "x" else values[key] for key in values}
    np.savez(tmp_path / "a.npz", **changed)
    dataset = load(tmp_path / "a.npz")
    assert dataset.fingerprint == plain.fingerprint
    assert dataset.remarks == ()


@pytest.mark.parametrize("test_type", ["u1", "i8", "f4", "?"])
@pytest.mark.parametrize("train_type", ["u1", "i4"])
def test_integers_of_0_and_1_are_scaled(tmp_path, train_type, test_type):
    values = arrays()
    for key, dtype in (("x_train", train_type), ("x_test", test_type)):
        values[key] = (values[key] & 1).astype(dtype)
    np.savez(tmp_path / "bits.npz", **values)
    dataset = load(tmp_path / "bits.npz")
    for split, key in ((dataset.train, "x_train"), (dataset.test, "x_test")):
        assert set(np.unique(split.images)) == {0, 255}, key
    np.testing.assert_array_equal(
        dataset.test.images[:, 1:7, 1:7, 0], values["x_test"].astype(np.uint8) * 255
    )
    assert dataset.remarks == ("pixels of 0 and 1 are scaled to 0 and 255",)


def test_pixels_of_0_and_1_in_one_set_only_are_pixels(tmp_path):
    values = arrays()
    values["x_test"] &= 1
    np.savez(tmp_path / "a.npz", **values)
    dataset = load(tmp_path / "a.npz")
    assert dataset.test.images.max() == 1
    assert dataset.remarks == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y.astype(np.int64),
        lambda y: y.astype(">u4"),
        lambda y: y.astype(np.float32),
        lambda y: y[:, None],
        lambda y: np.eye(4)[y],
        lambda y: y.astype("S"),
        lambda y: y.astype(str),
    ],
)
def test_labels_of_any_type_are_the_same(tmp_path, plain, change):
    values = arrays()
    changed = {key: change(values[key]) if key[0] == "y" else values[key] for key in values}
    np.savez(tmp_path / "a.npz", **changed)
    assert load(tmp_path / "a.npz").fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    ("change", "names", "remark"),
    [
        (
            lambda y: y + 1,
            ("1", "2", "3", "4"),
            "the labels are 1 to 4: classes 0 to 3, which keep",
        ),
        (lambda y: y * 2, ("0", "2", "4", "6"), "the labels are 0, 2, 4, 6: classes 0 to 3, which"),
        (lambda y: y.astype(int) - 1, ("-1", "0", "1", "2"), "the labels are -1 to 2: classes"),
        (lambda y: y * 10**9, ("0", "1000000000", "2000000000", "3000000000"), "classes 0 to 3"),
        (lambda y: np.array(["10", "9", "8", "11"])[y], ("8", "9", "10", "11"), ""),
        (lambda y: np.array(["sad", "glad", "mad", "bad"])[y], ("bad", "glad", "mad", "sad"), ""),
    ],
)
def test_labels_keep_their_names(tmp_path, change, names, remark):
    values = arrays()
    changed = {
        key: change(values[key].astype(np.int64)) if key[0] == "y" else values[key]
        for key in values
    }
    np.savez(tmp_path / "a.npz", **changed)
    dataset = load(tmp_path / "a.npz")
    assert dataset.class_names == names
    original = [str(label) for label in changed["y_test"].tolist()]
    assert [names[label] for label in dataset.test.labels] == original
    assert [remark in line for line in dataset.remarks] == ([True] if remark else [])


def test_the_validation_images_of_medmnist_are_trained_on(tmp_path):
    values = arrays()
    more: Any = digits(20, seed=4)
    np.savez(
        tmp_path / "a.npz",
        **{
            f"{k}_images": v
            for k, v in (("train", values["x_train"]), ("val", more[0]), ("test", values["x_test"]))
        },
        **{
            f"{k}_labels": v[:, None]
            for k, v in (("train", values["y_train"]), ("val", more[1]), ("test", values["y_test"]))
        },
    )
    dataset = load(tmp_path / "a.npz")
    assert (len(dataset.train), len(dataset.valid), len(dataset.test)) == (50, 10, 10)
    assert dataset.remarks == ("its 20 validation images are added to the training images",)


@pytest.mark.parametrize(
    "names", [("x", "y"), ("images", "labels"), ("data", "target"), ("x_train", "y_train")]
)
def test_without_a_test_set_a_fifth_of_each_class_is_drawn(tmp_path, names):
    values: dict[str, Any] = dict(zip(names, digits(40), strict=True))
    np.savez(tmp_path / "a.npz", **values)
    dataset, other = load(tmp_path / "a.npz"), load(tmp_path / "a.npz", split_seed=3)
    assert (len(dataset.train), len(dataset.valid), len(dataset.test)) == (22, 10, 8)
    assert np.bincount(dataset.test.labels).tolist() == [2, 2, 2, 2]
    np.testing.assert_array_equal(dataset.test.images, other.test.images)
    assert (
        "there is no test set: a fifth of each class, 8 images, is held out" in dataset.remarks[0]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.full((40, 6, 6), 1.5) - 2.5}, "x_train, has pixels of -1 to -1; supported"),
        ({"x_train": np.full((40, 6, 6), np.nan)}, "x_train, has pixels of nan to nan"),
        ({"x_train": np.full((40, 6, 6), np.inf)}, "x_train, has pixels of inf to inf"),
        ({"x_test": np.full((10, 6, 6), 256.0)}, "x_test, has pixels of 256 to 256"),
        ({"x_train": np.full((40, 6, 6), 65536)}, "has pixels of 65536 to 65536"),
        ({"x_train": np.full((40, 6, 6), 1j)}, "images of type complex128, not of numbers"),
        (
            {"x_train": np.full((40, 36), 1)},
            r"x_train, has shape \(40, 36\); images are \(n, h, w\)",
        ),
        ({"x_train": np.zeros((40, 3, 6, 6), np.uint8)}, "channels come last"),
        ({"x_train": np.zeros((0, 6, 6), np.uint8)}, "has shape"),
        ({"y_train": np.zeros(39, int)}, "y_train, has 39 labels for the 40 images of .*x_train"),
        ({"y_train": np.zeros((40, 3), int)}, r"y_train, has shape \(40, 3\); labels are \(n,\)"),
        (
            {"y_train": np.zeros(40, int), "y_test": np.zeros(10, int)},
            "y_train, has the one label 0",
        ),
        ({"y_train": np.full(40, 0.5)}, "y_train, has labels that are not whole numbers"),
        ({"y_train": np.full(40, np.nan)}, "y_train, has labels that are not whole numbers"),
        ({"y_train": np.full(40, 2**64 - 1, np.uint64)}, "beyond 64 bits"),
        ({"y_test": np.full(10, 4)}, "y_test, has label 4; the largest in .*y_train, is 3"),
        ({"y_test": np.full(10, "a")}, "are of two types"),
        ({"x_test": np.zeros((10, 5, 5), np.uint8)}, "x_test, has images of 5×5×1"),
        ({"y_train": np.array([None] * 40)}, "y_train, holds Python objects, which are not read"),
        ({"x_train": np.array([np.zeros(3), None], object)}, "holds Python objects"),
    ],
)
def test_each_mistake_is_one_line(tmp_path, changes, message):
    np.savez(tmp_path / "a.npz", **arrays() | changes)
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path / "a.npz")
    assert len(str(error.value).splitlines()) == 1


def test_arrays_that_are_missing_or_named_twice(tmp_path):
    values = arrays()
    np.savez(tmp_path / "a.npz", a=values["x_train"], b=values["y_train"])
    with pytest.raises(UserError, match="has the arrays a, b; needed are x_train, y_train"):
        load(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", x_train=values["x_train"])
    with pytest.raises(UserError, match="has x_train, but no labels for it"):
        load(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", **values, X_train=values["x_train"])
    with pytest.raises(UserError, match="has both x_train and X_train"):
        load(tmp_path / "a.npz")
    write_zip(tmp_path / "a.npz", {})
    with pytest.raises(UserError, match="has the arrays none; needed are"):
        load(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", **values)
    np.savez(tmp_path / "b.npz", **values)
    with pytest.raises(UserError, match=r"several datasets; give the path of one: a.npz, b.npz"):
        load(tmp_path)


def test_a_huge_claim_is_refused_before_memory_is_allocated(tmp_path, monkeypatch):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000, 1000), }"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + bytes(9)
    path = write_zip(tmp_path / "a.npz", {"x_train.npy": content, "y_train.npy": content})
    monkeypatch.setattr(np, "frombuffer", lambda *_: pytest.fail("memory was allocated"))
    with pytest.raises(UserError, match="truncated: its header claims 1000000 × 1000 × 1000"):
        load(path)


def test_more_than_the_header_says_is_not_read_on(tmp_path):
    content = npy_bytes(np.zeros((4, 6, 6), np.uint8)) + bytes(50_000_000)
    path = write_zip(tmp_path / "a.npz", {"x.npy": content, "y.npy": content}, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="longer than its header says"):
        load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged, or no NumPy file"),
        (b"no archive", "damaged, or no NumPy file"),
        (npy_bytes(np.zeros(3)), "damaged, or no NumPy file"),
    ],
)
def test_what_is_no_archive(tmp_path, content, message):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(tmp_path / "a.npz")


@given(st.integers(0, 2000), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_harmless(tmp_path_factory, at, value):
    folder = tmp_path_factory.getbasetemp() / "changed"
    folder.mkdir(exist_ok=True)
    np.savez(folder / "a.npz", **arrays())
    content = bytearray((folder / "a.npz").read_bytes())
    content[at % len(content)] = value
    (folder / "a.npz").write_bytes(content)
    try:
        dataset = load(folder / "a.npz")
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert dataset.num_classes == 4


@example(b"[")
@example(b"(" * 199)
@example(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}")
@example(b"{'descr': [[1]], 'fortran_order': False, 'shape': (1,)}")
@example(b"{'descr': '<f4', 'fortran_order': 3, 'shape': (-1,)}")
@given(st.binary(max_size=200))
def test_any_header_is_read_or_refused(tmp_path_factory, header):
    path = tmp_path_factory.getbasetemp() / "any.npy"
    for version in (b"\1\0", b"\2\0", b"\3\0"):
        width = "<H" if version[0] == 1 else "<I"
        path.write_bytes(b"\x93NUMPY" + version + struct.pack(width, len(header)) + header)
        with pytest.raises(UserError):
            npz.read_npy(path)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 0, 3), ()])
def test_an_array_is_read_exactly(tmp_path, version, shape):
    array = np.random.default_rng(0).random(shape)
    (tmp_path / "a.npy").write_bytes(npy_bytes(np.asarray(array), version=version))
    np.testing.assert_array_equal(npz.read_npy(tmp_path / "a.npy"), array)


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(UserError, match="neither a file nor a folder, but a pipe"):
        load(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n<!DOCTYPE html><html>404", "a.npz is a web page, not the file: download it again"),
        (b"version https://git-lfs.github.com/spec/v1", "a.npz is a Git LFS pointer, not the file"),
    ],
)
def test_what_was_stored_in_place_of_a_download_is_named(tmp_path, content, message):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(tmp_path / "a.npz")


def test_flat_images_are_to_be_reshaped(tmp_path):
    values = arrays()
    values["x_train"] = values["x_train"].reshape(-1, 36)
    np.savez(tmp_path / "a.npz", **values)
    with pytest.raises(UserError, match=r"if they are square, reshape them to \(n, 6, 6\)"):
        load(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("digits", "digits.npz"),
        ("DIGITS.npz", "digits.npz"),
        ("digit.npz", "digits.npz"),
        ("packed", "packed.tar.gz"),
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_a_wrong_path_beside_a_file_of_almost_that_name(tmp_path, name, near, beside):
    if beside and name != "digit.npz":  # of which the names are listed
        write_idx_folder(tmp_path / "MNIST")
    np.savez(tmp_path / "digits.npz", **arrays())
    (tmp_path / "packed.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match=rf"no file or folder .*; did you mean .*/{near}\?"):
        load(tmp_path / name)


def test_a_wrong_name_beside_a_file_of_almost_that_name(tmp_path, monkeypatch):
    np.savez(tmp_path / "digits.npz", **arrays())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no folder and no TFDS .*; did you mean .*=digits.npz\?"):
        load("digits")


def test_an_empty_test_set_is_refused(tmp_path):
    values = arrays()
    np.savez(tmp_path / "a.npz", **values | {k: values[k][:0] for k in ("x_test", "y_test")})
    with pytest.raises(UserError, match=r"x_test, has shape \(0, 6, 6, 1\): it is empty"):
        load(tmp_path / "a.npz")
