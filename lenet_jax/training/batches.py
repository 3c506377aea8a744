"""What each step of training is fed: the order of the examples, and the batches made of them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32, Key, ScalarLike, UInt8

from lenet_jax.training import augment, parallel
from lenet_jax.training.spec import Hyperparameters, Spec

Carry = TypeVar("Carry")


class Batch(NamedTuple):
    """Normalised images, labels, and a weight of 0 for padding.

    The leading axis m counts the parts whose gradients are accumulated. Channels are first and the
    batch is last, as the fast backends want it. `total` is of the whole batch, which devices may
    share.
    """

    images: Float[Array, "m c h w b"]
    labels: Int32[Array, "m b"]
    weights: Float[Array, "m b"]
    total: Float[Array, ""]


def epoch_order(
    spec: Spec, key: Key[Array, ""], epoch: Int32[Array, ""]
) -> Int32[Array, "steps b"]:
    """Indices of the examples, a row a step; -1 is padding."""
    order = jax.random.permutation(jax.random.fold_in(key, epoch), spec.num_examples)
    padding = spec.steps_per_epoch * spec.batch_size - spec.num_examples
    order = jnp.pad(order.astype(jnp.int32), (0, padding), constant_values=-1)
    return order.reshape(spec.steps_per_epoch, spec.batch_size)


def make_batch(
    spec: Spec,
    images: UInt8[Array, "n h w c"],
    labels: Int32[Array, " n"],
    indices: Int32[Array, " b"],
    key: Key[Array, ""],
    hyperparameters: Hyperparameters,
) -> Batch:
    """Gathers and augments this device's share of a batch, cut into the parts of its gradient."""
    own = parallel.own_share(indices, spec.num_devices)
    chosen = jnp.maximum(own, 0)
    batch = images[chosen]
    if spec.augments:
        maps = augment.draw_affine(key, len(indices), **hyperparameters["augment"])
        own_maps = (parallel.own_share(x, spec.num_devices) for x in maps)
        batch = augment.apply_affine(batch.astype(jnp.float32), *own_maps)
    parts = (-1, spec.micro_batch_size)
    feed = functools.partial(normalised, spec)
    return Batch(
        images=jax.vmap(feed)(batch.reshape(*parts, *batch.shape[1:])),
        labels=labels[chosen].reshape(parts),
        weights=(own >= 0).astype(jnp.float32).reshape(parts),
        total=jnp.sum((indices >= 0).astype(jnp.float32)),
    )


def normalised(
    spec: Spec, images: UInt8[Array, "b h w c"] | Float[Array, "b h w c"]
) -> Float[Array, "c h w b"]:
    """Pixels in 0..255 as the network is fed with them: normalised, and with the batch last."""
    std = jnp.asarray(spec.std, jnp.float32).reshape(-1, 1, 1, 1)
    mean = jnp.asarray(spec.mean, jnp.float32).reshape(-1, 1, 1, 1)
    # The transposition of a matrix is what XLA does fast.
    batch_last = images.reshape(images.shape[0], -1).T.reshape(*images.shape[1:], -1)
    return batch_last.transpose(2, 0, 1, 3).astype(jnp.float32) * (1 / std) - mean / std


def loop_batches(
    spec: Spec,
    step: Callable[[Carry, Batch], Carry],
    carry: Carry,
    images: UInt8[Array, "n h w c"],
    labels: Int32[Array, " n"],
    order: Int32[Array, "steps b"],
    first: ScalarLike,
    last: ScalarLike,
    augment_key: Key[Array, ""],
    steps_before: ScalarLike,
    hyperparameters: Hyperparameters,
) -> Carry:
    """`step` with one batch after the other: those of the rows `first` to `last` - 1 of `order`.

    Args:
      spec: what is compiled.
      step: takes what is carried, and a batch; gives what is carried on.
      carry: what the first step takes.
      images: pixels of the training images.
      labels: their classes.
      order: from `epoch_order`.
      first: counted from 0 in this epoch; may be traced.
      last: may be traced.
      augment_key: decides the augmentation, together with the number of steps taken before.
      steps_before: steps taken before this epoch.
      hyperparameters: the strengths of the augmentation are in it.
    """

    def fetch(step: Int32[Array, ""]) -> Batch:
        key = jax.random.fold_in(augment_key, steps_before + step)
        return make_batch(spec, images, labels, order[step], key, hyperparameters)

    return loop_prefetched(lambda _, carry, batch: step(carry, batch), carry, fetch, first, last)


def loop_prefetched(
    step: Callable[[Array, Carry, Any], Carry],
    carry: Carry,
    fetch: Callable[[Array], Any],
    first: ScalarLike,
    last: ScalarLike,
) -> Carry:
    """`step(i, carry, fetch(i))` for i from `first` to `last` - 1, each fetching for the next one.

    What is carried between iterations is a real array. Fetched inside the step, the gather would be
    fused into each of the 36 slices that the first convolution takes of it, and run 36 times.
    """

    def body(i: Array, carried: tuple[Carry, Any]) -> tuple[Carry, Any]:
        carry, fetched = carried
        return step(i, carry, fetched), fetch(i + 1)

    first = jnp.asarray(first, jnp.int32)
    return lax.fori_loop(first, jnp.asarray(last, jnp.int32), body, (carry, fetch(first)))[0]
