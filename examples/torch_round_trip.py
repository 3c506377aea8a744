"""Weights from PyTorch to JAX and back: the same weights give the same logits.

    .venv/bin/pip install torch
    .venv/bin/python -m examples.torch_round_trip

This script defines LeNet in PyTorch, loads its weights into JAX, compares the logits, changes the
weights in JAX, and loads them back into PyTorch.
"""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.torch
import torch
from flax import nnx
from torch.nn import functional

from lenet_jax.inference.load import save_params
from lenet_jax.inference.state_dict import from_state_dict
from lenet_jax.nn.lenet import LeNet


class TorchLeNet(torch.nn.Module):
    """LeNet: images of 32×32, ten classes, 49,102 parameters."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 6, 5)
        self.conv2 = torch.nn.Conv2d(6, 12, 5)
        self.fc1 = torch.nn.Linear(12 * 5 * 5, 120)
        self.fc2 = torch.nn.Linear(120, 84)
        self.fc3 = torch.nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images in (batch, channels, height, width)."""
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = torch.flatten(x, 1)
        x = functional.relu(self.fc1(x))
        x = functional.relu(self.fc2(x))
        return self.fc3(x)


# The same network in JAX, without weights: its graph definition and its parameters' shapes.
GRAPHDEF, LIKE = nnx.split(nnx.eval_shape(lambda: LeNet(rngs=nnx.Rngs(0))), nnx.Param)


@jax.jit
def jax_logits(params: nnx.State, images: jax.Array) -> jax.Array:
    """Logits of images in (batch, height, width, channels)."""
    return nnx.merge(GRAPHDEF, params)(images)


def compare(network: TorchLeNet, params: nnx.State) -> float:
    """The largest difference between the two networks' logits over 100 random images."""
    images = np.random.default_rng(0).normal(size=(100, 32, 32, 1)).astype(np.float32)
    with torch.no_grad():
        theirs = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    difference = float(np.abs(jax_logits(params, jnp.asarray(images)) - theirs).max())
    assert difference <= 1e-5, difference
    return difference


def main() -> None:
    """Converts the weights in memory and through files."""
    torch.manual_seed(0)
    network = TorchLeNet()

    # From a file, use `load_params(path, LIKE)`.
    params = from_state_dict(network.state_dict(), LIKE)
    print(f"PyTorch → JAX: logits differ by {compare(network, params):.1e} at most")

    # Back through a file, with changed weights.
    params = jax.tree.map(lambda leaf: leaf * 0.9, params)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "from_jax.safetensors"
        save_params(path, params, metadata={})
        network.load_state_dict(safetensors.torch.load_file(path))
    print(f"JAX → PyTorch: logits differ by {compare(network, params):.1e} at most")

    # The round trip is bit-exact.
    again = from_state_dict(network.state_dict(), LIKE)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), again, params))
    print("Round trip: bit-identical")


if __name__ == "__main__":
    main()
