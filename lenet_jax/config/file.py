"""Config files and their overrides, validated as a whole before anything else happens.

A config file runs as code: run only those you trust. Its path is relative to the working directory.
The `config.json` of a run is data: it is read, never run, wherever a config file is taken.

Invalid input raises `errors.UserError`, which reports all mistakes of a config together.
"""

import difflib
import inspect
import os
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from absl import flags
from ml_collections import ConfigDict

from lenet_jax.config import base
from lenet_jax.config.schema import (
    ADDED,
    RENAMED,
    Key,
    current_names,
    find_mistakes,
    is_valid,
    keys,
    suggestion,
)
from lenet_jax.errors import Stopped, UserError, printable, show
from lenet_jax.reading import read_bytes, read_json

# Of a key in a `config.json`.
Value: TypeAlias = bool | int | float | str | list[int] | None
# A ConfigDict, whose attributes are unknown to a type checker.
Config: TypeAlias = Any

COMBINATORS = ("sweep", "product", "zipit", "chain")  # of `sweeps.file`
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


def replace(config: Config, overrides: Mapping[str, object]) -> Config:
    """Returns a copy with overrides, as for `build`; raises UserError likewise."""
    return build(_flatten(config), overrides.items())


def stored_value(path: str, value: Any) -> Any:
    """The value that a config has if a key is overridden with `value`, see `build`.

    Raises:
      ValueError: the key cannot have it.
    """
    key = keys()[path]
    if isinstance(value, str):
        value = _parse(value, key)
    if not is_valid(path, value):
        raise ValueError(f"{path} cannot be {show(value)}")
    if value is None:
        return None
    return key.kind(value) if key.kind in (float, tuple) else value


def validate(config: Config) -> None:
    """Checks keys, types, ranges and constraints between keys.

    Raises:
      UserError: lists all mistakes at once, on at most three lines.
    """
    build(_flatten(config))


