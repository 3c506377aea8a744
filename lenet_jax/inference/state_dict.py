"""PyTorch's `state_dict` ↔ the parameters here, and a command for the files of both.

    python -m lenet_jax.torch_bridge inspect network.pt
    python -m lenet_jax.torch_bridge convert network.pt first.safetensors --mean=0.1307 --std=0.3081
    python -m lenet_jax.torch_bridge evaluate first.safetensors --data=mnist

Convolutions are (out, in, height, width) there and (height, width, in, out) here, linear layers
(out, in) there and (in, out) here. The inputs of fc1 are in another order besides: they count the
flattened feature maps with the channels slowest there, and fastest here.

Every entry must be float32. Others are refused, not rounded: `network.float()` in PyTorch says that
it is meant.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from lenet_jax.errors import UserError
from lenet_jax.nn.lenet import LeNet
from lenet_jax.storage import weights as state_file
from lenet_jax.storage.weights import StateDict

# What one size must be wherever it stands. `flat` is c2 times the square of the last side.
SHAPES: dict[str, tuple[int | str, ...]] = {
    "conv1.weight": ("c1", "in_channels", 5, 5),
    "conv1.bias": ("c1",),
    "conv2.weight": ("c2", "c1", 5, 5),
    "conv2.bias": ("c2",),
    "fc1.weight": ("f1", "flat"),
    "fc1.bias": ("f1",),
    "fc2.weight": ("f2", "f1"),
    "fc2.bias": ("f2",),
    "fc3.weight": ("num_classes", "f2"),
    "fc3.bias": ("num_classes",),
}
MOST_LISTED = 200  # entries in one message; a network has 10


def to_state_dict(params: nnx.State) -> dict[str, Float[np.ndarray, "..."]]:
    """The parameters under PyTorch's names and in its layouts: `conv1.weight`, `fc1.bias`, ….

    The arrays are copies, which `torch.from_numpy` may keep and change.
    """
    layers = nnx.to_pure_dict(params)
    state = {}
    for name, layer in layers.items():
        kernel = np.asarray(layer["kernel"])
        if name == "fc1":
            channels, inputs = layers["conv2"]["bias"].shape[0], kernel.shape[0]
            size = math.isqrt(inputs // channels)
            kernel = kernel.reshape(size, size, channels, -1).transpose(2, 0, 1, 3)
            kernel = kernel.reshape(inputs, -1)
        axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
        state[f"{name}.weight"] = np.array(kernel.transpose(axes), order="C")
        state[f"{name}.bias"] = np.array(layer["bias"])
    return state


def from_state_dict(
    state_dict: StateDict, like: nnx.State, source: str = "the state_dict"
) -> nnx.State:
    """The parameters in a `state_dict`, bit for bit.

    Args:
      state_dict: arrays of NumPy or JAX, or torch's tensors on the CPU; they are copied.
      like: parameters of the same network, for names, shapes and dtypes; its leaves may be abstract
        (`jax.ShapeDtypeStruct`).
      source: what to call the `state_dict` in an error.

    Raises:
      UserError: lists every entry that is missing, unexpected, misshapen or of another dtype; or,
        if there is none, every one with a NaN or an infinity in it.
    """
    layers = nnx.to_pure_dict(like)
    shapes, dtypes = {}, {}
    for name, layer in layers.items():
        *window, n, k = layer["kernel"].shape
        shapes |= {f"{name}.weight": (k, n, *window), f"{name}.bias": (k,)}
        dtypes |= {f"{name}.weight": layer["kernel"].dtype, f"{name}.bias": layer["bias"].dtype}
    _check(state_dict, shapes, dtypes, source)
    arrays = {name: np.asarray(state_dict[name]) for name in shapes}
    broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        raise UserError(f"{source} has NaN or infinite numbers in {', '.join(broken)}")
    pure = {}
    for name in layers:
        weight = arrays[f"{name}.weight"]
        kernel = weight.transpose((2, 3, 1, 0) if weight.ndim == 4 else (1, 0))
        if name == "fc1":
            channels, inputs = len(arrays["conv2.bias"]), len(kernel)
            size = math.isqrt(inputs // channels)
            kernel = kernel.reshape(channels, size, size, -1).transpose(1, 2, 0, 3)
            kernel = kernel.reshape(inputs, -1)
        pure[name] = {"kernel": jnp.array(kernel), "bias": jnp.array(arrays[f"{name}.bias"])}
    state = jax.tree.map(lambda leaf: leaf, like)
    nnx.replace_by_pure_dict(state, pure)
    return state


def infer_sizes(state_dict: StateDict, source: str = "the state_dict") -> dict[str, Any]:
    """The sizes of the network that a `state_dict` is of: `LeNet(**sizes, rngs=…)`.

    Raises:
      UserError: it is of no LeNet; lists every entry that is missing, unexpected, misshapen, or not
        float32. Where shapes contradict each other the first one counts as right.
    """
    sizes: dict[int | str, int] = {}
    for name, symbols in SHAPES.items():
        shape = state_dict[name].shape if name in state_dict else ()
        if len(shape) == len(symbols):
            for symbol, size in zip(symbols, shape, strict=True):
                if size > 0:
                    sizes.setdefault(symbol, size)
    shapes = {
        name: tuple(sizes.get(s, s) if isinstance(s, str) else s for s in symbols)
        for name, symbols in SHAPES.items()
    }
    c2, flat = sizes.get("c2"), sizes.get("flat", 0)
    side = math.isqrt(flat // c2) if c2 else 0
    if c2 and (side == 0 or flat != c2 * side**2):
        shapes["fc1.weight"] = (shapes["fc1.weight"][0], f"{c2}·side²")
    _check(state_dict, shapes, dict.fromkeys(SHAPES, "float32"), source)
    return {
        "channels": (sizes["c1"], sizes["c2"]),
        "features": (sizes["f1"], sizes["f2"]),
        "num_classes": sizes["num_classes"],
        "in_channels": sizes["in_channels"],
        "image_size": 4 * (side + 3),
    }


def save(path: Path, params: nnx.State, notes: Mapping[str, str]) -> None:
    """Writes a safetensors file in PyTorch's layout, with `notes` as its metadata.

    Raises:
      UserError: the file cannot be written.
    """
    state_file.write(path, to_state_dict(params), notes)


def load(path: str | Path, like: nnx.State) -> nnx.State:
    """The parameters in a file, for the network of `like`.

    Raises:
      UserError: as `state_file.read` and `from_state_dict` do.
    """
    state_dict, _ = state_file.read(path)
    return from_state_dict(state_dict, like, str(path))


def load_model(path: str | Path) -> tuple[LeNet, dict[str, str]]:
    """The network in a file, of whatever sizes, and the notes beside it.

    Raises:
      UserError: as `state_file.read` and `make_model` do.
    """
    state_dict, notes = state_file.read(path)
    return make_model(state_dict, str(path)), notes


def make_model(state_dict: StateDict, source: str = "the state_dict") -> LeNet:
    """The network in a `state_dict`, of whatever sizes.

    Raises:
      UserError: as `infer_sizes` and `from_state_dict` do.
    """
    sizes = infer_sizes(state_dict, source)
    abstract = nnx.eval_shape(lambda: LeNet(**sizes, rngs=nnx.Rngs(0)))
    graphdef, like = nnx.split(abstract, nnx.Param)
    return nnx.merge(graphdef, from_state_dict(state_dict, like, source))


def pixel_notes(mean: Sequence[float], std: Sequence[float]) -> dict[str, str]:
    """The notes that say how images are normalised; both are per channel, of pixels in 0..255."""
    return {
        "mean": " ".join(map(repr, mean)),
        "std": " ".join(map(repr, std)),
        "pixels": "0..255, normalised as (pixel - mean) / std",
    }


def pixel_statistics(
    notes: Mapping[str, str], in_channels: int, source: str
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, of pixels in 0..255, out of a file's notes.

    Raises:
      UserError: they are missing or are no such numbers.
    """
    if not {"mean", "std"} <= set(notes):
        raise UserError(
            f"{source} does not tell how its images are normalised\n"
            "Give --mean and --std as transforms.Normalize has them (0 and 1 where there is none)."
        )
    try:
        mean, std = ([float(word) for word in notes[key].split()] for key in ("mean", "std"))
    except ValueError as error:
        raise UserError(f"{source}: bad notes: {state_file.printable(error)}") from error
    finite = all(map(math.isfinite, mean + std))
    if not finite or len(mean) != in_channels or len(std) != in_channels or min(std) <= 0:
        raise UserError(
            f"{source}: mean and std must have a finite number for each of {in_channels} input"
            f" channels, std above 0; not {mean} and {std}"
        )
    return mean, std


