"""Datasets in Parquet files: those of the hub are read, and what is none is refused in one line."""

import io
import json
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lenet_jax import data
from lenet_jax.errors import UserError
from tests.support.datasets import arrays, digits

pa = pytest.importorskip("pyarrow", reason="pyarrow is an extra")
pq = pytest.importorskip("pyarrow.parquet")

RULES: dict[str, Any] = {"image_size": 8, "valid_examples": 10}
X, Y = digits(40)
NAMES = ["zero", "one", "two", "three"]
FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": NAMES, "_type": "ClassLabel"},
}


def encode(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def write(path, images, labels, features=None, *, raw=False, columns=("image", "label")):
    """Writes a file as `datasets` does, with a column of another kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = [image if isinstance(image, bytes | None) else encode(image) for image in images]
    stored = encoded if raw else [{"bytes": image, "path": "a.png"} for image in encoded]
    values = dict(zip(columns, (stored, labels), strict=False), id=list(range(len(stored))))
    table = pa.table(values)
    if features is not None:
        table = table.replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
    pq.write_table(table, path)
    return path


def load(path, **rules):
    return data.load(str(path), **RULES | rules)


def hub(folder, **options):
    """The files of a dataset on the hub: two of train, one of test."""
    x, y, x_test, y_test = (
        array.tolist() if i % 2 else array for i, array in enumerate(arrays().values())
    )
    write(folder / "train-00000-of-00002.parquet", x[:15], y[:15], **options)
    write(folder / "train-00001-of-00002.parquet", x[15:], y[15:], **options)
    write(folder / "test-00000-of-00001-0f1e2d.parquet", x_test, y_test, **options)
    return folder


@pytest.fixture(scope="module")
def plain():
    return data.from_arrays(*arrays().values(), **RULES)


def test_a_folder_of_the_hub(tmp_path, plain):
    folder = hub(tmp_path / "repository" / "mnist", features=FEATURES)
    for path in (tmp_path / "repository", folder, folder / "train-00000-of-00002.parquet"):
        dataset = load(path)
        assert dataset.class_names == tuple(NAMES)
        np.testing.assert_array_equal(dataset.train.images, plain.train.images)
        np.testing.assert_array_equal(dataset.test.images, plain.test.images)
        np.testing.assert_array_equal(dataset.test.labels, plain.test.labels)
        assert (dataset.remarks, dataset.native_size) == ((), (6, 6))


@pytest.mark.parametrize(
    "options", [{"features": {}}, {"raw": True}, {"columns": ("img", "target")}, {"features": 3}]
)
def test_without_the_hubs_metadata(tmp_path, plain, options):
    assert load(hub(tmp_path, **options)).fingerprint == plain.fingerprint


def test_one_file_and_its_names(tmp_path):
    names = np.array(NAMES)[Y]
    labels = pa.array(names.tolist()).dictionary_encode()
    dataset = load(write(tmp_path / "a.parquet", X, labels))
    assert dataset.fingerprint == data.from_arrays(X, names, **RULES).fingerprint


def test_folders_by_split_and_a_test_set_without_labels(tmp_path):
    write(tmp_path / "train" / "0000.parquet", X, Y.tolist(), FEATURES)
    write(tmp_path / "test" / "0000.parquet", X, [-1] * 40, FEATURES)
    dataset = load(tmp_path)
    assert dataset.remarks[0].endswith("test/0000.parquet is left out: it has no labels")
    assert len(dataset.test) == 8
    write(tmp_path / "b" / "train.parquet", X, Y.tolist())
    with pytest.raises(UserError, match=r"several datasets; give the path of one: "):
        load(tmp_path)


def test_colour_and_sizes(tmp_path):
    images = [*X[:38], *np.random.default_rng(0).integers(0, 256, (2, 9, 7, 3), np.uint8)]
    path = write(tmp_path / "a.parquet", images, Y.tolist())
    with pytest.raises(UserError, match=r"images of 2 sizes: 38 of 6×6, 2 of 9×7; .*fit=resize"):
        load(path)
    dataset = load(path, fit="resize")
    assert (dataset.image_shape, dataset.native_size) == ((8, 8, 3), None)


WRONG = [
    (lambda p: p.write_bytes(b""), "a.parquet is damaged, or no Parquet: "),
    (lambda p: p.write_bytes(b"PAR1" + bytes(99) + b"PAR1"), "a.parquet is damaged, or no Parquet"),
    (lambda p: p.write_bytes(write(p, X, Y.tolist()).read_bytes()[:-40]), "is damaged, or no Par"),
    (
        lambda p: pq.write_table(pa.table({"x": [1], "y": [2]}), p),
        "has no column of encoded images",
    ),
    (lambda p: write(p, X, Y.tolist(), columns=("image", "what")), "no column is called label"),
    (lambda p: write(p, X, [[1]] * 40), "column label holds list<"),
    (lambda p: write(p, X, [0.5] * 40), "column label holds double, not integers or names"),
    (lambda p: write(p, X, [*Y.tolist()[:39], None]), "a.parquet, row 39, has no label"),
    (
        lambda p: write(p, [*X[:39], None], Y.tolist()),
        "a.parquet, row 39, has no image in the file",
    ),
    (lambda p: write(p, [*X[:39], b"GIF"], Y.tolist()), "a.parquet, row 39 is not an image of"),
    (lambda p: write(p, X[:0], []), "a.parquet has no column of encoded images"),
    (lambda p: write(p, X, [3] * 40), "a.parquet has the one label 3; at least two are needed"),
]


@pytest.mark.parametrize(("make", "line"), WRONG)
def test_what_is_no_set_of_images_is_refused_in_one_line(tmp_path, make, line):
    make(tmp_path / "a.parquet")
    with pytest.raises(UserError) as caught:
        load(tmp_path / "a.parquet")
    assert line in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_missing_files_and_a_missing_library(tmp_path, monkeypatch):
    folder = hub(tmp_path)
    (folder / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(UserError, match="has 1 of the 2 files of train: download the others"):
        load(folder)
    (folder / "train-00000-of-00002.parquet").unlink()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs pyarrow to be read.*\n.*pip install pyarrow"):
        load(folder / "test-00000-of-00001-0f1e2d.parquet")


@pytest.mark.parametrize("image", [bytes(1 << 16), np.random.default_rng(0).bytes(1 << 16)])
def test_a_file_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch, image):
    path = write(tmp_path / "a.parquet", [image] * 40, Y.tolist())
    monkeypatch.setattr("lenet_jax.data.files.PACKED", 5)
    monkeypatch.setattr("lenet_jax.data.files.MOST_UNPACKED", 1 << 10)
    with pytest.raises(UserError, match="claims to unpack from"):
        load(path)
