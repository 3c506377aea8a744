"""Figures of a trained network, from its module and arrays, and the files with them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from lenet_jax.errors import UserError, expand, show, writing
from lenet_jax.nn.lenet import LeNet
from lenet_jax.plots import filters
from lenet_jax.plots.output import FORMATS, render
from lenet_jax.plots.style import Figure, network_title
from lenet_jax.storage.files import write_atomically


def plot_filters(model: nnx.Module, channels: int, title: str) -> Figure:
    """Draws the filters of the first convolution that takes images of so many channels.

    Raises:
      UserError: there is none.
    """
    layer, convolution = _first_convolution(model, channels)
    return filters.plot_filters(np.asarray(convolution.kernel[...]), title=title, layer=layer)


def plot_feature_maps(
    model: nnx.Module,
    image: UInt8[np.ndarray, "h w c"],
    normalised: Float[Array, "1 h w c"],
    captions: Sequence[str],
    title: str,
) -> Figure:
    """Draws the feature maps of an image after the first convolution; of a LeNet, its activation.

    Raises:
      UserError: no convolution takes the images.
    """
    layer, convolution = _first_convolution(model, image.shape[2])
    if isinstance(model, LeNet):
        maps, after = model.feature_maps(normalised)[0], model.activation
    else:
        maps, after = convolution(normalised)[0], "convolution"
    return filters.plot_feature_maps(
        image,
        np.asarray(convolution.kernel[...]),
        np.asarray(maps),
        title=title,
        captions=captions,
        activation="ReLU" if after == "relu" else after,
        layer=layer,
    )


def has_filters(model: nnx.Module, channels: int) -> bool:
    """Whether a convolution takes images of so many channels."""
    return next(_convolutions(model, channels), None) is not None


def title_of(model: nnx.Module, data: str) -> str:
    """What a figure calls a network, and its data if they are known."""
    if not isinstance(model, LeNet):
        return type(model).__name__ + (f" on {data}" if data else "")
    layers = model.conv1, model.conv2, model.fc1, model.fc2, model.fc3
    return network_title([layer.out_features for layer in layers], data)


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


def _convolutions(model: nnx.Module, channels: int) -> Iterator[tuple[str, nnx.Conv]]:
    """The convolutions that can take the images, and their paths."""
    for path, module in nnx.iter_modules(model):
        if (
            isinstance(module, nnx.Conv)
            and len(module.kernel[...].shape) == 4
            and module.in_features == channels
        ):
            yield ".".join(map(str, path)), module


def _first_convolution(model: nnx.Module, channels: int) -> tuple[str, nnx.Conv]:
    first = next(_convolutions(model, channels), None)
    if first is None:
        raise UserError(
            f"{type(model).__name__} has no convolution that takes the images\n"
            'Without one, there are .plot("curves"), "confusion_matrix" and "mistakes".'
        )
    return first
