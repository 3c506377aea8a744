"""The embedded MNIST and idx folders: exact pixels, documented split, distinctive fingerprint."""

import gzip
import hashlib
import inspect
import math
import pathlib
import shutil
import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenet_jax import data
from lenet_jax.config import base
from lenet_jax.data import dataset
from lenet_jax.data.dataset import split_indices
from lenet_jax.data.idx import read_idx
from lenet_jax.errors import UserError

PINNED_VALID = [2, 3, 11, 13, 20]
PINNED_TRAIN = [21, 48, 62, 69, 88]
PINNED_FINGERPRINT = "5bc71d67ccb57d620c82d6a51fcc98564a31ae92b3a2eee99ae56d4af2327fb0"


def write_idx(path: pathlib.Path, array: np.ndarray) -> None:
    header = struct.pack(f">2xBB{array.ndim}I", 8, array.ndim, *array.shape)
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


def write_folder(folder: pathlib.Path, shape=(6, 5), suffix="", train=40, test=10) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", train), ("t10k", test)):
        images = (np.arange(count * math.prod(shape)) % 251).astype(np.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images.reshape(count, *shape))
        labels = np.arange(count, dtype=np.uint8) % 4
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", labels)
    return folder


@pytest.fixture(scope="module")
def mnist() -> data.Dataset:
    return data.load("mnist")


def test_embedded_mnist_is_complete(mnist):
    assert (len(mnist.train), len(mnist.valid), len(mnist.test)) == (55_000, 5_000, 10_000)
    assert mnist.class_names == tuple("0123456789")
    assert mnist.num_classes == 10
    assert mnist.image_shape == (32, 32, 1)
    for split in (mnist.train, mnist.valid, mnist.test):
        assert split.images.shape == (len(split), 32, 32, 1)
    counts = np.bincount(np.concatenate([mnist.train.labels, mnist.valid.labels]))
    assert counts.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


def test_padding_keeps_every_pixel(mnist):
    raw = read_idx(dataset.EMBEDDED_MNIST / "t10k-images-idx3-ubyte.gz")
    np.testing.assert_array_equal(mnist.test.images[:, 2:30, 2:30, 0], raw)
    assert mnist.test.images.sum(dtype=np.int64) == raw.sum(dtype=np.int64)


def test_train_and_valid_are_all_of_train_in_file_order(mnist):
    raw = read_idx(dataset.EMBEDDED_MNIST / "train-images-idx3-ubyte.gz")
    order = np.argsort(np.random.PCG64(0).random_raw(60_000), kind="stable")
    valid, train = np.sort(order[:5000]), np.sort(order[5000:])
    np.testing.assert_array_equal(mnist.valid.images[:, 2:30, 2:30, 0], raw[valid])
    np.testing.assert_array_equal(mnist.train.images[:, 2:30, 2:30, 0], raw[train])


def test_the_checksums_match_the_contents():
    for line in (dataset.EMBEDDED_MNIST / "SHA256SUMS").read_text().splitlines():
        expected, name = line.split()
        path = dataset.EMBEDDED_MNIST / name
        if name.endswith(".gz"):
            content = path.read_bytes()
        else:
            content = gzip.decompress(path.with_name(f"{name}.gz").read_bytes())
        assert hashlib.sha256(content).hexdigest() == expected


def test_a_damaged_copy_is_refused(tmp_path, monkeypatch):
    copy = shutil.copytree(dataset.EMBEDDED_MNIST, tmp_path / "mnist")
    monkeypatch.setattr(dataset, "EMBEDDED_MNIST", copy)
    path = copy / "t10k-labels-idx1-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[4] ^= 1  # the time in gzip's header, which gzip's checksum does not cover
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte\.gz is missing or damaged"):
        data.load("mnist")
    path.unlink()
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte\.gz is missing or damaged"):
        data.load("mnist")


def test_pinned_split_and_fingerprint(tmp_path):
    """Changing these requires a new RULES_VERSION, and older runs can no longer be resumed."""
    train, valid = split_indices(60_000, 5000, 0, 3000)
    assert valid[:5].tolist() == PINNED_VALID
    assert train[:5].tolist() == PINNED_TRAIN
    dataset = data.load(str(write_folder(tmp_path)), image_size=8, valid_examples=10)
    assert dataset.fingerprint == PINNED_FINGERPRINT


