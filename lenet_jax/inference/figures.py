"""The figures of a trained network: its filters, what they see, its curves and its mistakes."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import UInt8

from lenet_jax.errors import UserError, expand, show, writing
from lenet_jax.inference.network import Network
from lenet_jax.inference.run_data import load_data
from lenet_jax.plots import curves, filters, results
from lenet_jax.plots.output import FORMATS, render
from lenet_jax.plots.style import Figure, network_title
from lenet_jax.storage.files import write_atomically

KINDS = ("filters", "feature_maps", "curves", "confusion_matrix", "mistakes")


def plot(network: Network, what: str, data: Any, path: str | Path | None) -> Figure:
    """Draws a figure, see `Network.plot`."""
    if not isinstance(what, str) or what not in KINDS:
        raise UserError(f"what to plot must be one of {', '.join(KINDS)}; not {show(what)}")
    if path is not None:
        check_suffix(path)
    title = title_of(network, _data_name(network))
    if what == "curves":
        figure = _plot_curves(network, title)
    elif what == "filters":
        figure = plot_filters(network, title)
    elif what == "feature_maps":
        image, captions = _one_image(network, data)
        figure = plot_feature_maps(network, image, captions, title)
    else:
        images, labels = network.examples(_data(network, data))
        probabilities, names = network.probabilities(images), network.class_names
        predictions = probabilities.argmax(axis=-1)
        if what == "mistakes":
            answers = labels, predictions, probabilities
            figure = results.plot_mistakes(images, *answers, names, title=title)
        else:
            confusion = results.confusion_matrix(labels, predictions, len(names))
            figure = results.plot_confusion_matrix(confusion, names, title=title)
    if path is not None:
        save(figure, path)
    return figure


def plot_filters(network: Network, title: str) -> Figure:
    """Draws the filters of the first convolution.

    Raises:
      UserError: there is none that takes the images.
    """
    layer, convolution = _first_convolution(network)
    return filters.plot_filters(np.asarray(convolution.kernel[...]), title=title, layer=layer)


def plot_feature_maps(
    network: Network, image: UInt8[np.ndarray, "h w c"], captions: list[str], title: str
) -> Figure:
    """Draws the feature maps of an image after the first convolution; of a LeNet, its activation.

    Raises:
      UserError: there is none that takes the images.
    """
    layer, convolution = _first_convolution(network)
    pixels, after = network.normalise(image[None]), "convolution"
    if network.is_lenet:
        maps, after = network.model.feature_maps(pixels)[0], network.model.activation
    else:
        maps = convolution(pixels)[0]
    return filters.plot_feature_maps(
        image,
        np.asarray(convolution.kernel[...]),
        np.asarray(maps),
        title=title,
        captions=captions,
        activation="ReLU" if after == "relu" else after,
        layer=layer,
    )


def has_filters(network: Network) -> bool:
    """Whether a convolution takes the images."""
    return next(_convolutions(network), None) is not None


def title_of(network: Network, data: str = "") -> str:
    """What a figure calls a network, and its data if they are known."""
    if network.is_lenet:
        return network_title(network.model_sizes, data)
    return type(network.model).__name__ + (f" on {data}" if data else "")


def check_suffix(path: str | Path) -> Path:
    """The path of a figure.

    Raises:
      UserError: its suffix is no format of figures.
    """
    path = expand(path)
    if path.suffix.lower() not in FORMATS:
        *most, last = FORMATS
        raise UserError(
            f"{show(path)}: the name of a figure must end in {', '.join(most)} or {last}"
        )
    return path


def save(figure: Figure, path: str | Path) -> None:
    """Writes a figure in the format that the suffix names; a file of that name is replaced.

    Raises:
      UserError: there is no such format, or the file cannot be written.
    """
    path = check_suffix(path)
    with writing(path):
        write_atomically(path, render(figure, path.suffix.lower()))


def _convolutions(network: Network) -> Iterator[tuple[str, nnx.Conv]]:
    """The convolutions that can take the images, and their paths."""
    for path, module in nnx.iter_modules(network.model):
        if (
            isinstance(module, nnx.Conv)
            and len(module.kernel[...].shape) == 4
            and module.in_features == network.channels
        ):
            yield ".".join(map(str, path)), module


def _first_convolution(network: Network) -> tuple[str, nnx.Conv]:
    first = next(_convolutions(network), None)
    if first is None:
        raise UserError(
            f"{type(network.model).__name__} has no convolution that takes the images\n"
            'Without one, there are .plot("curves"), "confusion_matrix" and "mistakes".'
        )
    return first


def _plot_curves(network: Network, title: str) -> Figure:
    if not network.history:
        raise UserError(f"{show(network.source)} has no curves: a run has, or a sweep's member")
    seam = network.config and network.config.train.schedule_epochs
    return curves.plot_curves(network.history, title=title, seam=seam)


def _one_image(network: Network, data: Any) -> tuple[UInt8[np.ndarray, "h w c"], list[str]]:
    """The image whose feature maps are drawn, and what is said of it."""
    names = network.class_names
    if data is None:
        images, labels = network.examples(_data(network, None))
        probabilities = network.probabilities(images)
        predictions = probabilities.argmax(axis=-1)
        index = results.example_index(labels, predictions, probabilities)
        about = [f"test image {index}", f"true class: {names[labels[index]]}"]
    else:
        images, index, about = network.prepare(data), 0, ["the given image"]
        if len(images) != 1:
            raise UserError(f"feature maps are of one image, not of {len(images):,}")
        probabilities = network.probabilities(images)
    best = int(probabilities[index].argmax())
    percent = 100 * float(probabilities[index, best])
    return images[index], [*about, f"predicted: {names[best]}", f"probability: {percent:.1f} %"]


def _data(network: Network, data: Any) -> Any:
    """The data that are given, or those of the run."""
    if data is not None:
        return data
    if network.config is None:
        raise UserError(
            f"{show(network.source)} does not say what data it was trained on: give them\n"
            "network.plot(what, data), with an image for feature_maps, else (images, classes)"
        )
    return load_data(network, lambda remark: warnings.warn(remark, stacklevel=5))


def _data_name(network: Network) -> str:
    return "" if network.config is None else network.config.data.name
