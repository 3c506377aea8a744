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
import os
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from lenet_jax.config.file import Config, replace
from lenet_jax.config.rules import RENAMED
from lenet_jax.config.schema import current_names, keys, suggestion
from lenet_jax.config.source import call_file
from lenet_jax.errors import UserError, printable, show
from lenet_jax.storage.columns import Columns, plain
from lenet_jax.sweeps.members import Members, Overrides

Sweep = list[Overrides]
SHOWN = 2  # mistakes in one message

# Keys that cannot vary between members, and why.
FIXED = {
    "checkpoint.every_epochs": "a sweep saves whole chunks, not checkpoints",
    "checkpoint.keep": "a sweep saves whole chunks, not checkpoints",
    "data.data_dir": "it says where the data is, not which data",
    "train.measurements": "the table has the same columns for all members",
    "log.trackers": "a sweep writes its own tables",
}


def sweep(key: str, values: Iterable[object]) -> Sweep:
    """One member per value of a config key; NumPy scalars and arrays are accepted.

    Raises:
      UserError: the values are not several.
    """
    if not isinstance(values, Iterable):
        raise UserError(f"sweep({key!r}, …): the values must be a list, such as [{show(values)}]")
    key = RENAMED.get(key, key)
    return [{key: plain(value)} for value in values]


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


def load(sweep: Any, config: Config, given: Sequence[str] = ()) -> Members:
    """Checks each member of a sweep, which a sweep file may have.

    Args:
      sweep: the overrides of each member; or `FILE.py` or `FILE.py:ARG`, which runs: the argument
        goes to `get_sweep`.
      config: the config that members override.
      given: keys set on the command line, which cannot be swept.

    Raises:
      UserError: the file is missing or fails, or the sweep has mistakes; the first are listed, on
        at most three lines.
    """
    if config.log.trackers:
        raise UserError(
            f"log.trackers={','.join(config.log.trackers)} is for single runs: a sweep writes its"
            " own tables"
        )
    if isinstance(sweep, os.PathLike):
        sweep = os.fspath(sweep)
    is_file = isinstance(sweep, str)
    changes = call_file(sweep, "get_sweep", "sweep") if is_file else sweep
    path = show(sweep.partition(":")[0]) if is_file else "sweep"
    is_list = isinstance(changes, list)
    others = [each for each in changes if not isinstance(each, Mapping)] if is_list else []
    if not is_list or others:
        kind = f"a list with {show(others[0])}" if others else type(changes).__name__
        which = "its get_sweep returns" if is_file else "it is"
        raise UserError(
            f"{path}: {which} {kind}, not a list of overrides\n"
            "Build one with sweep, product, zipit and chain of lenet_jax.sweeps.file."
        )
    if not changes:
        raise UserError(f"{path}: the sweep is empty")
    names = dict.fromkeys(key for overrides in changes for key in overrides)
    if not RENAMED.keys().isdisjoint(names):
        changes = [current_names(overrides) for overrides in changes]
        names = current_names(names)
    mistakes = _mistaken_keys(names, config, given)
    _refuse(path, mistakes, len(mistakes))
    try:
        columns = Columns.of(changes)
    except (ValueError, RecursionError) as error:  # a value cannot be shown
        raise UserError(f"{path}: {printable(error)}") from error
    del changes  # which take more memory than the columns
    members = Members(config, columns)
    wrong = members.find_wrong()
    right = np.flatnonzero(~wrong)
    twins = np.arange(len(members))
    twins[right] = right[members.part(right).find_twins()]
    mistaken = np.flatnonzero(wrong | (twins != np.arange(len(members))))
    shown = [
        f"members {twins[number]} and {number} are the same"
        if twins[number] != number
        else f"member {number}: {_mistakes(config, columns[number])}"
        for number in mistaken[:SHOWN].tolist()
    ]
    _refuse(path, shown, len(mistaken))
    return members


def share_order(config: Config) -> Config:
    """Makes the order and augmentation seeds explicit, so that `seed` does not affect them."""
    seeds = {f"seeds.{k}": config.seeds[k] for k in ("order", "augment")}
    return replace(config, {k: config.seed if v is None else v for k, v in seeds.items()})


def _mistaken_keys(names: Iterable[str], config: Config, given: Sequence[str]) -> list[str]:
    known = keys(config.model.name)
    values = {path: attrgetter(path)(config) for path in known}
    mistakes = []
    for key in names:
        if key not in known:
            mistakes.append(f"unknown key {show(key)}; {suggestion(show(key), values, known)}")
        elif key in FIXED:
            mistakes.append(f"{key} cannot vary in a sweep: {FIXED[key]}")
        elif key in given:
            mistakes.append(f"{key} is swept, but also set by --config.{key}")
    return mistakes


def _mistakes(config: Config, overrides: Overrides) -> str:
    """What is wrong with overrides, in one line."""
    try:
        replace(config, overrides)
    except UserError as error:
        return "; ".join(str(error).splitlines())
    raise AssertionError(f"{overrides} are valid")


def _refuse(path: str, mistakes: Sequence[str], count: int) -> None:
    """Raises UserError with the first of `count` mistakes, if there are any."""
    if count:
        more = [f"and {count - SHOWN} more mistakes"] if count > SHOWN else []
        raise UserError("\n".join([*(f"{path}: {each}" for each in mistakes[:SHOWN]), *more]))


def _join(combinator: str, overrides: Sequence[Overrides]) -> Overrides:
    joined: Overrides = {}
    for each in overrides:
        both = joined.keys() & each.keys()
        if both:
            names = show(", ".join(sorted(both)))
            raise UserError(f"{combinator}: {names} is set by two of its sweeps")
        joined |= each
    return joined
