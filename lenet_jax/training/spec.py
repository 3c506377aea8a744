"""The static specification of training, made of a config and its data, and checked."""

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Key, ScalarLike

from lenet_jax import machine
from lenet_jax.config.file import Config
from lenet_jax.config.networks import arguments, find_class, traced_arguments
from lenet_jax.config.source import guarded
from lenet_jax.data.dataset import Dataset, Statistics, pixel_statistics
from lenet_jax.device_defaults import defaults_of
from lenet_jax.errors import UserError, show
from lenet_jax.nn import ops
from lenet_jax.nn.calls import build, call, changed_by_images
from lenet_jax.nn.lenet import LeNet
from lenet_jax.nn.variables import is_frozen, set_mode, split_variables
from lenet_jax.training.hyperparameters import STRENGTHS, is_number
from lenet_jax.training.losses import PerExample, find_loss, find_measurements
from lenet_jax.training.training_set import find_indices

EMPTY: Mapping[str, ScalarLike] = {}
# Mean and standard deviation with which black and white, 0 and 255, are -0.1 and 1.175.
LENET_1998 = 20.0, 200.0
MOST_STEPS = 2**31  # which int32 counts


@dataclasses.dataclass(frozen=True)
class Spec:
    """The static specification: what is fixed when training is compiled.

    Attributes:
      network: the class, an `nnx.Module` that maps normalised images to logits.
      network_name: as `config.model.name` names it.
      model: the arguments of its constructor, but for `rngs`; those of a population lack the
        values in which members may differ, see `without_traced`.
      image_shape: height, width and channels of an image.
      num_classes: of the data.
      precision: of products; `LeNet` has it as an argument too.
      mean, std: of a pixel per channel, in 0..255; images are normalised with them.
      num_examples: of the training set, all of which every epoch uses.
      num_epochs: epochs of training.
      schedule_epochs: epochs that the schedule spans; its last rate stays for those after it.
      batch_size: images per optimiser step.
      micro_batch_size: images per gradient; the gradients of a batch's micro-batches are summed.
      eval_batch_size: images per forward pass in evaluation.
      optimizer, schedule: the names and switches of `optim.make_optimizer` and `make_schedule`.
      augments: whether images are augmented.
      is_elastic: whether elastically, too.
      num_devices: how many share each batch, see `parallel`.
      frozen: patterns of the layers that are not trained, see `nn.variables`.
      loss: what training minimises, of each example; None: cross-entropy with label smoothing.
      measurements: names and functions of what else an evaluation averages over the examples.
    """

    network: Any
    network_name: str
    model: tuple[tuple[str, Any], ...]
    image_shape: tuple[int, int, int]
    num_classes: int
    precision: str
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
    is_elastic: bool
    num_devices: int = 1
    loss: PerExample | None = None
    measurements: tuple[tuple[str, PerExample], ...] = ()
    frozen: str = ""

    @property
    def measured(self) -> list[str]:
        """The names of the measurements."""
        return [name for name, _ in self.measurements]

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps per epoch; the last one may see a smaller batch."""
        return -(-self.num_examples // self.batch_size)

    @property
    def padded_steps(self) -> int:
        """Those of `steps_per_epoch` that take a batch of `batch_size`, padded if need be.

        All, unless padding would change a network's variables: then the last batch is smaller.
        """
        whole, rest = divmod(self.num_examples, self.batch_size)
        return whole if rest and self.is_stateful else self.steps_per_epoch

    @property
    def estimates_curvature(self) -> bool:
        """Whether the optimiser needs the loss's curvature, see `step.with_curvature`."""
        return ("name", "diagonal_lm") in self.optimizer

    @functools.cached_property
    def graphdef(self) -> nnx.GraphDef:
        """The network without its variables, as it is evaluated."""
        return nnx.graphdef(self.abstract_model)

    @functools.cached_property
    def train_graphdef(self) -> nnx.GraphDef:
        """The network without its variables, as it is trained: with dropout, say."""
        model = nnx.merge(*nnx.split(self.abstract_model))
        set_mode(model, training=True)
        return nnx.graphdef(model)

    @functools.cached_property
    def traced(self) -> tuple[str, ...]:
        """The arguments of the constructor for which it is given arrays."""
        model = dict(self.model)
        return tuple(n for n in traced_arguments(self.network) if model.get(n, 0.0) is not None)

    def without_traced(self) -> "Spec":
        """What networks have in common that differ in the values of `traced`."""
        model = tuple(item for item in self.model if item[0] not in self.traced)
        return dataclasses.replace(self, model=model)

    def shared_by(self, num_devices: int) -> "Spec":
        """The same where so many devices share each batch."""
        spec = dataclasses.replace(self, num_devices=num_devices)
        vars(spec)["abstract_model"] = self.abstract_model  # is the same, and takes time to trace
        return spec

    @functools.cached_property
    def abstract_model(self) -> Any:
        """The network in its mode of evaluation, with shapes and dtypes in place of variables."""
        traced = dict.fromkeys(self.traced, np.float32(0))
        model = nnx.eval_shape(lambda t: self.make_model(jax.random.key(0), t), traced)
        set_mode(model, training=False)
        return model

    @functools.cached_property
    def variables(self) -> nnx.State:
        """The network's variables, as shapes and dtypes."""
        return nnx.state(self.abstract_model)

    @functools.cached_property
    def is_stateful(self) -> bool:
        """Whether a forward pass in training changes variables, or draws from them."""
        return bool(jax.tree.leaves(split_variables(self.variables)[1]))

    def compiler_options(self, device: Any = None) -> dict[str, Any]:
        """Options for `jax.jit`; LeNet's layers need some, see `ops.compiler_options`.

        Args:
          device: the one that computes; None: the first of `machine.devices`.
        """
        if self.network is LeNet:
            return ops.compiler_options(device)
        return dict(defaults_of(device or machine.devices()[0]).compiler_options)

    def make_model(self, key: Key[Array, ""], traced: Mapping[str, ScalarLike] = EMPTY) -> Any:
        """The network with initial parameters drawn from `key`, and with arrays for `traced`."""
        rngs = nnx.Rngs(params=key) if self.network is LeNet else nnx.Rngs(key)
        own: dict[str, Any] = dict(self.model)
        own |= {name: jnp.asarray(value, jnp.float32) for name, value in traced.items()}
        return build(self.network, own, rngs)


