"""PyTorch's `state_dict` ↔ the parameters here, as safetensors files."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax import nnx
from jaxtyping import Float

StateDict = Mapping[str, Float[np.ndarray, "..."]]


def to_state_dict(params: nnx.State) -> dict[str, Float[np.ndarray, "..."]]:
    """The parameters under PyTorch's names and in its layouts: `conv1.weight`, `fc1.bias`, ….

    Convolutions go from (height, width, in, out) to (out, in, height, width), linear layers from
    (in, out) to (out, in). The rows of fc1 are moved besides: they count the flattened feature maps
    with the channels fastest here, and slowest there.
    """
    layers = nnx.to_pure_dict(params)
    state = {}
    for name, layer in layers.items():
        kernel = np.asarray(layer["kernel"])
        if name == "fc1":
            channels = layers["conv2"]["bias"].shape[0]
            size = math.isqrt(kernel.shape[0] // channels)
            kernel = kernel.reshape(size, size, channels, -1).transpose(2, 0, 1, 3)
            kernel = kernel.reshape(-1, kernel.shape[-1])
        axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
        state[f"{name}.weight"] = np.ascontiguousarray(kernel.transpose(axes))
        state[f"{name}.bias"] = np.asarray(layer["bias"])
    return state


def save(path: Path, params: nnx.State, notes: Mapping[str, str]) -> None:
    """Writes a safetensors file in PyTorch's layout, with `notes` as its metadata."""
    from safetensors.numpy import save_file

    draft = path.with_name(f".{path.name}.draft")
    save_file(to_state_dict(params), draft, metadata=dict(notes))
    draft.replace(path)
