"""Where a network starts: at weights that its config names, or drawn ones, some of them pruned.

Pruning sets weights of kernels (parameters of two and more dimensions) to 0 before the first step,
and masks keep them there: they have no gradient, so that momentum, averages and weight decay leave
them as they are. Biases, scales and layers that `train.freeze` names are not pruned.

A weight of 0 counts as pruned already, so a file of weights is its own mask: pruning by the weights
of a pruned network keeps what that one has lost, and takes a share of what it has left.

Source: Frankle and Carbin, "The lottery ticket hypothesis" (2019); counts as in
`torch.nn.utils.prune`.
"""

import dataclasses
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Shaped

from lenet_jax.config.file import Config
from lenet_jax.nn.variables import split_variables
from lenet_jax.training.hyperparameters import seeds
from lenet_jax.training.spec import Spec
from lenet_jax.training.step import TrainState, apply_masks
from lenet_jax.training.streams import draw


class Start(NamedTuple):
    """What a config names in place of weights that are drawn; None where it names nothing.

    Attributes:
      weights: to start from, see `train.initial_weights`.
      ranking: to prune by, see `prune.weights`.
    """

    weights: nnx.State | None = None
    ranking: nnx.State | None = None


def is_pruned(config: Config) -> bool:
    """Whether a config prunes, so that its training state has masks."""
    return config.prune.amount > 0 or config.prune.weights is not None


def begin(
    spec: Spec, config: Config, drawn: nnx.State, start: Start
) -> tuple[nnx.State, nnx.State | None]:
    """The weights before the first step, and the masks, if the config prunes; on the host.

    Args:
      spec: the static specification.
      config: the network's.
      drawn: the weights that its seed gives, see `variables.weights_of`.
      start: what the config names.
    """
    weights = drawn if start.weights is None else nnx.merge_state(drawn, start.weights)
    if not is_pruned(config):
        return weights, None
    ranking = weights if start.ranking is None else start.ranking
    masks = _make_masks(config, split_variables(ranking, spec.frozen)[0])
    params, others = split_variables(weights, spec.frozen)
    return nnx.merge_state(apply_masks(params, masks), others), masks


def abstract_masks(spec: Spec) -> nnx.State:
    """The shapes and dtypes of masks: one for each trained parameter, of others than kernels ()."""
    params, _ = split_variables(spec.variables, spec.frozen)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape if leaf.ndim > 1 else (), bool), params
    )


def restart(
    spec: Spec, state: TrainState, weights: nnx.State, masks: nnx.State | None
) -> TrainState:
    """A state before its first step with what `begin` gives, of one network or of a stack.

    No array of it is another one of it, so that it may be donated.
    """
    params = nnx.merge_state(state.params, weights)
    ema = state.ema
    if ema is not None:
        ema = jax.tree.map(jnp.copy, split_variables(params, spec.frozen)[0])
    return dataclasses.replace(state, params=params, ema=ema, masks=masks)


def count_pruned(masks: nnx.State) -> int:
    """How many weights of a network are pruned."""
    return sum(int((~np.asarray(mask)).sum()) for mask in jax.tree.leaves(masks))


def _make_masks(config: Config, params: nnx.State) -> nnx.State:
    """The masks of a network; of parameters that are not kernels a single True.

    Of n weights that are left, in all kernels together or in each, round(amount · n) are pruned:
    those nearest to 0, of equal ones the first, or random ones.
    """
    leaves, structure = jax.tree.flatten(params)
    sizes = [leaf.size for leaf in leaves if leaf.ndim > 1]
    kernels = [np.asarray(leaf, np.float32).ravel() for leaf in leaves if leaf.ndim > 1]
    weights = np.concatenate(kernels) if kernels else np.zeros(0, np.float32)
    if config.prune.method == "random":
        (scores,) = draw("prune", seeds(config)["prune"], len(weights))
    else:
        scores = np.abs(weights)
    kept, bounds = weights != 0, np.cumsum([0, *sizes])
    if config.prune.scope == "global":
        bounds = bounds[[0, -1]]
    for first, end in itertools.pairwise(bounds):
        _prune(scores[first:end], kept[first:end], config.prune.amount)
    masks = iter(np.split(kept, np.cumsum(sizes)[:-1]))
    return jax.tree.unflatten(
        structure,
        [next(masks).reshape(leaf.shape) if leaf.ndim > 1 else np.True_ for leaf in leaves],
    )


def _prune(scores: Shaped[np.ndarray, " n"], kept: Bool[np.ndarray, " n"], amount: float) -> None:
    """Prunes a share of the weights that are kept, those of the lowest scores."""
    (places,) = np.nonzero(kept)
    count = round(amount * len(places))
    if count == 0:
        return
    scores = scores[places]
    highest = np.partition(scores, count - 1)[count - 1]
    (ties,) = np.nonzero(scores == highest)
    lower = scores < highest
    lower[ties[: count - lower.sum()]] = True
    kept[places[lower]] = False
