"""PyTorch's own files: what they are, and the weights in them.

Nothing is unpickled but by `torch.load(weights_only=True)`, which runs no code of the file.
"""

import contextlib
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError  # torch's loader raises it for whatever it does not allow
from typing import Any, NamedTuple

import numpy as np

from lenet_jax.errors import UserError, printable
from lenet_jax.reading import open_file

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
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number of PyTorch before 1.6
ARCHIVE = b"PK\x03\x04"
# Entries of a checkpoint that usually hold its weights, the best first; others come after them.
ENTRIES = (
    *("state_dict", "model_state_dict", "model", "net_state_dict", "net", "network_state_dict"),
    *("network", "module", "weights", "model_weights", "params", "parameters", "best_state_dict"),
    *("best_model", "ema_state_dict", "state_dict_ema", "model_ema", "ema"),
)
OTHERS = re.compile("optim|sched|scaler|callback|loop|buffer|metric", re.IGNORECASE)
COPY = "Copy or download it again; if that does not help, save network.state_dict() again."
SHOWN = 6  # names in one message


MAPPINGS = ("EMPTY_DICT", "OrderedDict")  # how a state_dict begins in a pickle


class Weights(NamedTuple):
    """A mapping of tensors within a file, and where it is: the keys that lead to it."""

    path: tuple[Any, ...]
    tensors: Mapping[str, Any]


def is_torch(head: bytes) -> bool:
    """Whether a file that begins with these bytes may be PyTorch's."""
    return head.startswith((ARCHIVE, LEGACY))