def _check(
    state_dict: StateDict,
    shapes: Mapping[str, Sequence[int | str]],
    dtypes: Mapping[str, Any],
    source: str,
) -> None:
    """Refuses a `state_dict` that has not just these entries; letters stand for unknown sizes."""
    found = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    mistakes = {
        "missing": [name for name in shapes if name not in found],
        "unexpected": [state_file.printable(name, 60) for name in found if name not in shapes],
        "misshapen": [
            f"{name} {_tuple(found[name])}, not {_tuple(shape)}"
            for name, shape in shapes.items()
            if name in found and found[name] != tuple(shape)
        ],
        "wrong dtype": [
            f"{name} {_dtype_name(state_dict[name].dtype)}, not {_dtype_name(dtype)}"
            for name, dtype in dtypes.items()
            if name in found and _dtype_name(state_dict[name].dtype) != _dtype_name(dtype)
        ],
    }
    if not any(mistakes.values()):
        return
    told = [f"{kind}: {_join(names)}" for kind, names in mistakes.items() if names]
    message = f"{source} does not fit the network; {'; '.join(told)}"
    first = next(iter(shapes))
    prefix = next((name for name in found if name.endswith(first)), "").removesuffix(first)
    if prefix and {name.removeprefix(prefix) for name in found} == set(shapes):
        message += f"\nTake {state_file.printable(prefix)!r} off the front of every name."
    elif mistakes["wrong dtype"]:
        message += "\nIn PyTorch, network.float() makes every entry float32."
    raise UserError(message)


def _join(names: Sequence[str]) -> str:
    more = len(names) - MOST_LISTED
    return ", ".join(names[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def _tuple(shape: Sequence[int | str]) -> str:
    return f"({', '.join(map(str, shape))})"


def _dtype_name(dtype: Any) -> str:
    """`float32`, whether NumPy, torch or a file's header says it."""
    return str(dtype).removeprefix("torch.")
