"""Weights files: safetensors, and PyTorch's own format if torch is installed.

What a file is, its content says and not its name. Nothing is unpickled: PyTorch's files are read by
`torch.load(weights_only=True)`, see `torch_file.py`, and never written. Values of safetensors are
read lazily, so that a caller can reject names and shapes first.
"""

import hashlib
import io
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lenet_jax.errors import UserError, expand, printable, writing
from lenet_jax.reading import decode, open_file
from lenet_jax.storage.files import check_replaceable, write_atomically
from lenet_jax.storage.torch_file import is_torch, not_weights, read_torch

MOST_HEADER = 1 << 24  # bytes; a sweep's lists its members there
SUM = "sha256"  # the key of the checksum among a file's metadata
SAFETENSORS, TORCH = (".safetensors",), (".pt", ".pth")
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"}
DTYPES |= {f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)}
DTYPES |= {f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)}

# Files that bear a weights file's name: how they begin, in lower case, and what they are.
ELSE = {
    b"version https://git-lfs": "it is a pointer of Git LFS: git lfs pull",
    b"<": "it is a web page, as downloads leave it that need a login",
    b"\x1f\x8b": "it is packed with gzip: unpack it",
    b"\x89hdf": "it is HDF5, as Keras writes it",
    b"\x80": "it is a pickle, but not one of torch.save",
}


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


def read(
    path: str | Path, say: Callable[[str], None] = lambda _: None
) -> tuple[StateDict, dict[str, str]]:
    """Opens a `state_dict`.

    Args:
      path: a file of safetensors, or of PyTorch, for which torch must be installed.
      say: is given a line on what of the file was taken, where it holds more than weights.

    Returns:
      The tensors by name, and the file's metadata, which is empty for PyTorch files.

    Raises:
      UserError: the file is missing, corrupted, or not a weights file.
    """
    path = expand(path)
    try:
        with open_file(path) as file:
            head = file.read(64)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    suffix = path.suffix.lower()
    if is_torch(head):
        return read_torch(path, say), {}
    if suffix in SAFETENSORS or head[8:9] == b"{":
        length = int.from_bytes(head[:8], "little")
        if length > MOST_HEADER:
            raise UserError(
                f"{path} is not a valid safetensors file: its header claims {length:,} bytes"
            )
        return _read_safetensors(path)
    if suffix in TORCH and not head:
        return read_torch(path, say), {}
    raise not_weights(path, _kind_of_else(head))


def map_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a safetensors file, mapped into memory and not verified, and its metadata.

    Raises:
      OSError: it cannot be read.
      ValueError, LookupError, TypeError, UserError: it is not such a file, or is cut off.
    """
    content = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = decode(content[8:start].tobytes(), dict[str, dict[str, Any]], path.name)
    metadata, arrays = header.pop("__metadata__", {}), {}
    for name, entry in header.items():
        first, end = entry["data_offsets"]
        values = content[start + first : start + end].view(DTYPES[entry["dtype"]])
        arrays[name] = values.reshape(entry["shape"])
    return arrays, metadata


def write(
    path: str | Path,
    state_dict: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    *,
    force: bool = True,
) -> None:
    """Writes a safetensors file, atomically.

    Args:
      path: the file.
      state_dict: the weights.
      metadata: of the file.
      force: whether a file that differs is replaced.

    Raises:
      UserError: the file cannot be written; a `WriteError` if the disk is full or has failed.
    """
    path = expand(path)
    try:
        content = encode(state_dict, metadata)
    except SafetensorError as error:
        raise UserError(f"{path} cannot be written: {printable(error)}") from error
    with writing(path):
        check_replaceable(path, content, force=force)
        write_atomically(path, content)


def encode(state_dict: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """The content of a safetensors file; equal weights and metadata give identical bytes.

    Its metadata has the SHA-256 of all of it, which `read` verifies.

    Raises:
      SafetensorError: the arrays cannot be encoded.
    """
    content = save(dict(state_dict), dict(metadata))
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(metadata.items()))  # the library's order is random
    header["__metadata__"][SUM] = _checksum(header, io.BytesIO(content[8 + length :]))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def _read_safetensors(path: Path) -> tuple[StateDict, dict[str, str]]:
    try:
        file = safe_open(path, framework="np")
        tensors = {name: StoredTensor(file, name) for name in file.keys()}  # noqa: SIM118
        metadata = dict(sorted((file.metadata() or {}).items()))
        stored = metadata.pop(SUM, None)
        if stored is not None and stored != _checksum_of(path):
            raise UserError(
                f"{path} is damaged: it differs from its own SHA-256\n"
                f"Restore a backup; if it was changed on purpose, save it without {SUM!r} in its"
                " metadata."
            )
        return tensors, metadata
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise UserError(f"{path} is not a valid safetensors file: {printable(reason)}") from error


def _checksum_of(path: Path) -> str:
    """The checksum of a safetensors file as it is."""
    with open_file(path) as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = decode(file.read(length), dict[str, dict[str, Any]], f"the header of {path}")
        return _checksum(header, file)


def _checksum(header: Mapping[str, Any], data: io.BufferedIOBase) -> str:
    """The SHA-256, in hex, of a header without its checksum, however laid out, and the data."""
    metadata = {name: value for name, value in header["__metadata__"].items() if name != SUM}
    text = json.dumps({**header, "__metadata__": metadata}, sort_keys=True)
    state = hashlib.sha256(text.encode())
    while block := data.read(1 << 20):
        state.update(block)
    return state.hexdigest()


def _kind_of_else(head: bytes) -> str:
    """What a file that begins so is, if it is often taken for weights."""
    for start, kind in ELSE.items():
        if head.lstrip().lower().startswith(start):
            return kind
    return "it is neither safetensors nor PyTorch's"
