"""The figures about a trained network, each drawn once: as PNG files and inside the page."""

import jax
import numpy as np

from lenet_jax.data.dataset import Dataset
from lenet_jax.inference.network import Network
from lenet_jax.plots import curves, filters, results
from lenet_jax.plots.style import Figure, network_title
from lenet_jax.report.findings import CONVOLUTIONS, Findings, exciting_patches


def draw_figures(network: Network, dataset: Dataset, findings: Findings) -> dict[str, Figure]:
    """Draws the figures, by the names of their files."""
    names, test, example = network.class_names, findings.test, findings.example
    title = network_title(network.model_sizes, dataset.name)
    probabilities = np.asarray(jax.nn.softmax(findings.steps["fc3"]))
    winner = names[int(probabilities.argmax())]
    confusion = results.confusion_matrix(test.labels, findings.predictions, len(names))
    answers = test.labels, findings.predictions, findings.probabilities
    calibration = findings.calibration
    figures = {
        "confusion_matrix": results.plot_confusion_matrix(confusion, names, title=title),
        "mistakes": results.plot_mistakes(test.images, *answers, names, title=title),
        "journey": filters.plot_journey(
            example.image, findings.steps, probabilities, names, title=title, label=example.label
        ),
        "saliency": filters.plot_saliency(
            example.image, findings.saliency, prediction=winner, label=example.label
        ),
        "calibration": results.plot_calibration(
            calibration.confidence,
            calibration.accuracy,
            calibration.count,
            calibration.error,
            title=title,
        ),
        "histograms": _plot_histograms(network, findings, title),
    }
    for layer in CONVOLUTIONS:
        kernel = np.asarray(getattr(network.model, layer).kernel[...])
        patches = exciting_patches(findings.survey, test.images, layer, network.model.padding)
        figures[f"{layer}_filters"] = filters.plot_exciting_patches(
            kernel, patches, layer=layer, title=title
        )
    if network.history:
        seam = network.config and network.config.train.schedule_epochs
        figures["curves"] = curves.plot_curves(network.history, title=title, seam=seam)
    return figures


def _plot_histograms(network: Network, findings: Findings, title: str) -> Figure:
    weights = {
        name.removesuffix(".weight"): array
        for name, array in network.state_dict.items()
        if name.endswith(".weight")
    }
    captions = dict.fromkeys(findings.activations, "") | {"fc3": "logits"}
    for name, dead in findings.survey.dead().items():
        zeros = 100 * float((findings.activations[name] == 0).mean())
        units = findings.survey.active[name].shape[1]
        captions[name] = f"{zeros:.0f} % are 0\n{len(dead)} of {units} dead"
    return results.plot_histograms(weights, findings.activations, captions, title=title)
