"""What training takes from a config: the static specification, hyperparameters, and seeds."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Key

from lenet_jax import machine
from lenet_jax.config.file import Config
from lenet_jax.data.dataset import Dataset
from lenet_jax.errors import UserError
from lenet_jax.nn import ops
from lenet_jax.nn.lenet import LayerSize, LeNet, layer_sizes

# Nested dicts of scalars, each of which may be traced: see `hyperparameters`.
Hyperparameters = Mapping[str, Any]
# Mean and standard deviation of a pixel per channel.
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
SECTIONS = ("optimizer", "schedule", "augment")  # whose numbers are hyperparameters


MOST_STEPS = 2**31  # which int32 counts


@dataclasses.dataclass(frozen=True)
class Spec:
    """The static specification: what is fixed when training is compiled.

    Attributes:
      model: the arguments of `LeNet`.
      mean, std: of a pixel per channel, in 0..255; images are normalised with them.
      num_examples: training images, all of which every epoch uses.
      num_epochs: epochs of training.
      schedule_epochs: epochs that the schedule spans; its last rate stays for those after it.
      batch_size: images per optimiser step.
      micro_batch_size: images per gradient; the gradients of a batch's micro-batches are summed.
      eval_batch_size: images per forward pass in evaluation.
      optimizer, schedule: the names and switches of `optim.make_optimizer` and `make_schedule`.
      augments: whether images are augmented.
      num_devices: how many share each batch, see `parallel`.
    """

    model: tuple[tuple[str, Any], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_examples: int
    num_epochs: int
    schedule_epochs: int
    batch_size: int
    micro_batch_size: int
    eval_batch_size: int
    optimizer: tuple[tuple[str, Any], ...]
    schedule: tuple[tuple[str, Any], ...]
    augments: bool
    num_devices: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps per epoch; the last one may see a smaller batch."""
        return -(-self.num_examples // self.batch_size)

    @functools.cached_property
    def graphdef(self) -> nnx.GraphDef:
        """The network without its parameters."""
        return nnx.graphdef(self.abstract_model)

    @functools.cached_property
    def abstract_model(self) -> LeNet:
        """The network, with shapes and dtypes in place of its parameters."""
        return nnx.eval_shape(lambda: self.make_model(jax.random.key(0)))

    @functools.cached_property
    def layer_sizes(self) -> dict[str, LayerSize]:
        """The sizes of each layer, from `conv1` to `fc3`."""
        model = dict(self.model)
        names = ("channels", "features", "num_classes", "in_channels", "image_size", "padding")
        return layer_sizes(*(model[name] for name in names))

    def make_model(self, key: Key[Array, ""]) -> LeNet:
        """The network with initial parameters drawn from `key`."""
        return LeNet(**dict(self.model), rngs=nnx.Rngs(params=key))


def make_spec(config: Config, dataset: Dataset, statistics: Statistics | None = None) -> Spec:
    """The spec of a config for a dataset.

    Args:
      config: the config.
      dataset: its data.
      statistics: the data's `pixel_statistics`, where they are known.

    Raises:
      UserError: the model's sizes do not match the data, or its backend is not available.
    """
    ops.choose_backend(config.model.backend)  # may raise
    _, _, channels = dataset.image_shape
    model = {
        **config.model,
        "image_size": config.data.image_size,
        "num_classes": _agree(config.model, "num_classes", dataset.num_classes, dataset.name),
        "in_channels": _agree(config.model, "in_channels", channels, dataset.name),
        "precision": config.train.precision,
    }
    mean, std = statistics or pixel_statistics(dataset)
    spec = Spec(
        model=tuple(model.items()),
        mean=mean,
        std=std,
        num_examples=len(dataset.train),
        num_epochs=config.train.num_epochs,
        schedule_epochs=config.train.schedule_epochs or config.train.num_epochs,
        batch_size=config.train.batch_size,
        micro_batch_size=min(config.train.micro_batch_size, config.train.batch_size),
        eval_batch_size=config.train.eval_batch_size,
        optimizer=tuple((k, v) for k, v in config.optimizer.items() if not _is_number(v)),
        schedule=tuple((k, v) for k, v in config.schedule.items() if not _is_number(v)),
        augments=any(config.augment.values()),
    )
    epochs = max(spec.num_epochs, spec.schedule_epochs)
    if epochs * spec.steps_per_epoch >= MOST_STEPS:
        raise UserError(
            f"{epochs:,} epochs are too many: with {spec.steps_per_epoch:,} steps in each, a"
            f" run has more than {MOST_STEPS - 1:,} steps"
        )
    return spec


def check_memory(spec: Spec) -> None:
    """Checks that a network and a batch can fit into memory, by what they need at least.

    Raises:
      UserError: they cannot.
    """
    layers = spec.layer_sizes.values()
    model = dict(spec.model)
    image = model["image_size"] ** 2 * model["in_channels"]
    image += sum(math.prod(layer.shape) for layer in layers)
    images = max(spec.micro_batch_size, spec.eval_batch_size)
    # The weights, their gradient and the best so far.
    need = 4 * (3 * sum(layer.num_params for layer in layers) + images * image)
    free = machine.available_memory(machine.devices()[0])
    if free is not None and need > free:
        raise UserError(
            f"the network, with batches of {images:,} images, needs {need / 1e9:,.1f} GB of memory"
            f" at least; {free / 1e9:,.1f} GB are free\n"
            "Use fewer channels or features, or smaller batches (train.eval_batch_size,"
            " train.micro_batch_size)."
        )


def hyperparameters(config: Config) -> dict[str, Any]:
    """The hyperparameters of a config that compiled functions take as arguments."""
    sections = {
        name: {k: float(v) for k, v in config[name].items() if _is_number(v)} for name in SECTIONS
    }
    return {
        **sections,
        "label_smoothing": config.train.label_smoothing,
        "max_grad_norm": config.train.max_grad_norm,
    }


def compiled_value(path: str, value: Any) -> Any:
    """What compiled functions depend on in the value of a config key.

    Configs that agree in it, key by key, have the same spec, and the same structure of
    hyperparameters, but for `augments`.
    """
    section = path.partition(".")[0]
    if section in ("seed", "seeds"):
        return None
    smooth = path in ("train.label_smoothing", "train.max_grad_norm")
    return float if (smooth or section in SECTIONS) and _is_number(value) else value


def seeds(config: Config) -> dict[str, int]:
    """The seeds of initial weights, data order and augmentation."""
    return {k: config.seed if v is None else v for k, v in config.seeds.items()}


def pixel_statistics(dataset: Dataset) -> Statistics:
    """Mean and standard deviation of the training pixels per channel, in 0..255.

    A constant channel gets the standard deviation 1, since images are divided by it.
    """
    count, total, squares = 0, np.zeros(()), np.zeros(())
    for start in range(0, len(dataset.train), 4096):
        pixels = dataset.train.images[start : start + 4096].reshape(-1, dataset.image_shape[2])
        values = np.arange(256.0)
        histogram = np.stack([np.bincount(p, minlength=256) for p in pixels.T])
        count += len(pixels)
        total = total + histogram @ values
        squares = squares + histogram @ values**2
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())


def _agree(section: Config, key: str, value: int, name: str) -> int:
    configured = section[key]
    if configured is not None and configured != value:
        raise UserError(
            f"config.model.{key} is {configured}, but the data {name!r} has {value}\n"
            f"Leave --config.model.{key} out: it is taken from the data."
        )
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
