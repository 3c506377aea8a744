"""Datasets of idx files under every name and in every place that people have them."""

import os
from typing import Any

import numpy as np
import pytest

from lenet_jax import data
from lenet_jax.data import emnist, file_set
from lenet_jax.data.dataset import EMBEDDED_MNIST
from lenet_jax.data.form import fit_form, measure_form
from lenet_jax.data.image_files import read_characters
from lenet_jax.errors import UserError
from tests.support.datasets import arrays, digits, write_idx, write_idx_folder, write_images

EMNIST = "emnist-letters-{split}-{kind}-{idx}-ubyte.gz"


def load(name, **settings):
    defaults: dict[str, Any] = {"image_size": 8, "valid_examples": 10}
    return data.load(str(name), **defaults | settings)


def assert_same(dataset, other):
    assert dataset.fingerprint == other.fingerprint
    np.testing.assert_array_equal(dataset.train.images, other.train.images)
    np.testing.assert_array_equal(dataset.test.labels, other.test.labels)


@pytest.fixture
def plain(tmp_path):
    """The dataset under MNIST's own names."""
    return load(write_idx_folder(tmp_path / "plain"))


@pytest.mark.parametrize("test", ["t10k", "test"])
@pytest.mark.parametrize(
    "names",
    [
        "{split}-{kind}-{idx}-ubyte",
        "{split}-{kind}-{idx}-ubyte.gz",
        "{split}-{kind}.{idx}-ubyte",
        "{split}-{kind}.{idx}-ubyte.gz",
        "{split}_{kind}_{idx}_ubyte",
        "{split}-{kind}.{idx}",
        "{split}-{kind}.idx",
        "{split}-{kind}-{idx}-ubyte/{split}-{kind}-{idx}-ubyte",
        "{split}-{kind}.{idx}-ubyte/{split}-{kind}.{idx}-ubyte",
        "mnist-{split}-{kind}-{idx}-ubyte",
        "raw/{split}-{kind}-{idx}-ubyte",
        "MNIST/raw/{split}-{kind}-{idx}-ubyte",
        "data/MNIST/raw/{split}-{kind}-{idx}-ubyte.gz",
    ],
)
def test_names_and_places(tmp_path, plain, names, test):
    assert_same(load(write_idx_folder(tmp_path / "new", names, test)), plain)


def test_upper_case_and_channels(tmp_path, plain):
    folder = write_idx_folder(tmp_path / "new")
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.upper())
    assert_same(load(folder), plain)
    images: dict[str, Any] = {key: arrays()[key][..., None] for key in ("x_train", "x_test")}
    names = "{split}-{kind}-idx4-ubyte"
    assert_same(load(write_idx_folder(tmp_path / "idx4", names, **images)), plain)


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_any_of_the_files_stands_for_its_folder(tmp_path, plain, gz):
    folder = write_idx_folder(tmp_path / "new", "{split}-{kind}-{idx}-ubyte" + gz)
    for path in folder.iterdir():
        assert_same(load(path), plain)


@pytest.mark.parametrize(
    ("folder", "prefix"),
    [("MNIST", ""), ("FashionMNIST", ""), ("KMNIST", ""), ("QMNIST", "qmnist-")],
)
def test_torchvisions_root(tmp_path, plain, folder, prefix):
    names = f"{folder}/raw/{prefix}{{split}}-{{kind}}-{{idx}}-ubyte"
    root = write_idx_folder(tmp_path / "root", names)
    for name in (root, root / folder, root / folder / "raw", root / folder.lower()):
        assert_same(load(name), plain)


def test_torchvisions_root_with_archives_beside_the_files(tmp_path, plain):
    root = write_idx_folder(tmp_path / "root", "MNIST/raw/{split}-{kind}-{idx}-ubyte")
    write_idx_folder(root, "MNIST/raw/{split}-{kind}-{idx}-ubyte.gz")
    assert_same(load(root), plain)


