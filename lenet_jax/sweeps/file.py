"""Sweep files: the configs of a sweep, built from four combinators.

    from lenet_jax.sweeps.file import product, sweep

    def get_sweep():
        rates = sweep("optimizer.learning_rate", [0.01, 0.03, 0.1])
        return product(rates, sweep("seed", range(5)))

A sweep is a list of overrides, one dict for each member, so a random or log-uniform draw is a list
like any other: `sweep("optimizer.learning_rate", 10 ** rng.uniform(-3, 0, 20))`. A sweep file runs
as code: run only those you trust.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from lenet_jax.config.file import Config, call_file, replace
from lenet_jax.config.schema import RENAMED, current_names, keys, suggestion
from lenet_jax.errors import UserError, show

Overrides = dict[str, object]
Sweep = list[Overrides]

# Keys that cannot vary between members, and why.
FIXED = {
    "checkpoint.every_epochs": "a sweep saves whole chunks, not checkpoints",
    "checkpoint.keep": "a sweep saves whole chunks, not checkpoints",
    "data.data_dir": "it says where the data is, not which data",
    "train.initial_weights": "a sweep draws its members' weights",
}


class Member(NamedTuple):
    """One network of a sweep: its number, its overrides, and the resulting config."""

    number: int
    overrides: Overrides
    config: Config


def sweep(key: str, values: Iterable[object]) -> Sweep:
    """One member per value of a config key; NumPy scalars and arrays are accepted."""
    key = RENAMED.get(key, key)
    return [{key: _plain(value)} for value in values]


def product(*sweeps: Sweep) -> Sweep:
    """The Cartesian product; the last sweep varies fastest."""
    return [_join("product", overrides) for overrides in itertools.product(*sweeps)]


def zipit(*sweeps: Sweep) -> Sweep:
    """The sweeps zipped: first with first, second with second; lengths must be equal."""
    if len({len(members) for members in sweeps}) > 1:
        lengths = " and ".join(str(len(members)) for members in sweeps)
        raise UserError(f"zipit: the sweeps have {lengths} members; their lengths must be equal")
    return [_join("zipit", overrides) for overrides in zip(*sweeps, strict=True)]


def chain(*sweeps: Sweep) -> Sweep:
    """The sweeps concatenated."""
    return [dict(overrides) for members in sweeps for overrides in members]


def load(path_with_arg: str, config: Config, given: Sequence[str] = ()) -> list[Member]:
    """Runs a sweep file and checks each of its members.

    Args:
      path_with_arg: `FILE.py` or `FILE.py:ARG`; the argument goes to `get_sweep`.
      config: the config that members override.
      given: keys set on the command line, which cannot be swept.

    Raises:
      UserError: the file is missing or fails, or the sweep has mistakes; all are listed at once, on
        at most three lines.
    """
    changes = call_file(path_with_arg, "get_sweep", "sweep")
    path = show(path_with_arg.partition(":")[0])
    if not (isinstance(changes, list) and all(isinstance(each, Mapping) for each in changes)):
        raise UserError(
            f"{path}: its get_sweep returns {type(changes).__name__}, not a list of overrides\n"
            "Build one with sweep, product, zipit and chain of lenet_jax.sweeps.file."
        )
    if not changes:
        raise UserError(f"{path}: the sweep is empty")
    changes = [current_names(overrides) for overrides in changes]
    _refuse(path, _mistaken_keys(changes, config, given))
    members, mistakes, seen = [], [], {}
    for number, overrides in enumerate(changes):
        overrides = {key: _plain(value) for key, value in overrides.items()}
        try:
            member = Member(number, overrides, replace(config, overrides))
        except UserError as error:
            mistakes.append(f"member {number}: {'; '.join(str(error).splitlines())}")
            continue
        twin = seen.setdefault(member.config.to_json(), number)
        if twin != number:
            mistakes.append(f"members {twin} and {number} are the same")
        members.append(member)
    _refuse(path, mistakes)
    return members


def share_order(config: Config) -> Config:
    """Makes the order and augmentation seeds explicit, so that `seed` does not affect them."""
    seeds = {f"seeds.{k}": config.seeds[k] for k in ("order", "augment")}
    return replace(config, {k: config.seed if v is None else v for k, v in seeds.items()})


def _mistaken_keys(changes: Sweep, config: Config, given: Sequence[str]) -> list[str]:
    values = {path: attrgetter(path)(config) for path in keys()}
    mistakes = []
    for key in dict.fromkeys(key for overrides in changes for key in overrides):
        if key not in keys():
            mistakes.append(f"unknown key {show(key)}; {suggestion(str(key), values)}")
        elif key in FIXED:
            mistakes.append(f"{key} cannot vary in a sweep: {FIXED[key]}")
        elif key in given:
            mistakes.append(f"{key} is swept, but also set by --config.{key}")
    return mistakes


def _refuse(path: str, mistakes: Sequence[str]) -> None:
    if mistakes:
        more = [f"and {len(mistakes) - 2} more mistakes"] if len(mistakes) > 2 else []
        raise UserError("\n".join([*(f"{path}: {mistake}" for mistake in mistakes[:2]), *more]))


def _join(combinator: str, overrides: Sequence[Overrides]) -> Overrides:
    joined: Overrides = {}
    for each in overrides:
        both = joined.keys() & each.keys()
        if both:
            names = show(", ".join(sorted(both)))
            raise UserError(f"{combinator}: {names} is set by two of its sweeps")
        joined |= each
    return joined


def _plain(value: object) -> object:
    """Converts NumPy scalars and arrays to Python numbers and tuples."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return tuple(value) if isinstance(value, list) else value
