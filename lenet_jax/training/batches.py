"""The batch of a step: the order of the examples, and how they are gathered."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Key, ScalarLike, UInt8

from lenet_jax.data.dataset import Split
from lenet_jax.training import augment, parallel
from lenet_jax.training.hyperparameters import Hyperparameters
from lenet_jax.training.spec import Spec


class DeviceSplit(NamedTuple):
    """A split as compiled functions take it.

    Attributes:
      images: pixels in 0..255.
      labels: classes, 0 to k - 1.
      length: the number of real examples; the rest is padding.
      indices: of the image of each label, where networks with other training sets share the
        images; None: each label is of the image in its place.
    """

    images: UInt8[Array, "n h w c"]
    labels: Int32[Array, " m"]
    length: Int32[Array, ""]
    indices: Int32[Array, " m"] | None = None

    @classmethod
    def of(cls, split: Split, size: int | None = None) -> "DeviceSplit":
        """The arrays of a split, still on the host, padded with zeros to `size` examples."""
        padding = 0 if size is None else size - len(split)
        images = np.pad(split.images, ((0, padding), (0, 0), (0, 0), (0, 0)))
        arrays: Any = images, np.pad(split.labels, (0, padding)), np.int32(len(split))
        return cls(*arrays)

    def images_of(self, examples: Int32[Array, "..."]) -> UInt8[Array, "... h w c"]:
        """The images of some labels."""
        return self.images[examples if self.indices is None else self.indices[examples]]


class EpochSlice(NamedTuple):
    """The steps `first` to `last` - 1 of an epoch, counted from 0.

    Attributes:
      order: indices of the examples of all the epoch's steps, from `epoch_order`.
      first, last: may be traced.
    """

    order: Int32[Array, "steps b"]
    first: ScalarLike
    last: ScalarLike


class Batch(NamedTuple):
    """Pixels in 0..255, labels, and a weight of 0 for padding.

    The leading axis m counts the micro-batches, whose gradients are accumulated. `total` is the
    weight of the whole batch, which devices may share. `scales` multiply the losses of the examples
    where classes have weights, see `_scales`.
    """

    images: UInt8[Array, "m b h w c"] | Float[Array, "m b h w c"]
    labels: Int32[Array, "m b"]
    weights: Float[Array, "m b"]
    total: Float[Array, ""]
    scales: Float[Array, "m b"] | None = None


def epoch_order(
    spec: Spec, key: Key[Array, ""], epoch: Int32[Array, ""]
) -> Int32[Array, "steps b"]:
    """Indices of the examples, one row per step; -1 is padding."""
    order = jax.random.permutation(jax.random.fold_in(key, epoch), spec.num_examples)
    padding = spec.steps_per_epoch * spec.batch_size - spec.num_examples
    order = jnp.pad(order.astype(jnp.int32), (0, padding), constant_values=-1)
    return order.reshape(spec.steps_per_epoch, spec.batch_size)


def make_batch(
    spec: Spec,
    split: DeviceSplit,
    indices: Int32[Array, " b"],
    key: Key[Array, ""],
    hyperparameters: Hyperparameters,
) -> Batch:
    """Gathers and augments this device's share of a batch, split into micro-batches."""
    own = parallel.own_share(indices, spec.num_devices)
    chosen = jnp.maximum(own, 0)
    images = split.images_of(chosen)
    if spec.augments:
        strengths = dict(hyperparameters["augment"])
        alpha, sigma = strengths.pop("elastic_alpha"), strengths.pop("elastic_sigma")
        maps = augment.draw_affine(key, len(indices), **strengths)
        own_maps = [parallel.own_share(x, spec.num_devices) for x in maps]
        if spec.is_elastic:
            places = jnp.arange(len(indices), dtype=jnp.int32)
            places = parallel.own_share(places, spec.num_devices)
            size = spec.image_shape[:2]
            own_maps.append(augment.draw_displacements(key, places, size, alpha, sigma))
        images = augment.apply_affine(images.astype(jnp.float32), *own_maps)
    micro_batches = (-1, min(spec.micro_batch_size, len(own)))
    scales = None
    if hyperparameters["class_weights"]:
        scales = _scales(split, indices, jnp.stack(hyperparameters["class_weights"]))
        scales = parallel.own_share(scales, spec.num_devices).reshape(micro_batches)
    return Batch(
        images=images.reshape(*micro_batches, *images.shape[1:]),
        labels=split.labels[chosen].reshape(micro_batches),
        weights=(own >= 0).astype(jnp.float32).reshape(micro_batches),
        total=jnp.sum((indices >= 0).astype(jnp.float32)),
        scales=scales,
    )


def _scales(
    split: DeviceSplit, indices: Int32[Array, " b"], class_weights: Float[Array, " k"]
) -> Float[Array, " b"]:
    """The weight of each example's class over the mean of these weights in the batch.

    The mean of losses times them is the weighted mean, as PyTorch's `CrossEntropyLoss(weight)` has
    it. Where all weights are 0, so are they.
    """
    real = indices >= 0
    weights = jnp.where(real, class_weights[split.labels[jnp.maximum(indices, 0)]], 0.0)
    mean = jnp.sum(weights) / jnp.sum(real.astype(jnp.float32))
    return weights / jnp.where(mean > 0, mean, 1.0)
