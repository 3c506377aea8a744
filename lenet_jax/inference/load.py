"""Loads trained networks from runs, weights files and sweeps, and saves their weights.

The config of a run is read from its `config.json`; its Python file is never executed.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from lenet_jax import config as configs
from lenet_jax.errors import IF_DIVERGED, UserError, counted, expand, show
from lenet_jax.inference.description import (
    DEFAULTS,
    Description,
    architecture,
    as_warning,
    describe,
    pixel_statistics,
    unsaid,
    unusual_size,
)
from lenet_jax.inference.network import Network
from lenet_jax.inference.others import NETWORK, build_other
from lenet_jax.inference.state_dict import (
    from_state_dict,
    make_model,
    read_form,
    to_state_dict,
)
from lenet_jax.inference.torch_names import Say, rename
from lenet_jax.network_name import NetworkName, parse, whole
from lenet_jax.nn.lenet import LeNet
from lenet_jax.reading import read_json
from lenet_jax.storage import run_dir, weights
from lenet_jax.storage.fetching import fetch
from lenet_jax.storage.formats import RunRecord, Summary
from lenet_jax.storage.recorded import unrounded
from lenet_jax.storage.sweep_dir import SweepDir, is_sweep
from lenet_jax.storage.sweep_weights import StoredMember, SweepWeights

NOTHING = Description()


class Results(NamedTuple):
    """What is known of a trained network beside its weights; see `Network`."""

    source: str
    config: configs.Config
    summary: Mapping[str, Any]
    history: Sequence[Mapping[str, float | int]]


def load(
    path: str | Path,
    member: int | None = None,
    given: Description = NOTHING,
    say: Say = as_warning,
    epoch: int | None = None,
) -> Network:
    """Loads a trained network.

    Args:
      path: a run directory; a weights file, of safetensors or PyTorch; or, with `member`, a sweep
        directory, or `SWEEP:7`, or `SWEEP:7@3`.
      member: the number of a sweep's member.
      given: what a weights file does not say of its network.
      say: is given remarks on what was taken for a file's weights, and what it does not say.
      epoch: of a sweep's member: after which, 0 for the initial weights; None: the best.

    Raises:
      UserError: the path does not exist, or its content is damaged or unfinished.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"what to load must be the name of a run or a file, not {show(path)}")
    member, epoch = whole("member", member), whole("epoch", epoch)
    if member is None and epoch is None:
        path, member, epoch = parse(str(path))
    path = expand(fetch(str(path)))
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if is_sweep(path):
        return _load_member(path, member, epoch, given, say)
    _check_no_member(path, member, epoch)
    if not path.is_dir():
        state_dict, metadata = _read(path, given, say)
        if NETWORK not in metadata and (remark := unsaid(metadata, str(path))):
            say(remark)
        network = _make(state_dict, metadata, str(path), given=given, say=say)
        if network.is_lenet:
            _say_unusual_size(network.model, metadata, str(path), say)
        return network
    results = _read_run(path, say)
    state_dict, metadata = _read(find_weights(path), given, say)
    network = _make(state_dict, metadata, *results, given, say)
    return dataclasses.replace(network, folder=path)


def load_results(path: Path, member: int | None = None, epoch: int | None = None) -> Results:
    """What is known of a run or a member without its network, whose code does not run.

    Raises:
      UserError: as for `load`.
    """
    if is_sweep(path):
        return _read_member(path, member, epoch)[0]
    _check_no_member(path, member, epoch)
    results = _read_run(path, as_warning)
    find_weights(path)  # may raise
    return results


def _check_no_member(path: Path, member: int | None, epoch: int | None) -> None:
    if member is not None:
        raise UserError(f"{path} is not a sweep, so it has no member {member}")
    if epoch is not None:
        raise UserError(f"{path} is not a sweep, so it has no weights after epoch {epoch}")


def _read_run(path: Path, say: Say) -> Results:
    if not (path / run_dir.CONFIG).is_file():
        raise UserError(f"{path} is not a run directory: it has no {run_dir.CONFIG}")
    if remark := run_dir.check(path):
        say(remark)
    config = configs.load_json(path / run_dir.CONFIG)
    summary = read_json(path / run_dir.SUMMARY, Summary) or {}
    return Results(str(path), config, summary, run_dir.read_rows(path))


def load_model(
    path: str | Path,
    member: int | None = None,
    given: Description = NOTHING,
    say: Say = as_warning,
) -> tuple[LeNet, dict[str, str]]:
    """The model of a run, a weights file or a sweep's member, and the file's metadata.

    For a run or a file only the weights are read, so the metadata may be empty but for what is
    given.

    Raises:
      UserError: as for `load`.
    """
    name = parse(str(path)) if member is None else NetworkName(str(path), member)
    if name.member is not None or is_sweep(expand(name.path)):
        network = load(path, member, given, say)
        network.require_lenet("this")
        return network.model, dict(network.metadata)
    state_dict, metadata = _read(find_weights(path), given, say, str(path))
    if NETWORK in metadata:
        raise UserError(f"{path} is of the class {show(metadata[NETWORK])}, not a LeNet")
    model = make_model(state_dict, str(path), **architecture(metadata, str(path)))
    if not expand(path).is_dir():
        _say_unusual_size(model, metadata, str(path), say)
    return model, metadata


