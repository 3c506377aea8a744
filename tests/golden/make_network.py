"""Writes torch_network.safetensors and torch_logits.npz: a small LeNet of PyTorch, and its logits.

    python -m tests.golden.make_network

needs torch, safetensors and numpy. The first file is the network's `state_dict` as PyTorch's users
save it, the second a few random images, (batch, height, width, channels), and their logits. Both
name the version of torch. `test_torch_bridge` also builds networks with `torch_network`, where
there is torch.
"""

from pathlib import Path

import numpy as np

NETWORK = Path(__file__).parent / "torch_network.safetensors"
LOGITS = Path(__file__).parent / "torch_logits.npz"
# Every size is another number, so that no mistaken order of axes has the right shape.
SIZES = {
    "channels": (3, 4),
    "features": (11, 7),
    "num_classes": 5,
    "in_channels": 2,
    "image_size": 20,
}


def torch_network(channels, features, num_classes=10, in_channels=1, image_size=32):
    """LeNet as the notes write it: a module with conv1, conv2, fc1, fc2 and fc3."""
    import torch
    from torch import nn
    from torch.nn import functional

    class LeNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(in_channels, channels[0], 5)
            self.conv2 = nn.Conv2d(channels[0], channels[1], 5)
            self.fc1 = nn.Linear(channels[1] * (image_size // 4 - 3) ** 2, features[0])
            self.fc2 = nn.Linear(features[0], features[1])
            self.fc3 = nn.Linear(features[1], num_classes)

        def forward(self, x):
            x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
            x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
            x = torch.flatten(x, 1)
            x = functional.relu(self.fc1(x))
            x = functional.relu(self.fc2(x))
            return self.fc3(x)

    return LeNet()


def torch_logits(network, images):
    """The network's logits of images in (batch, height, width, channels)."""
    import torch

    with torch.no_grad():
        return network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()


def main():
    """Writes the files."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = torch_network(**SIZES)
    shape = (6, SIZES["image_size"], SIZES["image_size"], SIZES["in_channels"])
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    version = str(torch.__version__)
    save_file(network.state_dict(), NETWORK, metadata={"torch_version": version})
    np.savez_compressed(
        LOGITS,
        allow_pickle=False,
        images=images,
        logits=torch_logits(network, images),
        torch_version=np.array(version),
    )


if __name__ == "__main__":
    main()
