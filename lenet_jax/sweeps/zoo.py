"""Writes the population of a sweep as a model zoo for PyTorch.

    index.csv                             a line per network: its file, module, overrides, results
    member_0003_epoch_0010.safetensors    the weights of a member after an epoch
    lenet.py                              the module that they are of; several shapes: lenet_0.py, …

Of networks that are no LeNets there is no module for PyTorch: the index names their class, and the
weights have the names and layouts of Flax, as `export --format=safetensors` writes them.

The networks are those of each member's best epoch on validation, which `selected` marks, and those
that were recorded after other epochs.
"""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lenet_jax import config as configs
from lenet_jax.drafts import name_draft, write_atomically
from lenet_jax.errors import UserError, counted, show
from lenet_jax.inference.network import Network
from lenet_jax.inference.others import NETWORK, complete
from lenet_jax.inference.torch_source import source
from lenet_jax.reading import open_file
from lenet_jax.statistics import shortest
from lenet_jax.storage import weights
from lenet_jax.storage.files import publish, remove, table
from lenet_jax.storage.recorded import WEIGHTS, load_weights, recorded_epochs, unrounded
from lenet_jax.storage.sweep_dir import SweepDir
from lenet_jax.sweeps.collected import SweepResults

INDEX = "index.csv"
OF_EACH = ("file", "module", "member", "epoch", "selected")
FILES = r"index\.csv|lenet(_\d+)?\.py|member_\d+_epoch_\d+\.safetensors|__pycache__"
CURVES = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy")
RESULTS = ("test_loss", "test_accuracy")


class Entry(NamedTuple):
    """A network of the zoo.

    Attributes:
      member: its number.
      epoch: after which it is, counted from 1; 0: before the first.
      selected: whether the results of the sweep are of it.
      state_dict: its weights.
    """

    member: int
    epoch: int
    selected: bool
    state_dict: dict[str, np.ndarray]

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"member_{self.member:04d}_epoch_{self.epoch:04d}.safetensors"


def write_zoo(results: SweepResults, out: Path, *, force: bool = False) -> list[str]:
    """Writes the zoo as a folder, which is there only when it is complete.

    Args:
      results: of a sweep that saved the weights of every member.
      out: the folder.
      force: whether a zoo that is there is replaced.

    Returns:
      Lines to print.

    Raises:
      UserError: weights are missing or damaged, or `out` exists.
      OSError: it cannot be written.
    """
    if out.exists():
        is_zoo = _is_zoo(out)
        if not (force and is_zoo):
            more = ", or add --force to replace it" if is_zoo else "; it is not only a zoo"
            raise UserError(f"{show(out, 120)} already exists\nChoose another name{more}.")
    is_new = not out.parent.exists()
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = name_draft(out)
    draft.mkdir()
    try:
        lines, modules = _write_networks(results, draft)
        write_atomically(draft / INDEX, table(lines))
        publish(draft, out)
    finally:
        remove(draft)  # nothing, if it was renamed
        if is_new:
            with contextlib.suppress(OSError):
                out.parent.rmdir()  # which fails if the zoo is there
    how = f"for PyTorch: load(FILE) of {', '.join(modules)}"
    if not modules:
        how = "in Python: lenet_jax.load(FILE), and model=… of a class of your own"
    return [
        f"{out}  {counted(len(lines) - 1, 'network')} of {counted(len(results.rows), 'member')}",
        f"listed in {INDEX}; {how}",
    ]


def _is_zoo(folder: Path) -> bool:
    """Whether there is a zoo and nothing else, so that it may be replaced."""
    if not folder.is_dir() or not (folder / INDEX).is_file():
        return False
    begin = ",".join(OF_EACH).encode()
    with open_file(folder / INDEX) as file:
        is_index = file.read(len(begin)) == begin
    return is_index and all(re.fullmatch(FILES, path.name) for path in folder.iterdir())


