"""The forward pass of any network, in evaluation and in training, in the run's precision."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, UInt8

from lenet_jax import machine
from lenet_jax.device_defaults import defaults_of
from lenet_jax.nn import ops
from lenet_jax.nn.calls import call
from lenet_jax.nn.lenet import LeNet
from lenet_jax.nn.rewrite import fast_forms
from lenet_jax.nn.variables import join_variables, split_variables
from lenet_jax.training.spec import Spec


def apply(
    spec: Spec,
    params: nnx.State,
    images: UInt8[Array, "b h w c"] | Float[Array, "b h w c"],
    *,
    fast: bool = True,
) -> Float[Array, "b k"]:
    """Logits of images, whose pixels are in 0..255; unless `fast`, by the network's own program."""

    def forward(variables: nnx.State, images: Array) -> Array:
        model = nnx.merge(spec.graphdef, variables, copy=True)
        return call(model, ops.normalise(images, spec.mean, spec.std))

    return _fast(spec, forward, fast)(params, images)


def apply_in_training(
    spec: Spec,
    params: nnx.State,
    others: nnx.State,
    images: UInt8[Array, "b h w c"] | Float[Array, "b h w c"],
) -> tuple[Float[Array, "b k"], nnx.State]:
    """Logits of images, as for `apply`, and the other variables that the forward pass leaves."""

    def forward(variables: nnx.State, images: Array) -> tuple[Array, nnx.State]:
        model = nnx.merge(spec.train_graphdef, variables, copy=True)
        logits = call(model, ops.normalise(images, spec.mean, spec.std), training=True)
        after = nnx.state(model)
        if spec.is_stateful:  # a pass may leave more, such as what it sows
            known = {path for path, _ in nnx.to_flat_state(variables)}
            after = nnx.filter_state(after, lambda path, _: path in known)
        return logits, split_variables(after, spec.frozen)[1]

    return _fast(spec, forward)(join_variables(params, others), images)


def _fast(spec: Spec, forward: Callable[..., Any], fast: bool = True) -> Callable[..., Any]:
    """The forward pass in the run's precision; if `fast`, in fast forms where they suit the device.

    LeNet has them itself.
    """
    if spec.network is LeNet:
        return forward
    rewrites = fast and defaults_of(machine.devices()[0]).rewrites

    def run(*args: Any) -> Any:
        with jax.default_matmul_precision(spec.precision):
            return (fast_forms(forward) if rewrites else forward)(*args)

    return run
