"""What a finished run leaves: the figures and the weights, and the table of its layers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from lenet_jax.data.dataset import Dataset
from lenet_jax.data.form import measure_form
from lenet_jax.inference.description import architecture_metadata
from lenet_jax.inference.load import save_params
from lenet_jax.inference.network import energy
from lenet_jax.inference.state_dict import form_metadata, make_metadata
from lenet_jax.nn import ops
from lenet_jax.plots import curves, filters, results
from lenet_jax.plots.output import draw
from lenet_jax.plots.style import Figure, network_title
from lenet_jax.storage.files import write_atomically
from lenet_jax.storage.run_dir import FIGURES
from lenet_jax.training.spec import Spec

UNLIKE = 0.01  # of the validation images: those that count as unlike their classes


def draw_figures(
    folder: Path,
    spec: Spec,
    params: nnx.State,
    dataset: Dataset,
    logits: Float[np.ndarray, "n k"],
    rows: Sequence[Mapping[str, float | int]],
    warn: Callable[[str], None],
) -> list[Path]:
    """Draws the run's figures; a figure that fails is reported as a warning.

    Returns:
      The files drawn.

    Raises:
      OSError: a figure cannot be written.
    """
    predictions, labels, names = logits.argmax(axis=-1), dataset.test.labels, dataset.class_names
    probabilities = np.asarray(jax.nn.softmax(logits))
    confusion = results.confusion_matrix(labels, predictions, dataset.num_classes)
    kernel = np.asarray(params["conv1"]["kernel"][...])
    example = results.example_index(labels, predictions, probabilities)
    image = dataset.test.images[example]
    model = dict(spec.model)
    sizes = *model["channels"], *model["features"], model["num_classes"]
    title = network_title(sizes, dataset.name)

    def plot_feature_maps() -> Figure:
        model = nnx.merge(spec.graphdef, params)
        pixels = ops.normalise(jnp.asarray(image[None]), spec.mean, spec.std)
        maps = np.asarray(model.feature_maps(pixels)[0])
        captions = [
            f"test image {example}",
            f"true class: {names[labels[example]]}",
            f"predicted: {names[predictions[example]]}",
        ]
        name = "ReLU" if model.activation == "relu" else model.activation
        return filters.plot_feature_maps(
            image, kernel, maps, title=title, captions=captions, activation=name
        )

    plots: dict[str, Callable[[], Figure]] = {
        "curves.png": lambda: curves.plot_curves(
            rows,
            title=f"{title}, {spec.num_examples:,} training images",
            seam=spec.schedule_epochs,
        ),
        "confusion_matrix.png": lambda: results.plot_confusion_matrix(
            confusion, names, title=title
        ),
        "filters.png": lambda: filters.plot_filters(kernel, title=title),
        "feature_maps.png": plot_feature_maps,
        "mistakes.png": lambda: results.plot_mistakes(
            dataset.test.images, labels, predictions, probabilities, names, title=title
        ),
    }
    drawn = []
    for name in FIGURES:
        content = draw(plots[name], name, warn)
        if content is not None:
            write_atomically(folder / name, content)
            drawn.append(folder / name)
    return drawn


def save_weights(
    path: Path, spec: Spec, params: nnx.State, dataset: Dataset, form: Mapping[str, str]
) -> None:
    """Writes the weights in PyTorch's layout, with what is needed to feed the network."""
    metadata = make_metadata(spec.mean, spec.std, dataset.class_names)
    metadata |= architecture_metadata(dict(spec.model))
    save_params(path, params, metadata | dict(form))


def measure_images(
    dataset: Dataset, fit: str, valid_logits: Float[np.ndarray, "n k"]
) -> dict[str, str]:
    """The metadata that says which images a network knows.

    Args:
      dataset: what it was trained on.
      fit: how that was brought to its size.
      valid_logits: of all validation images, of which one in a hundred counts as unlike the rest.
    """
    least = float(np.quantile(energy(valid_logits), UNLIKE)) if len(valid_logits) else None
    return form_metadata(measure_form(dataset.train.images, fit, dataset.native_size), least)


def layers(spec: Spec) -> list[tuple[str, tuple[int, ...], int]]:
    """Each layer's name, output shape for one image, and number of parameters."""
    sizes = spec.abstract_model.layer_sizes()
    return [(name, size.shape, size.num_params) for name, size in sizes.items()]
