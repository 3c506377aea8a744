"""Measurements of a trained network: what excites its filters, how well it is calibrated."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8

from lenet_jax.analysis.calibration import Calibration, calibration
from lenet_jax.data.dataset import Split
from lenet_jax.errors import UserError
from lenet_jax.inference.network import Network
from lenet_jax.nn import autograd, ops
from lenet_jax.nn.calls import call
from lenet_jax.nn.layers import Field
from lenet_jax.plots.results import rank_mistakes
from lenet_jax.report import modules
from lenet_jax.report.corruptions import Corrupted

CONVOLUTIONS = ("conv1", "conv2")
ACTIVATED = ("conv1", "conv2", "fc1", "fc2")  # layers that an activation follows
# Of a unit of a convolution: the side of what it sees of the image, and the step to the next unit.
SIDES = {"conv1": (5, 1), "conv2": (14, 2)}  # 5×5 behind a 2×2 pooling behind 5×5
PATCHES = 9  # a filter
SAMPLE = 500  # images whose activations are counted


@dataclasses.dataclass(frozen=True)
class Example:
    """One image, where it is from, and the number of its true class if that is known."""

    image: UInt8[np.ndarray, "h w c"]
    label: str
    true: int | None = None


@dataclasses.dataclass(frozen=True)
class Journey:
    """An image, and the output of each layer for it; the last are the logits."""

    example: Example
    steps: Mapping[str, Float[np.ndarray, "..."]]


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
class Filters:
    """The filters of a convolution.

    Attributes:
      kernel: their weights.
      size: of what each sees of the images, vertically and horizontally; None if unknown.
      patches: the m patches that excite each filter most; None if `size` is.
      indices: the test images that they are from.
    """

    kernel: Float[np.ndarray, "kh kw c o"]
    size: tuple[int, int] | None = None
    patches: UInt8[np.ndarray, "o m h w c2"] | None = None
    indices: Int[np.ndarray, "o m"] | None = None


@dataclasses.dataclass(frozen=True)
class Findings:
    """All that is measured of a network.

    Attributes:
      test: the images that it was tested on, and their labels.
      logits: of each.
      survey: how it responds to them.
      filters: of its convolutions by name; of others than LeNet of the first one.
      weights: of each layer.
      activations: see `activations`.
      example: the image that is followed.
      steps: the output of each layer for it, see `journey`; the last are the logits.
      saliency: see `saliency`.
      mistake: the journey of the most confident mistake; None if there is none but the example.
      left_out: remarks on what is not measured.
      corrupted: how it answers on corrupted images; None if it was not tested on them.
    """

    test: Split
    logits: Float[np.ndarray, "n k"]
    survey: Survey
    filters: Mapping[str, Filters]
    weights: Mapping[str, Float[np.ndarray, "..."]]
    activations: Mapping[str, Float[np.ndarray, " m"]]
    example: Example
    steps: Mapping[str, Float[np.ndarray, "..."]]
    saliency: Float[np.ndarray, "h w"]
    mistake: Journey | None = None
    left_out: Sequence[str] = ()
    corrupted: Corrupted | None = None

    @functools.cached_property
    def probabilities(self) -> Float[np.ndarray, "n k"]:
        """Of each class, for each image."""
        return np.asarray(jax.nn.softmax(self.logits))

    @property
    def example_logits(self) -> Float[np.ndarray, " k"]:
        """The logits of the example."""
        return list(self.steps.values())[-1]

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
        return rank_mistakes(self.logits, self.test.labels)


def find(network: Network, test: Split, example: Example) -> Findings:
    """Measures everything.

    Raises:
      UserError: logits are not finite.
    """
    logits = network.logits(test.images)
    if infinite := np.count_nonzero(~np.isfinite(logits).all(axis=-1)):
        raise UserError(
            f"{network.source}: the logits of {infinite} of {len(logits)} test images are NaN or"
            " infinite, so that there is nothing to inspect"
        )
    measure = _measure_lenet if network.is_lenet else _measure_module
    findings = Findings(
        test=test,
        logits=logits,
        example=example,
        saliency=saliency(network, example.image),
        **measure(network, test.images, example.image),
    )
    wrong = (i for i in findings.mistakes() if (test.images[i] != example.image).any())
    index = next(wrong, None)
    return findings if index is None else _follow_mistake(network, findings, int(index))


def _follow_mistake(network: Network, findings: Findings, index: int) -> Findings:
    """The findings with the journey of a test image that is classified wrongly."""
    true = int(findings.test.labels[index])
    label = f"Test image {index}, class {network.class_names[true]}: the most confident mistake"
    example = Example(findings.test.images[index], label, true)
    if network.is_lenet:
        steps = journey(network, example.image)
    else:
        names = [name for name in findings.steps if name != "logits"]
        steps = modules.journey(network, example.image, names)
    return dataclasses.replace(findings, mistake=Journey(example, steps))


def _measure_lenet(
    network: Network, images: UInt8[np.ndarray, "n h w c"], image: UInt8[np.ndarray, "h w c"]
) -> dict[str, Any]:
    """The fields of `Findings` about the layers of a LeNet."""
    responses = survey(network, images)
    filters = {}
    for layer in CONVOLUTIONS:
        kernel = np.asarray(getattr(network.model, layer).kernel[...])
        patches = exciting_patches(responses, images, layer, network.model.padding)
        indices = most_excited(responses.peaks[layer])
        filters[layer] = Filters(kernel, (SIDES[layer][0], SIDES[layer][0]), patches, indices)
    weights = network.state_dict.items()
    return {
        "survey": responses,
        "filters": filters,
        "weights": {n.removesuffix(".weight"): a for n, a in weights if n.endswith(".weight")},
        "activations": activations(network, images),
        "steps": journey(network, image),
    }


def _measure_module(
    network: Network, images: UInt8[np.ndarray, "n h w c"], image: UInt8[np.ndarray, "h w c"]
) -> dict[str, Any]:
    """The fields of `Findings` about the layers of any other module."""
    calls = network.record(image[None])
    names = modules.shown_layers(calls, network.logits(image[None]))
    left_out, filters = list[str](), dict[str, Filters]()
    if len(names) == modules.MOST_LAYERS < len(calls):
        left_out.append(f"of {len(calls)} layers the first {len(names)} are shown")
    if any(each.output.ndim == 4 and each.output.shape[-1] > modules.MOST_MAPS for each in calls):
        left_out.append(f"of each layer the first {modules.MOST_MAPS} feature maps are shown")
    first = modules.convolution(network, calls)
    if first is None:
        left_out.append("the network has no convolution (nnx.Conv) of images: filters are left out")
    else:
        name, kernel, seen = first
        filters[name] = Filters(kernel)
        if seen is None:
            left_out.append(f"{name} does not take the images: what excites it most is left out")
        else:
            peaks, places, width = modules.peaks(network, images, name)
            patches = cut_patches(peaks, places, width, images, seen)
            filters[name] = Filters(kernel, seen.size, patches, most_excited(peaks))
    return {
        "survey": Survey({}, {}, {}),
        "filters": filters,
        "weights": modules.weights(network, calls),
        "activations": modules.activations(network, images[:SAMPLE], names),
        "steps": modules.journey(network, image, names),
        "left_out": left_out,
    }


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
    side, step = SIDES[layer]
    width = (images.shape[2] + 2 * padding - side) // step + 1  # of the feature map
    field = Field((side, side), (step, step), (padding, padding))
    return cut_patches(survey.peaks[layer], survey.places[layer], width, images, field)


def most_excited(peaks: Float[np.ndarray, "n k"]) -> Int[np.ndarray, "k m"]:
    """The images that excite each filter most, strongest first, by its strongest responses."""
    return np.argsort(-peaks, axis=0, kind="stable")[:PATCHES].T


def cut_patches(
    peaks: Float[np.ndarray, "n k"],
    places: Int[np.ndarray, "n k"],
    width: int,
    images: UInt8[np.ndarray, "n h w c"],
    field: Field,
) -> UInt8[np.ndarray, "k m side side2 c"]:
    """As `exciting_patches`, of any convolution.

    Args:
      peaks: the strongest response of each filter k to each image.
      places: where in the feature map it is, counted row by row.
      width: of the feature map.
      images: what the convolution takes, before normalisation.
      field: what a unit sees of them; what is outside an image is shown black.
    """
    (height, side), margins = field.size, tuple(zip(field.before, field.size, strict=True))
    rows = []
    for indices, where in zip(most_excited(peaks), places.T, strict=True):
        patches = []
        for index in indices:
            y, x = (s * n for s, n in zip(field.step, divmod(where[index], width), strict=True))
            image = np.pad(images[index], (*margins, (0, 0)))
            patches.append(image[y : y + height, x : x + side])
        rows.append(np.stack(patches))
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
            return jnp.max(call(nnx.merge(graphdef, params, copy=True), pixels))

        _, grads = autograd.backward(winner, pixels, params)
        return grads

    grads = np.asarray(gradient(network.normalise(image[None])))[0]
    return np.abs(grads).max(axis=-1)


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
