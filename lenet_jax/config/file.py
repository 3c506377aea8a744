"""Config files and their overrides, validated as a whole before anything else happens.

A config file runs as code: run only those you trust. Its path is relative to the working directory.
The `config.json` of a run is data: it is read, never run, wherever a config file is taken.

Invalid input raises `errors.UserError`, which reports all mistakes of a config together.
"""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from absl import flags
from ml_collections import ConfigDict

from lenet_jax.config import base
from lenet_jax.config.key import Key
from lenet_jax.config.networks import LENET
from lenet_jax.config.rules import ADDED, RENAMED, SPELLINGS
from lenet_jax.config.schema import (
    current_names,
    find_mistakes,
    is_valid,
    keys,
    keys_of,
    suggestion,
)
from lenet_jax.config.source import call_file, split
from lenet_jax.errors import UserError, show
from lenet_jax.reading import read_json

# Of a key in a `config.json`.
Value: TypeAlias = bool | int | float | str | list[bool | int | float | str] | None
# A ConfigDict, whose attributes are unknown to a type checker.
Config: TypeAlias = Any

# What a run writes beside its `config.json`, see `storage.run_dir`.
RESULTS = ("model.safetensors", "summary.json", "run.json", "metrics.csv", "metrics.jsonl")


def load(path_with_arg: str, overrides: Iterable[tuple[str, object]] = ()) -> Config:
    """Runs a config file's `get_config` and applies overrides.

    Args:
      path_with_arg: `FILE.py` or `FILE.py:ARG`, whose argument goes to `get_config`; or what
        `saved_config` takes.
      overrides: dotted paths and their values, as `build` takes them.

    Raises:
      UserError: the file is missing or fails, or the config has mistakes.
    """
    return build(run_file(path_with_arg), overrides)


def replace(config: Config, overrides: Mapping[str, object], *, run_code: bool = True) -> Config:
    """Returns a copy with overrides, as for `build`; raises UserError likewise."""
    return build(flatten(config), overrides.items(), run_code=run_code)


def stored_value(path: str, value: Any, key: Key) -> Any:
    """The value that a config has if a key is overridden with `value`, see `build`.

    Raises:
      ValueError: the key cannot have it.
    """
    if isinstance(value, str):
        value = _respelled(path, _parse(value, key))
    if not is_valid(path, value, key):
        raise ValueError(f"{path} cannot be {show(value)}")
    if value is None:
        return None
    return key.kind(value) if key.kind in (float, tuple) else value


def validate(config: Config) -> None:
    """Checks keys, types, ranges and constraints between keys.

    Raises:
      UserError: lists all mistakes at once, on at most three lines.
    """
    build(flatten(config))


