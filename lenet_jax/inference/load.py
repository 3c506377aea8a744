"""Loads trained networks from runs, weights files and sweeps, and saves their weights.

The config of a run is read from its `config.json`; its Python file is never executed.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flax import nnx

from lenet_jax import config as configs
from lenet_jax.errors import UserError, expand
from lenet_jax.inference.network import Network
from lenet_jax.inference.state_dict import (
    from_state_dict,
    make_model,
    pixel_statistics,
    read_form,
    to_state_dict,
)
from lenet_jax.nn.lenet import LeNet
from lenet_jax.storage import run_dir, weights
from lenet_jax.storage.files import read_json
from lenet_jax.storage.sweep_dir import SweepDir, is_sweep


def load(path: str | Path, member: int | None = None) -> Network:
    """Loads a trained network.

    Args:
      path: a run directory; a weights file, `.safetensors` or `.pt`; or, with `member`, a sweep
        directory.
      member: the number of a sweep's member.

    Raises:
      UserError: the path does not exist, or its content is damaged or unfinished.
    """
    path = expand(path)
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if is_sweep(path):
        return _load_member(path, member)
    if member is not None:
        raise UserError(f"{path} is not a sweep, so it has no member {member}")
    if not path.is_dir():
        state_dict, metadata = weights.read(path)
        return _make(state_dict, metadata, str(path))
    if not (path / run_dir.CONFIG).is_file():
        raise UserError(f"{path} is not a run directory: it has no {run_dir.CONFIG}")
    config = configs.load_json(path / run_dir.CONFIG)
    if not (path / run_dir.WEIGHTS).is_file():
        raise UserError(
            f"{path} has no trained network yet: {run_dir.WEIGHTS} is written when a run is done\n"
            "Run its command again to resume it."
        )
    state_dict, metadata = weights.read(path / run_dir.WEIGHTS)
    summary = read_json(path / run_dir.SUMMARY)
    return _make(state_dict, metadata, str(path), config, summary, list(run_dir.read_rows(path)))


def load_model(path: str | Path, member: int | None = None) -> tuple[LeNet, dict[str, str]]:
    """The model of a run, a weights file or a sweep's member, and the file's metadata.

    For a run or a file only the weights are read, so the metadata may be empty.

    Raises:
      UserError: as for `load`.
    """
    if member is not None or is_sweep(Path(path)):
        network = load(path, member)
        return network.model, dict(network.metadata)
    state_dict, metadata = weights.read(_weights_file(path))
    return make_model(state_dict, str(path)), metadata


def load_params(path: str | Path, like: nnx.State) -> nnx.State:
    """The parameters of a run or a weights file, in the structure of `like`.

    Raises:
      UserError: as for `weights.read` and `from_state_dict`.
    """
    state_dict, _ = weights.read(_weights_file(path))
    return from_state_dict(state_dict, like, str(path))


def save_params(path: str | Path, params: nnx.State, metadata: Mapping[str, str]) -> None:
    """Writes parameters as a safetensors file in PyTorch's layout.

    Raises:
      UserError: the file cannot be written.
    """
    weights.write(path, to_state_dict(params), metadata)


def _weights_file(path: str | Path) -> Path:
    path = expand(path)
    return path / run_dir.WEIGHTS if path.is_dir() else path


def _load_member(path: Path, member: int | None) -> Network:
    sweep = SweepDir(path)
    overrides = sweep.members()
    if member is None:
        raise UserError(
            f"{path} is a sweep of {len(overrides)} networks; choose one, for example"
            f" --member={min(overrides, default=0)}"
        )
    if member not in overrides:
        known = f"{min(overrides)} to {max(overrides)}" if overrides else "none"
        raise UserError(f"{path} has no member {member}; it has {known}")
    config = configs.replace(configs.from_dict(sweep.config()), overrides[member])
    stored = sweep.read_member(member)
    source = f"{path}, member {member}"
    return _make(stored.state_dict, stored.metadata, source, config, stored.row, stored.history)


def _make(
    state_dict: weights.StateDict,
    metadata: Mapping[str, str],
    source: str,
    config: configs.Config | None = None,
    summary: Mapping[str, Any] | None = None,
    history: Sequence[Mapping[str, float | int]] = (),
) -> Network:
    model = make_model(state_dict, source)
    if config is not None:
        model.backend = config.model.backend
    mean, std = pixel_statistics(metadata, model.conv1.in_features, source)
    classes = metadata.get("classes", "").splitlines()
    if len(classes) != model.fc3.out_features:
        classes = list(map(str, range(model.fc3.out_features)))
    form, least_energy = read_form(metadata, model.conv1.in_features, model.image_size, source)
    if config is not None:
        form = dataclasses.replace(form, fit=config.data.fit)
    return Network(
        model,
        tuple(mean),
        tuple(std),
        tuple(classes),
        source,
        config,
        summary or {},
        history,
        form,
        least_energy,
    )
