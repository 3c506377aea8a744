"""TFDS image-classification datasets as arrays: decoded once, then cached as `.npy` files.

TFDS and Pillow are imported only for decoding; TensorFlow never is.
"""

import hashlib
import importlib.util
import io
import json
import os
import pathlib
import re
from typing import Any, NamedTuple, TypedDict

import numpy as np
from absl import logging
from jaxtyping import Int32, UInt8

from lenet_jax.data.files import sibling
from lenet_jax.data.fit import Fit
from lenet_jax.data.spelling import suggest
from lenet_jax.drafts import write_atomically
from lenet_jax.errors import UserError
from lenet_jax.reading import read_json

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
CHUNK = 1024  # examples per read
NAME = re.compile(r"\w+(/[\w.-]+)?(:[\d.*]+)?")


class TfdsArrays(NamedTuple):
    """Train and test: uint8 images (n, size, size, c), int32 labels (n,)."""

    arrays: dict[str, np.ndarray]  # keyed by ARRAYS
    class_names: tuple[str, ...]
    digests: tuple[str, ...]  # SHA-256 of each array, in the order of ARRAYS


class Manifest(TypedDict):
    """What a cache holds: `manifest.json`."""

    name: str
    source: str  # the prepared dataset, relative to the cache
    files: list[list[str | int]]  # of the source, see `_list_files`
    class_names: list[str]
    digests: list[str]
    sha256: dict[str, str]  # of each file, by its key in ARRAYS


def load_tfds_arrays(name: str, data_dir: pathlib.Path, fit: Fit, fit_name: str) -> TfdsArrays:
    """Loads a TFDS dataset from the cache if that is valid, else decodes it and fills the cache.

    The cache is in `data_dir/lenet_jax`. It is valid if its hashes match and the files of the
    prepared dataset have not changed.

    Args:
      name: `dataset` or `dataset/config`, optionally followed by `:version`.
      data_dir: the folder of all TFDS datasets.
      fit: fits images of one height and width to the requested size.
      fit_name: identifies `fit`; part of the cache folder's name.

    Raises:
      UserError: the dataset does not exist, is not prepared and cannot be, is damaged, or is not
        classification of uint8 images with one or three channels.
    """
    if not NAME.fullmatch(name):
        raise UserError(
            f"data.name: {name!r} is neither a folder nor the name of a TFDS dataset{_hint(name)}"
        )
    cache = data_dir / "lenet_jax" / f"{re.sub(r'[/:*]', '-', name)}-{fit_name}"
    cached = _read_cache(cache, name)
    if cached is not None:
        return cached
    builder = _load_builder(name, data_dir)
    decoded = _decode(name, builder, fit)
    _write_cache(cache, name, pathlib.Path(builder.data_dir), decoded)
    return decoded


def digest(array: np.ndarray) -> str:
    """Returns the SHA-256, in hex, of an array's dtype, shape and values."""
    state = hashlib.sha256(f"{array.dtype.str} {array.shape}\n".encode())
    state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()