@given(st.data(), st.integers(2, 300), st.integers(0, 2**40))
def test_the_split_is_a_partition_and_smaller_ones_are_subsets(draws, count, seed):
    valid_examples = draws.draw(st.integers(0, count - 1))
    left = count - valid_examples
    fewer = draws.draw(st.integers(1, left))
    train, valid = split_indices(count, valid_examples, seed, None)
    assert sorted([*train, *valid]) == list(range(count))
    assert (np.diff(train) > 0).all()
    assert (np.diff(valid) > 0).all()
    some, same_valid = split_indices(count, valid_examples, seed, fewer)
    assert len(some) == fewer
    assert set(some) <= set(train)
    np.testing.assert_array_equal(same_valid, valid)
    more, _ = split_indices(count, valid_examples, seed, min(fewer + 1, left))
    assert set(some) <= set(more)


def test_another_seed_gives_another_split():
    assert (split_indices(100, 50, 0, None)[1] != dataset.split_indices(100, 50, 1, None)[1]).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"valid_examples": 40}, "it must be 0 to 39, fewer than the 40 training images"),
        ({"valid_examples": -1}, "data.valid_examples is -1"),
        ({"train_examples": 31}, "must be 1 to 30"),
        ({"train_examples": 0}, "data.train_examples is 0"),
        ({"split_seed": -1}, "data.split_seed is -1"),
        ({"fit": "crop"}, "'crop'; it must be one of pad, resize"),
        ({"image_size": 0}, "data.image_size is 0"),
        (
            {"image_size": 5},
            "images of 6×5 cannot be padded to data.image_size=5; try data.fit=res",
        ),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        data.load(str(write_folder(tmp_path)), **{"image_size": 8, "valid_examples": 10} | settings)


def test_no_validation_is_allowed(tmp_path):
    dataset = data.load(str(write_folder(tmp_path)), image_size=8, valid_examples=0)
    assert (len(dataset.train), len(dataset.valid)) == (40, 0)
    assert dataset.valid.images.shape == (0, 8, 8, 1)


@pytest.mark.parametrize("fit", ["pad", "resize"])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3)])
def test_a_folder_is_loaded_exactly(tmp_path, fit, shape):
    folder = write_folder(tmp_path, shape)
    dataset = data.load(str(folder), image_size=8, fit=fit, valid_examples=7)
    assert dataset.image_shape == (8, 8, 3 if shape[-1] == 3 else 1)
    assert (len(dataset.train), len(dataset.valid), len(dataset.test)) == (33, 7, 10)
    assert dataset.class_names == ("0", "1", "2", "3")
    assert dataset.test.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    if fit == "pad":
        raw = read_idx(folder / "t10k-images-idx3-ubyte").reshape(10, 6, 5, -1)
        np.testing.assert_array_equal(dataset.test.images[:, 1:7, 1:6], raw)
        assert dataset.test.images.sum() == raw.sum()


