"""Where trained networks lie: loads one out of a run, a file of weights, or a sweep.

A run is read from its `config.json`, never from the Python file that made it.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lenet_jax import config as configs
from lenet_jax.errors import UserError
from lenet_jax.inference import state_dict as torch_bridge
from lenet_jax.inference.network import Network
from lenet_jax.storage import weights as state_file


def load(path: str | Path, member: int | None = None) -> Network:
    """Loads a trained network.

    Args:
      path: a run directory; a file of weights, `.safetensors` or `.pt`; or, with `member`, the
        directory of a sweep.
      member: the number of a sweep's member.

    Raises:
      UserError: there is nothing of the kind, or it is broken or unfinished.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"there is no {path}")
    if (path / "sweep.json").is_file():
        return _load_member(path, member)
    if member is not None:
        raise UserError(f"{path} is no sweep, so it has no member {member}")
    if not path.is_dir():
        state_dict, notes = state_file.read(path)
        return _make(state_dict, notes, str(path))
    if not (path / "config.json").is_file():
        raise UserError(f"{path} holds no run: it has no config.json")
    config = configs.load_json(path / "config.json")
    if not (path / "model.safetensors").is_file():
        raise UserError(
            f"{path} has no trained network yet: model.safetensors is written when a run is done\n"
            "Start the run again with its command to go on with it."
        )
    state_dict, notes = state_file.read(path)
    return _make(
        state_dict,
        notes,
        str(path),
        config,
        read_json(path / "summary.json", {}),
        list(_read_history(path / "metrics.jsonl")),
    )


def _load_member(path: Path, member: int | None) -> Network:
    plan = read_json(path / "sweep.json", {})
    overrides = {
        entry["member"]: entry["overrides"]
        for entry in plan.get("members", ())
        if isinstance(entry, dict) and {"member", "overrides"} <= entry.keys()
    }
    if member is None:
        raise UserError(
            f"{path} is a sweep of {len(overrides)} networks; choose one, for example"
            f" --member={min(overrides, default=0)}"
        )
    if member not in overrides:
        known = f"{min(overrides)} to {max(overrides)}" if overrides else "none"
        raise UserError(f"{path} has no member {member}; it has {known}")
    config = configs.replace(configs.load_json(path / "config.json"), overrides[member])
    kept = []
    for file in sorted(path.glob("chunks/*/weights.safetensors")):
        stacked, notes = state_file.read(file)
        members = notes.get("members", "").split()
        kept += members
        if str(member) in members:
            index = members.index(str(member))
            state_dict = {name: np.asarray(array)[index] for name, array in stacked.items()}
            results = _read_chunk(file.parent, member)
            return _make(state_dict, notes, f"{path}, member {member}", config, *results)
    told = ", ".join(kept[:12]) + (f" and {len(kept) - 12} more" if len(kept) > 12 else "")
    raise UserError(
        f"{path} has no weights of member {member}\nIt has those of members: {told or 'none yet'}"
    )


def _read_chunk(
    folder: Path, member: int
) -> tuple[Mapping[str, Any], Sequence[Mapping[str, float | int]]]:
    """What a finished part of a sweep says of a member: its results, and a row for each epoch."""
    members = read_json(folder / "results.json", {}).get("rows", [])
    index = next((i for i, row in enumerate(members) if row.get("member") == member), None)
    if index is None or not (folder / "history.npz").is_file():
        return {}, []
    try:
        with np.load(folder / "history.npz", allow_pickle=False) as file:
            # `train_loss` there is `train/loss` in a run.
            curves = {name.replace("_", "/", 1): file[name][index].tolist() for name in file}
    except (OSError, ValueError, LookupError, zipfile.BadZipFile) as error:
        raise UserError(f"{folder} is damaged: {configs.one_line(error)}") from error
    rows = zip(*curves.values(), strict=True)
    history = [
        {"epoch": epoch} | dict(zip(curves, row, strict=True)) for epoch, row in enumerate(rows, 1)
    ]
    return members[index], history


def _make(
    state_dict: state_file.StateDict,
    notes: Mapping[str, str],
    source: str,
    config: configs.Config | None = None,
    summary: Mapping[str, Any] | None = None,
    history: Sequence[Mapping[str, float | int]] = (),
) -> Network:
    model = torch_bridge.make_model(state_dict, source)
    if config is not None:
        model.backend = config.model.backend
    mean, std = torch_bridge.pixel_statistics(notes, model.conv1.in_features, source)
    classes = notes.get("classes", "").splitlines()
    if len(classes) != model.fc3.out_features:
        classes = list(map(str, range(model.fc3.out_features)))
    return Network(
        model, tuple(mean), tuple(std), tuple(classes), source, config, summary or {}, history
    )


def read_json(file: Path, default: dict[str, Any]) -> dict[str, Any]:
    """The object in a file, or `default` if there is no such file.

    Raises:
      UserError: the file holds something else.
    """
    try:
        value = json.loads(file.read_bytes()) if file.exists() else default
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is no JSON: {configs.one_line(error)}") from error
    if not isinstance(value, dict):
        raise UserError(f"{file} is not what it should be: a JSON object")
    return value


def _read_history(file: Path) -> Iterator[dict[str, float | int]]:
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return  # the process died while it wrote this line
