"""The convolutional networks of 1998: LeNet-1, LeNet-4, LeNet-5 and boosted LeNet-4.

Layers have the paper's names: C convolves, S subsamples, F is fully connected. Every layer but the
last ends in `squash`, and starts with weights and biases uniform in ±2.4/fan-in. Where the paper
leaves a choice, `docs/lenet_1998.md` says what was chosen and why.

Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition",
1998, sections II.B and III.C and appendix A.
"""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from lenet_jax.errors import UserError
from lenet_jax.nn.bitmaps import digit_codes
from lenet_jax.nn.initializers import initializers

Table = tuple[tuple[int, ...], ...]  # of each feature map, the maps before it that it sees

SIZE = 5  # of every kernel
# LeNet-1, from LeCun et al., "Handwritten digit recognition with a back-propagation network", 1990.
LENET1_H3: Table = (
    *((0,), (0, 1), (0, 1), (1,), (0, 1), (0, 1)),
    *((2,), (2, 3), (2, 3), (3,), (2, 3), (2, 3)),
)
LENET4_C3: Table = (  # of eight maps: threes, fours and fives beside each other in a circle
    *(tuple(sorted((first + i) % 8 for i in range(3))) for first in range(8)),
    *(tuple(sorted((first + i) % 8 for i in range(4))) for first in range(0, 8, 2)),
    *(tuple(sorted((first + i) % 8 for i in range(5))) for first in range(1, 8, 2)),
)
LENET4_C5: Table = tuple(  # of 16 maps: each third unit sees four, the others five
    tuple(sorted((unit + i) % 16 for i in range(5 if unit % 3 else 4))) for unit in range(120)
)
LENET5_C3: Table = (  # Table I
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5)),
)


