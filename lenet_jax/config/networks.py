"""The class that `model.name` names, and the config keys that its constructor takes.

A class is `lenet`, another of `BUILT_IN`, or `FILE.py:Class` or `package.module:Class`, which runs
as code.
"""

import collections.abc
import inspect
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from lenet_jax.config.key import Key
from lenet_jax.config.source import code_of, find_attribute, split, text_of
from lenet_jax.errors import UserError, show

LENET = "lenet"
BUILT_IN = {
    LENET: "lenet_jax.nn.lenet:LeNet",
    "mlp": "lenet_jax.nn.mlp:MLP",
    "flax_mnist": "lenet_jax.nn.flax_mnist:FlaxMNIST",
    "lenet1": "lenet_jax.nn.lenet_1998:LeNet1",
    "lenet4": "lenet_jax.nn.lenet_1998:LeNet4",
    "boosted_lenet4": "lenet_jax.nn.lenet_1998:BoostedLeNet4",
    "lenet5_1998": "lenet_jax.nn.lenet_1998:LeNet5",
}
GIVEN = ("image_shape", "num_classes", "rngs")  # what a constructor is given, if it takes it
KINDS = (bool, int, float, str, tuple)  # of values that a config can hold


def is_code(name: str) -> bool:
    """Whether a class is the user's own, which runs as code."""
    return name not in BUILT_IN


def find_class(name: str) -> type:
    """The class that a name stands for, an `nnx.Module`.

    Raises:
      UserError: there is none.
    """
    place = BUILT_IN.get(name, name)
    where, class_name = split(place)
    if not class_name:
        near = f"one of {', '.join(BUILT_IN)}, FILE.py:Class or package.module:Class"
        raise UserError(f"model.name={show(name)}: must be {near}")
    network = find_attribute(place, "model.name", "network")
    from flax import nnx  # late: a config of LeNet needs no JAX

    if not (isinstance(network, type) and issubclass(network, nnx.Module)):
        what = "has no class" if network is None else "has no nnx.Module"
        raise UserError(f"model.name={show(name)}: {show(where)} {what} {show(class_name)}")
    if is_code(name) and f"{network.__module__}:{network.__qualname__}" == BUILT_IN[LENET]:
        raise UserError(f"model.name={show(name)} is called {LENET} here")
    return network


def source_of(name: str) -> bytes | None:
    """The text of the file that has a class of the user's own; None of others.

    Raises:
      UserError: it cannot be read.
    """
    return text_of(name, "network") if is_code(name) else None


def code_of_network(name: str) -> bytes | None:
    """The texts of all files that a class of the user's own is in; None of others.

    Raises:
      UserError: one cannot be read.
    """
    return code_of(name, "network") if is_code(name) else None


def constructor_keys(name: str) -> dict[str, Key]:
    """The config keys of a class: the arguments that its constructor takes, by their names.

    Those whose default a config cannot hold are left out, and keep it.

    Raises:
      UserError: there is no such class; or its constructor takes no `rngs`, or an argument without
        a default that a config cannot give.
    """
    network = find_class(name)
    parameters = _parameters(network)
    if "rngs" not in parameters and not _takes_any(parameters):
        raise UserError(
            f"model.name={show(name)}: its constructor takes no rngs\n"
            "Write def __init__(self, *, rngs: nnx.Rngs, …) and pass rngs on to the layers."
        )
    keys = {}
    for parameter in parameters.values():
        if parameter.name in GIVEN or parameter.kind in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        ):
            continue
        key = _key(parameter, _hints(network))
        if key is not None:
            keys[parameter.name] = key
        elif parameter.default is parameter.empty:
            raise UserError(
                f"model.name={show(name)}: its argument {parameter.name} has no default, and is no"
                " number, text, tuple or boolean\nGive it a default."
            )
    return keys


def traced_arguments(network: type) -> tuple[str, ...]:
    """The arguments of a class whose numbers may differ between the members of a population.

    The class names them in an attribute, `traced = ("slope",)`. Its constructor is given arrays ()
    of float32 for them, and keeps what a forward pass needs of them in variables:
    `self.slope = nnx.Variable(slope)`.

    Raises:
      UserError: an argument is missing, or takes no float.
    """
    names = getattr(network, "traced", ())
    if not isinstance(names, str | tuple | list):
        return ()
    names = (names,) if isinstance(names, str) else tuple(names)
    parameters = _parameters(network)
    for name in names:
        key = _key(parameters[name], _hints(network)) if name in parameters else None
        if key is None or key.kind is not float:
            raise UserError(
                f"{network.__name__}.traced names {show(name)}, which is no argument of its"
                f" constructor that takes a float, such as {show(name)}: float = 0.1"
            )
    return names


def arguments(network: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a constructor takes of `GIVEN`."""
    parameters = _parameters(network)
    every = _takes_any(parameters)
    return {name: value for name, value in given.items() if every or name in parameters}


def _parameters(network: type) -> dict[str, inspect.Parameter]:
    own = list(inspect.signature(network.__init__).parameters.items())[1:]  # without self
    return dict(own)


def _takes_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _hints(network: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(network.__init__)
    except (NameError, TypeError):  # of names that only a type checker sees
        return {}


def _key(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> Key | None:
    """The key of an argument; None if a config cannot hold its value."""
    hint = hints.get(parameter.name)
    hinted = _kind_of(hint)
    if parameter.default is parameter.empty:
        return Key(hinted or object, required=True) if hinted or hint is None else None
    if parameter.default is None:
        return Key(hinted or object, None) if hinted or hint is None else None
    default: Any = parameter.default
    if isinstance(default, list):
        default = tuple(default)
    kind = type(default)
    if kind not in KINDS or not can_hold(default):
        return None
    if kind is int and hinted is float:  # `rate: float = 0`
        return Key(float, float(default))
    return Key(kind, default)


def can_hold(value: object) -> bool:
    """Whether a config can hold a value: a boolean, a finite number, a text, or a tuple of them."""
    if isinstance(value, bool | str):
        return True
    if isinstance(value, int | float):
        return abs(value) < 2**31 if isinstance(value, int) else math.isfinite(value)
    items = value if isinstance(value, tuple | list) else (None,)
    return all(not isinstance(item, tuple | list) and can_hold(item) for item in items)


def _kind_of(hint: Any) -> type | None:
    """The type of a config's values that an annotation allows; None if there is none."""
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        kinds = {type(value) for value in typing.get_args(hint)}
        return kinds.pop() if len(kinds) == 1 else None
    if origin in (typing.Union, types.UnionType):
        kinds = {_kind_of(part) for part in typing.get_args(hint) if part is not type(None)}
        kinds = {float} if kinds == {int, float} else kinds
        return kinds.pop() if len(kinds) == 1 else None
    base = origin or hint
    if base in (collections.abc.Sequence, list):
        return tuple
    return base if base in KINDS else None
