"""Prepared TFDS datasets: decoded once, cached, and decoded again if the cache is invalid."""

import errno
import io
import json
import shutil
import sys
from typing import Any, ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from lenet_jax import data
from lenet_jax.data import tfds as tfds_arrays
from lenet_jax.errors import UserError

TRAIN, TEST = 30, 10


def picture(number: int, split: str, size: tuple[int, int] | None = None) -> np.ndarray:
    height, width = size or (4 + number % 3, 5 + number % 2)
    start = number if split == "train" else 100 + number
    return (start + np.arange(height * width * 3) % 50).astype(np.uint8).reshape(height, width, 3)


def encode(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


class Pictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Colour images of several sizes; subclasses change the metadata."""

    VERSION = tfds.core.Version("1.0.0")
    FEATURES: ClassVar[dict[str, Any]] = {
        "id": tfds.features.Scalar(np.int64),
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=["cat", "dog", "eel"]),
    }
    KEYS: tuple[str, str] | None = ("image", "label")
    SPLITS: ClassVar[dict[str, int]] = {"train": TRAIN, "test": TEST}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(self.FEATURES),
            supervised_keys=self.KEYS,
        )

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(name, n) for name, n in self.SPLITS.items()}

    def _generate_examples(self, split, count):
        for i in range(count):
            values = {"id": i, "image": encode(picture(i, split)), "label": self.label(i)}
            yield i, {key: value for key, value in values.items() if key in self.FEATURES}

    def label(self, number):
        return number % 3


def prepare(data_dir, **changes):
    """Prepares the dataset `pictures`, with some attributes of its builder changed."""
    builder = type("Pictures", (Pictures,), changes, skip_registration=True)
    builder(data_dir=str(data_dir)).download_and_prepare(file_format="array_record")
    return data_dir


def load(data_dir, **settings):
    defaults: dict[str, Any] = {"image_size": 8, "valid_examples": 0}
    return data.load("pictures", data_dir=data_dir, **defaults | settings)


@pytest.fixture
def pictures(tmp_path):
    return prepare(tmp_path)


@pytest.fixture
def decodings(monkeypatch):
    """The names of the datasets that were decoded rather than read from the cache."""
    names, original = [], tfds_arrays._decode
    monkeypatch.setattr(
        tfds_arrays, "_decode", lambda name, *rest: names.append(name) or original(name, *rest)
    )
    return names


def test_images_of_several_sizes_are_fitted_one_by_one(pictures):
    dataset = load(pictures)
    assert dataset.class_names == ("cat", "dog", "eel")
    assert dataset.image_shape == (8, 8, 3)
    expected = {
        (data.fit_images(picture(i, "test")[None], 8, "pad").tobytes(), i % 3) for i in range(TEST)
    }
    loaded = zip(dataset.test.images, dataset.test.labels.tolist(), strict=True)
    assert {(image.tobytes(), label) for image, label in loaded} == expected
    assert len(dataset.train) == TRAIN
    assert "tensorflow" not in sys.modules


def test_large_images_are_resized_or_refused(tmp_path):
    prepare(tmp_path)
    assert load(tmp_path, image_size=4, fit="resize").image_shape == (4, 4, 3)
    with pytest.raises(UserError, match=r"cannot be padded to data.image_size=4; try data.fit=res"):
        load(tmp_path, image_size=4)


def test_several_chunks_are_concatenated(pictures, monkeypatch):
    whole = load(pictures)
    (pictures / "lenet_jax" / "pictures-pad-8-v1" / "manifest.json").unlink()
    monkeypatch.setattr(tfds_arrays, "CHUNK", 7)
    assert load(pictures).fingerprint == whole.fingerprint


def test_the_second_load_comes_from_the_cache(pictures, decodings):
    first = load(pictures)
    second = load(pictures, valid_examples=3)
    assert decodings == ["pictures"]
    assert (len(second.train), len(second.valid)) == (TRAIN - 3, 3)
    np.testing.assert_array_equal(first.test.images, second.test.images, strict=True)
    assert load(pictures).fingerprint == first.fingerprint
    load(pictures, fit="resize")
    load(pictures, image_size=9)
    assert decodings == ["pictures"] * 3


@pytest.mark.parametrize("name", [*(f"{key}.npy" for key in tfds_arrays.ARRAYS), "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "header", "cut", "empty", "missing", "text"])
def test_a_damaged_cache_is_rebuilt(pictures, decodings, name, damage):
    expected = load(pictures)
    path = pictures / "lenet_jax" / "pictures-pad-8-v1" / name
    content = bytearray(path.read_bytes())
    match damage:
        case "flip":
            # In the manifest, the first digit of a hash; elsewhere the last value.
            at = content.index(b"train_images") + 16 if name == "manifest.json" else -1
            content[at] ^= 1
        case "header":
            content[8] ^= 0x80
        case "cut":
            del content[len(content) // 2 :]
        case "empty":
            content.clear()
        case "text":
            content = bytearray(b"[1, 2]")
    path.write_bytes(content)
    if damage == "missing":
        path.unlink()
    for _ in range(2):
        dataset = load(pictures)
        assert dataset.fingerprint == expected.fingerprint
        np.testing.assert_array_equal(dataset.train.images, expected.train.images, strict=True)
    assert decodings == ["pictures"] * 2


def test_a_cache_is_rebuilt_after_its_data_are_prepared_again(pictures, decodings):
    first = load(pictures)
    shutil.rmtree(pictures / "pictures")
    prepare(pictures, label=lambda self, number: 2 - number % 3)
    second = load(pictures)
    assert second.test.labels.tolist() == (2 - first.test.labels).tolist()
    assert second.fingerprint != first.fingerprint
    assert decodings == ["pictures"] * 2


def test_a_cache_moves_with_its_data(pictures, tmp_path_factory, decodings):
    first = load(pictures)
    moved = pictures.rename(tmp_path_factory.mktemp("elsewhere") / "tfds")
    assert load(moved).fingerprint == first.fingerprint
    assert decodings == ["pictures"]


def test_data_are_loaded_even_if_the_cache_cannot_be_written(pictures, decodings):
    (pictures / "lenet_jax").write_text("in the way")
    assert load(pictures).fingerprint == load(pictures).fingerprint
    assert decodings == ["pictures"] * 2


def test_a_full_disk_leaves_nothing_in_the_cache(pictures, decodings, monkeypatch):
    def fill(file, array, **_):
        file.write(array.tobytes()[:9])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", fill)
        load(pictures)
    assert not list((pictures / "lenet_jax" / "pictures-pad-8-v1").iterdir())
    assert load(pictures).fingerprint == load(pictures).fingerprint
    assert decodings == ["pictures"] * 2


def test_caches_contain_no_pickles(pictures):
    load(pictures)
    files = sorted((pictures / "lenet_jax" / "pictures-pad-8-v1").iterdir())
    assert [path.name for path in files] == sorted(
        ["manifest.json", *(f"{key}.npy" for key in tfds_arrays.ARRAYS)]
    )
    for path in files[1:]:
        np.load(path, allow_pickle=False)


def test_keys_are_inferred_if_tfds_does_not_name_them(tmp_path):
    assert load(prepare(tmp_path, KEYS=None)).image_shape == (8, 8, 3)


def test_a_validation_split_replaces_a_missing_test_split(tmp_path):
    dataset = load(prepare(tmp_path, SPLITS={"train": TRAIN, "validation": TEST}))
    assert len(dataset.test) == TEST


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SPLITS": {"train": TRAIN}}, "pictures lacks train or test; it has: train"),
        ({"SPLITS": {"test": TEST}}, "pictures lacks train or test; it has: test"),
        (
            {"FEATURES": {"id": tfds.features.Scalar(np.int64)}, "KEYS": None},
            "pictures is not image classification",
        ),
        ({"KEYS": ("image", "id")}, "pictures is not image classification"),
        (
            {"FEATURES": Pictures.FEATURES | {"image": tfds.features.Image(shape=(None, None, 4))}},
            r"has images of uint8 \(None, None, 4\); supported are uint8 images with 1 or 3",
        ),
        (
            {
                "FEATURES": Pictures.FEATURES
                | {"image": tfds.features.Image(shape=(None, None, 1), dtype=np.uint16)}
            },
            r"has images of uint16 \(None, None, 1\)",
        ),
        ({"label": lambda self, number: -1}, "train, has labels -1 to -1 for 3 classes"),
        (
            {
                "FEATURES": Pictures.FEATURES | {"label": tfds.features.ClassLabel(names=["cat"])},
                "label": lambda self, number: 0,
            },
            "pictures has 1 class; at least two are needed",
        ),
    ],
)
def test_other_tasks_than_image_classification_are_refused(tmp_path, changes, message):
    prepare(tmp_path, **changes)
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path)
    assert len(str(error.value).splitlines()) == 1


def shard(folder):
    return next((folder / "pictures" / "1.0.0").glob("*-test.array_record*"))


@pytest.mark.parametrize(
    "damage", ["flip", "cut", "missing shard", "info", "features", "no features"]
)
def test_a_damaged_dataset_is_refused(pictures, damage):
    folder = pictures / "pictures" / "1.0.0"
    path = {"info": folder / "dataset_info.json", "features": folder / "features.json"}.get(
        damage, shard(pictures)
    )
    content = bytearray(path.read_bytes())
    match damage:
        case "flip":
            content[100] ^= 4
            path.write_bytes(content)
        case "missing shard":
            path.unlink()
        case "no features":
            (folder / "features.json").unlink()
        case _:
            path.write_bytes(content[: len(content) // 2])
    # Without its features a dataset counts as not prepared, and TFDS has none of that name.
    message = "no TFDS dataset 'pictures'" if damage == "no features" else "is damaged; delete it"
    with pytest.raises(UserError, match=message) as error:
        load(pictures)
    assert len(str(error.value).splitlines()) == 1


def test_an_example_without_an_image_is_an_error():
    with pytest.raises(ValueError, match="no image"):
        tfds_arrays._decode_image(None, 1)


def test_tfrecord_is_refused(pictures):
    path = pictures / "pictures" / "1.0.0" / "dataset_info.json"
    info = json.loads(path.read_text())
    info["fileFormat"] = "tfrecord"
    path.write_text(json.dumps(info))
    with pytest.raises(UserError, match="as tfrecord, which needs TensorFlow"):
        load(pictures)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar10", "cifar10 is not prepared in .*: pip install tensorflow && tfds build cifar10 "),
        ("fashion_mnits", "no TFDS dataset 'fashion_mnits'; did you mean data.name=fashion_mnist?"),
        ("data/nothing", "there is no folder and no TFDS dataset 'data/nothing'"),
        ("", "'' is neither a folder nor the name of a TFDS dataset"),
        ("tfds:../x", r"'\.\./x' is neither a folder nor"),
        ("huggingface:mnist", "neither"),
        ("mnist/a=b", "neither"),
    ],
)
def test_unknown_names_are_refused(name, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        data.load(name, data_dir=tmp_path / "tfds")
    assert len(str(error.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_default_folder_is_that_of_tfds(pictures, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(pictures))
    assert data.load("pictures", image_size=8, valid_examples=0).num_classes == 3


def test_the_digest_distinguishes_dtype_shape_and_values():
    array = np.arange(6, dtype=np.int32)
    others = [array.astype(np.uint32), array.reshape(2, 3), array + 1, array]
    digests = [tfds_arrays.digest(other) for other in others]
    assert len(set(digests)) == 4
    assert tfds_arrays.digest(np.arange(12, dtype=np.int32)[::2] // 2) == digests[-1]
