"""How large a network is, and how much work: parameters, multiplications, memory."""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr

from lenet_jax import machine
from lenet_jax.config import base
from lenet_jax.device_defaults import defaults_of
from lenet_jax.errors import UserError
from lenet_jax.nn.calls import call
from lenet_jax.nn.graph import bodies
from lenet_jax.nn.layers import output_shapes
from lenet_jax.nn.lenet import LeNet
from lenet_jax.nn.variables import split_variables
from lenet_jax.training.hyperparameters import hyperparameters
from lenet_jax.training.optim import make_optimizer
from lenet_jax.training.spec import Spec

FLOAT = 4  # bytes

Layer = tuple[str, tuple[int, ...], int]


def num_params(spec: Spec) -> int:
    """The parameters of a network."""
    params, _ = split_variables(spec.variables)
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def layers(spec: Spec) -> list[Layer]:
    """Each layer's name, output shape for one image if it is known, and number of parameters.

    They are in the order of execution; last come those whose output is not known.
    """
    if spec.network is LeNet:
        sizes = spec.abstract_model.layer_sizes()
        return [(name, size.shape, size.num_params) for name, size in sizes.items()]
    params, _ = split_variables(spec.variables)
    counts: dict[str, int] = {}
    for path, leaf in jax.tree.leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
        layer = name.rpartition(".")[0] or name
        counts[layer] = counts.get(layer, 0) + leaf.size
    shapes = output_shapes(spec.graphdef, spec.variables, spec.image_shape)
    names = [name for name in shapes if name in counts]
    names += [name for name in counts if name not in shapes]
    return [(name, shapes.get(name, ()), counts[name]) for name in names]


def multiplications(spec: Spec) -> list[int]:
    """Those of each layer in one image's forward pass, in order, all counted as dense."""
    if spec.network is LeNet:
        return [size.multiplications for size in spec.abstract_model.layer_sizes().values()]
    counts = map(_multiplications, _equations(_forward(spec).jaxpr))
    return [count for count in counts if count]


def floats_per_image(spec: Spec, device: Any) -> float:
    """Floats held at once for one image in training on a device, estimated.

    Of LeNet a multiple of its windows and phases; of others twice what all operations give.
    """
    if spec.network is LeNet:
        channels, total = dict(spec.model)["in_channels"], sum(dict(spec.model)["features"])
        for layer in spec.abstract_model.layer_sizes().values():
            *positions, features = layer.shape
            if positions:  # a convolution
                total += (36 * channels + 2 * 4 * features) * math.prod(positions)
            channels = features
        return defaults_of(device).windows_held * total
    outputs = (out for equation in _equations(_forward(spec).jaxpr) for out in equation.outvars)
    return 2.0 * sum(math.prod(out.aval.shape) for out in outputs)


def population_memory(
    spec: Spec, device: Any, members: int, strategy: str, *, averages: bool = False
) -> int:
    """Estimated bytes that members of a population need on a device, beside the data.

    With `vmap` the estimate is 2 to 4 times XLA's own, on an H200 and on a CPU; with `map` the
    ratio is higher, but little memory is needed.

    Args:
      spec: of the members.
      device: what they train on.
      members: how many.
      strategy: `map` or `vmap`.
      averages: whether each keeps an average of its parameters.
    """
    # Inputs, outputs, and a copy of them inside the loop; the best parameters besides the last.
    copies = 2 + averages + _optimizer_copies(spec.optimizer)
    member = 3 * FLOAT * num_params(spec) * copies
    concurrent = members if strategy == "vmap" else 1
    images = max(spec.micro_batch_size, spec.eval_batch_size)
    return members * member + round(concurrent * images * FLOAT * floats_per_image(spec, device))


def memory_of(program: jax.stages.Compiled) -> int:
    """Bytes of a program's results and of its temporary arrays, as XLA plans them."""
    plan = program.memory_analysis()
    assert plan is not None, "CPUs and GPUs have one"
    return plan.output_size_in_bytes + plan.temp_size_in_bytes


def check_memory(spec: Spec) -> None:
    """Checks that a network and a batch can fit into memory, by what they need at least.

    Raises:
      UserError: they cannot.
    """
    images = max(spec.micro_batch_size, spec.eval_batch_size)
    image = math.prod(spec.image_shape)
    if spec.network is LeNet:  # of others it is not known which outputs are held at once
        image += sum(math.prod(shape) for _, shape, _ in layers(spec))
    # The weights, their gradient and the best so far.
    need = 4 * (3 * num_params(spec) + images * image)
    free = machine.available_memory(machine.devices()[0])
    if free is not None and need > free:
        raise UserError(
            f"the network, with batches of {images:,} images, needs {need / 1e9:,.1f} GB of memory"
            f" at least; {free / 1e9:,.1f} GB are free\n"
            "Use fewer channels or features, or smaller batches (train.eval_batch_size,"
            " train.micro_batch_size)."
        )


@functools.cache
def _optimizer_copies(optimizer: tuple[tuple[str, Any], ...]) -> int:
    """How many arrays of the parameters' size the state of an optimizer has."""
    numbers = hyperparameters(base.get_config())["optimizer"]  # on which its shapes do not depend
    params = jax.ShapeDtypeStruct((1000,), jnp.float32)
    state = jax.eval_shape(make_optimizer(**dict(optimizer), **numbers).init, params)
    return sum(leaf.shape == params.shape for leaf in jax.tree.leaves(state))


def _forward(spec: Spec) -> ClosedJaxpr:
    """The program of one image's forward pass in training."""

    def forward(variables: nnx.State, images: jax.Array) -> jax.Array:
        model = nnx.merge(spec.train_graphdef, variables, copy=True)
        return call(model, images, training=True)

    image = jax.ShapeDtypeStruct((1, *spec.image_shape), jnp.float32)
    return jax.make_jaxpr(forward)(spec.variables, image)


def _equations(jaxpr: Jaxpr) -> Iterator[Any]:
    """The operations of a program, those of the programs that it calls in their places."""
    for equation in jaxpr.eqns:
        inner = list(bodies(equation.params))
        for program in inner:
            yield from _equations(program)
        if not inner:
            yield equation


def _multiplications(equation: Any) -> int:
    kind = equation.primitive.name
    if kind not in ("dot_general", "conv_general_dilated"):
        return 0
    inputs, weights = (variable.aval.shape for variable in equation.invars)
    (out,) = equation.outvars
    if kind == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return math.prod(out.aval.shape) * int(np.prod([inputs[axis] for axis in contracted]))
    numbers = equation.params["dimension_numbers"]
    features = weights[numbers.rhs_spec[0]]
    return math.prod(out.aval.shape) * math.prod(weights) // features
