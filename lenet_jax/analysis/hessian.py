"""The top of the spectrum of the loss's Hessian."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, eigsh

from lenet_jax.analysis.loss import Loss, Params


class Eigenpairs(NamedTuple):
    """Of a symmetric matrix.

    Attributes:
      values: eigenvalues, the largest first.
      vectors: of unit length, a row each, in the order of `jax.tree.leaves`.
    """

    values: Float[np.ndarray, " k"]
    vectors: Float[np.ndarray, "k p"]


def hessian_vector_product(loss: Loss, params: Params, vector: Params) -> Params:
    """The Hessian of the loss times a vector: forward over reverse."""
    return jax.jvp(jax.grad(loss), (params,), (vector,))[1]


def top_eigenpairs(
    loss: Loss, params: Params, k: int = 5, *, seed: int = 0, tolerance: float = 1e-4
) -> Eigenpairs:
    """The k largest eigenvalues of the Hessian, by Lanczos with products alone.

    Args:
      loss: with a second derivative.
      params: where.
      k: fewer than there are parameters.
      seed: of the vector that it starts from.
      tolerance: relative, of the eigenvalues.

    Source: Lehoucq, Sorensen, Yang, "ARPACK users' guide: solution of large-scale eigenvalue
    problems with implicitly restarted Arnoldi methods", 1998.

    Raises:
      scipy.sparse.linalg.ArpackNoConvergence: the tolerance is not reached.
    """
    flat, unravel = ravel_pytree(params)

    @jax.jit
    def product(vector: jax.Array) -> jax.Array:
        return ravel_pytree(hessian_vector_product(loss, params, unravel(vector)))[0]

    def multiply(vector: np.ndarray) -> np.ndarray:
        return np.asarray(product(jnp.asarray(vector.ravel(), flat.dtype)))

    size = flat.size
    operator: Any = LinearOperator  # its types are those of its base class
    matrix = operator((size, size), matvec=multiply, dtype=flat.dtype)
    start = np.random.default_rng(seed).standard_normal(size).astype(flat.dtype)
    values, vectors = eigsh(matrix, k, which="LA", v0=start, tol=tolerance)  # pyright: ignore[reportArgumentType]
    order = np.argsort(-values)
    return Eigenpairs(values[order], vectors.T[order])
