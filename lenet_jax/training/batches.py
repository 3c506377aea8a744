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
    """

    images: UInt8[Array, "n h w c"]
    labels: Int32[Array, " n"]
    length: Int32[Array, ""]

    @classmethod
    def of(cls, split: Split, size: int | None = None) -> "DeviceSplit":
        """The arrays of a split, still on the host, padded with zeros to `size` examples."""
        padding = 0 if size is None else size - len(split)
        images = np.pad(split.images, ((0, padding), (0, 0), (0, 0), (0, 0)))
        arrays: Any = images, np.pad(split.labels, (0, padding)), np.int32(len(split))
        return cls(*arrays)


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
    weight of the whole batch, which devices may share.
    """

    images: UInt8[Array, "m b h w c"] | Float[Array, "m b h w c"]
    labels: Int32[Array, "m b"]
    weights: Float[Array, "m b"]
    total: Float[Array, ""]


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
    images = split.images[chosen]
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
    return Batch(
        images=images.reshape(*micro_batches, *images.shape[1:]),
        labels=split.labels[chosen].reshape(micro_batches),
        weights=(own >= 0).astype(jnp.float32).reshape(micro_batches),
        total=jnp.sum((indices >= 0).astype(jnp.float32)),
    )