def make_spec(config: Config, dataset: Dataset, statistics: Statistics | None = None) -> Spec:
    """The spec of a config for a dataset.

    Args:
      config: the config.
      dataset: its data.
      statistics: the data's `pixel_statistics`, where they are known.

    Raises:
      UserError: the model's sizes, the subset or the class weights do not match the data, the
        model's backend is not available, or its class or loss or a measurement cannot be used.
    """
    network = find_class(config.model.name)
    model = _lenet(config, dataset) if network is LeNet else _other(network, config, dataset)
    weights = config.data.class_weights
    if weights and len(weights) != dataset.num_classes:
        raise UserError(
            f"data.class_weights has {len(weights)} weights, but the data {dataset.name!r} have"
            f" {dataset.num_classes} classes"
        )
    mean, std = statistics or pixel_statistics(dataset)
    if config.train.normalize == "lenet_1998":
        mean, std = ((value,) * dataset.image_shape[2] for value in LENET_1998)
    spec = Spec(
        network=network,
        network_name=config.model.name,
        model=tuple(model.items()),
        image_shape=dataset.image_shape,
        num_classes=dataset.num_classes,
        precision=config.train.precision,
        mean=mean,
        std=std,
        num_examples=len(find_indices(config, dataset)),
        num_epochs=config.train.num_epochs,
        schedule_epochs=config.train.schedule_epochs or config.train.num_epochs,
        batch_size=config.train.batch_size,
        micro_batch_size=min(config.train.micro_batch_size, config.train.batch_size),
        eval_batch_size=config.train.eval_batch_size,
        optimizer=tuple((k, v) for k, v in config.optimizer.items() if not is_number(v)),
        schedule=tuple((k, v) for k, v in config.schedule.items() if not is_number(v)),
        augments=any(config.augment[name] for name in STRENGTHS),
        is_elastic=config.augment.elastic_alpha > 0,
        loss=find_loss(config.train.loss, dataset.num_classes),
        measurements=find_measurements(config.train.measurements, dataset.num_classes),
        frozen=config.train.freeze or "",
    )
    if network is not LeNet:
        _check_network(spec, config.model.name)
    if spec.frozen:
        _check_frozen(spec)
    if spec.is_stateful:  # which gradients of a batch in parts would change
        spec = dataclasses.replace(spec, micro_batch_size=spec.batch_size)
    epochs = max(spec.num_epochs, spec.schedule_epochs)
    if epochs * spec.steps_per_epoch >= MOST_STEPS:
        raise UserError(
            f"{epochs:,} epochs are too many: with {spec.steps_per_epoch:,} steps in each, a"
            f" run has more than {MOST_STEPS - 1:,} steps"
        )
    return spec


