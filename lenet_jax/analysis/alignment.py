"""The order of a network's hidden units that is nearest to another network's.

Of two layers in a row, the units of the first may change places if the inputs of the second do: the
network computes the same function. Networks here are chains of layers, such as `LeNet` and `MLP`,
in the order of their variables: every array of a layer has its units last, and the kernel its
inputs before them. The inputs of a linear layer that follows a convolution are blocks of channels,
one for each place, channels fastest.
"""

import itertools
from collections.abc import Sequence
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

Layer: TypeAlias = dict[str, np.ndarray]  # `kernel`, `bias`
Order: TypeAlias = Int[np.ndarray, " _"]
MOST_ROUNDS = 100  # through the layers; a few suffice


def align(params: nnx.State, reference: nnx.State) -> nnx.State:
    """The same network with its hidden units ordered like those of a reference.

    Raises:
      ValueError: the two differ in their layers, or are no chain of them.
    """
    return permute(params, match(reference, params))


def match(reference: nnx.State, params: nnx.State) -> list[Order]:
    """Orders of the hidden units, a layer each: unit i of the reference is most like order[i].

    The sum over all weights of the products of both networks is increased by the best order of one
    layer, given those of its neighbours, until no layer changes. The first round goes from the
    images up, and looks at what units compute of theirs alone. So a network whose units were
    shuffled is found exactly, unless two of its units are equal.

    Source: Ainsworth, Hayase, Srinivasa, "Git Re-Basin: merging models modulo permutation
    symmetries", 2023, section 3.2.

    Raises:
      ValueError: as for `align`.
    """
    ours, theirs = (list(_layers(own).values()) for own in (reference, params))
    if [_shapes(layer) for layer in ours] != [_shapes(layer) for layer in theirs]:
        raise ValueError("only networks of the same layers can be aligned")
    orders = [np.arange(layer["kernel"].shape[-1]) for layer in ours]
    for number in range(len(ours) - 1):
        orders[number] = _best(_alike_inputs(ours, theirs, orders, number))
    for _ in range(MOST_ROUNDS):
        changed = False
        for number in range(len(ours) - 1):
            alike = _alike_inputs(ours, theirs, orders, number)
            alike += _alike_outputs(ours, theirs, orders, number)
            best, units = _best(alike), np.arange(len(alike))
            gain = alike[units, best].sum() - alike[units, orders[number]].sum()
            if gain > 1e-9 * np.abs(alike).sum():
                orders[number], changed = best, True
        if not changed:
            break
    return orders[:-1]


def permute(params: nnx.State, orders: Sequence[Order]) -> nnx.State:
    """The same network with its hidden units in other orders: unit i is what unit order[i] was.

    Raises:
      ValueError: it is no chain of layers, or the orders are not of its hidden ones.
    """
    layers = _layers(params)
    sizes = [layer["kernel"].shape[-1] for layer in layers.values()]
    if [sorted(order) for order in orders] != [list(range(size)) for size in sizes[:-1]]:
        raise ValueError(f"there must be an order for each hidden layer, of {sizes[:-1]} units")
    own = dict(zip(layers, [*orders, np.arange(sizes[-1])], strict=True))
    before = dict(zip(layers, [None, *orders], strict=True))

    def moved(path: tuple) -> Float[np.ndarray, "..."]:
        layer, name = path[:-1], path[-1]
        inputs = before[layer] if name == "kernel" else None
        return _move(layers[layer][name], inputs, own[layer])

    flat = nnx.to_flat_state(params)
    return nnx.from_flat_state(
        {path: variable.replace(jnp.asarray(moved(path))) for path, variable in flat}
    )


def _layers(params: nnx.State) -> dict[tuple, Layer]:
    """By their paths, from the images up."""
    layers: dict[tuple, Layer] = {}
    for path, variable in nnx.to_flat_state(params):
        layers.setdefault(path[:-1], {})[str(path[-1])] = np.asarray(variable[...])
    for path, layer in layers.items():
        kernel = layer.get("kernel")
        if kernel is None or any(array.shape[-1] != kernel.shape[-1] for array in layer.values()):
            raise ValueError(f"{'.'.join(map(str, path))} is not a layer with a kernel")
    for one, other in itertools.pairwise(layers.values()):
        if other["kernel"].shape[-2] % one["kernel"].shape[-1]:
            raise ValueError("the layers are no chain: one's inputs are not the units before it")
    return layers


def _shapes(layer: Layer) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in layer.items()}


def _move(array: np.ndarray, inputs: Order | None, units: Order) -> np.ndarray:
    if inputs is not None:
        blocks = array.reshape(-1, len(inputs), array.shape[-1])
        array = blocks[:, inputs].reshape(array.shape)
    return array[..., units]


def _alike_inputs(
    ours: list[Layer], theirs: list[Layer], orders: list[Order], number: int
) -> Float[np.ndarray, "units units"]:
    """The products of each pair of units' own weights, given the order of the layer before."""
    units = np.arange(len(orders[number]))
    before = orders[number - 1] if number else None
    alike = np.zeros((len(units), len(units)))
    for name, array in ours[number].items():
        other = _move(theirs[number][name], before if name == "kernel" else None, units)
        one, two = (x.reshape(-1, len(units)).astype(np.float64) for x in (array, other))
        alike += one.T @ two
    return alike


def _alike_outputs(
    ours: list[Layer], theirs: list[Layer], orders: list[Order], number: int
) -> Float[np.ndarray, "units units"]:
    """The products of the weights that the next layer gives each pair, given its order."""
    count = len(orders[number])
    one, two = ours[number + 1]["kernel"], theirs[number + 1]["kernel"][..., orders[number + 1]]
    one, two = (
        x.reshape(-1, count, x.shape[-1]).swapaxes(0, 1).reshape(count, -1).astype(np.float64)
        for x in (one, two)
    )
    return one @ two.T


def _best(alike: Float[np.ndarray, "units units"]) -> Order:
    return linear_sum_assignment(alike, maximize=True)[1]
