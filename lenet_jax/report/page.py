"""The page that shows what a network has learned: one file that opens anywhere."""

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from lenet_jax import config as configs
from lenet_jax.data.dataset import Dataset
from lenet_jax.inference.figures import title_of
from lenet_jax.inference.network import Network
from lenet_jax.plots.output import svg
from lenet_jax.plots.style import Figure
from lenet_jax.report.figures import filters_figure
from lenet_jax.report.findings import SAMPLE, Findings

STYLE = Path(__file__).with_name("page.css")
LABELS = {
    "curves": "Learning curves over the epochs",
    "confusion_matrix": "Confusion matrix of the test images",
    "mistakes": "The most confident mistakes on the test images",
    "journey": "The output of every layer for one image",
    "journey_mistake": "The output of every layer for the most confident mistake",
    "saliency": "An image, and how much the winning logit changes with each pixel",
    "calibration": "Accuracy against confidence",
    "corruptions": "Images under each corruption, and the errors on all test images",
    "histograms": "Histograms of the weights and activations of each layer",
}


def render(template: str, **values: Any) -> str:
    """A whole page; what a template is given is escaped, but for figures and the style."""
    return _templates().get_template(template).render(**values)


def report(
    network: Network,
    dataset: Dataset,
    findings: Findings,
    figures: Mapping[str, Figure],
    record: Mapping[str, Any],
    remarks: Sequence[str] = (),
    live: str | None = None,
) -> str:
    """The page of one network.

    Args:
      network: the network.
      dataset: what it was tested on.
      findings: what was measured of it.
      figures: from `draw_figures`.
      record: what `run.json` says; may be empty.
      remarks: on the data.
      live: the name of the live page beside it; None where there is none.
    """
    history = network.history
    labels = LABELS | {
        filters_figure(layer): f"Filters of {layer}"
        + ("" if own.patches is None else " and the patches that excite each most")
        for layer, own in findings.filters.items()
    }
    validated = any("valid/accuracy" in row for row in history)
    return render(
        "report.html",
        title=title_of(network.model, dataset.name),
        source=network.source,
        remarks=remarks,
        live=live,
        stats=_stats(network, findings),
        svg={name: svg(figure, labels[name]) for name, figure in figures.items()},
        history=[list(row.values()) for row in history],
        columns=[name.replace("/", " ").replace("_", " ") for row in history[:1] for name in row],
        best_epoch=max(history, key=_valid_accuracy)["epoch"] if validated else None,
        filters=_filters(findings),
        left_out=findings.left_out,
        example=findings.example.label,
        winner=network.class_names[int(findings.example_logits.argmax())],
        calibration_error=f"{100 * findings.calibration.error:.2f} %",
        calibration=_calibration(findings),
        sample=SAMPLE,
        corruptions=_corruptions(findings),
        config=_config(network),
        environment=_environment(record),
    )


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lenet_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    environment.globals["style"] = STYLE.read_text(encoding="utf-8")
    return environment


def _cell(value: Any) -> str:
    """A value as a table shows it."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, str):
        return value
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}".replace("-", "−")


def _valid_accuracy(row: Mapping[str, float | int]) -> float | int:
    return row.get("valid/accuracy", -math.inf)


def _filters(findings: Findings) -> list[tuple[str, str, str, bool]]:
    """Of each convolution its name, what it is, its figure, and whether that has patches."""
    rows = []
    for layer, own in findings.filters.items():
        height, width, c, o = own.kernel.shape
        text = f"{layer}: {o} filters of {height}×{width}×{c}"
        if own.size is not None:
            text += f", which see {own.size[0]}×{own.size[1]} pixels"
        rows.append((layer, text, filters_figure(layer), own.patches is not None))
    return rows


def _stats(network: Network, findings: Findings) -> list[tuple[str, str, str]]:
    """What matters most: the name, the number, and a note."""
    count, wrong = len(findings.test), len(findings.mistakes())
    dead = sum(map(len, findings.survey.dead().values()))  # none where there is no ReLU
    units = sum(active.shape[1] for active in findings.survey.active.values())
    error = f"{100 * findings.calibration.error:.2f} %"
    stats = [
        ("Test accuracy", f"{100 * (1 - wrong / count):.2f} %", f"{wrong:,} of {count:,} wrong"),
        ("Parameters", f"{network.num_params:,}", "weights and biases"),
        ("Calibration error", error, "expected calibration error"),
    ]
    if units:
        stats.append(("Dead ReLUs", f"{dead}", f"of {units} units, over all test images"))
    summary = network.summary
    if {"epochs", "train_seconds"} <= summary.keys():
        seconds = summary["train_seconds"]
        spent = f"{seconds:.{0 if seconds >= 10 else 1}f} s of training"
        stats.insert(1, ("Epochs", f"{summary['epochs']}", spent))
    return stats


def _calibration(findings: Findings) -> list[tuple[str, int, str, str]]:
    """A row of each bin that is not empty."""
    calibration = findings.calibration
    edges = np.linspace(0, 100, len(calibration.count) + 1)
    bins = zip(
        edges,
        edges[1:],
        calibration.count,
        100 * calibration.confidence,
        100 * calibration.accuracy,
        strict=False,
    )
    return [
        (f"{low:g} to {high:g} %", int(count), f"{confidence:.1f}", f"{accuracy:.1f}")
        for low, high, count, confidence, accuracy in bins
        if count
    ]


def _corruptions(findings: Findings) -> list[tuple[str, str, str]]:
    """The errors in %, and how far above the clean one they are in points."""
    if findings.corrupted is None:
        return []
    robustness = findings.corrupted.robustness
    errors = {"mean": robustness.mean_error} | dict(robustness.corrupted)
    rows = [("clean", f"{100 * robustness.clean:.2f}", "")]
    for name, error in errors.items():
        above = f"{100 * (error - robustness.clean):.2f}".replace("-", "−")
        rows.append((name.replace("_", " "), f"{100 * error:.2f}", above))
    return rows


def _config(network: Network) -> dict[str, list[tuple[str, Any]]]:
    """The settings by section; those without one come first."""
    if network.config is None:
        return {}
    sections: dict[str, list[tuple[str, Any]]] = {"run": []}
    for name, value in configs.to_dict(network.config).items():
        if isinstance(value, dict):
            sections[name] = list(flatten(value).items())
        else:
            sections["run"].append((name, value))
    return {name: rows for name, rows in sections.items() if rows}


def _environment(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    keys = ("command", "status", "processor", "python")
    known = {key: record[key] for key in keys if key in record} | record.get("versions", {})
    if record.get("git_revision"):
        known["git revision"] = record["git_revision"]
    return list(known.items())