def _write_networks(results: SweepResults, folder: Path) -> tuple[list[list[Any]], list[str]]:
    """Writes the networks and their modules: the lines of the index, and the modules' names."""
    rows = {row["member"]: row for row in results.rows}
    written: list[tuple[Entry, str]] = []  # and its class, or the text of its module
    base, sweep = configs.from_dict(SweepDir(results.path).config()), str(results.path)
    for chunk, members in results.folders:
        metadata = _read_metadata(chunk)
        module = metadata.get(NETWORK)
        if module is None:
            network = _any_network(results, chunk, members, rows)
            if network is None:
                continue
            metadata = network.metadata
            module = source(network.model, network.mean, network.std, network.class_names)
        for entry in _entries(chunk, members, rows):
            own = metadata
            if NETWORK in metadata:
                overrides = results.overrides[entry.member]
                config = configs.replace(base, overrides, run_code=False)
                own = complete(metadata, config, sweep)
            _write(folder / entry.file, entry.state_dict, own)
            written.append((entry._replace(state_dict={}), module))
    texts = list(dict.fromkeys(module for _, module in written if "\n" in module))
    names = ["lenet.py"] if len(texts) == 1 else [f"lenet_{i}.py" for i in range(len(texts))]
    modules = dict(zip(texts, names, strict=True))
    for text, name in modules.items():
        write_atomically(folder / name, text)
    swept = list(dict.fromkeys(key for own in results.overrides.values() for key in own))
    lines: list[list[Any]] = [[*OF_EACH, *swept, *CURVES, *RESULTS]]
    for entry, module in sorted(written, key=lambda item: item[0][:2]):
        overrides, curves = results.overrides[entry.member], results.curves[entry.member]
        tested = rows[entry.member] if entry.selected else {}
        cells = [
            *(
                entry.file,
                modules.get(module, module),
                entry.member,
                entry.epoch,
                int(entry.selected),
            ),
            *(_cell(overrides.get(key)) for key in swept),
            *(_cell(shortest(curves[n][entry.epoch - 1]) if entry.epoch else None) for n in CURVES),
            *(tested.get(name) for name in RESULTS),
        ]
        lines.append(cells)
    return lines, names


def _read_metadata(chunk: Path) -> dict[str, str]:
    """What a chunk's file of weights says of each of its networks.

    Raises:
      UserError: it has none.
    """
    if not (chunk / WEIGHTS).is_file():
        raise UserError(
            f"{show(chunk, 120)} has no weights\nA sweep with --save=all or --record=weights writes"
            " those of every member."
        )
    metadata = weights.read(chunk / WEIGHTS)[1]
    return {key: value for key, value in metadata.items() if key != "members"}


def _any_network(
    results: SweepResults, chunk: Path, members: Sequence[int], rows: Mapping[int, Mapping]
) -> Network | None:
    """A network of a chunk, whose shape and data are those of all; None if it has none to write."""
    done = next((member for member in members if rows[member]["status"] == "done"), None)
    if done is not None:
        return results.network(done)
    return results.network(members[0], epoch=0) if recorded_epochs([chunk], "weights") else None


def _entries(
    chunk: Path, members: Sequence[int], rows: Mapping[int, Mapping[str, Any]]
) -> Iterator[Entry]:
    """The networks of a chunk that did not diverge, each once."""
    folders = [(chunk, members)]
    best = {member: rows[member]["best_epoch"] for member in members}
    for epoch in [None, *recorded_epochs([chunk], "weights")]:
        arrays = load_weights(folders, epoch)
        for row, member in enumerate(sorted(members)):
            state = {name: array[row] for name, array in arrays.items()}
            if epoch is None and best[member] is not None:
                yield Entry(member, best[member], True, state)
            elif epoch not in (None, best[member]) and _is_finite(state):
                yield Entry(member, epoch, False, {n: unrounded(a) for n, a in state.items()})


def _write(file: Path, state_dict: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a file of weights, and compares what is read again."""
    weights.write(file, state_dict, metadata)
    again, _ = weights.read(file)
    if any(not np.array_equal(array, np.asarray(again[n])) for n, array in state_dict.items()):
        raise UserError(f"{show(file, 120)} differs from what was written: check the disk")


def _is_finite(state_dict: Mapping[str, np.ndarray]) -> bool:
    return all(np.isfinite(array).all() for array in state_dict.values())


def _cell(value: Any) -> Any:
    """A value in a table; NaN, of a split without images, is left out."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return None if isinstance(value, float) and math.isnan(value) else value
