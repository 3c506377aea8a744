"""Weights files: safetensors, and PyTorch's own format if torch is installed.

Nothing is unpickled: PyTorch files are read by `torch.load(weights_only=True)` and never written.
Values are read lazily, so that a caller can reject names and shapes first.
"""

import json
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # torch's loader raises it for whatever it does not allow
from typing import Any, Protocol, runtime_checkable

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lenet_jax.errors import UserError, expand, printable, write_error
from lenet_jax.storage.files import write_atomically

SAFETENSORS, TORCH = (".safetensors",), (".pt", ".pth")
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

# What torch's loader raises for corrupted files, besides `UnpicklingError`.
TORCH_ERRORS = (
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    struct.error,
)


@runtime_checkable
class Tensor(Protocol):
    """An entry of a `state_dict`, which `np.asarray` accepts.

    Arrays of NumPy and JAX, and torch tensors on the CPU, are all tensors.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        ...

    @property
    def dtype(self) -> Any:
        """A NumPy or torch dtype, or its name."""
        ...


StateDict = Mapping[str, Tensor]


class StoredTensor:
    """A tensor in a safetensors file, whose values are read by `np.asarray`.

    Attributes:
      shape: from the file's header, which agrees with the file's length.
      dtype: its name, such as `float32`.
    """

    def __init__(self, file: safe_open, name: str):
        header = file.get_slice(name)
        self.shape = tuple(header.get_shape())
        self.dtype = DTYPES.get(header.get_dtype(), header.get_dtype())
        self._file, self._name = file, name

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._file.get_tensor(self._name), dtype)


def read(path: str | Path) -> tuple[StateDict, dict[str, str]]:
    """Opens a `state_dict`.

    Args:
      path: a `.safetensors` file; or a `.pt` or `.pth` file, for which torch must be installed.

    Returns:
      The tensors by name, and the file's metadata, which is empty for PyTorch files.

    Raises:
      UserError: the file is missing, corrupted, or not a weights file.
    """
    path = expand(path)
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if path.suffix.lower() in SAFETENSORS:
        return _read_safetensors(path)
    if path.suffix.lower() in TORCH:
        return _read_torch(path), {}
    raise UserError(f"{path}: the name must end in {', '.join(SAFETENSORS + TORCH)}")


def write(
    path: str | Path, state_dict: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes a safetensors file, atomically.

    Raises:
      UserError: the file cannot be written; a `WriteError` if the disk is full or has failed.
    """
    path = expand(path)
    try:
        write_atomically(path, encode(state_dict, metadata))
    except OSError as error:
        raise write_error(error, path) from error
    except SafetensorError as error:
        raise UserError(f"{path} cannot be written: {printable(error)}") from error


def encode(state_dict: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """The content of a safetensors file; equal weights and metadata give identical bytes.

    Raises:
      SafetensorError: the arrays cannot be encoded.
    """
    content = save(dict(state_dict), dict(metadata))
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(metadata.items()))  # the library's order is random
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def _read_safetensors(path: Path) -> tuple[StateDict, dict[str, str]]:
    try:
        file = safe_open(path, framework="np")
        tensors = {name: StoredTensor(file, name) for name in file.keys()}  # noqa: SIM118
        return tensors, dict(sorted((file.metadata() or {}).items()))
    except (OSError, SafetensorError) as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise UserError(f"{path} is not a valid safetensors file: {printable(reason)}") from error


def _read_torch(path: Path) -> StateDict:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"reading {path} needs PyTorch: pip install torch\n"
            "Or write safetensors where PyTorch is: safetensors.torch.save_file(network"
            ".state_dict(), 'network.safetensors')"
        ) from error
    try:
        if _is_inflated(path):
            raise _not_weights(path, "its entries claim to be larger than the file")
        with warnings.catch_warnings(action="ignore"):  # about files that are rejected below
            content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, Mapping):
            raise _not_weights(path, f"it holds a {type(content).__name__}, not a state_dict")
        for name, tensor in content.items():
            if not isinstance(tensor, torch.Tensor):
                raise _not_weights(path, f"its entry {printable(name, 60)!r} is not a tensor")
        if sum(tensor.nbytes for tensor in content.values()) > path.stat().st_size:
            raise _not_weights(path, "its tensors claim to be larger than the file")
        # Tensors of other dtypes stay as they are: NumPy does not support them all.
        return {
            str(name): tensor.numpy(force=True) if tensor.dtype is torch.float32 else tensor
            for name, tensor in content.items()
        }
    except UnpicklingError as error:
        raise _not_weights(path, "it holds more than weights, or is damaged") from error
    except zipfile.BadZipFile as error:
        raise _not_weights(path, "it is not a zip archive, or is damaged") from error
    except TORCH_ERRORS as error:
        raise _not_weights(path, f"PyTorch cannot read it ({type(error).__name__})") from error


def _is_inflated(path: Path) -> bool:
    """Whether an archive unpacks to more than its size; `torch.save` never writes such a file."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    return packed or sum(entry.file_size for entry in entries) > path.stat().st_size


def _not_weights(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} is not a weights file: {reason}\n"
        "In PyTorch: torch.save(network.state_dict(), 'network.pt')"
    )
