"""Figures of a trained network, from its module and arrays, and the files with them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from lenet_jax.data.dataset import GIVEN
from lenet_jax.errors import UserError, expand, show, writing
from lenet_jax.nn.layers import as_float, first_convolution, record
from lenet_jax.nn.lenet import LeNet
from lenet_jax.plots import filters
from lenet_jax.plots.output import FORMATS, render
from lenet_jax.plots.style import Figure
from lenet_jax.storage.files import write_atomically


def plot_filters(model: nnx.Module, normalised: Float[Array, "1 h w c"], title: str) -> Figure:
    """Draws the filters of the first convolution that takes part when an image is classified.

    Raises:
      UserError: there is none.
    """
    layer, convolution, _ = _first_convolution(model, normalised)
    return filters.plot_filters(as_float(convolution.kernel[...]), title=title, layer=layer)


def plot_feature_maps(
    model: nnx.Module,
    image: UInt8[np.ndarray, "h w c"],
    normalised: Float[Array, "1 h w c"],
    captions: Sequence[str],
    title: str,
) -> Figure:
    """Draws the feature maps of an image after the first convolution; of a LeNet, its activation.

    Raises:
      UserError: there is no convolution, or what it gives is not known.
    """
    layer, convolution, maps = _first_convolution(model, normalised)
    if maps is None:
        raise UserError(f"what {show(layer)} gives is not known: it runs inside a transformation")
    after = model.activation if isinstance(model, LeNet) else "convolution"
    return filters.plot_feature_maps(
        image,
        as_float(convolution.kernel[...]),
        as_float(maps[0]),
        title=title,
        captions=captions,
        activation="ReLU" if after == "relu" else after,
        layer=layer,
    )


def left_out(model: nnx.Module, normalised: Float[Array, "1 h w c"]) -> tuple[list[str], str]:
    """Which of `filters` and `feature_maps` cannot be drawn of a network, and a remark on why."""
    try:
        layer, _, maps = _first_convolution(model, normalised)
    except UserError as error:
        return ["filters", "feature_maps"], str(error).splitlines()[0]
    return ["feature_maps"] if maps is None else [], f"what {show(layer)} gives is not known"


def title_of(model: nnx.Module, data: str) -> str:
    """What a figure calls a network and its data, if known: `LeNet 6–12–120–84–10 on mnist`."""
    name = type(model).__name__
    if isinstance(model, LeNet):
        name = f"LeNet {'–'.join(str(size.shape[-1]) for size in model.layer_sizes().values())}"
    data = f"data {GIVEN}" if data == GIVEN else data
    return f"{name} on {data}" if data else name


def check_suffix(path: str | Path) -> Path:
    """The path of a figure.

    Raises:
      UserError: its suffix is no format of figures.
    """
    path = expand(path)
    if path.suffix.lower() not in FORMATS:
        *most, last = FORMATS
        known = f"{', '.join(most)} or {last}"
        raise UserError(f"{show(path)}: the name of a figure must end in {known}")
    return path


def save(figure: Figure, path: str | Path) -> None:
    """Writes a figure in the format that the suffix names; a file of that name is replaced.

    Raises:
      UserError: there is no such format, or the file cannot be written.
    """
    path = check_suffix(path)
    with writing(path):
        write_atomically(path, render(figure, path.suffix.lower()))


def _first_convolution(
    model: nnx.Module, normalised: Float[Array, "1 h w c"]
) -> tuple[str, Any, Float[Array, "1 h2 w2 o"] | None]:
    """The name of the first convolution, itself, and its feature maps if they are known."""
    if isinstance(model, LeNet):
        return "conv1", model.conv1, model.feature_maps(normalised)
    first = first_convolution(model, record(nnx.clone(model), normalised))
    if first is None:
        raise UserError(
            f"{type(model).__name__} has no convolution that takes the images\n"
            'Without one, there are .plot("curves"), "confusion_matrix" and "mistakes".'
        )
    layer, convolution, call = first
    return layer, convolution, None if call is None else call.output
