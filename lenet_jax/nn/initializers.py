"""The distributions of initial weights and biases."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
from jaxtyping import Array

Init = Literal["torch", "flax", "lecun_1998"]


def initializers(init: Init, fan_in: int) -> dict[str, Any]:
    """The arguments of a Flax layer that say how it is initialised.

    Args:
      init: `torch` draws weights and biases uniformly in ±1/√fan_in, as PyTorch's layers do; `flax`
        draws weights from LeCun's normal distribution and sets biases to 0; `lecun_1998` draws
        both uniformly in ±2.4/fan_in, as in appendix A of the paper of LeNet-5.
      fan_in: how many inputs a unit of the layer has.
    """
    if init == "flax":
        return {}
    bound = 2.4 / fan_in if init == "lecun_1998" else 1 / math.sqrt(fan_in)

    def uniform(key: Array, shape: Sequence[int], dtype: jax.typing.DTypeLike) -> Array:
        return jax.random.uniform(key, shape, dtype, minval=-bound, maxval=bound)

    return {"kernel_init": uniform, "bias_init": uniform}
