"""Datasets in CSV files: read as the same arrays, or refused in one line that says which."""

import gzip
from typing import Any

import numpy as np
import pytest

from lenet_jax import data
from lenet_jax.data import csv_files
from lenet_jax.errors import UserError
from tests.support.datasets import arrays, digits, write_images

RULES: dict[str, Any] = {"image_size": 8, "valid_examples": 10}
X, Y = digits(40)
PIXELS = ",".join(f"pixel{i}" for i in range(36))
ROWS = np.column_stack([Y, X.reshape(40, -1)]).tolist()


def text(rows, header=None, delimiter=",", end="\n"):
    lines = [] if header is None else [header]
    return "".join(line + end for line in lines + [delimiter.join(map(str, r)) for r in rows])


def load(path, content=None, **rules):
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return data.load(str(path), **RULES | rules)


@pytest.fixture(scope="module")
def fingerprint():
    return data.from_arrays(X, Y, **RULES).fingerprint


FLOATS = np.column_stack([Y, X.reshape(40, -1) / 255]).tolist()
LAST = [[*row[1:], row[0]] for row in ROWS]
CONTENTS = {
    "plain": text(ROWS),
    "header": text(ROWS, "label," + PIXELS),
    "names of numbers": text(ROWS, "label," + ",".join(map(str, range(36)))),
    "pandas, without a name": text(ROWS, ",".join(map(str, range(37)))),
    "pandas, with its index": text([[i, *row] for i, row in enumerate(ROWS)], ",Label," + PIXELS),
    "last": text(LAST, PIXELS + ",class"),
    "quoted": text(ROWS, '"label",' + ",".join(f'"V{i}"' for i in range(36))),
    "semicolons": text(ROWS, delimiter=";", end="\r\n"),
    "tabs": text(ROWS, delimiter="\t", end="\n\n"),
    "spaces": text(ROWS, delimiter=", "),
    "no end": text(ROWS)[:-1],
    "byte order mark": b"\xef\xbb\xbf" + text(ROWS).encode(),
    "gzipped": gzip.compress(text(ROWS).encode()),
    "floats of 255": text(np.float32(ROWS).tolist()),
    "floats of 1": text(FLOATS),
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_every_form_is_the_same_dataset(tmp_path, fingerprint, content):
    name = "digits.csv.gz" if content[:2] == b"\x1f\x8b" else "digits.csv"
    dataset = load(tmp_path / name, content)
    assert dataset.fingerprint == fingerprint
    index = content[:6] == ",Label"
    left_out = any(r.endswith("/digits.csv: column '' is left out") for r in dataset.remarks)
    assert left_out == index


@pytest.mark.parametrize("label", [0, 5, 36])
def test_names_are_kept_wherever_they_are(tmp_path, label):
    names = np.array(["ankle boot", "coat", 'shirt, "t"', "y"])[Y]
    rows = [
        [*row[:label], f'"{name.replace(chr(34), 2 * chr(34))}"', *row[label:]]
        for row, name in zip(X.reshape(40, -1).tolist(), names, strict=True)
    ]
    dataset = load(tmp_path / "a.csv", text(rows))
    assert dataset.fingerprint == data.from_arrays(X, names, **RULES).fingerprint


def test_a_name_with_an_underscore_is_no_number(tmp_path):
    rows = [[f"1_{row[0]}", *row[1:]] for row in ROWS]
    assert load(tmp_path / "a.csv", text(rows)).class_names == ("1_0", "1_1", "1_2", "1_3")


def test_kaggles_folder_without_labels_in_its_test_file(tmp_path, fingerprint):
    (tmp_path / "train.csv").write_text(text(ROWS, "label," + PIXELS))
    (tmp_path / "sample_submission.csv").write_text("ImageId,Label\n1,0\n")
    for header in (PIXELS, None):
        (tmp_path / "test.csv").write_text(text(X.reshape(40, -1).tolist(), header))
        for path in (tmp_path, tmp_path / "train.csv"):
            dataset = load(path)
            assert dataset.fingerprint == fingerprint
            left_out = "/test.csv is left out: it has no labels"
            assert any(remark.endswith(left_out) for remark in dataset.remarks)
            assert "there is no test set" in dataset.remarks[-1]
    assert load(tmp_path).remarks[0].startswith("sample_submission.csv is left out: it is neither")


def test_train_and_test_of_one_name_belong_together(tmp_path):
    x, y, x_test, y_test = arrays().values()
    for split, images, labels in (("train", x, y), ("test", x_test, y_test)):
        rows = np.column_stack([labels, images.reshape(len(images), -1)]).tolist()
        (tmp_path / f"mnist_{split}.csv").write_text(text(rows))
    expected = data.from_arrays(x, y, x_test, y_test, **RULES).fingerprint
    assert load(tmp_path).fingerprint == load(tmp_path / "mnist_train.csv").fingerprint == expected
    (tmp_path / "kmnist_train.csv").write_text(text(ROWS))
    with pytest.raises(UserError, match=r"several datasets; .*: kmnist_train.csv, mnist_train.csv"):
        load(tmp_path)


def test_colour(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 6, 6, 3), np.uint8)
    dataset = load(tmp_path / "a.csv", text(np.column_stack([Y, images.reshape(40, -1)]).tolist()))
    assert dataset.fingerprint == data.from_arrays(images, Y, **RULES).fingerprint
    assert "each line is 6×6 pixels, each of red, green and blue" in dataset.remarks[0]


