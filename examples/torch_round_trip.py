"""A network's way from PyTorch to JAX and back: the same weights, the same logits.

    pip install -e . torch
    python examples/torch_round_trip.py

defines the notes' network as PyTorch's users write it, takes its weights over, compares the logits
of both, changes the weights on this side, and takes them back.
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

from lenet_jax import torch_bridge
from lenet_jax.models import LeNet


class TorchLeNet(torch.nn.Module):
    """The network of the notes: images of 32×32, ten classes, 49,102 parameters."""

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


def compare(torch_network: TorchLeNet, jax_network: LeNet) -> float:
    """The largest difference between the logits of both, over 100 random images."""
    images = np.random.default_rng(0).normal(size=(100, 32, 32, 1)).astype(np.float32)
    with torch.no_grad():
        theirs = torch_network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    ours = jax_network(jnp.asarray(images))
    difference = float(np.abs(np.asarray(ours) - theirs.numpy()).max())
    assert difference <= 1e-5, difference
    return difference


def main() -> None:
    """Makes the trip, in memory and through files."""
    torch.manual_seed(0)
    torch_network = TorchLeNet()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        # There, through a file: the sizes are read off the shapes.
        safetensors.torch.save_file(torch_network.state_dict(), folder / "from_torch.safetensors")
        jax_network, _ = torch_bridge.load_model(folder / "from_torch.safetensors")
        print(f"PyTorch → JAX: logits differ by {compare(torch_network, jax_network):.1e} at most")

        # There, in memory, into a network that exists.
        jax_network = LeNet(rngs=nnx.Rngs(0))
        like = nnx.state(jax_network, nnx.Param)
        params = torch_bridge.from_state_dict(torch_network.state_dict(), like)
        nnx.update(jax_network, params)
        compare(torch_network, jax_network)

        # And back, with weights that PyTorch has not seen.
        params = jax.tree.map(lambda p: p * 0.9, params)
        nnx.update(jax_network, params)
        torch_bridge.save(folder / "from_jax.safetensors", params, notes={})
        torch_network = TorchLeNet()
        torch_network.load_state_dict(safetensors.torch.load_file(folder / "from_jax.safetensors"))
        print(f"JAX → PyTorch: logits differ by {compare(torch_network, jax_network):.1e} at most")

        # A round trip leaves every bit as it was.
        again = torch_bridge.from_state_dict(torch_network.state_dict(), params)
        assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), again, params))
        print("Round trip: bit-identical")


if __name__ == "__main__":
    main()