def read_torch(path: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """The weights of a file, from whichever of its entries has them.

    Args:
      path: what `torch.save` wrote, in its format of today or that before PyTorch 1.6.
      say: is given a line on the entry that was chosen, and on what was left out.

    Returns:
      NumPy arrays by name; tensors of dtypes that NumPy has not stay torch's.

    Raises:
      UserError: torch is not installed; or the file is damaged, or holds something else.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"reading {path} needs PyTorch: pip install torch (a build for CPUs is enough)\n"
            "Or write safetensors where PyTorch is: safetensors.torch.save_file(network"
            ".state_dict(), 'network.safetensors')"
        ) from error
    if not path.stat().st_size:
        raise not_weights(path, "it is empty", COPY)
    try:
        if zipfile.is_zipfile(path):
            _check_archive(path)
        with (
            warnings.catch_warnings(action="ignore"),  # about files that are rejected below
            torch.serialization.safe_globals(_numpy_scalars()),
            open_file(path) as file,  # of a path, torch would look at the suffix
        ):
            content = torch.load(file, map_location="cpu", weights_only=True)
        if isinstance(content, Mapping) and {"state", "param_groups"} <= set(content):
            raise not_weights(path, "it holds the state of an optimizer, not a network's")
        if not isinstance(content, Mapping):
            raise not_weights(path, f"it holds a {type(content).__name__}, not a state_dict")
        chosen = _choose(path, content, list(_find_weights(content, torch.Tensor)), say)
        if _size(chosen.values()) > path.stat().st_size:
            raise not_weights(path, "its tensors claim to be larger than the file")
        return {name: _to_numpy(tensor, torch) for name, tensor in chosen.items()}
    except UnpicklingError as error:
        raise _refused(path, str(error)) from error
    except zipfile.BadZipFile as error:
        raise not_weights(path, "it is a damaged or truncated zip archive", COPY) from error
    except TORCH_ERRORS as error:
        reason = f"PyTorch cannot read it ({type(error).__name__}); it may be damaged or truncated"
        raise not_weights(path, reason, COPY) from error


def not_weights(path: Path, reason: str, remedy: str = "") -> UserError:
    """The error of a file that is something else; by default with how to save weights."""
    remedy = remedy or "In PyTorch: torch.save(network.state_dict(), 'network.pt')"
    return UserError(f"{path} is not a weights file: {reason}\n{remedy}")


def _check_archive(path: Path) -> None:
    """Raises UserError if an archive is something else than `torch.save` writes."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    # `torch.save` never packs; what unpacks to more than the file's size may fill the memory.
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if any(name.endswith(".npy") for name in names):
        raise not_weights(path, "it is an archive of NumPy")
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        remedy = f"torch.save(torch.jit.load({str(path)!r}).state_dict(), 'network.pt')"
        raise not_weights(path, "it is a TorchScript archive", f"In PyTorch: {remedy}")
    if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise not_weights(path, "its entries claim to be larger than the file")
    if not any(name.endswith("data.pkl") for name in names):
        raise not_weights(path, "it is a zip archive, but not one of torch.save")


def _numpy_scalars() -> list[Any]:
    """What NumPy's scalars are pickled as, such as the best loss of a checkpoint; no code in it."""
    kinds = ["Bool", "Float16", "Float32", "Float64", "Int8", "Int16", "Int32", "Int64", "UInt8"]
    scalar = np.float64(0).__reduce__()[0]
    old = (scalar, "numpy.core.multiarray.scalar")  # its name before NumPy 2
    return [scalar, old, np.dtype, *(getattr(np.dtypes, f"{kind}DType") for kind in kinds)]


def _find_weights(content: Mapping[Any, Any], tensor: type, path: tuple = ()) -> Iterator[Weights]:
    """The mappings that look like a network's weights, in a checkpoint nested up to four deep."""
    tensors = {str(name): value for name, value in content.items() if isinstance(value, tensor)}
    nested = {name: value for name, value in content.items() if isinstance(value, Mapping)}
    if any(value.ndim > 1 for value in tensors.values()) or (not path and tensors and not nested):
        yield Weights(path, tensors)
        return
    # One entry a layer: {"conv1": {"weight": …, "bias": …}, …}.
    layers = {
        f"{name}.{key}": value
        for name, entries in nested.items()
        if {"weight", "kernel"} & set(entries) and str(name).lower() not in ENTRIES
        for key, value in entries.items()
        if isinstance(value, tensor)
    }
    if layers:
        yield Weights(path, layers)
        return
    for name, value in nested.items():
        if len(path) < 4 and not OTHERS.search(str(name)):
            yield from _find_weights(value, tensor, (*path, name))


def _choose(
    path: Path, content: Mapping[Any, Any], found: list[Weights], say: Callable[[str], None]
) -> Mapping[str, Any]:
    """The best known of the mappings of tensors in a file's content.

    Raises:
      UserError: there is none, or there are several equally known.
    """
    if not found:
        raise not_weights(path, "there are no weights in it")
    ranks = [
        [ENTRIES.index(k) if k in ENTRIES else len(ENTRIES) for k in (str(k).lower() for k in keys)]
        for keys, _ in found
    ]
    best = min(ranks)
    if ranks.count(best) > 1:
        names = ", ".join(repr(".".join(map(_shown, keys))) for keys, _ in found[:SHOWN])
        last = [key if isinstance(key, int) else _shown(key) for key in found[-1].path]
        entry = f"torch.load({str(path)!r})" + "".join(f"[{key!r}]" for key in last)
        raise not_weights(
            path,
            f"it holds the weights of several networks: {names}",
            f"In PyTorch, for the last one: torch.save({entry}, 'network.pt')",
        )
    keys, tensors = found[ranks.index(best)]
    if keys:
        rest = [_shown(name) for name in content if name != keys[0]]
        more = f" and {len(rest) - SHOWN} more" if len(rest) > SHOWN else ""
        beside = f" (left out: {', '.join(rest[:SHOWN])}{more})" if rest else ""
        say(f"{path}: weights from its entry {'.'.join(map(_shown, keys))!r}{beside}")
    return tensors


def _size(tensors: Iterable[Any]) -> int:
    """Their bytes; of those that share a storage, as tied layers do, the largest counts."""
    sizes: dict[int, int] = {}
    for tensor in tensors:
        storage = tensor.untyped_storage().data_ptr()
        sizes[storage] = max(sizes.get(storage, 0), tensor.nbytes)
    return sum(sizes.values())


def _to_numpy(tensor: Any, torch: Any) -> Any:
    """The tensor as an array of the same dtype; torch's own where NumPy has no such dtype."""
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise TypeError("no dense tensor")
    try:
        return tensor.numpy(force=True)
    except TypeError:
        return tensor


def _refused(path: Path, message: str) -> UserError:
    """The error of a file that `weights_only` refuses: it holds objects, or is damaged."""
    match = re.search(r"GLOBAL ([\w.]+)", message)
    if match is None:
        return not_weights(path, "it holds more than weights, or is damaged")
    name, file = _shown(match[1]), str(path)
    if _is_whole(path):
        remedy = f"torch.save(torch.load({file!r}, weights_only=False).state_dict(), 'network.pt')"
        reason = f"it holds more than weights: a whole object of {name}, as torch.save(network)"
        return not_weights(path, reason, f"In PyTorch, beside its class: {remedy}")
    entry = _entry(path)
    if "_reconstruct" in name:
        name, entry = "arrays of NumPy", "c" if entry == "c[KEY]" else entry
        entry = f"{{k: torch.tensor(v) for k, v in {entry}.items()}}"
    remedy = f"torch.save({entry}, 'w.pt')"
    reason = f"it holds more than weights: {name}, which could run code"
    remedy = f"c = torch.load({file!r}, weights_only=False); {remedy}"
    return not_weights(path, reason, f"If you trust it, in PyTorch: {remedy}")


def _entry(path: Path) -> str:
    """Code for the entry of a checkpoint `c` that likely has the weights; nothing is unpickled."""
    names: dict[str, str] = {}
    name = ""
    for operation, argument in _operations(path):
        if "PUT" in operation or operation == "MEMOIZE":
            continue
        if name:  # the value of this key begins here
            kind = str(argument).rpartition(" ")[2] if operation == "GLOBAL" else operation
            names.setdefault(name, "" if kind in MAPPINGS else ".state_dict()")
        name = argument if isinstance(argument, str) and argument.lower() in ENTRIES else ""
        if operation == "GLOBAL":
            name = ""
    best = min(names, key=lambda name: ENTRIES.index(name.lower()), default=None)
    return "c[KEY]" if best is None else f"c[{best!r}]{names[best]}"


def _is_whole(path: Path) -> bool:
    """Whether a file's pickle is one object, such as a module, and no dictionary."""
    for operation, argument in _operations(path):
        if operation not in ("PROTO", "FRAME"):
            name = str(argument).rpartition(" ")[2] if operation == "GLOBAL" else operation
            return name not in MAPPINGS
    return False


def _operations(path: Path) -> Iterator[tuple[str, Any]]:
    """The operations of a file's pickle and their arguments, up to where it is damaged."""
    damaged = contextlib.suppress(ValueError, OSError, zipfile.BadZipFile)
    with damaged, contextlib.ExitStack() as stack:
        if zipfile.is_zipfile(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            (name,) = (n for n in archive.namelist() if n.endswith("data.pkl"))
            file = archive.open(name)
        else:
            file = stack.enter_context(open_file(path))
            for _ in range(3):  # magic number, version, system
                for _ in pickletools.genops(file):
                    pass
        for operation, argument, _ in pickletools.genops(file):
            yield operation.name, argument


def _shown(name: object) -> str:
    return printable(name, 60)
