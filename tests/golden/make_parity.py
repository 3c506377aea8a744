"""Writes parity.npz: what PyTorch's layers, loss and whole network compute, and their gradients.

    python -m tests.golden.make_parity

needs torch beside what the tests need. The file holds PyTorch's answers and its version; the
questions are drawn anew, the same for every NumPy. `test_torch_parity` also calls the functions
here, where there is torch. All arrays go in and come out in the layouts of this project.
"""

import itertools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lenet_jax.inference.state_dict import to_state_dict
from lenet_jax.nn.lenet import LeNet
from tests.golden import make_network

PATH = Path(__file__).parent / "parity.npz"
THIN = 11  # of a gradient with more than 1000 numbers the file holds every 11th

KINDS = ("random", "quantised", "pool alone")
CONVOLUTION = {"batch": 3, "size": 5, "blocks": (4, 3), "channels": 2, "features": 5}
LINEAR = {"batch": 3, "height": 2, "width": 3, "channels": 4, "features": 5}
LOGITS = {"batch": 6, "classes": 7}
REDUCTIONS = ("none", "mean", "sum")
SMOOTHINGS = (0.0, 0.1, 0.7)
CHANNELS = {"notes": (6, 12), "lenet5": (6, 16)}


def draw(seed: int, *shape: int) -> np.ndarray:
    """Numbers even in [-1, 1), from the raw bits of a generator that NumPy promises to keep."""
    bits = np.random.PCG64(seed).random_raw(math.prod(shape))
    return (bits / 2**63 - 1).astype(np.float32).reshape(shape)


def convolution_inputs(kind, seed, *, batch, size, blocks, channels, features):
    """Inputs of conv → ReLU → pool, and a cotangent.

    With `quantised` numbers every sum is exact, and many are equal: a tie here is a tie there.
    `pool alone` has besides a kernel that hands one channel through.
    """
    height, width = (2 * n + size - 1 for n in blocks)
    inputs = {
        "x": draw(seed, batch, height, width, channels),
        "kernel": draw(seed + 1, size, size, channels, features),
        "bias": draw(seed + 2, features),
    }
    if kind != "random":
        inputs = {name: np.round(2 * array) / 2 for name, array in inputs.items()}
    if kind == "pool alone":
        inputs["kernel"] = np.zeros_like(inputs["kernel"])
        inputs["kernel"][size // 2, size // 2, 0] = 1
        inputs["bias"] = np.zeros_like(inputs["bias"])
    return inputs | {"cotangent": draw(seed + 3, batch, *blocks, features)}


def torch_conv_pool_relu(x, kernel, bias, cotangent):
    """conv2d → relu → max_pool2d: the output and the gradient of each input."""
    from torch.nn import functional

    x, kernel, bias, cotangent = leaves(x, kernel, bias, cotangent)
    out = functional.conv2d(x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), bias)
    out = functional.max_pool2d(functional.relu(out), 2).permute(0, 2, 3, 1)
    out.backward(cotangent)
    return arrays(out=out, x=x.grad, kernel=kernel.grad, bias=bias.grad)


def linear_inputs(seed, *, batch, height, width, channels, features):
    """Feature maps, a linear layer for them once flattened, and a cotangent.

    The rows of the kernel are in PyTorch's order: channels slowest.
    """
    return {
        "x": draw(seed, batch, height, width, channels),
        "kernel": draw(seed + 1, channels * height * width, features),
        "bias": draw(seed + 2, features),
        "cotangent": draw(seed + 3, batch, features),
    }


def torch_flatten_linear(x, kernel, bias, cotangent):
    """flatten → linear: the output and the gradient of each input."""
    import torch

    x, kernel, bias, cotangent = leaves(x, kernel, bias, cotangent)
    flat = torch.flatten(x.permute(0, 3, 1, 2), start_dim=1)
    out = torch.nn.functional.linear(flat, kernel.T, bias)
    out.backward(cotangent)
    return arrays(out=out, x=x.grad, kernel=kernel.grad, bias=bias.grad)


def relu_inputs(seed, *shape):
    """Numbers of both signs, many of them 0, and a cotangent."""
    return {"x": np.round(2 * draw(seed, *shape)) / 2, "cotangent": draw(seed + 1, *shape)}


