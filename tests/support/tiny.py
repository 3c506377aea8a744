"""A dataset and a config small enough to compile and train quickly in a test."""

import struct
from pathlib import Path

import numpy as np

from lenet_jax import config as configs
from lenet_jax.data.dataset import Dataset, Split

CONFIG = {
    "data.image_size": 16,
    "data.valid_examples": 20,
    "model.channels": (2, 3),
    "model.features": (8, 6),
    "optimizer.weight_decay": 0.0,
    "train.num_epochs": 3,
    "train.batch_size": 16,
    "train.micro_batch_size": 16,
    "train.eval_batch_size": 10,
}

# A network that compiles several times faster, for tests of what any network has in common.
MLP = {path: value for path, value in CONFIG.items() if not path.startswith("model.")}
MLP |= {"model.name": "mlp", "model.features": (6, 5)}


def config(**sections):
    """The tiny config with other values: `config(train={"batch_size": 8})`."""
    changes = {f"{s}.{k}": v for s, values in sections.items() for k, v in values.items()}
    return configs.load("configs/notes.py", (CONFIG | changes).items())


def dataset(train: int = 70, valid: int = 20, test: int = 33) -> Dataset:
    """Noisy bars, vertical or horizontal, at three intensities: six classes."""
    rng = np.random.default_rng(0)

    def split(count: int) -> Split:
        labels = rng.integers(0, 6, count).astype(np.int32)
        images = rng.integers(0, 60, (count, 16, 16, 1)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            at = rng.integers(3, 12)
            bar = image[:, at : at + 2] if label < 3 else image[at : at + 2]
            bar += np.uint8(60 * (label % 3 + 1))
        return Split(images, labels)

    names = tuple("abcdef")
    return Dataset("bars", split(train), split(valid), split(test), names, "0" * 64)


def write_idx_folder(folder: Path) -> Path:
    """Writes the dataset as the idx files that `data.load` reads; train holds validation too."""
    folder.mkdir()
    bars = dataset()
    files = {"train": (bars.train, bars.valid), "t10k": (bars.test,)}
    for name, splits in files.items():
        for kind, arrays in (
            ("images-idx3", [split.images[..., 0] for split in splits]),
            ("labels-idx1", [split.labels.astype(np.uint8) for split in splits]),
        ):
            values = np.concatenate(arrays)
            header = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            (folder / f"{name}-{kind}-ubyte").write_bytes(header + values.tobytes())
    return folder