def test_several_datasets_are_listed_and_can_be_chosen(tmp_path, plain, monkeypatch):
    root = write_idx_folder(tmp_path / "root", "MNIST/raw/{split}-{kind}-{idx}-ubyte")
    write_idx_folder(root / "FashionMNIST" / "raw", x_train=digits(40, seed=3)[0])
    for variant in ("letters", "digits"):
        names = EMNIST.replace("letters", variant).removesuffix(".gz")
        write_idx_folder(root / "EMNIST" / "raw", names, test="test")
    with pytest.raises(UserError) as error:
        load(root)
    assert str(error.value).endswith(
        " has several datasets; add the name of one to the path:"
        " EMNIST/emnist-digits, EMNIST/emnist-letters, FashionMNIST, MNIST"
    )
    assert_same(load(root / "MNIST"), plain)
    assert load(root / "FashionMNIST").fingerprint != plain.fingerprint
    with pytest.raises(UserError, match="several datasets"):
        load(root / "EMNIST")
    chosen = load(root / "EMNIST" / "emnist-digits")
    monkeypatch.chdir(tmp_path)
    for name in ("EMNIST/digits", "EMNIST/raw/emnist-digits", "EMNIST/EMNIST_Digits"):
        assert_same(load(root / name), chosen)
        assert_same(load(f"root/{name}"), chosen)
    assert_same(load("root/mnist"), plain)
    with pytest.raises(UserError, match=r"no file or folder .*/KMNIST; .* has EMNIST/emnist-dig"):
        load(root / "KMNIST")


def test_a_name_chooses_files_of_the_current_folder(tmp_path, monkeypatch):
    folder = write_idx_folder(tmp_path, EMNIST, test="test")
    write_idx_folder(tmp_path, EMNIST.replace("letters", "digits"), test="test")
    monkeypatch.chdir(folder)
    assert_same(load("emnist-letters"), load(tmp_path / "letters"))
    assert_same(
        load("./emnist-letters"),
        load(tmp_path / EMNIST.format(split="train", kind="images", idx="idx3")),
    )


@pytest.mark.parametrize("place", ["{}", "gzip/{}", "EMNIST/raw/{}"])
def test_emnist_is_turned_upright_and_its_classes_are_letters(tmp_path, place):
    labels: dict[str, Any] = {"y_train": (np.arange(40) % 26 + 1).astype(np.uint8)}
    labels["y_test"] = labels["y_train"][:10]
    folder = write_idx_folder(tmp_path / "new", place.format(EMNIST), "test", **labels)
    dataset = load(folder, image_size=6)
    np.testing.assert_array_equal(dataset.test.images[..., 0], arrays()["x_test"].swapaxes(1, 2))
    assert "".join(dataset.class_names) == "abcdefghijklmnopqrstuvwxyz"
    assert dataset.test.labels.tolist() == list(range(10))
    assert "EMNIST's images, which are published transposed, are turned upright" in dataset.remarks
    other = write_idx_folder(tmp_path / "other", **labels)
    assert load(other, image_size=6).fingerprint != dataset.fingerprint


@pytest.mark.parametrize(
    ("variant", "count", "some"),
    [
        ("balanced", 47, {10: "A", 36: "a", 37: "b", 38: "d", 46: "t"}),
        ("bymerge", 47, {9: "9", 35: "Z", 43: "n"}),
        ("byclass", 62, {35: "Z", 36: "a", 38: "c", 61: "z"}),
        ("digits", 10, {0: "0"}),
        ("mnist", 10, {9: "9"}),
        ("letters", 26, {1: "a", 26: "z"}),
    ],
)
def test_emnists_labels_are_those_of_its_mapping_files(variant, count, some):
    names = emnist.class_names(variant)
    assert len(names) == count
    assert some.items() <= names.items()


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("emnist/letters", "letters"),
        ("emnist/letters:3.1.0", "letters"),
        ("EMNIST-Balanced", "balanced"),
        ("emnist", "byclass"),
        ("emnist:3.1.0", "byclass"),
        ("mnist", None),
        ("emnists/letters", None),
        ("emnist-letters2", None),
    ],
)
def test_variants_of_emnist(name, variant):
    assert emnist.variant(name) == variant


