"""The evaluation of a network on a split, as a pure function of arrays, and the sums it gives."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int32, UInt8

from lenet_jax.nn import ops
from lenet_jax.nn.variables import split_variables
from lenet_jax.training import parallel
from lenet_jax.training.batches import DeviceSplit
from lenet_jax.training.forward import apply
from lenet_jax.training.spec import Spec


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Metrics:
    """Sums over examples; a mean is a sum divided by `count`.

    Attributes:
      loss: cross-entropy, in nats.
      objective: what training minimises: cross-entropy with label smoothing, in nats, or another
        loss.
      correct: examples whose largest logit is the label's.
      count: all examples.
      measured: the spec's measurements by name, in an evaluation.
    """

    loss: Float[Array, "..."]
    objective: Float[Array, "..."]
    correct: Float[Array, "..."]
    count: Float[Array, "..."]
    measured: dict[str, Float[Array, "..."]] = dataclasses.field(default_factory=dict)

    @property
    def mean_loss(self) -> Float[Array, "..."]:
        """Mean cross-entropy, in nats."""
        return self.loss / self.count

    @property
    def accuracy(self) -> Float[Array, "..."]:
        """Share of the examples whose largest logit is the label's, in [0, 1]."""
        return self.correct / self.count


def no_metrics() -> Metrics:
    """The sums over no examples."""
    return Metrics(*(jnp.zeros(()) for _ in range(4)), measured={})


def evaluate(
    spec: Spec, params: nnx.State, split: DeviceSplit
) -> tuple[Metrics, Float[Array, "n k"]]:
    """Sums over the real images of a split, and their logits, padded with rows of 0.

    The number of real images may be traced, so that splits padded to one size share a compilation.
    """
    capacity, batch_size = split.images.shape[0], spec.eval_batch_size
    count = jnp.asarray(split.length, jnp.int32)
    # Every device takes one batch of a round.
    round_size = batch_size * spec.num_devices
    num_rounds = -(-capacity // round_size)

    def fetch(round_: Int32[Array, ""]) -> UInt8[Array, "b h w c"]:
        indices = round_ * round_size + jnp.arange(round_size, dtype=jnp.int32)
        own = parallel.own_share(indices, spec.num_devices)
        return split.images[own]

    def body(round_: Int32[Array, ""], carry: tuple[Array, Array]) -> tuple[Array, Array]:
        logits, images = carry
        new = apply(spec, params, images).astype(dtype)
        return logits.at[round_].set(new), fetch(round_ + 1)

    num_classes = spec.num_classes
    own = (leaf.dtype for leaf in jax.tree.leaves(split_variables(params)[0]))
    dtype = jnp.result_type(jnp.float32, *own)
    logits = jnp.zeros((num_rounds, batch_size, num_classes), dtype)
    first, last = jnp.int32(0), (count + round_size - 1) // round_size
    logits, _ = lax.fori_loop(first, last, body, (logits, fetch(first)))
    if spec.num_devices > 1:
        logits = lax.all_gather(logits, parallel.AXIS, axis=1)
    logits = logits.reshape(-1, num_classes)[:capacity]
    counted = (jnp.arange(capacity) < count).astype(jnp.float32)
    hits = (jnp.argmax(logits, axis=-1) == split.labels).astype(jnp.float32)
    loss = jnp.sum(counted * ops.cross_entropy(logits, split.labels))
    measured = {
        name: jnp.sum(jnp.where(counted > 0, measure(logits, split.labels), 0))
        for name, measure in spec.measurements
    }
    metrics = Metrics(loss, loss, jnp.sum(counted * hits), jnp.sum(counted), measured)
    return metrics, jnp.where(counted[:, None] > 0, logits, 0.0)
