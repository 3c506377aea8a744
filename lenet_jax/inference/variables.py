"""The weights of any module under Flax's own paths: `conv1.kernel`, `batch_norm1.mean`, ….

Networks other than LeNet are stored so: they have no names of PyTorch's. See `state_dict.py`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Shaped

from lenet_jax.errors import UserError, printable
from lenet_jax.inference.state_dict import check_entries
from lenet_jax.nn.variables import split_variables, weights_of
from lenet_jax.storage.weights import StateDict

Arrays = Mapping[str, Shaped[np.ndarray, "..."]]


def to_arrays(variables: nnx.State) -> dict[str, Shaped[np.ndarray, "..."]]:
    """A network's weights by their paths, without the state of random streams."""
    return {path: np.asarray(leaf) for path, leaf in _leaves(weights_of(variables)).items()}


def from_arrays(arrays: StateDict, like: nnx.State, source: str) -> nnx.State:
    """Inverts `to_arrays`.

    Args:
      arrays: by their paths.
      like: variables of the same network, whose leaves may be abstract.
      source: where the arrays are from, for messages.

    Raises:
      UserError: they are not those of the network, or have NaN or infinite values.
    """
    like = weights_of(like)
    expected = _leaves(like)
    shapes = {path: leaf.shape for path, leaf in expected.items()}
    check_entries(arrays, shapes, {path: leaf.dtype for path, leaf in expected.items()}, source)
    values = {path: np.asarray(arrays[path]) for path in expected}
    params = _leaves(split_variables(like)[0])  # a mask may well be −∞
    broken = [path for path in params if not np.isfinite(values[path].astype(np.float32)).all()]
    if broken:
        raise UserError(f"{source} has NaN or infinite values in {printable(', '.join(broken))}")
    leaves = [jax.numpy.array(value) for value in values.values()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _leaves(variables: nnx.State) -> dict[str, Any]:
    def name(path: Any) -> str:
        return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")

    return {name(path): leaf for path, leaf in jax.tree.leaves_with_path(variables)}