def squash(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """1.7159 tanh(2x/3), which maps ±1 to ±1 and bends most there."""
    return 1.7159 * jnp.tanh(2 / 3 * x)


class Subsampling(nnx.Module):
    """The sum of each 2×2 block, times a coefficient, plus a bias, of each map; squashed."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        """Creates the two parameters of each of `channels` maps."""
        init = initializers("lecun_1998", 4)
        self.coefficient = nnx.Param(init["kernel_init"](rngs.params(), (channels,), jnp.float32))
        self.bias = nnx.Param(init["bias_init"](rngs.params(), (channels,), jnp.float32))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        """The maps, half as high and wide."""
        block = (1, 2, 2, 1)
        sums = lax.reduce_window(x, np.float32(0), lax.add, block, block, "VALID")
        return squash(sums * _of_maps(self.coefficient) + _of_maps(self.bias))


class TableConv(nnx.Module):
    """A 5×5 convolution whose maps see some of the maps before them; squashed.

    It has only the weights of the connections that there are, one kernel each.
    """

    def __init__(self, channels: int, table: Table, *, rngs: nnx.Rngs):
        """Creates the kernels, (5, 5, connections), map after map, and the biases.

        Args:
          channels: maps of the input.
          table: of each map, those of the input that it sees.
          rngs: the stream `params` is drawn from.
        """
        self.channels, self.table = channels, table
        counts = np.asarray([len(seen) for seen in table])
        fan_in = np.float32(SIZE**2 * counts)
        init = initializers("lecun_1998", 1)
        kernel = init["kernel_init"](rngs.params(), (SIZE, SIZE, int(counts.sum())), jnp.float32)
        bias = init["bias_init"](rngs.params(), (len(table),), jnp.float32)
        self.kernel = nnx.Param(kernel / np.repeat(fan_in, counts).reshape(1, 1, -1))
        self.bias = nnx.Param(bias / fan_in)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 k"]:
        """The maps, four pixels less high and wide."""
        layout = ("NHWC", "HWIO", "NHWC")
        # Zeros where there is no connection are faster than a convolution in groups.
        kernel = self.dense_kernel()
        x = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=layout)
        return squash(x + _of_maps(self.bias))

    def dense_kernel(self) -> Float[Array, "5 5 c k"]:
        """The kernel of all maps of the input, with zeros where there is no connection."""
        outputs = np.repeat(np.arange(len(self.table)), [len(seen) for seen in self.table])
        inputs = np.asarray([*itertools.chain(*self.table)])
        kernel = self.kernel[...]
        dense = jnp.zeros((SIZE, SIZE, self.channels, len(self.table)), kernel.dtype)
        return dense.at[:, :, inputs, outputs].set(kernel, unique_indices=True)


class LeNet1(nnx.Module):
    """LeNet-1, for images of 28×28: 2,578 parameters.

    Attributes:
      c1, s2: 4 maps of 24×24, and of 12×12.
      c3, s4: 12 maps of 8×8, each of one or two of those before, and of 4×4.
      output: a weighted sum for each class.
    """

    def __init__(self, *, image_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs):
        """Creates the layers; `image_shape` must begin with 28, 28."""
        channels = _check_size(self, image_shape, 28)
        self.c1 = _convolution(channels, 4, rngs)
        self.s2 = Subsampling(4, rngs=rngs)
        self.c3 = TableConv(4, LENET1_H3, rngs=rngs)
        self.s4 = Subsampling(12, rngs=rngs)
        self.output = _linear(12 * 4 * 4, num_classes, rngs)

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b k"]:
        """Weighted sums of normalised images, which the loss `squashed_mse` squashes."""
        x = self.s4(self.c3(self.s2(squash(self.c1(images)))))
        return self.output(x.reshape(x.shape[0], -1))


class LeNet4(nnx.Module):
    """LeNet-4, for images of 32×32: 16,998 parameters.

    Attributes:
      c1: 4 maps of 28×28.
      s2: 8 maps of 14×14, two of each before.
      c3, s4: 16 maps of 10×10, each of three to five of those before, and of 5×5.
      c5: 120 units, each of four or five maps.
      output: a weighted sum for each class.
    """

    def __init__(self, *, image_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs):
        """Creates the layers; `image_shape` must begin with 32, 32."""
        channels = _check_size(self, image_shape, 32)
        self.c1 = _convolution(channels, 4, rngs)
        self.s2 = Subsampling(8, rngs=rngs)
        self.c3 = TableConv(8, LENET4_C3, rngs=rngs)
        self.s4 = Subsampling(16, rngs=rngs)
        self.c5 = TableConv(16, LENET4_C5, rngs=rngs)
        self.output = _linear(120, num_classes, rngs)

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b k"]:
        """Weighted sums of normalised images, which the loss `squashed_mse` squashes."""
        maps = squash(self.c1(images))
        x = self.c5(self.s4(self.c3(self.s2(jnp.concatenate([maps, maps], axis=-1)))))
        return self.output(x.reshape(x.shape[0], -1))


class BoostedLeNet4(nnx.Module):
    """Three LeNet-4 whose outputs are added; `experiments.boosted` trains one after the other.

    Attributes:
      networks: the three.
    """

    def __init__(self, *, image_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs):
        """Creates the networks; `image_shape` must begin with 32, 32."""
        self.networks = nnx.List(
            [LeNet4(image_shape=image_shape, num_classes=num_classes, rngs=rngs) for _ in range(3)]
        )

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b k"]:
        """Sums of the networks' squashed outputs for normalised images."""
        first, second, third = (squash(network(images)) for network in self.networks)
        return first + second + third


class LeNet5(nnx.Module):
    """LeNet-5 as published, for images of 32×32: 60,000 parameters.

    Attributes:
      c1, s2: 6 maps of 28×28, and of 14×14.
      c3, s4: 16 maps of 10×10, connected as in the paper's Table I, and of 5×5.
      c5: 120 units, each of all maps.
      f6: 84 units, which are compared with the bitmaps of the digits.
    """

    def __init__(self, *, image_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs):
        """Creates the layers; `image_shape` must begin with 32, 32, `num_classes` be 10."""
        channels = _check_size(self, image_shape, 32)
        if num_classes != 10:
            raise UserError(
                f"lenet5_1998 compares its last layer with bitmaps of the ten digits; the data have"
                f" {num_classes} classes\nUse --config.model.name=lenet, or lenet4."
            )
        self.c1 = _convolution(channels, 6, rngs)
        self.s2 = Subsampling(6, rngs=rngs)
        self.c3 = TableConv(6, LENET5_C3, rngs=rngs)
        self.s4 = Subsampling(16, rngs=rngs)
        self.c5 = _convolution(16, 120, rngs)
        self.f6 = _linear(120, 84, rngs)

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b k"]:
        """Minus the squared distances of f6 from the bitmaps, for normalised images.

        The paper's output is the distance, of which the smallest wins; as logits, minus a distance
        is an unnormalised log-probability.
        """
        x = self.s4(self.c3(self.s2(squash(self.c1(images)))))
        x = squash(self.c5(x)).reshape(x.shape[0], -1)
        x = squash(self.f6(x))
        return -jnp.sum(jnp.square(x[:, None] - digit_codes()[None]), axis=-1)


def _convolution(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Conv:
    init = initializers("lecun_1998", SIZE**2 * inputs)
    return nnx.Conv(inputs, outputs, (SIZE, SIZE), padding="VALID", rngs=rngs, **init)


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, rngs=rngs, **initializers("lecun_1998", inputs))


def _of_maps(values: nnx.Param[Array]) -> Float[Array, "1 1 1 c"]:
    return values[...].reshape(1, 1, 1, -1)


def _check_size(network: nnx.Module, image_shape: Sequence[int], side: int) -> int:
    """The channels of images that have this side.

    Raises:
      UserError: they have another.
    """
    height, width, channels = image_shape
    if (height, width) != (side, side):
        raise UserError(
            f"{type(network).__name__} of 1998 takes images of {side}×{side}, not {height}×{width}:"
            f" --config.data.image_size={side}"
        )
    return channels
