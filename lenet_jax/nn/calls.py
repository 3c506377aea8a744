"""How any module is built and called: what its constructor and its `__call__` are given."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from jax.extend.core import Var
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


def changed_by_images(
    graphdef: nnx.GraphDef, variables: nnx.State, images: jax.ShapeDtypeStruct
) -> list[str]:
    """The variables that evaluation changes, by the images, before the logits use them.

    Args:
      graphdef: of a module in its mode of evaluation.
      variables: its variables, which may be abstract.
      images: the shape and dtype of some.
    """

    def forward(variables: nnx.State, images: jax.Array) -> tuple[jax.Array, nnx.State]:
        model = nnx.merge(graphdef, variables, copy=True)
        logits = call(model, images)
        return logits, nnx.filter_state(nnx.state(model), lambda path, _: path in known)

    known = {path for path, _ in nnx.to_flat_state(variables)}
    program = jax.make_jaxpr(forward)(variables, images).jaxpr
    (logits, *after), before = program.outvars, program.invars
    needed, seen = {logits}, {before[-1]}  # what the logits depend on; what depends on the images
    for equation in reversed(program.eqns):
        if not needed.isdisjoint(equation.outvars):
            needed.update(x for x in equation.invars if isinstance(x, Var))
    for equation in program.eqns:
        if any(isinstance(x, Var) and x in seen for x in equation.invars):
            seen.update(equation.outvars)
    paths = [path for path, _ in jax.tree.leaves_with_path(variables)]
    return [
        jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
        for path, old, new in zip(paths, before, after, strict=False)
        if new is not old and isinstance(new, Var) and new in needed & seen
    ]


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
