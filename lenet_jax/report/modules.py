"""What `findings` measures of the layers of any module, and of its first convolution."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int, UInt8

from lenet_jax.inference.forward import BATCH
from lenet_jax.inference.network import Network
from lenet_jax.nn.layers import Field, LayerCall, as_float, field, first_convolution

MOST_LAYERS = 16  # that figures show
MOST_MAPS = 64  # of a layer, in the figure of one image


def shown_layers(calls: Sequence[LayerCall], logits: Float[np.ndarray, "1 k"]) -> list[str]:
    """The layers that figures show: not dropout, which is off; of many the first ones.

    Args:
      calls: of the layers, for one image.
      logits: of that image, which figures show besides: a layer that gives them is left out.
    """
    last = [
        each.name
        for each in calls[-1:]
        if each.output.shape == logits.shape
        and np.allclose(as_float(each.output), logits, rtol=1e-4, atol=1e-4)
    ]
    names = [
        each.name
        for each in calls
        if each.name not in last
        and not isinstance(each.layer, nnx.Dropout)
        and each.output.ndim in (2, 3, 4)
        and jnp.issubdtype(each.output.dtype, jnp.floating)
    ]
    return names[:MOST_LAYERS]


def journey(
    network: Network, image: UInt8[np.ndarray, "h w c"], names: Iterable[str]
) -> dict[str, Float[np.ndarray, "..."]]:
    """What layers give for one image, as feature maps or units, and the logits.

    A layer that gives a sequence is shown as one map.
    """
    given = {each.name: as_float(each.output[0]) for each in network.record(image[None])}
    steps = {}
    for name in names:
        maps = given[name][..., None] if given[name].ndim == 2 else given[name]
        steps[name] = maps[..., :MOST_MAPS] if maps.ndim == 3 else maps
    return steps | {"logits": as_float(network.logits(image[None]))[0]}


def activations(
    network: Network, images: UInt8[np.ndarray, "n h w c"], names: Sequence[str]
) -> dict[str, Float[np.ndarray, " m"]]:
    """All finite values that layers give for some images, and the logits."""
    values: dict[str, list[Any]] = {name: [] for name in names}
    for start in range(0, len(images), BATCH):
        for each in network.record(images[start : start + BATCH]):
            if each.name in values:
                values[each.name].append(as_float(each.output).ravel())
    joined = {name: np.concatenate(parts) for name, parts in values.items()}
    joined["logits"] = network.logits(images).ravel()
    return {name: array[np.isfinite(array)] for name, array in joined.items()}


def weights(network: Network, calls: Sequence[LayerCall]) -> dict[str, Float[np.ndarray, "..."]]:
    """The matrices and kernels of the layers, by their paths, in the order of execution."""
    order = {each.name: place for place, each in reversed(list(enumerate(calls)))}
    arrays = {name: array for name, array in network.state_dict.items() if array.ndim >= 2}
    names = sorted(arrays, key=lambda name: order.get(name.rpartition(".")[0], len(calls)))
    floats = {name: as_float(arrays[name]) for name in names if _is_float(arrays[name])}
    return {name: floats[name][np.isfinite(floats[name])] for name in list(floats)[:MOST_LAYERS]}


def _is_float(array: np.ndarray) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)


def convolution(
    network: Network, calls: Sequence[LayerCall]
) -> tuple[str, Float[np.ndarray, "kh kw c o"], Field | None] | None:
    """The first convolution: its name, its kernel, and what its units see if it takes the images.

    Args:
      network: the network.
      calls: of its layers, for one image.
    """
    first = first_convolution(network.model, calls)
    if first is None:
        return None
    name, layer, call = first
    seen = None
    size = network.image_size, network.image_size
    if call is not None and np.shape(call.inputs)[1:3] == size:
        seen = field(layer, size)
    return name, as_float(layer.kernel[...]), seen


def peaks(
    network: Network, images: UInt8[np.ndarray, "n h w c"], name: str
) -> tuple[Float[np.ndarray, "n k"], Int[np.ndarray, "n k"], int]:
    """The strongest response of each filter to each image, its place, and the width of the map."""
    strongest, places, width = [], [], 0
    for start in range(0, len(images), BATCH):
        calls = network.record(images[start : start + BATCH])
        maps = next(as_float(each.output) for each in calls if each.name == name)
        width = maps.shape[2]
        flat = maps.reshape(len(maps), -1, maps.shape[-1])
        strongest.append(flat.max(1))
        places.append(flat.argmax(1))
    return np.concatenate(strongest), np.concatenate(places), width
