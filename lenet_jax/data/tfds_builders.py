"""TFDS builders of the MNIST family that do not need TensorFlow.

TFDS describes these datasets, downloads their files and verifies its checksums. The steps for which
it uses TensorFlow (unpacking, PNG encoding, writing records) are done with gzip, Pillow and
array_record instead; the result is what TFDS would have prepared. Importing this module imports
TFDS, which takes a second: import it late.
"""

import contextlib
import io
import logging
import pathlib
import shutil
import sys
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import requests
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image
from tensorflow_datasets.core import naming
from tensorflow_datasets.core.download import downloader
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
from tensorflow_datasets.image_classification import mnist

from lenet_jax.data.idx import read_idx, read_idx_stream
from lenet_jax.errors import UserError

CONNECTION_RETRIES = 4  # three seconds in total; TFDS's ten take over three minutes


def prepare(name: str, data_dir: pathlib.Path) -> None:
    """Downloads a dataset of the MNIST family, verifies it and writes it as array_record.

    A file in `data_dir/downloads/manual` under its published name is verified and used instead of
    the download.

    Args:
      name: a key of `BUILDERS`, optionally with config and version: `fashion_mnist`,
        `emnist/letters`, `kmnist:3.0.1`.
      data_dir: the folder of all TFDS datasets.

    Raises:
      UserError: unknown config or version, no connection, a wrong checksum, or a full disk.
    """
    dataset, kwargs = naming.parse_builder_name_kwargs(name)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it would log every retry
    downloader.MAX_RETRIES = CONNECTION_RETRIES
    builder_class = BUILDERS[str(dataset)]
    configs = [config.name for config in builder_class.BUILDER_CONFIGS]
    if kwargs.get("config") not in (None, *configs):
        raise UserError(
            f"TFDS has no {name!r}; configs of {dataset}: {', '.join(configs) or 'none'}"
        )
    with _tidying(data_dir, data_dir / str(dataset)):
        _download(name, builder_class, data_dir, kwargs)


def _download(
    name: str, builder_class: Any, data_dir: pathlib.Path, kwargs: dict[str, Any]
) -> None:
    try:
        builder = builder_class(data_dir=str(data_dir), **kwargs)
    except AssertionError as error:  # raised by TFDS for a version that it cannot prepare
        raise UserError(f"TFDS has no {name!r}: {error}") from error
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                force_checksums_validation=True, try_download_gcs=False
            ),
            file_format="array_record",
        )
    except NonMatchingChecksumError as error:
        raise UserError(
            f"{name} is not prepared: {str(error).splitlines()[0].removesuffix(':')}"
        ) from error
    except (requests.RequestException, tfds.download.DownloadError) as error:
        raise UserError(
            f"{name} is not prepared in {data_dir} and cannot be downloaded: {_cause(error)}"
        ) from error
    except OSError as error:
        raise UserError(f"cannot prepare {name} in {data_dir}: {error}") from error


@contextlib.contextmanager
def _tidying(data_dir: pathlib.Path, folder: pathlib.Path) -> Iterator[None]:
    """Removes what a failed preparation leaves: unfinished downloads, and new folders if empty.

    Args:
      data_dir: the folder of all TFDS datasets.
      folder: that of this dataset, in `data_dir`.
    """
    downloads = data_dir / "downloads"
    new = [downloads / folder.name, downloads / "extracted", downloads, folder]
    new = [f for f in (*new, data_dir, *data_dir.parents) if not f.exists()]
    unfinished = set((downloads / folder.name).glob("*.tmp.*"))
    try:
        yield
    except BaseException:
        for path in {*(downloads / folder.name).glob("*.tmp.*")} - unfinished:
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True)
        files = [path for path in folder.rglob("*") if path.is_file()]
        if folder in new and all(path.parent.name == ".config" for path in files):
            shutil.rmtree(folder, ignore_errors=True)  # TFDS lists there what it was to prepare
        for empty in new:
            with contextlib.suppress(OSError):
                empty.rmdir()
        raise


class _FourIdxFiles:
    """Splits of a dataset that is published as four gzipped idx files under one URL."""

    URL: str

    def _split_generators(self, dl_manager: Any) -> Any:
        names = [
            f"{split}-{kind}-ubyte.gz"
            for split in ("train", "t10k")
            for kind in ("images-idx3", "labels-idx1")
        ]
        paths = dl_manager.download({name: self.URL + name for name in names})
        train_images, train_labels, test_images, test_labels = (
            read_idx(pathlib.Path(paths[name])) for name in names
        )
        return {
            "train": _generate_examples(train_images, train_labels),
            "test": _generate_examples(test_images, test_labels),
        }


class MNIST(_FourIdxFiles, mnist.MNIST, skip_registration=True):
    """Handwritten digits: 60,000 and 10,000 images of 28×28, 10 classes."""

    name = "mnist"


class FashionMNIST(_FourIdxFiles, mnist.FashionMNIST, skip_registration=True):
    """Articles of clothing: 60,000 and 10,000 images of 28×28, 10 classes."""

    name = "fashion_mnist"


class KMNIST(_FourIdxFiles, mnist.KMNIST, skip_registration=True):
    """Cursive Japanese characters: 60,000 and 10,000 images of 28×28, 10 classes."""

    name = "kmnist"


class EMNIST(mnist.EMNIST, skip_registration=True):
    """Handwritten letters and digits, published as one zip; the config selects the classes.

    The images are transposed, as published by NIST and returned by TFDS.
    """

    name = "emnist"

    def _split_generators(self, dl_manager: Any) -> Any:
        config = self.builder_config_name
        # Members are read by their expected names: no name in the archive is used as a path.
        with zipfile.ZipFile(dl_manager.download(self.URL)) as archive:
            return {
                split: _generate_examples(
                    _read_member(archive, f"emnist-{config}-{split}-images-idx3-ubyte.gz"),
                    _read_member(archive, f"emnist-{config}-{split}-labels-idx1-ubyte.gz"),
                )
                for split in ("train", "test")
            }


BUILDERS = {builder.name: builder for builder in (MNIST, FashionMNIST, KMNIST, EMNIST)}


def _read_member(archive: zipfile.ZipFile, name: str) -> UInt8[np.ndarray, "..."]:
    content = archive.read(f"gzip/{name}")
    return read_idx_stream(io.BytesIO(content), len(content), name)


def _generate_examples(
    images: UInt8[np.ndarray, "n h w"], labels: UInt8[np.ndarray, " n"]
) -> Iterator[tuple[int, dict[str, object]]]:
    # The key is the position, as in TFDS; it determines the order of the prepared examples.
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        yield index, {"image": _encode_png(image), "label": int(label)}


def _encode_png(image: UInt8[np.ndarray, "h w"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def _cause(error: BaseException) -> str:
    # The innermost error names the cause; `requests` wraps it in lines of addresses.
    while error.__context__ is not None:
        error = error.__context__
    return str(error).splitlines()[0]