@pytest.mark.parametrize("name", ["emnist-letters-train.csv", "emnist-letters.csv"])
def test_emnist_is_upright(tmp_path, name):
    rows = [[row[0] + 1, *row[1:]] for row in ROWS]
    dataset = load(tmp_path / name, text(rows), image_size=6)
    assert dataset.class_names == tuple("abcdefghijklmnopqrstuvwxyz")
    assert (dataset.train.images[0, ..., 0] == X.swapaxes(1, 2)).all((1, 2)).any()


def test_images_in_folders_come_first(tmp_path):
    write_images(tmp_path / "train", X, Y)
    (tmp_path / "train.csv").write_text("id,label\n000.png,0\n")
    assert len(load(tmp_path).test) == 8


def changed(row, column, value):
    rows = [list(row) for row in ROWS]
    rows[row][column] = value
    return text(rows)


COMMAS = text(np.float32(ROWS).tolist(), delimiter=";").replace(".", ",")
WRONG = [
    ("", "a.csv is empty"),
    ("\n \n", "a.csv is empty"),
    ("label," + PIXELS, "a.csv has a header, but no images"),
    (text(X.reshape(40, -1).tolist(), PIXELS), "a.csv has no column label, nor class or target"),
    (text(ROWS) + "1,2,3\n", "a.csv, line 41: 3 cells, the first line has 37"),
    (text(ROWS) + '1,"2\n', "a.csv, line 41: 2 cells"),
    (text(ROWS) + "\n" + ",".join(["1"] * 38), "a.csv, line 42: 38 cells, the first line has 37"),
    (changed(6, 3, ""), "a.csv, line 7, column 4 is empty"),
    (changed(6, 3, "abc"), "a.csv, line 7, column 4: abc is no number"),
    (changed(6, 3, "1_0"), "a.csv, line 7, column 4: 1_0 is no number"),
    (changed(6, 3, "٣"), "a.csv, line 7, column 4: ٣ is no number"),
    (changed(6, 3, '"0,5"'), "line 7, column 4: 0,5 has a decimal comma; save it with points"),
    (COMMAS, "a.csv, line 1, column 2: 95,0 has a decimal comma"),
    (COMMAS.replace(";", "\t"), "a.csv, line 1, column 2: 95,0 has a decimal comma"),
    (
        "label;" + PIXELS.replace(",", ";") + "\n" + COMMAS,
        "a.csv, line 2, column 2: 95,0 has a d",
    ),
    (changed(6, 3, "\x1b[31m"), "a.csv, line 7, column 4: '\\x1b[31m' is no number"),
    (changed(6, 3, 256), "a.csv, line 7, column 4: 256; pixels are integers of 0 to 255, or floa"),
    (changed(6, 3, -1), "line 7, column 4: -1; pixels are"),
    (changed(6, 3, "nan"), "line 7, column 4: nan; pixels are"),
    (changed(6, 3, "1e999"), "line 7, column 4: 1e999; pixels are"),
    (changed(6, 3, "9" * 9999), "line 7, column 4: 9999"),
    (changed(6, 0, ""), "a.csv, line 7 has no label"),
    (changed(6, 0, "x" * 101), "a.csv, line 7 has a label of 101 characters"),
    (changed(6, 0, "caf\xe9").encode("latin-1"), "line 7 has a label that is not UTF-8: caf\\xe9"),
    (text([[row[0] + 2**64, *row[1:]] for row in ROWS]), "has label 1.84467e+19, beyond 64 bits"),
    (text(ROWS, end=",\n"), "a.csv has 37 columns beside the label; those of square"),
    (text([[row[0] + 0.5, *row[1:]] for row in ROWS]), "a.csv has labels that are not whole numb"),
    (text([[3, *row[1:]] for row in ROWS]), "a.csv has the one label 3; at least two are needed"),
    (text(ROWS).encode("utf-16"), "a.csv, line 1 has a null character: it is no CSV; or it is UTF"),
    (changed(6, 3, "\0"), "a.csv, line 7 has a null character"),
    (text([row[:-1] for row in ROWS]), "a.csv has 35 columns beside the label; those of square im"),
    (text([[0, 1], [1, 0]]), "a.csv has 1 columns beside the label"),
    ("just words\n", "a.csv has "),
    (gzip.compress(text(ROWS).encode())[:-9], "a.csv is truncated or damaged"),
    ("<!DOCTYPE html><html>", "a.csv is a web page, not the file"),
]


@pytest.mark.parametrize(("content", "line"), WRONG)
def test_what_is_no_csv_of_images_is_refused_in_one_line(tmp_path, content, line):
    with pytest.raises(UserError) as caught:
        load(tmp_path / "a.csv", content)
    assert line in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_line_or_a_bomb_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="line 1 is longer than 16,777,216 bytes"):
        load(tmp_path / "a.csv", b"0" * (csv_files.LONGEST_LINE + 1))
    monkeypatch.setattr("lenet_jax.data.files.MOST_UNPACKED", 1 << 16)
    for bomb in (text(ROWS[:1] * 10000).encode(), b"0," * csv_files.BLOCK):
        with pytest.raises(UserError, match=r"claims to unpack from .* as no images do"):
            load(tmp_path / "a.csv.gz", gzip.compress(bomb))


def test_what_exceeds_the_memory_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "stack", lambda _: np.empty(1 << 58, np.uint8))
    with pytest.raises(UserError, match=r"a\.csv does not fit into memory"):
        load(tmp_path / "a.csv", text(ROWS))