def test_qmnists_extended_labels(tmp_path, plain):
    folder = tmp_path / "QMNIST" / "raw"
    write_idx_folder(folder, "qmnist-{split}-{kind}-{idx}-ubyte", test="test")
    for split, key in (("train", "y_train"), ("test", "y_test")):
        labels = arrays()[key].astype(np.int32)
        table = np.stack([labels, *(labels + n for n in range(1, 8))], axis=1)
        write_idx(folder / f"qmnist-{split}-labels-idx2-int", table)
        (folder / f"qmnist-{split}-labels-idx1-ubyte").unlink()
    assert_same(load(tmp_path / "QMNIST"), plain)


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
def test_every_type_of_idx(tmp_path, dtype):
    small: dict[str, Any] = {key: array % 128 for key, array in arrays().items()}
    expected = load(write_idx_folder(tmp_path / "u1", **small))
    typed: dict[str, Any] = {key: array.astype(dtype) for key, array in small.items()}
    assert_same(load(write_idx_folder(tmp_path / "typed", **typed)), expected)


def test_floats_of_0_to_1_and_16_bits_are_scaled(tmp_path, plain):
    values = arrays()
    images: dict[str, Any] = {
        key: (values[key] / 255).astype("f4") for key in ("x_train", "x_test")
    }
    assert_same(load(write_idx_folder(tmp_path / "floats", **images)), plain)
    images = {key: (values[key] / 255 * 4095).round().astype("i2") for key in ("x_train", "x_test")}
    images["x_train"][0, 0, 0] = 4095
    bits = load(write_idx_folder(tmp_path / "bits", **images))
    np.testing.assert_array_equal(bits.test.images, plain.test.images)
    assert bits.remarks == ("pixels of 0 to 4095 are taken as 12 bits and scaled to 0 to 255",)


def test_kuzushiji_as_numpy_files(tmp_path, plain):
    values = arrays()
    folder = tmp_path / "new"
    folder.mkdir()
    for split in ("train", "test"):
        np.savez_compressed(folder / f"kmnist-{split}-imgs.npz", values[f"x_{split}"])
        np.savez_compressed(folder / f"kmnist-{split}-labels.npz", values[f"y_{split}"])
    assert_same(load(folder), plain)
    assert_same(load(folder / "kmnist-train-imgs.npz"), plain)


def test_four_npy_files(tmp_path, plain):
    (tmp_path / "new").mkdir()
    for key, array in arrays().items():
        np.save(tmp_path / "new" / f"{key}.npy", array)
    assert_same(load(tmp_path / "new"), plain)


def test_a_plain_file_takes_precedence_over_a_gzipped_one(tmp_path, plain):
    folder = write_idx_folder(tmp_path / "new")
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"not gzip")
    assert_same(load(folder), plain)


def test_a_gzipped_file_that_differs_from_the_plain_one_is_named(tmp_path):
    folder = write_idx_folder(tmp_path / "new")
    write_idx_folder(folder, "{split}-{kind}-{idx}-ubyte.gz")
    assert load(folder).remarks == ()
    write_idx(folder / "train-images-idx3-ubyte.gz", digits(40, seed=9)[0])
    assert load(folder).remarks == (
        "train-images-idx3-ubyte is read, not train-images-idx3-ubyte.gz, whose content differs",
    )


def test_a_web_page_in_place_of_a_download_is_named(tmp_path):
    folder = write_idx_folder(tmp_path, "{split}-{kind}-{idx}-ubyte.gz")
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"<html>404")
    with pytest.raises(UserError, match=r"ubyte.gz is a web page, not the file: download it again"):
        load(folder)


@pytest.mark.parametrize(
    "name", ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"]
)
def test_each_file_is_required(tmp_path, name):
    folder = write_idx_folder(tmp_path)
    (folder / f"{name}-ubyte").unlink()
    with pytest.raises(UserError, match=f"has no file .*{name}"):
        load(folder)


@pytest.mark.parametrize("names", ["{split}-{kind}-{idx}-ubyte", EMNIST])
def test_without_test_files_a_fifth_of_each_class_is_held_out(tmp_path, names):
    folder = write_idx_folder(tmp_path, names)
    for path in folder.glob("*t10k*"):
        path.unlink()
    dataset = load(folder)
    assert np.bincount(dataset.test.labels, minlength=4)[-4:].tolist() == [2, 2, 2, 2]
    assert any(remark.startswith("there is no test set: a fifth") for remark in dataset.remarks)


