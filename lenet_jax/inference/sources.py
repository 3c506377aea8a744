"""The weights that a config names: `train.initial_weights` and `prune.weights`.

`RUN` and `FILE` are the weights of a run and of a file. `SWEEP:7` are those of a sweep's member, of
its best epoch on validation, and `SWEEP:7@3` those that it had after epoch 3, if they are recorded;
`SWEEP:7@0` are those before its first step.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from lenet_jax.config.file import Config
from lenet_jax.config.networks import is_code
from lenet_jax.data.files import open_file
from lenet_jax.errors import UserError, expand, show
from lenet_jax.inference.description import Description, disagreements
from lenet_jax.inference.load import find_weights, load, load_model
from lenet_jax.inference.state_dict import from_state_dict, to_state_dict
from lenet_jax.inference.variables import from_arrays
from lenet_jax.network_name import parse
from lenet_jax.nn.lenet import LeNet
from lenet_jax.storage.sweep_dir import SweepDir, is_sweep
from lenet_jax.storage.sweep_weights import SweepWeights
from lenet_jax.storage.weights import StateDict


class Receiver(NamedTuple):
    """The network that takes the weights.

    Attributes:
      network: its class.
      name: the class as `model.name` names it.
      variables: its own, as shapes and dtypes.
      model: the arguments of its constructor, as its config has them.
      statistics: the mean and the standard deviation of its pixels per channel, in 0..255.
      has_traced: whether arrays among its variables are its config's, whatever the weights are of.
    """

    network: type
    name: str
    variables: nnx.State
    model: Mapping[str, Any]
    statistics: tuple[tuple[float, ...], tuple[float, ...]]
    has_traced: bool

    @classmethod
    def of(cls, spec: Any, config: Config) -> "Receiver":
        """The network of a `training.spec.Spec` and its config."""
        statistics, has_traced = (spec.mean, spec.std), bool(spec.traced)
        return cls(
            spec.network,
            spec.network_name,
            spec.variables,
            dict(config.model),
            statistics,
            has_traced,
        )


class Source(NamedTuple):
    """A member of a sweep, after an epoch or, with None, after its best."""

    sweep: str
    member: int
    epoch: int | None


def load_weights(
    names: Iterable[str], receiver: Receiver, say: Callable[[str], None]
) -> dict[str, nnx.State]:
    """The weights of each name, in the structure of a network's variables.

    A sweep's file is read once for all of its members.

    Args:
      names: as above.
      receiver: the network.
      say: is given each remark once, such as that the weights are of another activation.

    Raises:
      UserError: one does not exist, is damaged, or is of another network.
    """
    found: dict[str, nnx.State] = {}
    remarks: dict[str, str] = {}
    wanted: dict[tuple[str, int | None], dict[str, int]] = {}  # members by sweep and epoch
    for name in dict.fromkeys(names):
        if (source := _find_member(name)) is None:
            found[name], metadata = _load_one(name, receiver, say)
            remarks |= _remarks(name, metadata, receiver, remarks)
        else:
            wanted.setdefault((source.sweep, source.epoch), {})[name] = source.member
    for (sweep, epoch), members in wanted.items():
        stored = SweepWeights(SweepDir(sweep)).read(set(members.values()), epoch)
        for name, member in members.items():
            state_dict, metadata = stored[member]
            if epoch is not None:
                _check_exact(state_dict, name)
            found[name] = _convert(state_dict, receiver, name)
            remarks |= _remarks(name, metadata, receiver, remarks)
    for remark, name in remarks.items():
        say(f"{name} {remark}")
    return found


def sum_of_weights(names: Iterable[str]) -> str | None:
    """The SHA-256 of what names stand for; None if there are none.

    Raises:
      UserError: one does not exist.
    """
    total, names = hashlib.sha256(), sorted(set(names))
    sweeps: dict[str, SweepWeights] = {}  # each reads its plan once
    for name in names:
        if (source := _find_member(name)) is not None:
            sweep = sweeps.setdefault(source.sweep, SweepWeights(SweepDir(source.sweep)))
            stored = sweep.sum_of(source.member, source.epoch)
            total.update(f"{stored}:{source.member}\n".encode())
        else:
            with open_file(find_weights(name)) as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest() if names else None


def _find_member(name: str) -> Source | None:
    """The member that a name stands for; None for anything else than a sweep's."""
    folder, member, epoch = parse(name)
    if member is not None and is_sweep(expand(folder)):
        if name[len(folder)] == "@":  # `SWEEP@7`, which elsewhere is `SWEEP:7`
            raise UserError(
                f"{show(name)}: is {member} a member or an epoch?\n"
                f"Write {show(folder)}:{member}, or {show(folder)}:MEMBER@{member}."
            )
        return Source(folder, member, epoch)
    if epoch is not None:
        raise UserError(f"{show(name)}: {show(folder)} is not a sweep's directory")
    return None


def _check_exact(state_dict: StateDict, name: str) -> None:
    if any(array.dtype == np.float16 for array in state_dict.values()):
        raise UserError(
            f"{show(name)} was recorded in float16, which rounds the weights\n"
            "To start from them, record them with --record_dtype=float32."
        )


def _load_one(
    name: str, receiver: Receiver, say: Callable[[str], None]
) -> tuple[nnx.State, dict[str, str]]:
    """The weights of a run or a file, and its metadata, if the network is a LeNet."""
    path, member, _ = parse(name)
    if receiver.network is not LeNet:
        of = receiver.name
        given = Description(model=of if is_code(of) else None)
        return _convert(load(path, member, given, say).state_dict, receiver, name), {}
    lenet, metadata = load_model(path, member, say=say)
    return _convert(to_state_dict(nnx.state(lenet, nnx.Param)), receiver, name), metadata


def _convert(state_dict: StateDict, receiver: Receiver, name: str) -> nnx.State:
    if receiver.network is LeNet:
        return from_state_dict(state_dict, receiver.variables, name)
    params = from_arrays(state_dict, receiver.variables, name)
    if receiver.has_traced:
        return nnx.filter_state(params, lambda _, value: type(value) is not nnx.Variable)
    return params


def _remarks(
    name: str, metadata: Mapping[str, str], receiver: Receiver, known: Mapping[str, str]
) -> dict[str, str]:
    """What is to be said of weights, with the first name of which it is."""
    if receiver.network is not LeNet:
        return {}
    remarks = disagreements(metadata, receiver.model, receiver.statistics)
    return {remark: name for remark in remarks if remark not in known}
