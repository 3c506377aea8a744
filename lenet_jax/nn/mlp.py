"""LeNet-300-100: three linear layers, the network of the literature on pruning."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import jax
from flax import nnx
from jaxtyping import Array, Float

from lenet_jax.nn import ops
from lenet_jax.nn.initializers import Init, initializers
from lenet_jax.nn.lenet_1998 import squash

Activation = ops.Activation | Literal["squash"]
ACTIVATIONS: Mapping[Activation, Callable[[Array], Array]] = {**ops.ACTIVATIONS, "squash": squash}


class MLP(nnx.Module):
    """Linear layers with an activation between them; by default LeNet-300-100.

    Attributes:
      layers: the linear layers, in order; the last one gives the logits.

    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document
    recognition", 1998, section III.C.4; by default with ReLU in place of tanh, as in Frankle and
    Carbin, "The lottery ticket hypothesis", 2019.
    """

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        num_classes: int,
        features: Sequence[int] = (300, 100),
        activation: Activation = "relu",
        init: Init = "torch",
        rngs: nnx.Rngs,
    ):
        """Creates the layers.

        Args:
          image_shape: height, width and channels of an image.
          num_classes: logits.
          features: units of the hidden layers; without any, it is a linear classifier.
          activation: one of `ops.ACTIVATIONS`, or `squash`, that of the source.
          init: of the weights, see `initializers`.
          rngs: the stream `params` is drawn from.
        """
        self.activation: Activation = activation
        sizes = [math.prod(image_shape), *features, num_classes]
        self.layers = nnx.List(
            [
                nnx.Linear(n, k, rngs=rngs, **initializers(init, n))
                for n, k in itertools.pairwise(sizes)
            ]
        )

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b k"]:
        """Logits of normalised images."""
        x: jax.Array = images.reshape(images.shape[0], -1)
        for layer in self.layers[:-1]:
            x = ACTIVATIONS[self.activation](layer(x))
        return self.layers[-1](x)
