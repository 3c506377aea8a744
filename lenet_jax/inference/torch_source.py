"""Source code of a standalone PyTorch module for an exported network."""

from collections.abc import Sequence

from lenet_jax.nn.lenet import LeNet

TEXT = '''\
"""A LeNet trained with lenet_jax, for PyTorch. Needs only torch and safetensors.

    network = load(…)  # the .safetensors file that was written beside this one
    logits = network(normalise(pixels))  # uint8 of shape (n, {in_channels}, {size}, {size})
"""

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

MEAN, STD = {mean}, {std}  # per channel, of pixels in 0..255
CLASSES = {classes}


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d({in_channels}, {c1}, 5{padding})
        self.conv2 = nn.Conv2d({c1}, {c2}, 5)
        self.fc1 = nn.Linear({flat}, {f1})
        self.fc2 = nn.Linear({f1}, {f2})
        self.fc3 = nn.Linear({f2}, {num_classes})

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = functional.{pool}_pool2d(functional.{activation}(self.conv1(images)), 2)
        x = functional.{pool}_pool2d(functional.{activation}(self.conv2(x)), 2)
        x = functional.{activation}(self.fc1(x.flatten(1)))
        return self.fc3(functional.{activation}(self.fc2(x)))


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (
        torch.tensor(values, device=pixels.device).reshape(1, -1, 1, 1) for values in (MEAN, STD)
    )
    return (pixels.float() - mean) / std


def load(path: str) -> LeNet:
    network = LeNet()
    network.load_state_dict(load_file(path))
    return network.eval()
'''


def source(
    model: LeNet,
    mean: Sequence[float],
    std: Sequence[float],
    class_names: Sequence[str],
) -> str:
    """The source code of the module.

    Args:
      model: the network.
      mean: mean per channel, of pixels in 0..255.
      std: standard deviation, likewise.
      class_names: the classes of the logits, in order.
    """
    return TEXT.format(
        in_channels=model.conv1.in_features,
        size=model.image_size,
        activation=model.activation,
        pool=model.pool,
        padding=f", padding={model.padding}" if model.padding else "",
        mean=list(mean),
        std=list(std),
        classes=list(class_names),
        c1=model.conv1.out_features,
        c2=model.conv2.out_features,
        flat=model.fc1.in_features,
        f1=model.fc1.out_features,
        f2=model.fc2.out_features,
        num_classes=model.fc3.out_features,
    )
