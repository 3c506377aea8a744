"""Finds the layers of a LeNet in a `state_dict` from elsewhere, whatever they are called there.

Names that end as LeNet's do, `model.conv1.weight`, are taken by name. Others are taken by the
shapes of their weights, if only one assignment fits and the file's order agrees with it; the fully
connected layers may be convolutions that leave one pixel, as C5 of LeNet-5. What was done is said.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set

import numpy as np

from lenet_jax.errors import UserError, printable
from lenet_jax.storage.weights import StateDict, StoredTensor, Tensor

LAYERS = ("conv1", "conv2", "fc1", "fc2", "fc3")
FLOATS = ("float64", "float16", "bfloat16")
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
HARMLESS = ("criterion", "loss", "loss_fn", "metric", "metrics", "accuracy")  # modules beside a net
PROGRAM = "python -m lenet_jax.torch_bridge"
SHOWN = 8  # names in one message
Say = Callable[[str], None]


def rename(state_dict: StateDict, source: str, layers: Mapping[str, str], say: Say) -> StateDict:
    """A `state_dict` with LeNet's names, layouts and float32.

    Args:
      state_dict: any; only names and shapes are read before it is known to be a LeNet's.
      source: where it is from, for messages.
      layers: names of layers in the file by LeNet's, `{"conv1": "features.0"}`; the others are
        found.
      say: is given what was done, one remark a call; a table has several lines.

    Returns:
      The ten entries; or all as they are if they have LeNet's names but do not fit together, for
      `infer_sizes` to say how.

    Raises:
      UserError: it is another network's, or more than one assignment fits.
    """
    named = _Named(source, state_dict)
    if not named.weights:
        named.reject_other_layers(named.names)
        return state_dict
    prefixes, networks = named.prefixes(), named.networks()
    if layers:
        stems = named.assign(_given(named, layers))
    elif len(networks) > 1:
        stems = named.one_of(networks)
    elif prefixes:
        stems = {layer: f"{prefixes[0]}{layer}" for layer in LAYERS}
    else:
        named.reject_other_layers(named.names)
        stems = named.assign({})
    prefix = _front(stems) if layers or prefixes or len(networks) > 1 else ""
    inside = [name for name in named.names if name.startswith(prefix)]
    named.reject_other_layers(inside)
    entries = named.entries(stems)
    others = {stem for network in networks for stem in network.values()} - set(stems.values())
    _say_what_is_left(named, stems, prefix, others, say)
    if prefixes and not layers:
        if front := named.front(prefix):
            say(f"{source}: {printable(front)!r} is taken off the front of the names")
    else:
        how = "as --map says"
        if not layers:
            how = (
                f"by their shapes; else: {PROGRAM} convert FILE OUT.safetensors --map=conv1=NAME,…"
            )
        say("\n".join([f"{source}: layers {how}", *named.table(stems, entries)]))
    return _as_float32(entries, source, say)


class _Named:
    """A `state_dict` seen by the stems of its names: what comes before `.weight` and `.bias`.

    Attributes:
      source: where it is from.
      tensors: the entries under the file's names.
      names: the file's names by those without wrappers in between.
      weights: the shape of each weight of two or four axes by its stem, in PyTorch's layout.
    """

    def __init__(self, source: str, state_dict: StateDict):
        self.source = source
        self.tensors = state_dict
        self.names = {_without_wrappers(name): name for name in state_dict}
        self.weights: dict[str, tuple[int, ...]] = {}
        for name, original in self.names.items():
            stem, _, kind = name.rpartition(".")
            shape = tuple(state_dict[original].shape)
            if kind in ("weight", "kernel") and len(shape) in (2, 4) and not _is_beside(name):
                axes = (3, 2, 0, 1) if len(shape) == 4 else (1, 0)
                self.weights[stem] = tuple(shape[a] for a in axes) if kind == "kernel" else shape

    def prefixes(self) -> list[str]:
        """What comes before LeNet's names, wherever all five layers are; in the file's order."""
        fronts = [stem.removesuffix("conv1") for stem in self.weights if stem.endswith("conv1")]
        fronts = [front for front in fronts if not front or front.endswith(".")]
        return [
            front for front in fronts if all(f"{front}{layer}" in self.weights for layer in LAYERS)
        ]

    def networks(self) -> list[dict[str, str]]:
        """The stems of each network whose names begin alike: `model.conv1`, …, `ema.conv1`, …."""
        pieces = [stem.split(".")[:-1] for stem in self.weights]
        fronts = ("".join(f"{p}." for p in way[:n]) for way in pieces for n in range(len(way) + 1))
        named, networks = self.prefixes(), []
        for front in dict.fromkeys(fronts):
            inside = [stem for stem in self.weights if stem.startswith(front)]
            if front in named:
                network = {layer: f"{front}{layer}" for layer in LAYERS}
            elif len(inside) == len(LAYERS):
                network = next(self._assignments({}, inside), None)
            else:
                continue
            if network is not None and network not in networks:
                networks.append(network)
        return networks

    def one_of(self, networks: Sequence[dict[str, str]]) -> dict[str, str]:
        """The first of several networks, which must be the same one.

        Raises:
          UserError: their weights differ.
        """
        first, *others = (self.entries(network) for network in networks)
        if not all(_are_equal(first, other) for other in others):
            fronts = ", ".join(repr(printable(_front(network), 40)) for network in networks[:SHOWN])
            raise UserError(
                f"{self.source} holds several networks, whose names begin with {fronts}\n"
                f"{_use_map(self.source, networks[-1])}"
            )
        return networks[0]

    def front(self, prefix: str) -> str:
        """What is taken off the file's names: a prefix, with wrappers."""
        name = self.names[next(n for n in self.names if n.startswith(f"{prefix}conv1."))]
        return name[: name.rindex("conv1")]

    def assign(self, given: Mapping[str, str]) -> dict[str, str]:
        """The stem of each layer, from those given and the shapes.

        Raises:
          UserError: no assignment fits, or several do, or the file's order is another.
        """
        free = [stem for stem in self.weights if stem not in given.values()]
        if len(self.weights) < len(LAYERS) or (len(free) + len(given) > len(LAYERS) and not given):
            raise self._no_lenet()
        if set(given) == set(LAYERS):
            return dict(given)
        fits = list(self._assignments(given, free))
        if not fits and given:
            raise UserError(
                f"--map={_flag(given)} does not fit: a LeNet's conv1, conv2, fc1, fc2 and fc3 take"
                f" each other's outputs\nThe layers of {self.source}: {self._listed()}"
            )
        if not fits:
            raise self._no_lenet()
        ordered = not any(isinstance(tensor, StoredTensor) for tensor in self.tensors.values())
        first, *others = fits
        contradicts = ordered and not given and _disorders(list(first.values()), free, self.weights)
        if others or contradicts:
            reason = "several assignments fit" if others else "its order is another than shapes ask"
            raise UserError(
                f"{self.source}: which layer is which? {reason}: {self._listed()}\n"
                f"{_use_map(self.source, first)}"
            )
        return first

    def entries(self, stems: Mapping[str, str]) -> dict[str, Tensor]:
        """The ten entries with LeNet's names and PyTorch's layouts, not yet of one dtype."""
        entries: dict[str, Tensor] = {}
        channels = None
        for layer, stem in stems.items():
            flax = f"{stem}.weight" not in self.names
            weight = self.tensors[self.names[f"{stem}.kernel" if flax else f"{stem}.weight"]]
            if flax:
                weight = _from_flax(_array(weight), channels if layer == "fc1" else None)
            if layer.startswith("fc") and len(weight.shape) == 4:
                weight = _array(weight).reshape(weight.shape[0], -1)
            channels = weight.shape[0]
            bias = self.names.get(f"{stem}.bias")
            zeros = np.zeros(weight.shape[:1], np.float32)
            entries[f"{layer}.weight"] = weight
            entries[f"{layer}.bias"] = zeros if bias is None else self.tensors[bias]
        return entries

    def table(self, stems: Mapping[str, str], entries: Mapping[str, Tensor]) -> Iterator[str]:
        """A line a layer: `conv1.weight <- features.0.weight (6, 1, 5, 5)`."""
        for layer, stem in stems.items():
            shape, final = self.weights[stem], tuple(entries[f"{layer}.weight"].shape)
            kind = "weight" if f"{stem}.weight" in self.names else "kernel"
            reshaped = "" if shape == final else f" as {final}"
            yield f"  {layer}.weight <- {printable(stem, 60)}.{kind} {shape}{reshaped}"

    def reject_other_layers(self, names: Sequence[str] | Mapping[str, str]) -> None:
        """Raises UserError if among these names there are layers of known kinds a LeNet lacks."""
        for ending, what in (
            ("running_mean", "batch normalisation"),
            ("weight_mask", "pruned layers, see torch.nn.utils.prune.remove(layer, 'weight')"),
            ("weight_u", "spectral normalisation"),
            ("weight_g", "weight normalisation"),
            ("original0", "weight normalisation"),
            ("weight_ih_l0", "recurrent layers"),
            ("in_proj_weight", "attention"),
        ):
            stems = [name.rpartition(".")[0] for name in names if name.endswith(ending)]
            if stems:
                listed = ", ".join(printable(stem, 60) for stem in stems[:SHOWN])
                raise UserError(f"{self.source} has {what} ({listed}): not a LeNet")

    def _assignments(self, given: Mapping[str, str], free: list[str]) -> Iterator[dict[str, str]]:
        open_layers = [layer for layer in LAYERS if layer not in given]
        for stems in itertools.permutations(free, len(open_layers)):
            found = dict(given) | dict(zip(open_layers, stems, strict=True))
            ordered = {layer: found[layer] for layer in LAYERS}
            if _fits([self.weights[stem] for stem in ordered.values()]):
                yield ordered

    def _no_lenet(self) -> UserError:
        return UserError(
            f"{self.source} is not a LeNet, which has two 5×5 convolutions and three linear layers"
            f"\nIts layers with weights: {self._listed() or 'none'}"
        )

    def _listed(self) -> str:
        items = [f"{printable(stem, 40)} {shape}" for stem, shape in self.weights.items()]
        return ", ".join(items[:SHOWN]) + (", …" if len(items) > SHOWN else "")


