"""What a finished run leaves for people: the figures, the weights and the summary's test part."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from lenet_jax.plots import results as figures
from lenet_jax.plots import filters as filter_figures
from lenet_jax.inference.load import save_params
from lenet_jax.inference.state_dict import make_metadata
from lenet_jax.data.dataset import Dataset
from lenet_jax.errors import DISK_FAULTS, printable
from lenet_jax.training.spec import Spec

# Drawing is done by libraries that may fail in ways of their own (fonts, memory); the numbers are
# worth more than the pictures, so any of these becomes a warning.
DRAWING_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts of test images, true classes in rows and predicted ones in columns."""
    cells = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def draw_figures(
    folder: Path,
    spec: Spec,
    params: nnx.State,
    dataset: Dataset,
    logits: Float[np.ndarray, "n k"],
    rows: Sequence[Mapping[str, float | int]],
    warn: Callable[[str], None],
) -> list[Path]:
    """Draws the run's figures; one that cannot be drawn is a warning.

    Returns:
      The files drawn.

    Raises:
      OSError: the disk is full, or has failed.
    """
    predictions = logits.argmax(axis=-1)
    labels = dataset.test.labels
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=-1, keepdims=True)
    confusion = confusion_matrix(labels, predictions, dataset.num_classes)
    names = dataset.class_names
    kernel = np.asarray(params["conv1"]["kernel"][...])
    example = example_index(labels, predictions, probabilities)
    image = dataset.test.images[example]

    def draw_feature_maps(path: Path) -> None:
        model = nnx.merge(spec.graphdef, params)
        mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
        normalised = jnp.asarray((image[None] - mean) / std, jnp.float32)
        maps = np.asarray(model.feature_maps(normalised)[0])
        filter_figures.plot_feature_maps(
            image,
            kernel,
            maps,
            path,
            label=names[labels[example]],
            prediction=names[predictions[example]],
        )

    plots: dict[str, Callable[[Path], Any]] = {
        "curves.png": lambda path: figures.plot_curves(rows, path, title=dataset.name),
        "confusion_matrix.png": lambda path: figures.plot_confusion_matrix(confusion, names, path),
        "filters.png": lambda path: filter_figures.plot_filters(kernel, path),
        "feature_maps.png": draw_feature_maps,
        "mistakes.png": lambda path: figures.plot_mistakes(
            dataset.test.images, labels, predictions, probabilities, names, path
        ),
    }
    drawn = []
    for name, plot in plots.items():
        try:
            plot(folder / name)
        except DRAWING_ERRORS as error:
            if isinstance(error, OSError) and error.errno in DISK_FAULTS:
                raise
            warn(f"{name} was not drawn: {type(error).__name__}: {printable(error)}")
        else:
            drawn.append(folder / name)
    return drawn


def save_weights(path: Path, spec: Spec, params: nnx.State, dataset: Dataset) -> None:
    """Writes the weights in PyTorch's layout, with what is needed to feed the network."""
    save_params(path, params, make_metadata(spec.mean, spec.std, dataset.class_names))


def example_index(labels: np.ndarray, predictions: np.ndarray, probabilities: np.ndarray) -> int:
    """The test image to show feature maps of: the first sure and right one of the last class.

    Of MNIST that is a 9, which has a loop, a curve and a stroke for the filters to respond to.
    """
    sure = (predictions == labels) & (probabilities.max(axis=-1) > 0.99)
    candidates = np.flatnonzero(sure & (labels == labels.max()))
    return int(candidates[0]) if len(candidates) else 0


def layers(spec: Spec) -> list[tuple[str, tuple[int, ...], int]]:
    """Each layer's name, the shape of what it gives for one image, and its parameters."""
    sizes = spec.abstract_model.layer_sizes()
    return [(name, size.shape, size.num_params) for name, size in sizes.items()]
