"""How any module is built and called: what its constructor and its `__call__` are given."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from lenet_jax.errors import UserError, printable

STREAMS = "call_rngs"  # the attribute of a module that has the `rngs` which its `__call__` takes
TRAINING = "train", "training", "is_training"  # arguments of `__call__`, true in training
EVALUATION = "deterministic", "use_running_average"  # likewise, true in evaluation


def build(network: type, arguments: Mapping[str, Any], rngs: nnx.Rngs) -> Any:
    """A module; if its `__call__` takes `rngs`, they are kept with its other variables.

    Args:
      network: the class.
      arguments: of its constructor, but for `rngs`; a tuple becomes a list where the default is.
      rngs: of its constructor.

    Raises:
      UserError: it keeps a bare JAX array, which Flax neither trains nor treats as its state.
    """
    parameters = inspect.signature(network.__init__).parameters
    are_lists = {name for name, each in parameters.items() if isinstance(each.default, list)}
    lists = {n: list(v) for n, v in arguments.items() if n in are_lists and isinstance(v, tuple)}
    model = network(**{**arguments, **lists}, rngs=rngs)
    if bare := _bare_arrays(model):
        raise UserError(
            f"{network.__name__} keeps bare JAX arrays: {printable(', '.join(bare))}\n"
            "Write nnx.Param(array) to train it, nnx.Variable(array) to keep it as it is."
        )
    if "rngs" in _parameters(model):
        setattr(model, STREAMS, rngs)
    return model


def call(model: Any, images: Float[Array, "b h w c"], *, training: bool = False) -> Any:
    """What a module gives for normalised images; `__call__` is given `rngs` and its mode.

    Flax's own layers have their mode from `set_mode`; some modules take it as an argument, such as
    `train`.
    """
    given = dict.fromkeys(TRAINING, training) | dict.fromkeys(EVALUATION, not training)
    given |= {"rngs": getattr(model, STREAMS, None)}
    names = _parameters(model)
    return model(images, **{name: value for name, value in given.items() if name in names})


def _bare_arrays(model: nnx.Module) -> list[str]:
    """The paths of JAX arrays that are no variables; traced ones are only in attributes."""
    attributes = (
        ((*path, name), value)
        for path, module in nnx.iter_modules(model)
        for name, value in vars(module).items()
    )
    every = (*nnx.to_flat_state(nnx.state(model)), *attributes)
    paths = (".".join(map(str, path)) for path, value in every if isinstance(value, jax.Array))
    return list(dict.fromkeys(paths))


def _parameters(model: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(type(model).__call__).parameters