def _lenet(config: Config, dataset: Dataset) -> dict[str, Any]:
    """The arguments of `LeNet`."""
    ops.choose_backend(config.model.backend)  # may raise
    own = {name: value for name, value in config.model.items() if name != "name"}
    return {
        **own,
        "image_size": config.data.image_size,
        "num_classes": _agree(config.model, "num_classes", dataset.num_classes, dataset.name),
        "in_channels": _agree(config.model, "in_channels", dataset.image_shape[2], dataset.name),
        "precision": config.train.precision,
    }


def _other(network: type, config: Config, dataset: Dataset) -> dict[str, Any]:
    """The arguments of another network's constructor."""
    given = {"image_shape": dataset.image_shape, "num_classes": dataset.num_classes}
    own = {name: value for name, value in config.model.items() if name != "name"}
    return arguments(network, given) | own


def _check_frozen(spec: Spec) -> None:
    """Checks that each pattern of `train.freeze` names a layer, and that something is left.

    Raises:
      UserError: one names none, or nothing is left to train.
    """
    params, _ = split_variables(spec.variables)
    paths = [path for path, _ in nnx.to_flat_state(params)]
    layers = ", ".join(dict.fromkeys(".".join(map(str, path[:-1])) for path in paths))
    for pattern in spec.frozen.split(","):
        if not any(is_frozen(path, pattern) for path in paths):
            raise UserError(f"train.freeze={show(pattern)} names no layer; there are {layers}")
    if all(is_frozen(path, spec.frozen) for path in paths):
        raise UserError(f"train.freeze={show(spec.frozen)} leaves nothing to train of {layers}")


def _check_network(spec: Spec, name: str) -> None:
    """Checks that a network can be built, and maps images to logits.

    Raises:
      UserError: it does not; where its code fails, with the line.
    """
    path = Path(inspect.getsourcefile(spec.network) or name)
    images = jax.ShapeDtypeStruct((2, *spec.image_shape), jnp.float32)

    def forward(variables: nnx.State, images: Array) -> Array:
        model = nnx.merge(spec.train_graphdef, variables, copy=True)
        return call(model, images, training=True)

    try:
        guarded(path, lambda: spec.variables)
        logits = guarded(path, lambda: jax.eval_shape(forward, spec.variables, images))
    except UserError as error:
        if not spec.traced:
            raise
        raise UserError(
            f"{error}\nIf a layer needs the value of {show(', '.join(spec.traced))}, as nnx.Dropout"
            " does, take it out of `traced`."
        ) from error
    expected = (2, spec.num_classes)
    shape = getattr(logits, "shape", type(logits).__name__)
    dtype: Any = getattr(logits, "dtype", jnp.float32)
    if shape != expected or not jnp.issubdtype(dtype, jnp.floating):
        kind = "" if jnp.issubdtype(dtype, jnp.floating) else f"{dtype} "
        raise UserError(
            f"model.name={show(name)} maps images of shape {images.shape} to {kind}{shape}, not to"
            f" logits of shape {expected}\n"
            "Its last layer must have num_classes units, and give floats."
        )
    if not jax.tree.leaves(split_variables(spec.variables)[0]):
        raise UserError(f"model.name={show(name)} has no parameters (nnx.Param) to train")
    if changed := changed_by_images(spec.graphdef, spec.variables, images):
        raise UserError(
            f"model.name={show(name)} changes {show(', '.join(changed))} in evaluation too, and its"
            " logits depend on that: they would differ with the other images of a batch\n"
            "Change it in training only: def __call__(self, images, training): …"
        )


def _agree(section: Config, key: str, value: int, name: str) -> int:
    configured = section[key]
    if configured is not None and configured != value:
        raise UserError(
            f"config.model.{key} is {configured}, but the data {name!r} has {value}\n"
            f"Leave --config.model.{key} out: it is taken from the data."
        )
    return value
