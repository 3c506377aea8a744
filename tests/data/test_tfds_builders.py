"""The builders prepare exactly the pixels of the idx files.

The files are placed where TFDS looks for manual downloads, so everything but the transfer is real.
Only the expected checksums are replaced by those of the small files.
"""

import gzip
import hashlib
import struct
import sys
import zipfile

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.core.utils import Size

from lenet_jax import data
from lenet_jax.data import dataset, tfds_builders
from lenet_jax.data.idx import read_idx
from lenet_jax.errors import UserError

TRAIN, TEST = 300, 100
FILES = [
    f"{split}-{kind}-ubyte.gz"
    for split in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise requests.ConnectionError("no network in tests")

    monkeypatch.setattr(requests.Session, "get", refuse)


@pytest.fixture(scope="module")
def arrays():
    """The first images and labels of the embedded MNIST, in the order of FILES."""
    whole = [read_idx(dataset.EMBEDDED_MNIST / name) for name in FILES]
    return [a[:n] for a, n in zip(whole, (TRAIN, TRAIN, TEST, TEST), strict=True)]


def to_gzipped_idx(array):
    header = struct.pack(f">2xBB{array.ndim}I", 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes(), mtime=0)


def place_files(data_dir, builder, contents, monkeypatch):
    """Writes files to the manual folder and makes their checksums the expected ones."""
    manual = data_dir / "downloads" / "manual"
    manual.mkdir(parents=True)
    infos = {}
    for name, content in contents.items():
        (manual / name).write_bytes(content)
        url = builder.URL if builder.URL.endswith(name) else builder.URL + name
        infos[url] = checksums.UrlInfo(
            Size(len(content)), hashlib.sha256(content).hexdigest(), name
        )
    infos = checksums.get_all_url_infos() | infos
    monkeypatch.setattr(checksums, "get_all_url_infos", lambda: infos)


def assert_same_examples(split: data.Split, images, labels):
    """Compares regardless of order: TFDS sorts by the hash of the key."""
    prepared = sorted(zip(map(bytes, split.images), split.labels.tolist(), strict=True))
    assert prepared == sorted(zip(map(bytes, images), labels.tolist(), strict=True))


@pytest.mark.parametrize(
    ("name", "first_classes"),
    [
        ("mnist", ("0", "1")),
        ("fashion_mnist", ("T-shirt/top", "Trouser")),
        ("kmnist", ("o", "ki")),
    ],
)
def test_prepared_examples_are_those_of_the_files(
    name, first_classes, arrays, tmp_path, monkeypatch
):
    contents = dict(zip(FILES, map(to_gzipped_idx, arrays), strict=True))
    builder = tfds_builders.BUILDERS[name]
    place_files(tmp_path, builder, contents, monkeypatch)
    dataset = data.load(f"tfds:{name}", data_dir=tmp_path, image_size=28, valid_examples=0)
    assert_same_examples(dataset.train, arrays[0], arrays[1])
    assert_same_examples(dataset.test, arrays[2], arrays[3])
    assert dataset.class_names[:2] == first_classes
    assert dataset.num_classes == 10
    assert "tensorflow" not in sys.modules


def test_emnist_is_read_from_its_zip_and_turned_upright(arrays, tmp_path, monkeypatch):
    arrays = [array + (array.ndim == 1) for array in arrays]  # the labels of letters start at 1
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../outside", b"no member's name becomes a path")
        for name, array in zip(FILES, arrays, strict=True):
            member = f"gzip/emnist-letters-{name.replace('t10k', 'test')}"
            file.writestr(member, to_gzipped_idx(array))
    contents = {"gzip.zip": archive.read_bytes()}
    place_files(tmp_path / "tfds", tfds_builders.EMNIST, contents, monkeypatch)
    dataset = data.load(
        "emnist/letters", data_dir=tmp_path / "tfds", image_size=28, valid_examples=0
    )
    assert_same_examples(dataset.train, arrays[0].swapaxes(1, 2), arrays[1] - 1)
    assert_same_examples(dataset.test, arrays[2].swapaxes(1, 2), arrays[3] - 1)
    assert "".join(dataset.class_names) == "abcdefghijklmnopqrstuvwxyz"
    assert any("upright" in remark for remark in dataset.remarks)
    assert {path.name for path in tmp_path.iterdir()} == {"archive.zip", "tfds"}


def test_the_checksums_of_tfds_are_enforced(arrays, tmp_path):
    """The embedded archives have MNIST's content, but are not byte-identical to those of TFDS."""
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    for name, array in zip(FILES, arrays, strict=True):
        (manual / name).write_bytes(to_gzipped_idx(array))
    for name in ("mnist", "fashion_mnist", "kmnist"):
        with pytest.raises(UserError, match=rf"{name} is not prepared: .*wrong checksum"):
            tfds_builders.prepare(name, tmp_path)
        assert not (tmp_path / name).exists()


def test_every_file_has_a_checksum():
    known = checksums.get_all_url_infos()
    for builder in (tfds_builders.MNIST, tfds_builders.FashionMNIST, tfds_builders.KMNIST):
        assert {builder.URL + name for name in FILES} <= set(known)
    assert tfds_builders.EMNIST.URL in known


def test_a_damaged_file_with_the_right_checksum_is_refused(arrays, tmp_path, monkeypatch):
    contents = dict(zip(FILES, map(to_gzipped_idx, arrays), strict=True))
    contents[FILES[0]] = contents[FILES[0]][:1000]
    place_files(tmp_path, tfds_builders.MNIST, contents, monkeypatch)
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz is truncated"):
        tfds_builders.prepare("mnist", tmp_path)


@pytest.mark.parametrize("name", ["kmnist", "emnist/letters"])
def test_a_missing_connection_is_reported_in_one_line(name, tmp_path):
    for data_dir in (tmp_path / "not" / "there", tmp_path):
        with pytest.raises(UserError) as error:
            data.load(name, data_dir=data_dir)
        assert "cannot be downloaded: no network in tests" in str(error.value)
        assert len(str(error.value).splitlines()) == 1
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("emnist/greek", "no 'emnist/greek'; configs of emnist: byclass, bymerge, balanced, let"),
        ("mnist/foo", "configs of mnist: none"),
        ("kmnist:1.0.0", "cannot be loaded at version 1.0.0"),
    ],
)
def test_an_unknown_config_or_version_is_refused(name, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        tfds_builders.prepare(name, tmp_path / "new")
    assert len(str(error.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_builders_of_tfds_stay_registered():
    assert tfds.builder_cls("mnist").__module__.startswith("tensorflow_datasets.")


def test_labels_without_images_are_refused():
    images, labels = np.zeros((2, 28, 28), np.uint8), np.zeros(3, np.uint8)
    with pytest.raises((ValueError, TypeError)):
        list(tfds_builders._generate_examples(images, labels))