def _read_cache(cache: pathlib.Path, name: str) -> TfdsArrays | None:
    try:
        manifest = read_json(cache / "manifest.json", Manifest)
        if (
            manifest is None
            or manifest["name"] != name
            or manifest["files"] != _list_files(cache / manifest["source"])
        ):
            return None
        arrays = {}
        for key in ARRAYS:
            path = cache / f"{key}.npy"
            if _file_sha256(path) != manifest["sha256"][key]:
                raise ValueError(f"{path.name} has changed")
            arrays[key] = np.load(path, allow_pickle=False)
        return TfdsArrays(arrays, tuple(manifest["class_names"]), tuple(manifest["digests"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, UserError) as error:
        logging.warning("the decoded arrays in %s are damaged; rebuilding them: %s", cache, error)
        return None


def _write_cache(cache: pathlib.Path, name: str, source: pathlib.Path, decoded: TfdsArrays) -> None:
    # Other processes may use the same cache: each file appears as a whole, the manifest last.
    try:
        cache.mkdir(parents=True, exist_ok=True)
        sha256 = {}
        for key, array in decoded.arrays.items():
            path = cache / f"{key}.npy"
            write_atomically(path, lambda file, a=array: np.save(file, a, allow_pickle=False))
            sha256[key] = _file_sha256(path)
        manifest = {
            "name": name,
            "source": os.path.relpath(source, cache),
            "files": _list_files(source),
            "class_names": decoded.class_names,
            "digests": decoded.digests,
            "sha256": sha256,
        }
        write_atomically(cache / "manifest.json", json.dumps(manifest, indent=1))
    except OSError as error:
        logging.warning("cannot cache the decoded arrays in %s: %s", cache, error)


def _list_files(folder: pathlib.Path) -> list[list]:
    """Returns name, size and modification time of a folder's entries, to detect changes."""
    stats = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def _file_sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_builder(name: str, data_dir: pathlib.Path) -> Any:
    """Returns a builder of the prepared dataset, preparing it first if possible."""
    for package in ("tensorflow_datasets", "array_record"):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"data.name: {name!r} is no folder, and TFDS datasets need {package}, which is not"
                " installed (Windows has no array_record)\n"
                "Use mnist, which is included, or a folder of idx files; or install it with pip."
            )
    builder = _find_prepared(name, data_dir)
    if builder is None:
        _prepare(name, data_dir)
        builder = _find_prepared(name, data_dir)
    if builder is None:
        raise _damaged(name, data_dir, "its metadata are incomplete")
    return builder


def _find_prepared(name: str, data_dir: pathlib.Path) -> Any | None:
    from google.protobuf.json_format import ParseError
    from tensorflow_datasets.core.read_only_builder import builder_from_files
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    try:
        return builder_from_files(name, data_dir=str(data_dir))
    except DatasetNotFoundError:
        return None
    except (ValueError, OSError, ParseError) as error:
        raise _damaged(name, data_dir, error) from error


def _prepare(name: str, data_dir: pathlib.Path) -> None:
    from tensorflow_datasets.core.registered import list_imported_builders

    from lenet_jax.data import tfds_builders

    dataset = re.split("[/:]", name)[0]
    if dataset in tfds_builders.BUILDERS:
        tfds_builders.prepare(name, data_dir)
        return
    known = list_imported_builders()
    if dataset in known:
        raise UserError(
            f"TFDS's {name} is not prepared in {data_dir}; preparing it needs TensorFlow once: "
            f"pip install tensorflow && tfds build {name} --file_format=array_record "
            f"--data_dir={data_dir}"
        )
    raise UserError(f"data.name: there is no folder and no TFDS dataset {name!r}{_hint(name)}")


def _hint(name: str) -> str:
    """Ends a message about a name that is none."""
    near = sibling(pathlib.Path(name)) or suggest(name)
    if near is None:
        from tensorflow_datasets.core.registered import list_imported_builders

        near = suggest(name, list_imported_builders())
    return f"; did you mean data.name={near}?" if near else ""


def _decode(name: str, builder: Any, fit: Fit) -> TfdsArrays:
    info = builder.info
    image_key, label_key = _find_keys(name, info)
    channels = info.features[image_key].shape[-1]
    class_names = tuple(info.features[label_key].names)
    if len(class_names) < 2:
        raise UserError(f"TFDS's {name} has {len(class_names)} class; at least two are needed")
    test_split = "test" if "test" in info.splits else "validation"
    if not {"train", test_split} <= set(info.splits):
        raise UserError(f"TFDS's {name} lacks train or test; it has: {', '.join(info.splits)}")
    if "array_record" not in {kind.value for kind in info.available_file_formats()}:
        raise UserError(
            f"TFDS's {name} is prepared in {builder.data_dir} as {info.file_format.value}, which "
            f"needs TensorFlow; delete it and prepare it again as array_record"
        )
    arrays = {}
    for split, tfds_split in (("train", "train"), ("test", test_split)):
        try:
            images, labels = _read_split(builder, tfds_split, image_key, label_key, channels, fit)
        except (RuntimeError, ValueError, OSError) as error:
            raise _damaged(name, builder.data_dir, error) from error
        if not 0 <= labels.min() <= labels.max() < len(class_names):
            raise UserError(
                f"TFDS's {name}, {tfds_split}, has labels {labels.min()} to {labels.max()} "
                f"for {len(class_names)} classes"
            )
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    return TfdsArrays(arrays, class_names, tuple(digest(arrays[key]) for key in ARRAYS))


def _find_keys(name: str, info: Any) -> tuple[str, str]:
    """Returns the feature names of the image and of its label."""
    from tensorflow_datasets import features as tfds_features

    is_named = isinstance(info.features, tfds_features.FeaturesDict)
    features: dict[str, Any] = dict(info.features.items()) if is_named else {}
    if info.supervised_keys is not None:
        image_key, label_key = info.supervised_keys[:2]
    else:
        image_key, label_key = (
            next((key for key, feature in features.items() if isinstance(feature, kind)), "")
            for kind in (tfds_features.Image, tfds_features.ClassLabel)
        )
    if not isinstance(features.get(image_key), tfds_features.Image) or not isinstance(
        features.get(label_key), tfds_features.ClassLabel
    ):
        raise UserError(f"TFDS's {name} is not image classification: no image with a class label")
    dtype, shape = np.dtype(features[image_key].np_dtype), features[image_key].shape
    if dtype != np.uint8 or len(shape) != 3 or shape[-1] not in (1, 3):
        raise UserError(
            f"TFDS's {name} has images of {dtype} {shape}; supported are uint8 images with 1 or 3 "
            "channels"
        )
    return image_key, label_key


def _read_split(
    builder: Any, split: str, image_key: str, label_key: str, channels: int, fit: Fit
) -> tuple[UInt8[np.ndarray, "n size size c"], Int32[np.ndarray, " n"]]:
    from tensorflow_datasets import decode

    source = builder.as_data_source(
        split, decoders={image_key: decode.SkipDecoding()}, file_format="array_record"
    )
    images, labels = [], []
    for start in range(0, len(source), CHUNK):
        examples = source.__getitems__(range(start, min(start + CHUNK, len(source))))
        decoded = [fit(_decode_image(example[image_key], channels)[None]) for example in examples]
        images.append(np.concatenate(decoded))
        labels.append(np.array([example[label_key] for example in examples], np.int32))
    return np.concatenate(images), np.concatenate(labels)


def _decode_image(encoded: bytes | None, channels: int) -> UInt8[np.ndarray, "h w c"]:
    from PIL import Image

    if encoded is None:  # what array_record returns beyond the end of a truncated file
        raise ValueError("an example has no image")
    with Image.open(io.BytesIO(encoded)) as image:
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


def _damaged(name: str, folder: str | pathlib.Path, error: Exception | str) -> UserError:
    reason = str(error).partition("\n")[0]
    return UserError(
        f"TFDS's {name} in {folder} is damaged; delete it and prepare it again: {reason}"
    )
