"""Datasets of arrays in Python are those of the same files; each mistake is one clear error."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from lenet_jax import data
from lenet_jax.data.arrays import given
from lenet_jax.errors import UserError
from tests.support import tiny
from tests.support.datasets import arrays, digits, write_idx_folder

RULES: dict[str, Any] = {"image_size": 8, "valid_examples": 10}
X, Y = digits(40)
X3 = np.random.default_rng(0).integers(0, 256, (40, 6, 6, 3), np.uint8)


@pytest.fixture(scope="module")
def fingerprint(tmp_path_factory):
    folder = write_idx_folder(tmp_path_factory.mktemp("data") / "idx")
    return data.load(str(folder), **RULES).fingerprint


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: x.tolist(),
        list,
        lambda x: x / 255,
        lambda x: (x / 255).astype(np.float32)[..., None],
        lambda x: x.astype(np.float16),
        lambda x: x[:, None],
        jnp.asarray,
        lambda x: jnp.asarray(x, jnp.bfloat16),
    ],
)
def test_arrays_are_the_dataset_of_the_same_files(fingerprint, change):
    values = {key: change(array) if key[0] == "x" else array for key, array in arrays().items()}
    x, y, x_test, y_test = values.values()
    dataset = data.from_arrays(x, y, x_test, y_test, **RULES)
    assert (dataset.fingerprint, dataset.remarks) == (fingerprint, ())


@pytest.mark.torch
def test_tensors_of_pytorch(fingerprint):
    torch = pytest.importorskip("torch")
    x, y, x_test, y_test = map(torch.tensor, arrays().values())
    x = (x[:, None] / 255).requires_grad_()
    dataset = data.from_arrays(x, y, x_test, y_test, **RULES)
    assert dataset.fingerprint == fingerprint
    planes = torch.tensor(X3).permute(0, 3, 1, 2)
    colour = data.from_arrays(planes, y, **RULES)
    assert colour.fingerprint == data.from_arrays(X3, Y, **RULES).fingerprint


def test_names_and_other_integers_stay_as_the_names_of_classes():
    for y in (np.array(["cat", "dog", "emu", "fox"])[Y], Y.astype(np.int64) * 10 - 7):
        for labels in (y, list(y), y.astype(object)):
            dataset = data.from_arrays(X, labels, **RULES)
            assert dataset.class_names == tuple(map(str, np.unique(y)))
            whole = [*dataset.train.labels, *dataset.valid.labels, *dataset.test.labels]
            assert np.bincount(whole).tolist() == [10, 10, 10, 10]


def test_a_test_set_is_held_out_and_said():
    dataset = data.from_arrays(X, Y, **RULES)
    assert (len(dataset.train), len(dataset.valid), len(dataset.test)) == (22, 10, 8)
    assert dataset.remarks == (
        "there is no test set: a fifth of each class, 8 images, is held out as one, the same in"
        " every run",
    )


def changed(**changes):
    return dataclasses.replace(tiny.dataset(), **changes)


def with_test(**arrays):
    """The dataset with other arrays in its test split, whose types the tests would check."""
    dataset = changed(test=data.Split(SPLIT.images, SPLIT.labels))
    vars(dataset.test).update(arrays)
    return dataset


SPLIT = tiny.dataset().train
WRONG = [
    ((X[:39], Y), "y has 40 labels for the 39 images of x"),
    ((X, Y, X[:3], Y[:2]), "y_test has 2 labels for the 3 images of x_test"),
    (([*X, X3[0]], [*Y, 0]), "x has images of 2 sizes, such as 6×6 and 6×6×3; they must be of one"),
    (([X[0], X[0, :5]] * 9, Y[:18]), "x has images of 2 sizes, such as 5×6 and 6×6; they must be"),
    ((X, Y, X[:8, :5], Y[:8]), "x_test has images of 5×6×1, x of 6×6×1"),
    ((X / 100, Y), "x has pixels of 0 to 2.55; floats are in 0 to 1, or 0, 1, 2, … 255"),
    ((X / 255 - 0.5, Y), "x has pixels of -0.5 to 0.5; floats are in 0 to 1"),
    ((X * 2.0, Y), "x has pixels of 0 to 510; floats are in 0 to 1"),
    ((X.astype(int) - 9, Y), "x has pixels of -9 to 246; supported are"),
    ((np.where(X > 200, np.nan, 0.5), Y), "x has pixels that are NaN or infinite"),
    ((np.where(X > 200, np.inf, 0.5), Y), "x has pixels that are NaN or infinite"),
    ((X * 0.9, Y), "To scale them: (x - x.min()) / (x.max() - x.min()), x_test by the same"),
    ((X, Y, X * 0.9, Y), "\nScale them as those of x."),
    ((X.astype(object), Y), "an array of objects; of numbers: np.stack(x).astype(float)"),
    ((X + 1j, Y), "x has images of type complex128, not of numbers"),
    ((X.reshape(40, 36), Y), "images are (n, h, w) or (n, h, w, 1 or 3); if they are square, res"),
    ((X[0, 0, 0], Y), "x has shape (); images are"),
    ((X[:0], Y[:0]), "x has shape (0, 6, 6, 1): it is empty"),
    ((X[..., None].repeat(4, -1), Y), "x has shape (40, 6, 6, 4); images are"),
    ((None, Y), "x is no array of pixels, but a NoneType"),
    ((np.ma.masked_less(X, 9), Y), "x has masked pixels\nFill them: x.filled(0)"),
    ((["a.png"] * 40, Y), "x has shape (40,); images are"),
    ((X, Y * 0 + 3), "y has the one label 3; at least two are needed"),
    ((X, Y + 0.5), "y has labels that are not whole numbers"),
    ((X, np.where(Y, Y, np.nan)), "y has labels that are not whole numbers"),
    ((X, Y[:, None].repeat(2, 1)), "y has shape (40, 2); labels are (n,)"),
    ((X, None), "y has shape (); labels are (n,)"),
    (((image for image in X), Y), "x is no array of pixels, but a generator"),
    ((X, 3), "y has shape (); labels are (n,)"),
    ((X, [*Y[:39], None]), "y has labels of type object; integers or text"),
    ((X, [[0], [1, 2]] * 20), "y is no array of labels, but a list"),
    ((X[:4], Y[:4]), "y has too few images to hold out a test set"),
    ((X, Y, X), "data must be a lenet_jax.data.Dataset, (x, y) or (x, y, x_test, y_test), not a"),
    ((X, Y, X, None), "there is x_test, but no y_test; give both, or none"),
    (X, "data must be a lenet_jax.data.Dataset, (x, y) or (x, y, x_test, y_test), not a ndarray"),
    ("./digits", "data that have a name are config.data.name=./digits"),
    ({"x": X, "y": Y}, "not a dict"),
    (tiny.dataset(), "the dataset has images of 16×16, but data.image_size is 8"),
    (changed(class_names=("a",)), "the dataset has 1 classes; at least two are needed"),
    (changed(class_names=("a", "b")), "its 2 class names they must be 0 to 1"),
    (
        with_test(images=SPLIT.images / 2),
        "test.images are float64 of shape (",
    ),
    (with_test(labels=SPLIT.labels[1:]), "must be int32 of shape (70,)"),
    (with_test(images=SPLIT.images[:0], labels=SPLIT.labels[:0]), "dataset's test has no images"),
]


@pytest.mark.parametrize(("value", "line"), WRONG)
def test_what_is_no_dataset_is_refused(value, line):
    size = 16 if isinstance(value, data.Dataset) and "image_size" not in line else 8
    rules = tiny.config(data={"image_size": 16}).data.to_dict() | {"image_size": size}
    with pytest.raises(UserError) as caught:
        given(value, **rules)
    assert line in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_pairs_as_keras_returns_them(fingerprint):
    x, y, x_test, y_test = arrays().values()
    rules = tiny.config().data.to_dict() | RULES
    assert given(((x, y), (x_test, y_test)), **rules).fingerprint == fingerprint


def test_a_dataset_has_the_fingerprint_of_its_content():
    rules = tiny.config().data
    dataset = given(tiny.dataset(), **rules)
    assert dataset.name == "given in Python"
    images = SPLIT.images.copy()
    images[3, 2, 1] ^= 1
    other = given(changed(train=data.Split(images, SPLIT.labels)), **rules)
    assert dataset.fingerprint == given(tiny.dataset(), **rules).fingerprint != other.fingerprint


def test_what_write_idx_writes_is_read_back(tmp_path, fingerprint):
    values = tuple(arrays().values())
    data.write_idx(tmp_path / "new" / "idx", *values)
    assert data.load(str(tmp_path / "new" / "idx"), **RULES).fingerprint == fingerprint
    data.write_idx(tmp_path / "new" / "idx", *values)  # the same again
    (tmp_path / "colour").mkdir()
    data.write_idx(tmp_path / "colour", X3 / 255, Y.astype(int) * 1000 - 5)
    expected = data.from_arrays(X3, Y.astype(int) * 1000 - 5, **RULES)
    assert data.load(str(tmp_path / "colour"), **RULES).fingerprint == expected.fingerprint


@pytest.mark.parametrize(
    ("labels", "place", "line"),
    [
        (
            np.array(list("abcd"))[Y],
            "idx",
            "idx files have integers of 32 bits as labels, not a, …",
        ),
        (
            Y + np.int64(2**40),
            "idx",
            "idx files have integers of 32 bits as labels, not 1099511627776, …",
        ),
        (Y, "file", "file is a file; choose another name for the folder"),
        (Y, "file/idx", "Not a directory"),
        (Y, "full", "full has other files; choose another folder"),
    ],
)
def test_write_idx_refuses_in_one_line_and_leaves_nothing(tmp_path, labels, place, line):
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "train-images-idx3-ubyte").write_bytes(b"mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=line.replace("(", "[(]")):
        data.write_idx(tmp_path / place, X, labels)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "full" / "train-images-idx3-ubyte").read_bytes() == b"mine"