def torch_relu(x, cotangent):
    """relu: the output and the gradient."""
    x, cotangent = leaves(x, cotangent)
    out = x.relu()
    out.backward(cotangent)
    return arrays(out=out, x=x.grad)


def logits_inputs(seed, *, batch, classes):
    """Logits in ±8, labels, and a cotangent for the losses of the single examples."""
    labels = np.floor((draw(seed + 1, batch) + 1) / 2 * classes)
    return {
        "logits": 8 * draw(seed, batch, classes),
        "labels": labels.clip(0, classes - 1).astype(np.int32),
        "cotangent": draw(seed + 2, batch),
    }


def torch_cross_entropy(logits, labels, cotangent, smoothing, reduction):
    """cross_entropy: the loss and the gradient of the logits."""
    import torch

    logits, cotangent = leaves(logits, cotangent)
    target = torch.tensor(labels).long()
    loss = torch.nn.functional.cross_entropy(
        logits, target, reduction=reduction, label_smoothing=smoothing
    )
    loss.backward(cotangent if reduction == "none" else None)
    return arrays(loss=loss, logits=logits.grad)


def network_inputs(channels):
    """Parameters even in ±1/√fan_in, as PyTorch's own; images on a constant background; labels."""
    c1, c2 = channels
    kernels = {
        "conv1": (5, 5, 1, c1),
        "conv2": (5, 5, c1, c2),
        "fc1": (25 * c2, 120),
        "fc2": (120, 84),
        "fc3": (84, 10),
    }
    params = {}
    for seed, (name, shape) in enumerate(kernels.items(), start=100):
        bound = math.prod(shape[:-1]) ** -0.5
        kernel, bias = draw(seed, *shape), draw(seed + 100, shape[-1])
        params[name] = {"kernel": np.float32(bound) * kernel, "bias": np.float32(bound) * bias}
    state = nnx.state(nnx.eval_shape(lambda: LeNet(channels, rngs=nnx.Rngs(0))), nnx.Param)
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, params))
    images = draw(1, 4, 32, 32, 1)
    images = np.where(np.abs(images) < 0.7, np.float32(-0.4), 3 * images)
    return state, images, np.arange(4, dtype=np.int32)


def torch_network(channels, state, images, labels):
    """The whole network: logits, mean loss, and the gradient of everything in `state`."""
    import torch

    network = make_network.torch_network(channels, (120, 84))
    network.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
    logits = network(torch.tensor(images).permute(0, 3, 1, 2))
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels).long())
    loss.backward()
    gradients = {name: value.grad for name, value in network.named_parameters()}
    return arrays(logits=logits, loss=loss, **gradients)


def leaves(*arrays):
    """Tensors that ask for a gradient."""
    import torch

    return (torch.tensor(array, requires_grad=True) for array in arrays)


def arrays(**tensors: Any) -> dict[str, np.ndarray]:
    """Tensors as arrays."""
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def thin(array: np.ndarray) -> np.ndarray:
    """What the file holds of an array."""
    return array.ravel()[::THIN] if array.size > 1000 else array


def main():
    """Writes the file."""
    import torch

    answers = {}
    for kind in KINDS:
        inputs = convolution_inputs(kind, 0, **CONVOLUTION)
        answers[f"convolution/{kind}"] = torch_conv_pool_relu(**inputs)
    answers["linear"] = torch_flatten_linear(**linear_inputs(0, **LINEAR))
    answers["relu"] = torch_relu(**relu_inputs(0, 5, 7))
    for reduction, smoothing in itertools.product(REDUCTIONS, SMOOTHINGS):
        answers[f"cross_entropy/{reduction}/{smoothing}"] = torch_cross_entropy(
            **logits_inputs(0, **LOGITS), smoothing=smoothing, reduction=reduction
        )
    for name, channels in CHANNELS.items():
        params, images, labels = network_inputs(channels)
        state = to_state_dict(params)
        answers[f"network/{name}"] = torch_network(channels, state, images, labels)
    flat = {f"{n}:{key}": thin(a) for n, answer in answers.items() for key, a in answer.items()}
    flat["torch_version"] = np.array(str(torch.__version__))
    np.savez_compressed(PATH, allow_pickle=False, **flat)


if __name__ == "__main__":
    main()
