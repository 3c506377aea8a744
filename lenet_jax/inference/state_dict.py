"""Conversion between PyTorch's `state_dict` and the parameters of this package.

Convolutions are (out, in, height, width) in PyTorch and (height, width, in, out) here, linear
layers (out, in) and (in, out). The inputs of fc1 are ordered differently too: in the flattened
feature maps, channels vary slowest in PyTorch and fastest here.

Every entry must be float32 here, and have these names. `torch_names.py` converts other dtypes and
names of files before, and says so.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from lenet_jax.data.characters import BOX, SIZE
from lenet_jax.data.form import ImageForm
from lenet_jax.errors import UserError, printable
from lenet_jax.nn import ops
from lenet_jax.nn.lenet import LeNet, image_size_of
from lenet_jax.reading import to_float
from lenet_jax.storage.weights import StateDict

# A size must be the same wherever it occurs. `flat` is c2 times the square of the last side.
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
MAX_LISTED = 4  # entries of a kind in one message


def to_state_dict(params: nnx.State) -> dict[str, Float[np.ndarray, "..."]]:
    """The parameters under PyTorch's names and in its layouts: `conv1.weight`, `fc1.bias`, ….

    The arrays are copies, so `torch.from_numpy` may share and modify their memory.
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
    """Converts a `state_dict` to parameters, bit for bit.

    Args:
      state_dict: NumPy or JAX arrays, or torch tensors on the CPU; they are copied.
      like: parameters of the same network, for names, shapes and dtypes; its leaves may be abstract
        (`jax.ShapeDtypeStruct`).
      source: the name of the `state_dict` in error messages.

    Raises:
      UserError: lists every entry that is missing, unexpected, or of the wrong shape or dtype; if
        there are none, every entry that contains NaN or infinity.
    """
    layers = nnx.to_pure_dict(like)
    shapes, dtypes = {}, {}
    for name, layer in layers.items():
        *window, n, k = layer["kernel"].shape
        shapes |= {f"{name}.weight": (k, n, *window), f"{name}.bias": (k,)}
        dtypes |= {f"{name}.weight": layer["kernel"].dtype, f"{name}.bias": layer["bias"].dtype}
    check_entries(state_dict, shapes, dtypes, source)
    arrays = {name: np.asarray(state_dict[name]) for name in shapes}
    broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        raise UserError(f"{source} has NaN or infinite values in {', '.join(broken)}")
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