def test_two_test_sets_are_ambiguous(tmp_path):
    write_idx_folder(tmp_path)
    write_idx_folder(tmp_path, test="test")
    with pytest.raises(UserError, match="both t10k-images-idx3-ubyte and test-images-idx3-ubyte"):
        load(tmp_path)


def test_train_and_test_must_agree(tmp_path):
    folder = write_idx_folder(tmp_path, x_test=np.ones((10, 6, 7), np.uint8))
    with pytest.raises(UserError, match=r"t10k.* has images of 6×7×1, train.* of 6×6×1"):
        load(folder)


def test_a_test_label_unknown_to_train_is_refused(tmp_path):
    folder = write_idx_folder(tmp_path, y_test=np.full(10, 4, np.uint8))
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte has label 4; .* is 3"):
        load(folder)


def test_pipes_devices_and_folders_in_place_of_files(tmp_path):
    folder = write_idx_folder(tmp_path / "new")
    (folder / "train-images-idx3-ubyte").unlink()
    os.mkfifo(folder / "train-images-idx3-ubyte")
    with pytest.raises(UserError, match="neither a file nor a folder, but a pipe"):
        load(folder)
    with pytest.raises(UserError, match="neither a file nor a folder, but a pipe"):
        load(folder / "train-images-idx3-ubyte")
    (folder / "train-images-idx3-ubyte").unlink()
    (folder / "train-images-idx3-ubyte").mkdir()
    with pytest.raises(UserError, match="has no file train-images-idx3-ubyte"):
        load(folder)
    with pytest.raises(UserError, match="neither a file nor a folder"):
        load("/dev/zero")


def test_a_circle_of_links_and_a_dangling_link(tmp_path, plain):
    root = write_idx_folder(tmp_path / "root", "MNIST/raw/{split}-{kind}-{idx}-ubyte")
    (root / "again").symlink_to(root / "MNIST" / "again")
    (root / "MNIST" / "again").symlink_to(root / "again")
    (root / "MNIST" / "gone").symlink_to(root / "nowhere")
    assert_same(load(root), plain)


def test_the_embedded_mnist_is_such_a_folder():
    dataset = data.load(str(EMBEDDED_MNIST), image_size=28)
    assert dataset.fingerprint == data.load("mnist", image_size=28).fingerprint
    assert dataset.remarks == ()


def test_part_of_reads_names_without_their_extensions():
    prefix, part = file_set.part_of("emnist-mnist-test-labels-idx1-ubyte.gz") or ("", None)
    assert (prefix, part) == ("emnist-mnist", ("test", "labels"))
    for name in ("test.png", "train.csv", "train-images.zip", "labels", "training-notes.txt"):
        assert file_set.part_of(name) is None


@pytest.mark.parametrize("fit", ["pad", "resize"])
def test_images_that_fill_their_frame_are_the_same_as_files(tmp_path, fit):
    """As Fashion-MNIST's: `predict` gives a file of the test set what training gave its array."""
    rng = np.random.default_rng(0)
    rows = np.linspace(0, 3, 28)
    waves = np.cos(
        rows[:, None] * rng.normal(size=(240, 1, 1)) + rows * rng.normal(size=(240, 1, 1))
    )
    images = ((waves + 1) * 127).astype(np.uint8)
    labels = (np.arange(240) % 10).astype(np.uint8)
    folder = write_idx_folder(
        tmp_path / "FashionMNIST" / "raw",
        x_train=images[:200],
        y_train=labels[:200],
        x_test=images[200:],
        y_test=labels[200:],
    )
    dataset = load(folder.parent, image_size=32, fit=fit)
    form = measure_form(dataset.train.images, fit, dataset.native_size)
    files = sorted(write_images(tmp_path / "files", images[200:], np.arange(40)).rglob("*.png"))
    files.sort(key=lambda file: int(file.parent.name))
    for file, image in zip(files, dataset.test.images, strict=True):
        (character,) = read_characters(file, 1, form).characters
        np.testing.assert_array_equal(fit_form([character.pixels], form, 32)[0], image)
