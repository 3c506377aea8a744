"""LeNet: two convolutions with pooling, three linear layers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lenet_jax.nn import ops
from lenet_jax.nn.initializers import Draws, Init


def step_names(activation: ops.Activation = "relu") -> tuple[str, ...]:
    """The steps of a forward pass, from `conv1` over `conv1.relu` and `conv1.pool` to `fc3`."""
    convolutions = [
        name
        for layer in ("conv1", "conv2")
        for name in (layer, f"{layer}.{activation}", f"{layer}.pool")
    ]
    linears = [name for layer in ("fc1", "fc2") for name in (layer, f"{layer}.{activation}")]
    return (*convolutions, "flatten", *linears, "fc3")


class LayerSize(NamedTuple):
    """The sizes of a layer, for one image.

    Attributes:
      shape: of the output; of a convolution, after pooling.
      num_params: weights and biases.
      multiplications: of the matrix product or convolution, all counted as dense.
    """

    shape: tuple[int, ...]
    num_params: int
    multiplications: int


def final_side(image_size: int, padding: int = 0) -> int:
    """Height and width of conv2's pooled feature maps: 32 → 28 → 14 → 10 → 5."""
    return (image_size + 2 * padding) // 4 - 3


def image_size_of(final_side: int, padding: int = 0) -> int:
    """Height and width of the images whose last feature maps have this side."""
    return 4 * (final_side + 3) - 2 * padding


def layer_sizes(
    channels: Sequence[int],
    features: Sequence[int],
    num_classes: int,
    in_channels: int,
    image_size: int,
    padding: int,
) -> dict[str, LayerSize]:
    """The sizes of each layer of a `LeNet` with these arguments, from `conv1` to `fc3`."""
    sizes, side, inputs = {}, image_size + 2 * padding, in_channels
    for number, outputs in enumerate(channels, 1):
        side, weights = side - 4, 25 * inputs * outputs
        shape = side // 2, side // 2, outputs
        sizes[f"conv{number}"] = LayerSize(shape, weights + outputs, side**2 * weights)
        side, inputs = side // 2, outputs
    inputs *= side**2
    for number, outputs in enumerate([*features, num_classes], 1):
        weights = inputs * outputs
        sizes[f"fc{number}"] = LayerSize((outputs,), weights + outputs, weights)
        inputs = outputs
    return sizes


