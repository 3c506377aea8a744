"""The schema of a config: its keys, their types and ranges, and constraints between keys.

`base.py` defines the keys and, by their defaults, the types; the tables of `rules.py` the rest.
"""

import ctypes
import difflib
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from lenet_jax.config import base
from lenet_jax.config.key import Key
from lenet_jax.config.networks import GIVEN, LENET, can_hold, constructor_keys, is_code
from lenet_jax.config.rules import ALIASES, JOINT_RULES, OWN_KINDS, RENAMED, RULES
from lenet_jax.errors import show


def keys(network: str = LENET) -> dict[str, Key]:
    """Returns every key by its dotted path: those of `base.py`, and of `model` a class's own.

    Args:
      network: the class, as `model.name` names it; a file of the user's own runs.

    Raises:
      UserError: there is no such class.
    """
    if network == LENET:
        return _base_keys()
    return _with_model(constructor_keys(network))


def keys_of(values: Mapping[str, Any], *, run_code: bool = True) -> dict[str, Key]:
    """Returns the keys of a config by its values, some of which may be missing.

    Args:
      values: by dotted path.
      run_code: whether the file of a class of the user's own may run; else the keys of `model` are
        those that have values.
    """
    network = values.get("model.name", LENET)
    if not isinstance(network, str):
        return keys()
    if run_code or not is_code(network):
        return keys(network)
    own = {}
    for path, value in values.items():
        section, _, name = path.partition(".")
        if section == "model" and name != "name":
            kind = {list: tuple, type(None): object}.get(type(value), type(value))
            own[name] = Key(kind, value)
    return _with_model(own)


def _with_model(model: Mapping[str, Key]) -> dict[str, Key]:
    """The keys of `base.py` with those of another network in place of LeNet's."""
    others: dict[str, Key] = {}
    for path, key in _base_keys().items():
        if path == "model.name":
            others |= {path: key} | {f"model.{name}": own for name, own in model.items()}
        elif not path.startswith("model."):
            others[path] = key
    return others


@functools.cache
def _base_keys() -> dict[str, Key]:
    def walk(section: ConfigDict, prefix: str) -> Iterator[tuple[str, Key]]:
        for name, value in section.items():
            if isinstance(value, ConfigDict):
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", Key(section.get_type(name), value)

    return dict(walk(base.get_config(), ""))


def current_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values by dotted path with former names replaced; the former name's value wins.

    A file that sets `model.lowering` on the base config also has the default `model.backend`.
    """
    current = {path: value for path, value in values.items() if path not in RENAMED}
    return current | {RENAMED[path]: values[path] for path in RENAMED if path in values}


def find_mistakes(values: Mapping[str, Any], known: Mapping[str, Key]) -> list[str]:
    """Returns the errors in keys, values and their combinations, one line each.

    Args:
      values: a config's values by dotted path.
      known: the keys that it may have.
    """
    mistakes = [
        f"unknown key {show(path)}; {suggestion(path, values, known)}"
        for path in values
        if path not in known
    ]
    missing = [path for path in known if path not in values]
    if missing:
        mistakes.append(f"missing keys: {show(', '.join(missing))}")
    if values.get("model.name", LENET) != LENET and any(p.startswith("model.") for p in missing):
        mistakes[-1] += (
            f" (give them values or defaults; {', '.join(GIVEN)} are given to a network)"
        )
    wrong = [
        path
        for path, key in known.items()
        if path in values and not is_valid(path, values[path], key)
    ]
    mistakes += [
        f"{path}={show(values[path])}{_rounding(path, values[path], known[path])}: must be"
        f" {_expected(path, known[path])}"
        for path in wrong
    ]
    for paths, holds, message in JOINT_RULES:
        if not known.keys() >= set(paths) or not set(paths).isdisjoint([*missing, *wrong]):
            continue
        if not is_fulfilled(holds, [values[path] for path in paths]):
            given = ", ".join(
                f"{path}={show(values[path])}" for path in paths if values[path] is not None
            )
            mistakes.append(f"{given}: {message}")
    return mistakes


def is_fulfilled(holds: Callable[..., bool], values: Sequence[Any]) -> bool:
    """Whether the predicate of a joint rule holds for values, as they are and in float32."""
    return holds(*values) and holds(*map(_in_float32, values))


def nearest_keys(name: str, known: Mapping[str, Key]) -> list[str]:
    """Returns at most four of the known keys that a wrong or incomplete name may stand for."""
    name = name.lower().replace("-", "_")
    leaf = name.rpartition(".")[2]
    if ALIASES.get(leaf) in known:
        return [ALIASES[leaf]]
    section = [path for path in known if path.startswith(f"{name}.")]
    if section:
        return section[:3]
    by_leaf: dict[str, list[str]] = {}
    for path in known:
        by_leaf.setdefault(path.rpartition(".")[2], []).append(path)
    near = difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.7)
    if not near:
        return difflib.get_close_matches(name, known, n=1)
    count = 1 if "." in name else 4
    return difflib.get_close_matches(name, by_leaf[near[0]], n=count, cutoff=0.0)


def suggestion(
    name: str, values: Mapping[str, Any], known: Mapping[str, Key], prefix: str = ""
) -> str:
    """Returns the end of a message about a key that does not exist.

    Args:
      name: the key as it was given.
      values: current values by dotted path, shown with the suggested keys.
      known: the keys that there are.
      prefix: put before each suggestion, such as `--config.`.
    """
    near = " or ".join(
        f"{prefix}{path} (now {show(values.get(path, known[path].default))})"
        for path in nearest_keys(name, known)
    )
    return f"did you mean {near}?" if near else "--help lists all keys"


def is_valid(path: str, value: object, key: Key) -> bool:
    """Whether a key may have a value, whatever the other keys' are."""
    if value is None:
        return key.optional
    if _is_own(path, key):
        return _is_of_kind(key.kind, value)
    rule = RULES.get(path)
    if key.kind is bool:
        return isinstance(value, bool)
    if key.kind is str:
        return isinstance(value, str) and (value in rule if rule else bool(value.strip()))
    if _is_list(key) and not isinstance(rule, str):
        return _are_names(value, rule)
    assert isinstance(rule, str), f"{path} needs an interval in RULES"
    if _is_list(key):
        return isinstance(value, tuple | list) and all(
            _is_number_in(rule, item, float) for item in value
        )
    if key.kind is tuple:
        default: Any = key.default
        return (
            isinstance(value, tuple | list)
            and len(value) == len(default)
            and all(_is_number_in(rule, item, int) for item in value)
        )
    return _is_number_in(rule, value, key.kind)