def load_params(path: str | Path, like: nnx.State) -> nnx.State:
    """The parameters of a run or a weights file, in the structure of `like`.

    Raises:
      UserError: as for `weights.read` and `from_state_dict`.
    """
    state_dict, _ = _read(find_weights(path), NOTHING, as_warning, str(path))
    return from_state_dict(state_dict, like, str(path))


def save_params(
    path: str | Path, params: nnx.State, metadata: Mapping[str, str], *, force: bool = True
) -> None:
    """Writes parameters as a safetensors file in PyTorch's layout; for `force` see `weights.write`.

    Raises:
      UserError: the file cannot be written.
    """
    weights.write(path, to_state_dict(params), metadata, force=force)


def find_weights(path: str | Path) -> Path:
    """The file of weights that a path names: itself, or that of a run.

    Raises:
      UserError: the run has no trained network.
    """
    path = expand(path)
    if not path.is_dir():
        return path
    file = path / run_dir.WEIGHTS
    if (path / run_dir.CONFIG).is_file() and not file.is_file():
        record = read_json(path / run_dir.RECORD, RunRecord)
        if record is not None and record["status"] == "diverged":
            raise UserError(
                f"{path} has no trained network, since its run diverged:"
                f" {record.get('exit_reason')}\nIts command would repeat that: {IF_DIVERGED}"
            )
        raise UserError(
            f"{path} has no trained network yet: {run_dir.WEIGHTS} is written when a run is done\n"
            "Run its command again to resume it."
        )
    return file


def _read(
    path: Path, given: Description, say: Say, source: str = ""
) -> tuple[weights.StateDict, dict[str, str]]:
    """A file's weights under LeNet's names, and its metadata with what is given."""
    source = source or str(path)
    state_dict, metadata = weights.read(path, say)
    metadata = describe(metadata, given, source, say)
    if NETWORK in metadata:  # not a LeNet's
        return state_dict, metadata
    return rename(state_dict, source, given.layers or {}, say), metadata


def _say_unusual_size(model: LeNet, metadata: Mapping[str, str], source: str, say: Say) -> None:
    if remark := unusual_size(model.image_size, model.padding, metadata):
        say(f"{source} {remark}")


def _load_member(
    path: Path, member: int | None, epoch: int | None, given: Description, say: Say
) -> Network:
    results, stored = _read_member(path, member, epoch)
    metadata = describe(stored.metadata, given, results.source, say)
    state_dict = stored.state_dict
    if epoch is not None:
        if any(array.dtype == np.float16 for array in state_dict.values()):
            say(f"{results.source} was recorded in float16, which rounds its weights")
        state_dict = {name: unrounded(np.asarray(a)) for name, a in state_dict.items()}
    network = _make(state_dict, metadata, *results, given, say)
    return dataclasses.replace(network, folder=path)


def _read_member(path: Path, member: int | None, epoch: int | None) -> tuple[Results, StoredMember]:
    sweep = SweepDir(path)
    overrides, stored = sweep.members(), SweepWeights(sweep)
    if member is None:
        saved = next(stored.saved(), None)
        choice = "none has its weights saved"
        if saved is not None:
            choice = f"choose one, for example {NetworkName(str(path), saved)}"
        raise UserError(f"{path} is a sweep of {counted(len(overrides), 'network')}; {choice}")
    sweep.chunk_of(member)  # may raise
    config = configs.from_dict(sweep.config())
    config = configs.replace(config, overrides[member], run_code=False)
    found = stored.read_member(member, epoch)
    source = str(NetworkName(str(path), member, epoch))
    return Results(source, config, found.row, found.history), found


def _make(
    state_dict: weights.StateDict,
    metadata: Mapping[str, str],
    source: str,
    config: configs.Config | None = None,
    summary: Mapping[str, Any] | None = None,
    history: Sequence[Mapping[str, float | int]] = (),
    given: Description = NOTHING,
    say: Say = as_warning,
) -> Network:
    if NETWORK in metadata:
        network = build_other(state_dict, metadata, source, given, say, config)
        return dataclasses.replace(network, config=config, summary=summary or {}, history=history)
    if config is not None:  # it says what is not given
        metadata = {name: str(config.model[name]) for name in DEFAULTS} | dict(metadata)
    precision = "float32" if config is None else config.train.precision
    model = make_model(state_dict, source, precision=precision, **architecture(metadata, source))
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
        None if config is not None else dict(metadata),
    )