def infer_sizes(
    state_dict: StateDict, source: str = "the state_dict", padding: int = 0
) -> dict[str, Any]:
    """The sizes of the network that a `state_dict` belongs to: `LeNet(**sizes, rngs=…)`.

    Args:
      state_dict: the entries; only shapes and dtypes are read.
      source: its name in error messages.
      padding: of conv1, which shapes do not tell; images are that much smaller.

    Raises:
      UserError: it is not a LeNet's; lists every entry that is missing, unexpected, of the wrong
        shape, or not float32; where shapes contradict each other, the first one is trusted. Or it
        has a single class.
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
    check_entries(state_dict, shapes, dict.fromkeys(SHAPES, "float32"), source)
    if sizes["num_classes"] < 2:
        raise UserError(f"{source}: fc3 has one output; each of two or more classes needs its own")
    if image_size_of(side, padding) < 1:
        raise UserError(f"{source}: a padding of {padding} leaves no image")
    return {
        "channels": (sizes["c1"], sizes["c2"]),
        "features": (sizes["f1"], sizes["f2"]),
        "num_classes": sizes["num_classes"],
        "in_channels": sizes["in_channels"],
        "image_size": image_size_of(side, padding),
    }


def make_model(
    state_dict: StateDict,
    source: str = "the state_dict",
    *,
    activation: ops.Activation = "relu",
    pool: ops.Pool = "max",
    padding: int = 0,
    precision: str = "float32",
) -> LeNet:
    """Builds the network of a `state_dict`, of any size.

    Args:
      state_dict: the entries.
      source: its name in error messages.
      activation: as for `LeNet`; the entries do not tell it, nor the following.
      pool: likewise.
      padding: likewise.
      precision: as for `LeNet`.

    Raises:
      UserError: as for `infer_sizes` and `from_state_dict`.
    """
    sizes = infer_sizes(state_dict, source, padding)
    sizes |= {"activation": activation, "pool": pool, "padding": padding, "precision": precision}
    abstract = nnx.eval_shape(lambda: LeNet(**sizes, rngs=nnx.Rngs(0)))
    graphdef, like = nnx.split(abstract, nnx.Param)
    return nnx.merge(graphdef, from_state_dict(state_dict, like, source))


def make_metadata(
    mean: Sequence[float], std: Sequence[float], class_names: Sequence[str] = ()
) -> dict[str, str]:
    """The metadata of a weights file: how images are normalised, and the classes.

    Args:
      mean: pixel mean per channel, in 0..255.
      std: pixel standard deviation per channel, likewise.
      class_names: the names of the logits, if known.
    """
    metadata = {
        "mean": " ".join(map(repr, mean)),
        "std": " ".join(map(repr, std)),
        "pixels": "0..255, normalised as (pixel - mean) / std",
    }
    return metadata | ({"classes": "\n".join(class_names)} if class_names else {})


def form_metadata(form: ImageForm, least_energy: float | None) -> dict[str, str]:
    """The metadata that says which images the network knows.

    Args:
      form: of the images that it was trained on.
      least_energy: of its logits, on nearly all validation images; None where there were none.
    """
    metadata = {"images": form.to_json()}
    return metadata if least_energy is None else metadata | {"least_energy": repr(least_energy)}


def read_form(
    metadata: Mapping[str, str], in_channels: int, image_size: int, source: str
) -> tuple[ImageForm, float | None]:
    """What `form_metadata` wrote; weights of elsewhere are taken for MNIST's, or for colour's.

    Raises:
      UserError: the metadata are something else.
    """
    if "images" in metadata:
        form = ImageForm.from_json(metadata["images"], source)
    elif in_channels == 1:
        size = min(SIZE, image_size)
        form = ImageForm(size, metadata.get("fit", "pad"), box=round(size * BOX / SIZE))
    else:
        sides = (image_size, image_size)
        form = ImageForm(image_size, "resize", handwriting=False, box=image_size, sides=sides)
    try:
        least = metadata.get("least_energy")
        return form, None if least is None else to_float(least)
    except ValueError as error:
        raise UserError(f"{source}: bad metadata: {printable(error)}") from error


def check_entries(
    state_dict: StateDict,
    shapes: Mapping[str, Sequence[int | str]],
    dtypes: Mapping[str, Any],
    source: str,
) -> None:
    """Checks that the entries are exactly these; letters stand for unknown sizes.

    Raises:
      UserError: they are not.
    """
    actual = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    mistakes = {
        "missing": [name for name in shapes if name not in actual],
        "unexpected": [printable(name, 60) for name in actual if name not in shapes],
        "misshapen": [
            f"{name} {_tuple(actual[name])}, not {_tuple(shape)}"
            for name, shape in shapes.items()
            if name in actual and actual[name] != tuple(shape)
        ],
        "wrong dtype": [
            f"{name} {_dtype_name(state_dict[name].dtype)}, not {_dtype_name(dtype)}"
            for name, dtype in dtypes.items()
            if name in actual and _dtype_name(state_dict[name].dtype) != _dtype_name(dtype)
        ],
    }
    if not any(mistakes.values()):
        return
    lists = [f"{kind}: {_join(names)}" for kind, names in mistakes.items() if names]
    message = f"{source} does not fit the network:\n{'; '.join(lists)}"
    first = next(iter(shapes))
    prefix = next((name for name in actual if name.endswith(first)), "").removesuffix(first)
    if prefix and {name.removeprefix(prefix) for name in actual} == set(shapes):
        message += f"\nRemove {printable(prefix)!r} from the front of every name."
    elif mistakes["wrong dtype"]:
        message += "\nIn PyTorch, network.float() makes every entry float32."
    raise UserError(message)


def _join(names: Sequence[str]) -> str:
    more = len(names) - MAX_LISTED
    return ", ".join(names[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


def _tuple(shape: Sequence[int | str]) -> str:
    return f"({', '.join(map(str, shape))})"


def _dtype_name(dtype: Any) -> str:
    """The name, such as `float32`, of a dtype of NumPy or torch, or from a file's header."""
    return str(dtype).removeprefix("torch.")
