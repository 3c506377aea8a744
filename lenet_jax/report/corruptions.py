"""How a network answers on corrupted test images."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int, UInt8

from lenet_jax.analysis.robustness import Robustness
from lenet_jax.corruptions.mnist_c import CORRUPTIONS, corrupt
from lenet_jax.data.dataset import Split
from lenet_jax.inference import forward
from lenet_jax.inference.network import Network
from lenet_jax.plots.corruptions import CLEAN

EXAMPLES = 10


@dataclasses.dataclass(frozen=True)
class Corrupted:
    """Answers on corrupted images.

    Attributes:
      robustness: the errors over all test images.
      images: m of them, of different classes where there are as many; clean, and corrupted.
      answers: their predicted classes.
      labels: their true classes.
      indices: which test images they are.
    """

    robustness: Robustness
    images: Mapping[str, UInt8[np.ndarray, "m h w c"]]
    answers: Mapping[str, Int[np.ndarray, " m"]]
    labels: Int[np.ndarray, " m"]
    indices: Int[np.ndarray, " m"]

    @property
    def errors(self) -> dict[str, float]:
        """The clean error, and that under each corruption."""
        return {CLEAN: self.robustness.clean, **self.robustness.corrupted}


def find_corrupted(network: Network, test: Split) -> Corrupted:
    """Tests a network on all images under each corruption."""
    _, first = np.unique(test.labels, return_index=True)
    shown = first[:EXAMPLES]
    images, answers, errors = {}, {}, {}
    for name in (CLEAN, *CORRUPTIONS):
        own = test.images
        if name != CLEAN:
            own = corrupt(test.images, name, network.form.native)
        # As they are: `predict` would invert those whose ground became light.
        predictions = network.run(forward.logits, own).argmax(axis=-1)
        errors[name] = float(np.mean(predictions != test.labels))
        images[name], answers[name] = own[shown], predictions[shown]
    clean = errors.pop(CLEAN)
    return Corrupted(Robustness(clean, errors), images, answers, test.labels[shown], shown)