def to_dict(config: Config) -> dict[str, Any]:
    """Returns the config as nested dicts for JSON; tuples become lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, ConfigDict):
            return to_dict(value)
        return list(value) if isinstance(value, tuple) else value

    return {name: plain(value) for name, value in config.items()}


def from_dict(values: Mapping[str, Any]) -> Config:
    """Inverts `to_dict`, also that of an older version; runs no code.

    Raises:
      UserError: the values are not a valid config.
    """
    flat = flatten(values)
    added = {path: keys()[path].default for path in ADDED}
    if flat.get("model.name", LENET) != LENET:
        added = {path: value for path, value in added.items() if not path.startswith("model.")}
    return build(added | flat, run_code=False)


def load_json(path: Path) -> Config:
    """Reads the `config.json` of a run; runs no code.

    Raises:
      UserError: the file is missing, is not JSON, or does not hold a valid config.
    """
    values = read_json(path, dict[str, Value | dict[str, Value]])
    if values is None:
        raise UserError(f"cannot read {show(path)}: No such file or directory")
    try:
        return from_dict(values)
    except UserError as error:
        raise UserError(f"{show(path)}: {error}") from error


def flatten(values: Mapping[str, Any] | ConfigDict, prefix: str = "") -> dict[str, Any]:
    """The values of nested sections by dotted path, each after the prefix."""
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping | ConfigDict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def differing_keys(old: Config, new: Config) -> list[str]:
    """Returns one line per difference, such as `train.num_epochs: 12 → 20`."""
    before, after = flatten(old), flatten(new)
    return [
        f"{path}: {show(before.get(path, 'absent'))} → {show(after.get(path, 'absent'))}"
        for path in before | after
        if path not in before or path not in after or before[path] != after[path]
    ]


def run_file(path_with_arg: str) -> dict[str, Any]:
    """Runs the `get_config` of `FILE.py[:ARG]`, or reads the `config.json` of a run.

    Returns:
      The config's values by dotted path, unchecked.

    Raises:
      UserError: the file is missing, fails (with the line), or does not return a ConfigDict.
    """
    if (saved := saved_config(path_with_arg)) is not None:
        return flatten(load_json(saved))
    config = call_file(path_with_arg, "get_config", "config")
    if not isinstance(config, ConfigDict):
        path, kind = split(path_with_arg)[0], type(config).__name__
        raise UserError(f"{show(path)}: its get_config returns {kind}, not a ConfigDict")
    try:
        return flatten(config)
    except (TypeError, RecursionError) as error:
        reason = "its config contains itself, or a key that is no text"
        raise UserError(f"{show(split(path_with_arg)[0])}: {reason}") from error


def saved_config(path: str) -> Path | None:
    """The `config.json` that a path names: itself, or the run directory that has it; else None.

    Raises:
      UserError: it is given an argument, or is another file of a run.
    """
    name, arg = split(path)
    if (Path(name) / "config.json").is_file():
        name = str(Path(name) / "config.json")
    file = Path(name)
    if file.name in RESULTS and (file.parent / "config.json").is_file():
        raise UserError(f"{show(file)} is no config; give its run: --config={show(file.parent)}")
    if not name.lower().endswith(".json"):
        return None
    if arg:
        raise UserError(f"{show(name)} takes no argument, not {show(arg)}")
    return Path(name)


def build(
    values: Mapping[str, Any],
    overrides: Iterable[tuple[str, object]] = (),
    mistakes: Iterable[str] = (),
    *,
    run_code: bool = True,
) -> Config:
    """Applies overrides, validates everything, and builds the config.

    Former names of keys (`schema.RENAMED`) are accepted in values and overrides. Of a network other
    than LeNet, arguments that are not given have their defaults.

    Args:
      values: values by dotted path.
      overrides: dotted paths and their new values, each path once. Strings are parsed by the key's
        type: `1e3` is an integer, `6,16` and `(6, 16)` are tuples, `None` clears a placeholder.
      mistakes: found by the caller, and reported with the others.
      run_code: whether the file of a network of the user's own may run, which knows its keys; else
        they are those of `values`.

    Returns:
      The config, locked, with exactly the keys of `schema.keys`, and their types.

    Raises:
      UserError: lists all mistakes at once, on at most three lines.
    """
    values, mistakes, overridden = current_names(values), list(mistakes), set()
    overrides = [(RENAMED.get(name, name), value) for name, value in overrides]
    values, known = _for_network(values, dict(overrides).get("model.name"), run_code)
    for path, value in overrides:
        if path in overridden:
            mistakes.append(f"--config.{show(path)} is given more than once")
        elif path not in known:
            mistakes.append(
                f"unknown key --config.{show(path)}; {suggestion(path, values, known, '--config.')}"
            )
        else:
            try:
                values[path] = _parse(value, known[path]) if isinstance(value, str) else value
            except ValueError:
                values[path] = value
        overridden.add(path)
    values = {path: _respelled(path, value) for path, value in values.items()}
    mistakes += find_mistakes(values, known)
    if mistakes:
        lines = [*mistakes[:2], "; ".join(mistakes[2:])]
        raise UserError("\n".join(line for line in lines if line))
    config = base.get_config()
    if values["model.name"] != LENET:
        config.model = ConfigDict({"name": LENET})
        for path, key in known.items():
            section, _, name = path.partition(".")
            if section == "model" and name != "name":
                config.model[name] = _as_kind(values.pop(path), key.kind)
    config.update_from_flattened_dict(values)  # converts integers to floats, lists to tuples
    return config.lock()


def _for_network(
    values: dict[str, Any], network: object, run_code: bool
) -> tuple[dict[str, Any], Mapping[str, Key]]:
    """The values of a config for its network, and the keys that it may have.

    A config file that only changes `model.name` leaves the other keys of `model` as they were for
    the former network: those at that one's defaults are dropped.

    Args:
      values: by dotted path.
      network: the name of the class that replaces the config's; None: none does.
      run_code: see `build`.
    """
    chosen = values | ({} if network is None else {"model.name": network})
    known = keys_of(chosen, run_code=run_code)
    if known is keys() and network is None:  # a config of LeNet says all
        return values, known
    former = _model(keys() if network is None else keys_of(values, run_code=run_code))
    is_whole = former.keys() <= values.keys()  # else the section was written for this network
    kept = {
        path: value
        for path, value in values.items()
        if not (is_whole and path in former and value == former[path].default)
    }
    defaults = {path: key.default for path, key in _model(known).items() if not key.required}
    return defaults | {"model.name": chosen["model.name"]} | kept, known


def _model(known: Mapping[str, Key]) -> dict[str, Key]:
    """The arguments of a network among the keys."""
    return {
        path: key
        for path, key in known.items()
        if path.startswith("model.") and path != "model.name"
    }


def _respelled(path: str, value: Any) -> Any:
    """The usual spelling of a value."""
    return SPELLINGS.get(f"{path}={value}", value) if isinstance(value, str) else value


def _as_kind(value: Any, kind: type) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return float(value) if kind is float and value is not None else value


def _parse(text: str, key: Key) -> object:
    """Parses a value of the key's type; raises ValueError if it cannot."""
    if key.optional and text == "None":
        return None
    if key.kind is bool:
        return flags.BooleanParser().parse(text)
    if key.kind is int:
        return _parse_integer(text)
    if key.kind is object:
        return _parse_unknown(text)
    if key.kind is tuple:
        items = text.strip()
        if items[:1] + items[-1:] in ("()", "[]"):
            items = items[1:-1].strip()
        if not items:
            return ()
        parse = _parse_integer if _holds_integers(key.default) else _parse_unknown
        return tuple(parse(item.strip()) for item in items.removesuffix(",").split(","))
    return key.kind(text)


def _holds_integers(default: object) -> bool:
    return isinstance(default, tuple) and {type(item) for item in default} == {int}


def _parse_unknown(text: str) -> object:
    """A number, a boolean or a tuple as Python writes them; else the text."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, bool | int | float | str | tuple) else text


def _parse_integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise
        return int(number)
