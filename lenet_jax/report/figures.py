"""The figures about a trained network, each drawn once: as PNG files and inside the page."""

import re
from collections.abc import Sequence

import jax
import numpy as np

from lenet_jax.config.measurements import names as names_of
from lenet_jax.data.dataset import Dataset
from lenet_jax.inference.figures import title_of
from lenet_jax.inference.network import Network
from lenet_jax.plots import curves, filters, results
from lenet_jax.plots.corruptions import plot_corruptions
from lenet_jax.plots.style import Figure
from lenet_jax.report.findings import SAMPLE, Findings, Journey


def draw_figures(network: Network, dataset: Dataset, findings: Findings) -> dict[str, Figure]:
    """Draws the figures, by the names of their files."""
    names, test, example = network.class_names, findings.test, findings.example
    title = title_of(network.model, dataset.name)
    followed = Journey(example, findings.steps)
    winner = names[int(findings.example_logits.argmax())]
    confusion = results.confusion_matrix(test.labels, findings.predictions, len(names))
    calibration = findings.calibration
    figures = {
        "confusion_matrix": results.plot_confusion_matrix(confusion, names, title=title),
        "mistakes": results.plot_mistakes(
            test.images, test.labels, findings.logits, names, title=title
        ),
        "journey": _plot_journey(followed, names, title),
        "saliency": filters.plot_saliency(
            example.image, findings.saliency, prediction=winner, label=example.label, title=title
        ),
        "calibration": results.plot_calibration(
            calibration.confidence,
            calibration.accuracy,
            calibration.count,
            calibration.error,
            title=title,
        ),
        "histograms": _plot_histograms(findings, title),
    }
    if (corrupted := findings.corrupted) is not None:
        figures["corruptions"] = plot_corruptions(
            corrupted.images,
            corrupted.answers,
            corrupted.labels,
            corrupted.indices,
            corrupted.errors,
            names,
            title=title,
        )
    if findings.mistake is not None:
        figures["journey_mistake"] = _plot_journey(findings.mistake, names, title)
    for layer, own in findings.filters.items():
        if own.patches is None:
            figure = filters.plot_filters(own.kernel, title=title, layer=layer)
        else:
            figure = filters.plot_exciting_patches(
                own.kernel, own.patches, layer=layer, title=title, indices=own.indices
            )
        figures[filters_figure(layer)] = figure
    if network.history:
        train = network.config and network.config.train
        figures["curves"] = curves.plot_curves(
            network.history,
            title=_with_size(title, network, dataset),
            seam=train and train.schedule_epochs,
            measured=names_of(train.measurements) if train else (),
        )
    return figures


def filters_figure(layer: str) -> str:
    """The name of the figure of a convolution's filters, without characters of paths."""
    return re.sub(r"[^\w.-]", "_", layer) + "_filters"


def _plot_journey(journey: Journey, names: Sequence[str], title: str) -> Figure:
    *_, logits = journey.steps.values()
    example, probabilities = journey.example, np.asarray(jax.nn.softmax(logits))
    return filters.plot_journey(
        example.image,
        journey.steps,
        probabilities,
        names,
        title=title,
        label=example.label,
        true=example.true,
    )


def _with_size(title: str, network: Network, dataset: Dataset) -> str:
    """A title with how many images a network was trained on, if that is all of a split."""
    config = network.config
    if config is None or not (config.data.subset is config.data.subset_file is None):
        return title
    return f"{title}, {len(dataset.train):,} training images"


def _plot_histograms(findings: Findings, title: str) -> Figure:
    captions = dict.fromkeys(findings.activations, "") | {"fc3": "logits"}
    for name, dead in findings.survey.dead().items():
        zeros = 100 * float((findings.activations[name] == 0).mean())
        units = findings.survey.active[name].shape[1]
        captions[name] = f"{zeros:.0f} % are 0\n{len(dead)} of {units} dead"
    images = min(SAMPLE, len(findings.test))
    return results.plot_histograms(
        findings.weights, findings.activations, captions, title=title, images=images
    )