def _use_map(source: str, stems: Mapping[str, str]) -> str:
    """How to choose layers, the last two of an error's three lines."""
    return (
        f"Choose with --map, of this command or of `{PROGRAM} convert"
        f" {printable(source)} OUT.safetensors`, for example:\n--map={_flag(stems)}"
    )


def _front(stems: Mapping[str, str]) -> str:
    """What all stems begin with, up to a dot."""
    first, *others = stems.values()
    ends = (end for end in range(len(first), 0, -1) if first[end - 1] == ".")
    return next((first[:e] for e in ends if all(s.startswith(first[:e]) for s in others)), "")


def _are_equal(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return all(
        np.array_equal(_array(tensor), _array(theirs[name])) for name, tensor in ours.items()
    )


def _is_among(tensor: Tensor, tensors: Sequence[Tensor]) -> bool:
    alike = [other for other in tensors if tuple(other.shape) == tuple(tensor.shape)]
    return any(np.array_equal(_array(tensor), _array(other)) for other in alike)


def _flag(stems: Mapping[str, str]) -> str:
    return printable(",".join(f"{layer}={stem}" for layer, stem in stems.items()))


def _given(named: _Named, layers: Mapping[str, str]) -> dict[str, str]:
    """The stems that the user gave, each by its whole name or the end of it."""
    stems = {}
    for layer, name in layers.items():
        name = name.removesuffix(".weight")
        near = [s for s in named.weights if s == name] or [
            s for s in named.weights if s.endswith(f".{name}")
        ]
        if layer not in LAYERS or len(near) != 1:
            reason = (
                f"LeNet's layers are {', '.join(LAYERS)}"
                if layer not in LAYERS
                else f"the layers of {named.source} are {', '.join(map(printable, named.weights))}"
            )
            raise UserError(f"--map={printable(layer)}={printable(name)}: {reason}")
        stems[layer] = near[0]
    return {layer: stems[layer] for layer in LAYERS if layer in stems}


def _fits(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether the weights of five layers follow each other as a LeNet's do."""
    (conv1, conv2), linears = shapes[:2], shapes[2:]
    if not all(len(shape) == 4 and shape[2:] == (5, 5) for shape in (conv1, conv2)):
        return False
    if any(len(shape) == 4 and shape[2] != shape[3] for shape in linears):
        return False
    (f1, flat), (f2, n2), (_, n3) = ((shape[0], math.prod(shape[1:])) for shape in linears)
    channels = conv2[0]
    side = math.isqrt(flat // channels) if channels else 0
    first = linears[0]
    return (
        conv1[0] == conv2[1]
        and side > 0
        and flat == channels * side**2
        and (len(first) == 2 or first[1] == channels)
        and all(len(shape) == 2 or shape[2] == 1 for shape in linears[1:])
        and (f1, f2) == (n2, n3)
    )


def _disorders(
    chosen: Sequence[str], order: Sequence[str], weights: Mapping[str, tuple[int, ...]]
) -> bool:
    """Whether stems of one kind, convolutions or linear layers, are in another order."""
    return any(
        [stem for stem in chosen if len(weights[stem]) == axes]
        != [stem for stem in order if len(weights[stem]) == axes and stem in chosen]
        for axes in (2, 4)
    )


def _say_what_is_left(
    named: _Named, stems: Mapping[str, str], prefix: str, others: Set[str], say: Say
) -> None:
    """Says which entries are not used; `others` are layers of other networks.

    Raises:
      UserError: they are of the same network, and may matter.
    """
    used = {f"{stem}.{kind}" for stem in stems.values() for kind in ("weight", "bias", "kernel")}
    left = [name for name in named.names if name not in used]
    tensors = [named.tensors[named.names[name]] for name in used if name in named.names]
    matter = [
        name
        for name in left
        if name.startswith(prefix)
        and name.rpartition(".")[0] not in others
        and not _is_beside(name.removeprefix(prefix))
        and named.tensors[named.names[name]].shape != ()
        and not _is_among(named.tensors[named.names[name]], tensors)  # a layer with two names
    ]
    if matter:
        listed = ", ".join(
            f"{printable(name, 60)} {tuple(named.tensors[named.names[name]].shape)}"
            for name in matter[:SHOWN]
        )
        raise UserError(f"{named.source} is not a LeNet: it has {listed} beside its layers")
    if left:
        more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
        listed = ", ".join(printable(name, 60) for name in left[:SHOWN])
        say(f"{named.source}: left out: {listed}{more}")
    without = [layer for layer, stem in stems.items() if f"{stem}.bias" not in named.names]
    if without:
        say(f"{named.source}: zeros for the biases that it has not, of {', '.join(without)}")


def _as_float32(state_dict: StateDict, source: str, say: Say) -> StateDict:
    """Floats of other sizes as float32; other dtypes as they are, for `infer_sizes` to refuse."""
    others = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in state_dict.items()}
    others = {name: dtype for name, dtype in others.items() if dtype in FLOATS}
    if not others:
        return state_dict
    say(f"{source}: {', '.join(sorted(set(others.values())))} is converted to float32")
    arrays = {name: _array(state_dict[name]) for name in others}
    with np.errstate(over="ignore"):  # infinity is refused later
        return {**state_dict, **{name: a.astype(np.float32) for name, a in arrays.items()}}


def _array(tensor: Tensor) -> np.ndarray:
    """The values, as float32 where NumPy does not have the dtype of a tensor of torch."""
    if str(tensor.dtype) == "torch.bfloat16":
        tensor = tensor.float()  # pyright: ignore[reportAttributeAccessIssue]
    return np.asarray(tensor)


def _from_flax(kernel: np.ndarray, channels: int | None) -> np.ndarray:
    """A kernel of Flax in PyTorch's layout; of `fc1`, after this many maps, in its order too."""
    if kernel.ndim == 2 and channels:
        side = math.isqrt(len(kernel) // channels)
        if side * side * channels == len(kernel):
            maps = kernel.reshape(side, side, channels, -1).transpose(2, 0, 1, 3)
            kernel = maps.reshape(kernel.shape)
    return kernel.transpose((3, 2, 0, 1) if kernel.ndim == 4 else (1, 0))


def _without_wrappers(name: str) -> str:
    parts = name.replace("/", ".").split(".")
    return ".".join(part for part in parts if part not in WRAPPERS)


def _is_beside(name: str) -> bool:
    """Whether an entry is no layer's: a counter, or of a loss or a metric."""
    return name.split(".")[0] in HARMLESS or name.endswith(("num_batches_tracked", "n_averaged"))
