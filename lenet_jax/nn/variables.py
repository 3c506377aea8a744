"""The variables of a module: parameters, some of which are trained, and what else it keeps."""

import fnmatch
from typing import Any

import jax
from flax import nnx


def set_mode(model: nnx.Module, *, training: bool) -> None:
    """Sets Flax's layers to training or evaluation: dropout, and whose statistics normalise.

    As `nnx.Module.train` and `.eval` do, which an attribute of a module may hide.
    """
    model.set_attributes(
        deterministic=not training, use_running_average=not training, raise_if_not_found=False
    )


def join_variables(params: nnx.State, others: nnx.State) -> nnx.State:
    """Inverts `split_variables`."""
    return nnx.merge_state(params, others) if jax.tree.leaves(others) else params


def weights_of(variables: nnx.State) -> nnx.State:
    """What a trained network consists of: its variables, but for random keys and their streams."""

    def is_weight(path: tuple[Any, ...], value: Any) -> bool:
        dtypes = [jax.numpy.result_type(leaf) for leaf in jax.tree.leaves(value)]
        is_key = any(jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) for dtype in dtypes)
        return not is_key and not isinstance(value, nnx.RngState)

    return nnx.filter_state(variables, is_weight)


def split_variables(variables: nnx.State, frozen: str = "") -> tuple[nnx.State, nnx.State]:
    """The parameters that are trained, and the other variables of a network.

    Args:
      variables: of the network.
      frozen: patterns of layers that keep their parameters, see `is_frozen`.
    """

    def is_trained(path: tuple[Any, ...], value: Any) -> bool:
        return isinstance(value, nnx.Param) and not is_frozen(path, frozen)

    params, others = nnx.split_state(variables, is_trained if frozen else nnx.Param, ...)
    return params, others


def is_frozen(path: tuple[Any, ...], frozen: str) -> bool:
    """Whether patterns name a parameter, or a layer that it belongs to.

    Args:
      path: of the parameter, such as `("conv1", "kernel")`.
      frozen: patterns of paths, `conv*,fc1.bias`, with commas between them.
    """
    name = ".".join(map(str, path))
    patterns = [pattern.strip() for pattern in frozen.split(",")]
    return any(fnmatch.fnmatchcase(name, end) for p in patterns for end in (p, f"{p}.*"))