def _is_own(path: str, key: Key) -> bool:
    """Whether a key is an argument of another network than LeNet: any value of its type will do.

    It may have the name of one of LeNet's.
    """
    return path.startswith("model.") and _base_keys().get(path) is not key


def _is_list(key: Key) -> bool:
    """Whether the values of a key are tuples of any length, of names or of numbers."""
    return key.kind is tuple and not key.required and key.default == ()


def _are_names(value: object, choices: str | tuple[str, ...] | None) -> bool:
    if not isinstance(value, tuple | list) or not all(isinstance(item, str) for item in value):
        return False
    known = choices is None or set(value) <= set(choices)
    return known and len(set(value)) == len(value) and all(item.strip() for item in value)


def _is_of_kind(kind: type, value: object) -> bool:
    if kind in (int, float):
        return _is_number_in("[-inf, inf]", value, kind)
    kinds: Any = {tuple: tuple | list, object: object}.get(kind, kind)
    return isinstance(value, kinds) and can_hold(value)


def _is_number_in(interval: str, value: object, kind: type) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        return False
    # Finite; integers must fit JAX's int32.
    if not abs(value) <= (2**31 - 1 if kind is int else sys.float_info.max):
        return False
    return _is_in(interval, value) and (kind is int or _is_in(interval, _in_float32(float(value))))


def _is_in(interval: str, number: int | float) -> bool:
    low, high = _ends(interval)
    return (low <= number if interval[0] == "[" else low < number) and (
        number <= high if interval[-1] == "]" else number < high
    )


@functools.cache
def _ends(interval: str) -> tuple[float, float]:
    low, high = map(float, interval[1:-1].split(","))
    return low, high


def _in_float32(value: Any) -> Any:
    """What is computed in place of a float: XLA makes 0 of the smallest ones."""
    if not isinstance(value, float):
        return value
    number = ctypes.c_float(value).value
    return number if abs(number) >= 2.0**-126 else 0.0


def _rounding(path: str, value: Any, key: Key) -> str:
    """What float32 makes of a number that would be valid otherwise, for messages."""
    rule = RULES.get(path)
    if _is_own(path, key) or not (
        isinstance(rule, str) and key.kind is float and isinstance(value, float)
    ):
        return ""
    return f", which is {_in_float32(value):g} in float32" if _is_in(rule, value) else ""


def _expected(path: str, key: Key) -> str:
    """Returns a description of the allowed values, to follow `must be`."""
    rule = RULES.get(path)
    if _is_own(path, key):
        text = OWN_KINDS[key.kind]
    elif _is_list(key) and not isinstance(rule, str):
        text = (
            f"a tuple of different ones of {', '.join(rule)}"
            if rule
            else "a tuple of different names"
        )
    elif isinstance(rule, tuple):
        text = f"one of {', '.join(rule)}"
    elif rule is None:
        text = "true or false" if key.kind is bool else "a non-empty string"
    else:
        low, high = rule[1:-1].split(", ")
        text = {int: "an integer", float: "a number"}.get(key.kind)
        default: Any = key.default
        text = text or (f"a tuple of {len(default)} integers" if default else "a tuple of numbers")
        if high == "inf":
            text += f" above {low}" if rule[0] == "(" else f" of at least {low}"
            text += " and finite" if key.kind is float or _is_list(key) else " and below 2**31"
        else:
            text += f" in {rule}"
    return text + (" or None" if key.optional else "")
