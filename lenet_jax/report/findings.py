"""Measurements of a trained network: what excites its filters, how well it is calibrated."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8

from lenet_jax.data.dataset import Split
from lenet_jax.inference.network import Network
from lenet_jax.nn import autograd, ops

CONVOLUTIONS = ("conv1", "conv2")
ACTIVATED = ("conv1", "conv2", "fc1", "fc2")  # layers that an activation follows
# Of a unit of a convolution: the side of what it sees of the image, and the step to the next unit.
FIELDS = {"conv1": (5, 1), "conv2": (14, 2)}  # 5×5 behind a 2×2 pooling behind 5×5
PATCHES = 9  # a filter
SAMPLE = 500  # images whose activations are counted


@dataclasses.dataclass(frozen=True)
class Example:
    """One image, and where it is from."""

    image: UInt8[np.ndarray, "h w c"]
    label: str


@dataclasses.dataclass(frozen=True)
class Survey:
    """How the network responds to each of n images.

    Attributes:
      peaks: of each convolution, the strongest response of each filter k, before the activation.
      places: where in the feature map it is, counted row by row.
      active: of each ReLU, which units k gave more than 0; of a feature map, anywhere in it. Empty
        for other activations.
    """

    peaks: Mapping[str, Float[np.ndarray, "n k"]]
    places: Mapping[str, Int[np.ndarray, "n k"]]
    active: Mapping[str, Bool[np.ndarray, "n k"]]

    def dead(self) -> dict[str, Int[np.ndarray, " dead"]]:
        """The units of each ReLU that gave 0 for every image."""
        return {name: np.flatnonzero(~active.any(0)) for name, active in self.active.items()}


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Accuracy at each confidence level, in m bins of equal width.

    Attributes:
      confidence: mean probability of the predicted class in each bin; NaN of an empty one.
      accuracy: share of right predictions; NaN likewise.
      count: images.
      error: the expected calibration error: their mean distance over all images.
    """

    confidence: Float[np.ndarray, " m"]
    accuracy: Float[np.ndarray, " m"]
    count: Int[np.ndarray, " m"]
    error: float


@dataclasses.dataclass(frozen=True)
class Findings:
    """All that is measured of a network.

    Attributes:
      test: the images that it was tested on, and their labels.
      logits: of each.
      survey: how it responds to them.
      activations: see `activations`.
      example: the image that is followed.
      steps: the output of each layer for it, see `journey`.
      saliency: see `saliency`.
    """

    test: Split
    logits: Float[np.ndarray, "n k"]
    survey: Survey
    activations: Mapping[str, Float[np.ndarray, " m"]]
    example: Example
    steps: Mapping[str, Float[np.ndarray, "..."]]
    saliency: Float[np.ndarray, "h w"]

    @functools.cached_property
    def probabilities(self) -> Float[np.ndarray, "n k"]:
        """Of each class, for each image."""
        return np.asarray(jax.nn.softmax(self.logits))

    @functools.cached_property
    def predictions(self) -> Int[np.ndarray, " n"]:
        """The most likely classes."""
        return self.logits.argmax(axis=-1)

    @functools.cached_property
    def calibration(self) -> Calibration:
        """Accuracy at each confidence level."""
        return calibration(self.probabilities, self.test.labels)

    def mistakes(self) -> Int[np.ndarray, " wrong"]:
        """The images that it gets wrong, the most confident first."""
        wrong = np.flatnonzero(self.predictions != self.test.labels)
        return wrong[np.argsort(-self.probabilities[wrong].max(axis=1), kind="stable")]


def find(network: Network, test: Split, example: Example) -> Findings:
    """Measures everything."""
    return Findings(
        test=test,
        logits=network.logits(test.images),
        survey=survey(network, test.images),
        activations=activations(network, test.images),
        example=example,
        steps=journey(network, example.image),
        saliency=saliency(network, example.image),
    )


def survey(network: Network, images: UInt8[np.ndarray, "n h w c"]) -> Survey:
    """The responses to all images, which have the network's size."""
    return Survey(*network.run(_survey, images))


def exciting_patches(
    survey: Survey, images: UInt8[np.ndarray, "n h w c"], layer: str, padding: int = 0
) -> UInt8[np.ndarray, "k m side side c"]:
    """The m patches that excite each filter most, strongest first, at most one of an image.

    A patch is what the unit sees: its receptive field, cut out of the image, which the network pads
    by `padding` pixels; they are shown black.
    """
    side, step = FIELDS[layer]
    images = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    width = (images.shape[2] - side) // step + 1  # of the feature map
    rows = []
    for peaks, places in zip(survey.peaks[layer].T, survey.places[layer].T, strict=True):
        best = np.argsort(-peaks, kind="stable")[:PATCHES]
        corners = [
            (index, *(step * n for n in divmod(int(places[index]), width))) for index in best
        ]
        rows.append(np.stack([images[i, y : y + side, x : x + side] for i, y, x in corners]))
    return np.stack(rows)


def journey(
    network: Network, image: UInt8[np.ndarray, "h w c"]
) -> dict[str, Float[np.ndarray, "..."]]:
    """The output of each of `network.layers` for one image of the network's size."""
    steps = jax.jit(network.model.activations)(network.normalise(image[None]))
    return {name: np.asarray(steps[name][0]) for name in network.layers}


def saliency(network: Network, image: UInt8[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w"]:
    """How much the winning logit changes with each pixel: |gradient|, the largest over channels.

    Source: Simonyan, Vedaldi, Zisserman, "Deep inside convolutional networks", 2014, section 3.
    """
    graphdef, params = nnx.split(network.model)

    @functools.partial(jax.jit, compiler_options=ops.compiler_options())
    def gradient(pixels: Array) -> Array:
        def winner(pixels: Array, params: nnx.State) -> Array:
            return jnp.max(nnx.merge(graphdef, params)(pixels))

        _, grads = autograd.backward(winner, pixels, params)
        return grads

    grads = np.asarray(gradient(network.normalise(image[None])))[0]
    return np.abs(grads).max(axis=-1)


def calibration(
    probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], bins: int = 10
) -> Calibration:
    """The calibration of predictions.

    Source: Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", 2017, eq. 3.
    """
    confidences = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    place = np.minimum((confidences * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    divisor = np.where(count > 0, count, np.nan)
    confidence = np.bincount(place, confidences, bins) / divisor
    accuracy = np.bincount(place, right, bins) / divisor
    error = np.nansum(count * np.abs(accuracy - confidence)) / max(len(labels), 1)
    return Calibration(confidence, accuracy, count, float(error))


def activations(
    network: Network, images: UInt8[np.ndarray, "n h w c"]
) -> dict[str, Float[np.ndarray, " m"]]:
    """All outputs of each activation, and the logits, over the first `SAMPLE` images."""
    sample = images[:SAMPLE]
    names = [f"{layer}.{network.model.activation}" for layer in ACTIVATED]
    return {name: network.features(sample, name).ravel() for name in (*names, "fc3")}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _survey(
    graphdef: nnx.GraphDef,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    params: nnx.State,
    images: UInt8[Array, "n h w c"],
) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
    model = nnx.merge(graphdef, params)
    steps = model.activations(ops.normalise(images, mean, std))
    relus = [f"{layer}.relu" for layer in ACTIVATED if model.activation == "relu"]
    maps = {name: steps[name].reshape(len(images), -1, steps[name].shape[-1]) for name in steps}
    return (
        {name: maps[name].max(1) for name in CONVOLUTIONS},
        {name: maps[name].argmax(1) for name in CONVOLUTIONS},
        {name: (maps[name] > 0).any(1) for name in relus},
    )