class LeNet(nnx.Module):
    """The LeNet of PyTorch's tutorial notes; LeNet-5 with other sizes.

    Layers are created here; `__call__` is the forward pass. It returns logits: the last layer has
    no ReLU, since the loss normalises and negative evidence counts.

    Attributes:
      conv1, conv2: 5×5 convolutions, each followed by the activation, then by 2×2 pooling.
      fc1, fc2, fc3: linear layers; the activation between them.
      image_size: height and width of an image, in pixels.
      activation, pool, padding: as given.

    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document
    recognition", 1998, section II.B; by default with max-pooling and ReLU in place of the
    original's trainable subsampling and tanh.
    """

    def __init__(
        self,
        channels: Sequence[int] = (6, 12),
        features: Sequence[int] = (120, 84),
        num_classes: int = 10,
        *,
        in_channels: int = 1,
        image_size: int = 32,
        activation: ops.Activation = "relu",
        pool: ops.Pool = "max",
        padding: int = 0,
        init: Init = "torch",
        backend: ops.Backend = "auto",
        precision: str = "float32",
        rngs: nnx.Rngs,
    ):
        """Creates the layers.

        Args:
          channels: feature maps of conv1 and conv2.
          features: units of fc1 and fc2.
          num_classes: logits.
          in_channels: channels of an image.
          image_size: height and width of an image, in pixels; with twice the padding 16, 20, 24, …
          activation: one of `ops.ACTIVATIONS`; after convolutions it comes before pooling, as in
            PyTorch's tutorials. With other pairs than `relu` and `max`, convolutions are slower.
          pool: `max` or `avg`, of 2×2 blocks.
          padding: zeros around the normalised image, as `Conv2d(padding=…)` of conv1 adds them.
          init: `torch` draws weights and biases uniformly in ±1/√fan_in, as PyTorch's layers do;
            `flax` draws weights from LeCun's normal distribution and sets biases to 0.
          backend: how layers are computed, see `ops.conv_pool_relu`.
          precision: of their products, see `ops`.
          rngs: the stream `params` is drawn from.

        Raises:
          ValueError: the image size leaves no even feature maps to pool.
        """
        if image_size + 2 * padding < 16 or (image_size + 2 * padding) % 4 or padding < 0:
            plus = f" with {padding} of padding on each side" if padding else ""
            raise ValueError(f"image_size{plus} must be 16, 20, 24, …, not {image_size}")
        self.image_size = image_size
        self.activation: ops.Activation = activation
        self.pool: ops.Pool = pool
        self.padding = padding
        self.backend: ops.Backend = backend
        self.precision = precision
        c1, c2 = channels
        f1, f2 = features
        flat = c2 * final_side(image_size, padding) ** 2

        draws = Draws(init)

        def conv(c: int, k: int) -> nnx.Conv:
            return nnx.Conv(
                c,
                k,
                (5, 5),
                padding="VALID",
                precision=precision,
                rngs=rngs,
                **draws.initializers(25 * c),
            )

        def linear(n: int, k: int) -> nnx.Linear:
            return nnx.Linear(n, k, precision=precision, rngs=rngs, **draws.initializers(n))

        self.conv1, self.conv2 = conv(in_channels, c1), conv(c1, c2)
        self.fc1, self.fc2, self.fc3 = linear(flat, f1), linear(f1, f2), linear(f2, num_classes)
        draws.fill([self.conv1, self.conv2, self.fc1, self.fc2, self.fc3])

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b k"]:
        """Logits of normalised images."""
        with jax.named_scope("conv1"):  # the name in profiles, and in `graph`
            x = self._conv_pool(self.conv1, self._pad(images))
        with jax.named_scope("conv2"):
            x = self._conv_pool(self.conv2, x)
        with jax.named_scope("flatten"):
            x = ops.flatten(x)
        with jax.named_scope("fc1"):
            x = self._activate(self._linear(self.fc1, x))
        with jax.named_scope("fc2"):
            x = self._activate(self._linear(self.fc2, x))
        with jax.named_scope("fc3"):
            return self._linear(self.fc3, x)

    def feature_maps(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 k"]:
        """What conv1's filters respond to: its output after the activation, before pooling."""
        return self._activate(self.conv1(self._pad(images)))

    def activations(self, images: Float[Array, "b h w c"]) -> dict[str, Float[Array, "b ..."]]:
        """The output of each of `step_names`, from `conv1` to `fc3`.

        Convolution, then activation, then pooling, each computed separately.
        `fc3` holds the logits, which equal those of `__call__` up to rounding.
        """
        steps, x = {}, self._pad(images)
        for name, convolve in (("conv1", self.conv1), ("conv2", self.conv2)):
            steps[name] = convolve(x)
            steps[f"{name}.{self.activation}"] = x = self._activate(steps[name])
            steps[f"{name}.pool"] = x = self._pool(x)
        steps["flatten"] = x = ops.flatten(x)
        for name, connect in (("fc1", self.fc1), ("fc2", self.fc2)):
            steps[name] = connect(x)
            steps[f"{name}.{self.activation}"] = x = self._activate(steps[name])
        steps["fc3"] = self.fc3(x)
        return steps

    def layer_sizes(self) -> dict[str, LayerSize]:
        """The sizes of each layer, from `conv1` to `fc3`; the parameters may be abstract."""
        return layer_sizes(
            (self.conv1.out_features, self.conv2.out_features),
            (self.fc1.out_features, self.fc2.out_features),
            self.fc3.out_features,
            self.conv1.in_features,
            self.image_size,
            self.padding,
        )

    def _pad(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        sides = (self.padding, self.padding)
        return jnp.pad(images, ((0, 0), sides, sides, (0, 0))) if self.padding else images

    def _activate(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return ops.ACTIVATIONS[self.activation](x)

    def _pool(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        if self.pool == "avg":
            return ops.avg_pool(x)
        return nnx.max_pool(x, window_shape=(2, 2), strides=(2, 2))

    def _conv_pool(self, layer: nnx.Conv, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 k"]:
        assert layer.bias is not None
        arrays = x, layer.kernel[...], layer.bias[...]
        how: Any = {"backend": self.backend, "precision": self.precision}
        if (self.activation, self.pool) == ("relu", "max"):
            return ops.conv_pool_relu(*arrays, **how)
        return ops.conv_activate_pool(*arrays, self.activation, self.pool, **how)

    def _linear(self, layer: nnx.Linear, x: Float[Array, "b n"]) -> Float[Array, "b k"]:
        assert layer.bias is not None
        return ops.linear(
            x,
            layer.kernel[...],
            layer.bias[...],
            backend=self.backend,
            precision=self.precision,
        )
