"""Weights of a small network, and the error of `torch_bridge` for invalid ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from hypothesis import HealthCheck

from lenet_jax import torch_bridge
from lenet_jax.errors import run_command
from lenet_jax.nn.lenet import LeNet

WITHOUT_TORCH = "torch is not installed: only the recorded network is compared"


SIZES = {"channels": (2, 3), "features": (5, 4), "num_classes": 6, "image_size": 16}


ONE_PATH = [HealthCheck.function_scoped_fixture]  # every example overwrites the same file


@functools.cache
def split(**sizes):
    return nnx.split(nnx.eval_shape(lambda: LeNet(**sizes, rngs=nnx.Rngs(0))), nnx.Param)


def random_params(seed=0, **sizes):
    """Finite values of all magnitudes and both signs, including zeros and subnormals."""
    random = np.random.default_rng(seed)

    def draw(leaf):
        bits = random.integers(0, 2**32, leaf.shape, np.uint32) & 0xBFFFFFFF
        return jnp.array(bits.view(np.float32))

    return jax.tree.map(draw, split(**sizes)[1])


def refusal(capsys, *argv):
    """The error that the command prints: at most three lines on stderr, and nothing else."""
    assert run_command(torch_bridge.main, [str(argument) for argument in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert 1 <= err.count("\n") <= 3
    assert "Traceback" not in err
    return err
