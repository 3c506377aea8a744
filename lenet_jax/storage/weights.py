"""Files of a `state_dict`: safetensors, and PyTorch's own where torch is there to read them.

Nothing here unpickles: torch's loader of weights alone is asked for PyTorch's files, and none of
those are written. Numbers are read when they are asked for, so that a reader can first refuse names
and shapes.
"""

import contextlib
import json
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # what torch's loader calls everything that it does not allow
from typing import Any, Protocol, runtime_checkable

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lenet_jax.errors import DISK_FAULTS, UserError, WriteError

SAFETENSORS, TORCH = (".safetensors",), (".pt", ".pth")
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

# What torch's loader, which trusts the inside of a file, was seen to raise over mangled ones,
# beside `UnpicklingError`.
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
    """What an entry of a `state_dict` has, beside being something for `np.asarray`.

    NumPy's arrays, JAX's, and torch's tensors on the CPU are all tensors.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extents."""
        ...

    @property
    def dtype(self) -> Any:
        """A dtype of NumPy, of torch, or the name of one."""
        ...


StateDict = Mapping[str, Tensor]


class StoredTensor:
    """A tensor in a safetensors file, whose numbers are read by `np.asarray`.

    Attributes:
      shape: as the file's header tells, which agrees with the file's length.
      dtype: the name, `float32`.
    """

    def __init__(self, file: safe_open, name: str):
        part = file.get_slice(name)
        self.shape = tuple(part.get_shape())
        self.dtype = DTYPES.get(part.get_dtype(), part.get_dtype())
        self._file, self._name = file, name

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._file.get_tensor(self._name), dtype)


def read(path: str | Path) -> tuple[StateDict, dict[str, str]]:
    """Opens a `state_dict`.

    Args:
      path: a `.safetensors` file; or a `.pt` or `.pth` file, for which torch must be installed; or
        a run directory, which means the `model.safetensors` in it.

    Returns:
      The tensors by name, and the notes beside them, of which PyTorch's own files have none.

    Raises:
      UserError: there is no such file, it is broken, or it holds something else.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        path /= "model.safetensors"
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if path.suffix.lower() in SAFETENSORS:
        return _read_safetensors(path)
    if path.suffix.lower() in TORCH:
        return _read_torch(path), {}
    raise UserError(f"{path}: the name must end in {', '.join(SAFETENSORS + TORCH)}")


def write(path: str | Path, state_dict: Mapping[str, np.ndarray], notes: Mapping[str, str]) -> None:
    """Writes a safetensors file, whole or not at all, with `notes` as its metadata.

    The same weights and notes are always the same bytes.

    Raises:
      UserError: the file cannot be written.
      WriteError: not for want of a right path, but because the disk is full, or has failed.
    """
    path = Path(path).expanduser()
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.write_bytes(_encode(state_dict, notes))  # `save_file` would lock others out
        draft.replace(path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        if isinstance(error, OSError) and error.errno in DISK_FAULTS:
            raise WriteError(error, path) from error
        raise UserError(f"{path} cannot be written: {printable(error)}") from error


def printable(text: object, limit: int = 160) -> str:
    """Text out of a file, for one line of a terminal: control characters escaped, and not long."""
    words = " ".join(str(text).split())
    shown = words if words.isprintable() else repr(words)[1:-1]
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def _encode(state_dict: Mapping[str, np.ndarray], notes: Mapping[str, str]) -> bytes:
    content = save(dict(state_dict), dict(notes))
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(notes.items()))  # the library's order is random
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
        raise UserError(f"{path} is not a whole safetensors file: {printable(reason)}") from error


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
            raise _not_weights(path, "its parts claim to be larger than it is")
        with warnings.catch_warnings(action="ignore"):  # torch's, of what is about to be refused
            found = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(found, Mapping):
            raise _not_weights(path, f"it holds one {type(found).__name__}, no state_dict")
        for name, tensor in found.items():
            if not isinstance(tensor, torch.Tensor):
                raise _not_weights(path, f"its entry {printable(name, 60)!r} is no tensor")
        if sum(tensor.nbytes for tensor in found.values()) > path.stat().st_size:
            raise _not_weights(path, "its tensors claim to be larger than it is")
        # Those of another dtype stay as they are: NumPy does not know them all.
        return {
            str(name): tensor.numpy(force=True) if tensor.dtype is torch.float32 else tensor
            for name, tensor in found.items()
        }
    except UnpicklingError as error:
        raise _not_weights(path, "it holds more than weights, or is damaged") from error
    except zipfile.BadZipFile as error:
        raise _not_weights(path, "it is no zip archive, or a damaged one") from error
    except TORCH_ERRORS as error:
        raise _not_weights(path, f"PyTorch cannot read it ({type(error).__name__})") from error


def _is_inflated(path: Path) -> bool:
    """Whether an archive unpacks to more than its size, as none does that `torch.save` wrote."""
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
    packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
    return packed or sum(part.file_size for part in parts) > path.stat().st_size


def _not_weights(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} is not a file of weights: {reason}\n"
        "In PyTorch: torch.save(network.state_dict(), 'network.pt')"
    )
