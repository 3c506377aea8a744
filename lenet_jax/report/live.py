"""The page in which one draws, and a LeNet reads it in the browser: one file, without a network."""

import base64
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, Int, Shaped

from lenet_jax.data.dataset import Dataset, Split
from lenet_jax.inference.figures import title_of
from lenet_jax.inference.forward import GUESS
from lenet_jax.inference.network import Network
from lenet_jax.plots.results import rank_mistakes
from lenet_jax.report.page import render

FOLDER = Path(__file__).with_name("live")
# In the order in which they use each other.
SCRIPTS = (
    *("network.js", "characters.js", "form.js", "sheet.js"),
    *("stages.js", "maps.js", "panel.js", "steps.js", "page.js"),
)
EXAMPLES, EXAMPLE_BYTES = 80, 200_000  # test images on the page, at most, and their pixels
MISTAKES = 0.6  # of them, at most
MOST_PARAMS = 4_000_000  # of a network on a page, which then has 21 MB


def why_not(network: Network) -> str | None:
    """Why there is no page of a network; None: there is one."""
    if not network.is_lenet:
        return f"it is for model.name=lenet, and this network is {type(network.model).__name__}"
    if network.num_params > MOST_PARAMS:
        return f"it holds up to {MOST_PARAMS:,} parameters, and these are {network.num_params:,}"
    return None


def live_page(network: Network, dataset: Dataset, logits: Float[np.ndarray, "n k"]) -> str:
    """The page of a LeNet: its weights, some test images, and the scripts that run it.

    Args:
      network: a LeNet.
      dataset: what it was tested on.
      logits: of the test images.
    """
    network.require_lenet("the live page")
    return render(
        "network.html",
        title=title_of(network.model, dataset.name),
        source=network.source,
        live_style=(FOLDER / "live.css").read_text(encoding="utf-8"),
        # Within a script, only `<` could end it.
        data=json.dumps(to_data(network, dataset.test, logits)).replace("<", "\\u003c"),
        scripts="\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS),
    )


def to_data(network: Network, test: Split, logits: Float[np.ndarray, "n k"]) -> dict[str, Any]:
    """What the scripts need of a LeNet and of its test images, as JSON can hold it."""
    model, form, predictions = network.model, network.form, logits.argmax(axis=1)
    probabilities = np.asarray(jax.nn.softmax(logits)).max(axis=1)
    chosen = _examples(test, logits)
    return {
        "classes": list(network.class_names),
        "activation": model.activation,
        "pool": model.pool,
        "padding": model.padding,
        "imageSize": network.image_size,
        "channels": network.channels,
        "mean": list(network.mean),
        "std": list(network.std),
        "guess": GUESS,
        "leastEnergy": network.least_energy,
        "form": {
            "size": form.size,
            "box": form.box,
            "fit": form.fit,
            "handwriting": form.handwriting,
            "darkOnLight": form.dark_on_light,
        },
        "layers": {name: _layer(getattr(model, name)) for name in model.layer_sizes()},
        "pixels": _base64(test.images[chosen]),
        "examples": [
            {
                "index": int(index),
                "label": int(test.labels[index]),
                "predicted": int(predictions[index]),
                "probability": round(float(probabilities[index]), 6),
            }
            for index in chosen
        ],
    }


def _layer(layer: nnx.Conv | nnx.Linear) -> dict[str, str | int]:
    assert layer.bias is not None
    kernel: Float[np.ndarray, "..."] = np.asarray(layer.kernel[...], "<f4")
    size = kernel.shape[0] if kernel.ndim == 4 else 0
    return {
        "kernel": _base64(kernel),
        "bias": _base64(np.asarray(layer.bias[...], "<f4")),
        "size": size,
    }


def _examples(test: Split, logits: Float[np.ndarray, "n k"]) -> Int[np.ndarray, " m"]:
    """The most confident mistakes, then test images of each class in turn."""
    count = max(1, min(EXAMPLES, EXAMPLE_BYTES // test.images[0].size))
    labels = test.labels
    mistakes = rank_mistakes(logits, labels)[: int(MISTAKES * count)]
    right = np.flatnonzero(logits.argmax(axis=1) == labels)
    # Of each class the first comes before the second of any.
    turns = np.zeros(len(right), int)
    for label in np.unique(labels[right]):
        own = labels[right] == label
        turns[own] = np.arange(own.sum())
    order = np.lexsort((labels[right], turns))
    return np.concatenate([mistakes, right[order][: count - len(mistakes)]])


def _base64(array: Shaped[np.ndarray, "..."]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