def test_a_path_may_be_relative_or_start_at_the_home(tmp_path, monkeypatch):
    write_folder(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    names = ("digits", "./digits", "~/digits", str(tmp_path / "digits"))
    fingerprints = {data.load(name, image_size=8, valid_examples=10).fingerprint for name in names}
    assert len(fingerprints) == 1


@pytest.mark.parametrize("name", ["./nothing", "/nothing/here", "~/nothing", "a/b/c", "~nobody/x"])
def test_a_missing_folder_is_refused(name):
    with pytest.raises(UserError, match=r"there is no file or folder|home directory"):
        data.load(name)


def test_a_missing_folder_with_a_datasets_name_gets_a_hint(tmp_path):
    for name, hint in (("MNIST", "mnist"), ("fashion-mnist", "fashion_mnist")):
        text = f"there is no file or folder .*{name}; did .*data.name={hint}"
        with pytest.raises(UserError, match=text):
            data.load(str(tmp_path / name))


def test_the_name_mnist_is_the_embedded_copy_even_if_a_folder_has_it(tmp_path, monkeypatch, mnist):
    (tmp_path / "mnist").mkdir()
    monkeypatch.chdir(tmp_path)
    assert data.load("mnist").fingerprint == mnist.fingerprint


def test_the_fingerprint_does_not_depend_on_location_or_compression(tmp_path):
    first = write_folder(tmp_path / "first")
    second = write_folder(tmp_path / "second", suffix=".gz")
    fingerprints = {
        data.load(str(folder), image_size=8, valid_examples=10).fingerprint
        for folder in (first, second)
    }
    assert len(fingerprints) == 1


def test_the_fingerprint_distinguishes_data_and_settings(tmp_path):
    plain: dict[str, Any] = {"image_size": 8, "valid_examples": 10}
    folder = write_folder(tmp_path / "plain")
    variants = [
        {},
        {"image_size": 9},
        {"fit": "resize"},
        {"valid_examples": 11},
        {"split_seed": 1},
        {"train_examples": 20},
    ]
    fingerprints = [data.load(str(folder), **plain | variant).fingerprint for variant in variants]
    for index, name in enumerate(
        f"{split}-{kind}-ubyte"
        for split in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ):
        other = write_folder(tmp_path / str(index))
        array = read_idx(other / name).copy()
        array.reshape(-1)[0] ^= 1
        write_idx(other / name, array)
        fingerprints.append(data.load(str(other), **plain).fingerprint)
    assert len(set(fingerprints)) == len(fingerprints) == 10
    all_named = data.load(str(folder), **plain, train_examples=30)
    assert all_named.fingerprint == fingerprints[0]


def test_resize_interpolates_between_pixel_centres():
    image = np.array([[0, 100], [200, 100]], np.uint8)[None, :, :, None]
    expected = [[0, 25, 75, 100], [50, 63, 88, 100], [150, 138, 113, 100], [200, 175, 125, 100]]
    resized = data.fit_images(image, 4, "resize")[0, :, :, 0].astype(int)
    np.testing.assert_allclose(resized, expected, atol=1)


def test_resize_averages_when_shrinking():
    checkers = np.indices((32, 32)).sum(0) % 2 * 200
    image = np.repeat(checkers[None, :, :, None], 3, axis=-1).astype(np.uint8)
    image[..., 2] = 7
    resized = data.fit_images(image, 8, "resize")
    assert resized.shape == (1, 8, 8, 3)
    np.testing.assert_allclose(resized[..., :2], 100, atol=2)
    assert (resized[..., 2] == 7).all()


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]), st.integers(0, 3))
def test_padding_is_centred(height, width, channels, extra):
    size = max(height, width) + extra
    images = np.full((2, height, width, channels), 9, np.uint8)
    padded = data.fit_images(images, size, "pad")
    rows = np.flatnonzero(padded[0, :, :, 0].any(axis=1))
    columns = np.flatnonzero(padded[0, :, :, 0].any(axis=0))
    for used, length in ((rows, height), (columns, width)):
        assert len(used) == length
        after = size - 1 - used[-1]
        assert after - used[0] in (0, 1)
    assert padded.sum() == images.sum()


def test_importing_data_imports_nothing_slow():
    code = "import sys, lenet_jax.data; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(result.stdout.split())
    assert "lenet_jax.data" in loaded
    assert not loaded & {"tensorflow", "tensorflow_datasets", "PIL", "jax"}


@pytest.mark.parametrize(("count", "valid"), [(40, 4), (5, 1), (4, 1), (6000, 600), (9999, 999)])
def test_of_few_images_a_tenth_is_held_out_by_default(tmp_path, count, valid):
    folder = write_folder(tmp_path, shape=(2, 2), train=count, test=4)
    dataset = data.load(str(folder), image_size=4)
    assert (len(dataset.train), len(dataset.valid)) == (count - valid, valid)
    assert dataset.remarks[-1] == (
        f"{valid:,} of the {count:,} training images, a tenth, are held out for validation"
    )
    explicit = data.load(str(folder), image_size=4, valid_examples=valid)
    assert explicit.fingerprint == dataset.fingerprint
    assert not any("held out" in remark for remark in explicit.remarks)


def test_of_10_000_images_5_000_are_held_out_by_default(tmp_path):
    dataset = data.load(str(write_folder(tmp_path, shape=(2, 2), train=10_000)), image_size=4)
    assert (len(dataset.train), len(dataset.valid), dataset.remarks) == (5000, 5000, ())


@pytest.mark.parametrize(
    ("count", "valid", "train"), [(40, 4, 36), (999, 99, 900), (1000, 500, 500), (3501, 500, 3000)]
)
def test_a_smoke_run_has_fewer_images_where_there_are_fewer(tmp_path, count, valid, train):
    configs: tuple[Any, Any] = base.get_config("smoke"), base.get_config()
    smoke, usual = (config.data for config in configs)
    folder = write_folder(tmp_path, shape=(2, 2), train=count, test=4)
    settings = {"valid_examples": smoke.valid_examples, "train_examples": smoke.train_examples}
    dataset = data.load(str(folder), image_size=4, **settings)
    assert (len(dataset.train), len(dataset.valid)) == (train, valid)
    default = inspect.signature(data.load).parameters["valid_examples"].default
    assert default == usual.valid_examples