def to_dict(config: Config) -> dict[str, Any]:
    """Returns the config as nested dicts for JSON; tuples become lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, ConfigDict):
            return to_dict(value)
        return list(value) if isinstance(value, tuple) else value

    return {name: plain(value) for name, value in config.items()}


def from_dict(values: Mapping[str, Any]) -> Config:
    """Inverts `to_dict`, also that of an older version.

    Raises:
      UserError: the values are not a valid config.
    """
    return build({path: keys()[path].default for path in ADDED} | _flatten(values))


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


def differing_keys(old: Config, new: Config) -> list[str]:
    """Returns one line per difference, such as `train.num_epochs: 12 → 20`."""
    before, after = _flatten(old), _flatten(new)
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
        return _flatten(load_json(saved))
    config = call_file(path_with_arg, "get_config", "config")
    if not isinstance(config, ConfigDict):
        path, kind = _split(path_with_arg)[0], type(config).__name__
        raise UserError(f"{show(path)}: its get_config returns {kind}, not a ConfigDict")
    try:
        return _flatten(config)
    except (TypeError, RecursionError) as error:
        reason = "its config contains itself, or a key that is no text"
        raise UserError(f"{show(_split(path_with_arg)[0])}: {reason}") from error


def saved_config(path: str) -> Path | None:
    """The `config.json` that a path names: itself, or the run directory that has it; else None.

    Raises:
      UserError: it is given an argument, or is another file of a run.
    """
    name, arg = _split(path)
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


def call_file(path_with_arg: str, function: str, kind: str) -> Any:
    """Runs `FILE.py[:ARG]` and calls one of its functions, with the argument if given.

    Args:
      path_with_arg: the file and the argument.
      function: the function's name.
      kind: `config` or `sweep`, for error messages.

    Raises:
      UserError: the file is missing, fails (with the line), or has no such function.
    """
    name, arg = _split(path_with_arg)
    path = Path(name)
    try:
        source = read_bytes(path)
    except FileNotFoundError as error:
        raise UserError(f"no {kind} file {show(path)}{_similar_file(path, kind)}") from error
    except OSError as error:
        raise UserError(f"cannot read {kind} file {show(path)}: {error.strerror}") from error
    try:
        return _call_source(source, path, function, arg)
    except (UserError, Stopped):
        raise
    except BaseException as error:  # a file may call exit(), too
        message = f"{type(error).__name__}: {printable(error)}"
        if isinstance(error, NameError) and error.name in COMBINATORS:
            message += f"\nTo import it: from lenet_jax.sweeps.file import {error.name}"
        raise UserError(f"{_line_in(path, error)}: {message}") from error


def build(
    values: Mapping[str, Any],
    overrides: Iterable[tuple[str, object]] = (),
    mistakes: Iterable[str] = (),
) -> Config:
    """Applies overrides, validates everything, and builds the config.

    Former names of keys (`schema.RENAMED`) are accepted in values and overrides.

    Args:
      values: values by dotted path.
      overrides: dotted paths and their new values, each path once. Strings are parsed by the key's
        type: `1e3` is an integer, `6,16` and `(6, 16)` are tuples, `None` clears a placeholder.
      mistakes: found by the caller, and reported with the others.

    Returns:
      The config, locked, with exactly the keys of `lenet_jax/config/base.py` and their types.

    Raises:
      UserError: lists all mistakes at once, on at most three lines.
    """
    values, mistakes, overridden = current_names(values), list(mistakes), set()
    for name, value in overrides:
        path = RENAMED.get(name, name)
        if path in overridden:
            mistakes.append(f"--config.{show(path)} is given more than once")
        elif path not in keys():
            mistakes.append(
                f"unknown key --config.{show(path)}; {suggestion(path, values, '--config.')}"
            )
        else:
            try:
                values[path] = _parse(value, keys()[path]) if isinstance(value, str) else value
            except ValueError:
                values[path] = value
        overridden.add(path)
    mistakes += find_mistakes(values)
    if mistakes:
        lines = [*mistakes[:2], "; ".join(mistakes[2:])]
        raise UserError("\n".join(line for line in lines if line))
    config = base.get_config()
    config.update_from_flattened_dict(values)  # converts integers to floats, lists to tuples
    return config.lock()


def _call_source(source: bytes, path: Path, name: str, arg: str) -> Any:
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    # Not imported: an import would write bytecode beside the file.
    exec(compile(source, str(path), "exec"), module.__dict__)
    function = module.__dict__.get(name)
    if not callable(function):
        raise UserError(f"{show(path)} has no function {name}")
    arguments = [arg] if arg else []
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        needs = f"takes no argument, not {show(arg)}" if arg else "needs an argument: FILE.py:ARG"
        raise UserError(f"{show(path)}: its {name} {needs}") from error
    result = function(*arguments)
    if inspect.iscoroutine(result):
        result.close()  # which is never awaited
        raise UserError(f"{show(path)}: its {name} is async; take `async` away")
    return result


def _split(path_with_arg: str) -> tuple[str, str]:
    """The path and the argument; the colon after a drive of Windows belongs to the path."""
    drive, rest = os.path.splitdrive(path_with_arg)
    name, _, arg = rest.partition(":")
    return drive + name, arg


def _similar_file(path: Path, kind: str) -> str:
    """The end of a message about a file that does not exist: what there is instead."""
    folders = dict.fromkeys((path.parent, Path("configs"), Path("configs/sweeps")))
    files = [str(file) for folder in folders for file in sorted(folder.glob("[!_]*.py"))]
    near = difflib.get_close_matches(str(path), files, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    if Path("configs").is_dir() or kind != "config":
        return ""
    return (
        "\nconfigs/ is in the repository: run the command there; or write a file of your own with"
        "\nfrom lenet_jax.config.base import get_config"
    )


def _line_in(path: Path, error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{show(error.filename)}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f"{show(path)}:{lines[-1]}" if lines else show(path)


def _flatten(values: Mapping[str, Any] | ConfigDict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping | ConfigDict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _parse(text: str, key: Key) -> object:
    """Parses a value of the key's type; raises ValueError if it cannot."""
    if key.optional and text == "None":
        return None
    if key.kind is bool:
        return flags.BooleanParser().parse(text)
    if key.kind is int:
        return _parse_integer(text)
    if key.kind is tuple:
        items = text.strip()
        if items[:1] + items[-1:] in ("()", "[]"):
            items = items[1:-1].strip()
        return tuple(_parse_integer(item) for item in items.removesuffix(",").split(","))
    return key.kind(text)


def _parse_integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise
        return int(number)
