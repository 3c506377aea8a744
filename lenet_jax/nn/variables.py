"""The variables of a module: parameters, which are trained, and what else it keeps."""

import jax
from flax import nnx


def join_variables(params: nnx.State, others: nnx.State) -> nnx.State:
    """Inverts `split_variables`."""
    return nnx.merge_state(params, others) if jax.tree.leaves(others) else params


def weights_of(variables: nnx.State) -> nnx.State:
    """What a trained network consists of: its variables, but for the state of random streams."""
    return nnx.filter_state(variables, nnx.Not(nnx.RngState))


def split_variables(variables: nnx.State) -> tuple[nnx.State, nnx.State]:
    """The parameters, which are trained, and the other variables of a network."""
    params, others = nnx.split_state(variables, nnx.Param, ...)
    return params, others
