"""The network of Flax's MNIST example: batch normalisation, dropout and average pooling."""

import functools

import jax
from flax import nnx
from jaxtyping import Array, Float


class FlaxMNIST(nnx.Module):
    """Two 3×3 convolutions of the same size, each with ReLU and pooling; two linear layers.

    Dropout comes before batch normalisation after conv1, and before the activation after linear1,
    as in the example.

    Source: Flax, "MNIST tutorial", 2025.
    """

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        num_classes: int,
        channels: tuple[int, int] = (32, 64),
        features: int = 256,
        dropout: float = 0.025,
        rngs: nnx.Rngs,
    ):
        """Creates the layers, with Flax's initial weights.

        Args:
          image_shape: height, width and channels of an image; twice halved, rounding down.
          num_classes: logits.
          channels: feature maps of the convolutions.
          features: units of the hidden linear layer.
          dropout: the share of values that each dropout sets to 0 in training, in [0, 1).
          rngs: the streams `params` and `dropout`, or the default one.
        """
        height, width, inputs = image_shape
        first, second = channels
        self.conv1 = nnx.Conv(inputs, first, (3, 3), rngs=rngs)
        self.batch_norm1 = nnx.BatchNorm(first, rngs=rngs)
        self.dropout1 = nnx.Dropout(dropout, rngs=rngs)
        self.conv2 = nnx.Conv(first, second, (3, 3), rngs=rngs)
        self.batch_norm2 = nnx.BatchNorm(second, rngs=rngs)
        self.linear1 = nnx.Linear(second * (height // 4) * (width // 4), features, rngs=rngs)
        self.dropout2 = nnx.Dropout(dropout, rngs=rngs)
        self.linear2 = nnx.Linear(features, num_classes, rngs=rngs)

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b k"]:
        """Logits of normalised images."""
        pool = functools.partial(nnx.avg_pool, window_shape=(2, 2), strides=(2, 2))
        x: jax.Array = pool(nnx.relu(self.batch_norm1(self.dropout1(self.conv1(images)))))
        x = pool(nnx.relu(self.batch_norm2(self.conv2(x))))
        x = nnx.relu(self.dropout2(self.linear1(x.reshape(x.shape[0], -1))))
        return self.linear2(x)
