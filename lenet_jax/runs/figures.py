"""What a finished run leaves: the figures and the weights, and the table of its layers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from lenet_jax.data.dataset import Dataset
from lenet_jax.data.form import ImageForm
from lenet_jax.inference import figures
from lenet_jax.inference.forward import energy
from lenet_jax.inference.others import describe_network, export_weights
from lenet_jax.inference.state_dict import form_metadata, make_metadata
from lenet_jax.nn import ops
from lenet_jax.plots import curves, results
from lenet_jax.plots.output import draw
from lenet_jax.plots.style import Figure
from lenet_jax.storage import weights
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
    example = results.example_index(labels, predictions, probabilities)
    image = dataset.test.images[example]
    model = nnx.merge(spec.graphdef, params, copy=True)
    title = figures.title_of(model, dataset.name)
    normalised = ops.normalise(jnp.asarray(image[None]), spec.mean, spec.std)
    captions = [
        f"test image {example}",
        f"true class: {names[labels[example]]}",
        f"predicted: {names[predictions[example]]}",
    ]
    plots: dict[str, Callable[[], Figure]] = {
        "curves.png": lambda: curves.plot_curves(
            rows,
            title=f"{title}, {spec.num_examples:,} training images",
            seam=spec.schedule_epochs,
            measured=spec.measured,
        ),
        "confusion_matrix.png": lambda: results.plot_confusion_matrix(
            confusion, names, title=title
        ),
        "filters.png": lambda: figures.plot_filters(model, normalised, title),
        "feature_maps.png": lambda: figures.plot_feature_maps(
            model, image, normalised, captions, title
        ),
        "mistakes.png": lambda: results.plot_mistakes(
            dataset.test.images, labels, logits, names, title=title
        ),
    }
    missing, why = figures.left_out(model, normalised)
    if missing:
        files = [f"{name}.png" for name in missing]
        plots = {file: plot for file, plot in plots.items() if file not in files}
        warn(f"{why}: {' and '.join(files)} left out")
    drawn = []
    for name in (name for name in FIGURES if name in plots):
        for file, content in draw(plots[name], Path(name).stem, warn).items():
            write_atomically(folder / file, content)
            drawn.append(folder / file)
    return drawn


def save_weights(
    path: Path, spec: Spec, params: nnx.State, dataset: Dataset, form: Mapping[str, str]
) -> None:
    """Writes the weights, with what is needed to build and feed the network.

    Those of a LeNet are in PyTorch's layout, others under Flax's paths.
    """
    metadata = make_metadata(spec.mean, spec.std, dataset.class_names) | dict(form)
    metadata |= describe_network(spec.network, spec.network_name, spec.model, spec.image_shape)
    weights.write(path, export_weights(spec.network, params), metadata)


def describe_images(form: ImageForm, valid_logits: Float[np.ndarray, "n k"]) -> dict[str, str]:
    """The metadata that says which images a network knows.

    Args:
      form: of those it was trained on.
      valid_logits: of all validation images, of which one in a hundred counts as unlike the rest.
    """
    least = float(np.quantile(energy(valid_logits), UNLIKE)) if len(valid_logits) else None
    return form_metadata(form, least)
