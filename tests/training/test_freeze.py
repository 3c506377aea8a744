"""Layers that `train.freeze` names keep their weights; the others train as if alone."""

import functools
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from lenet_jax.errors import UserError
from lenet_jax.training.batches import DeviceSplit
from lenet_jax.training.hyperparameters import hyperparameters, seeds
from lenet_jax.training.spec import make_spec
from lenet_jax.training.step import init_state, train_epoch
from tests.support import tiny

pytestmark = pytest.mark.optimized(False)

DATASET = tiny.dataset()


def train(**sections):
    """The variables before and after an epoch, and the optimiser's buffers."""
    config = tiny.config(model={"backend": "plain"}, **sections)
    spec, settings = make_spec(config, DATASET), hyperparameters(config)
    first = init_state(spec, seeds(config), settings)
    split: Any = DeviceSplit.of(DATASET.train)
    epoch = jax.jit(functools.partial(train_epoch, spec))
    last, _ = epoch(first, split, np.int32(0), settings)
    flat = (dict(nnx.to_flat_state(state.params)) for state in (first, last))
    return *({".".join(map(str, path)): leaf[...] for path, leaf in f.items()} for f in flat), last


@pytest.mark.parametrize(
    ("pattern", "frozen"),
    [
        ("conv*", {"conv1.kernel", "conv1.bias", "conv2.kernel", "conv2.bias"}),
        ("conv1, fc3.bias", {"conv1.kernel", "conv1.bias", "fc3.bias"}),
    ],
)
def test_frozen_layers_keep_their_bits_and_have_no_buffers(pattern, frozen):
    first, last, state = train(
        train={"freeze": pattern, "ema_decay": 0.9}, optimizer={"weight_decay": 0.1}
    )
    assert {name for name in first if np.array_equal(first[name], last[name])} == frozen
    buffers = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert len(buffers) == len(first) - len(frozen)
    assert len(jax.tree.leaves(state.ema)) == len(first) - len(frozen)
    averaged = nnx.to_flat_state(state.averaged)
    assert [path for path, _ in averaged] == [path for path, _ in nnx.to_flat_state(state.params)]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("conv3", "train.freeze=conv3 names no layer; there are conv1, conv2, fc1, fc2, fc3"),
        ("conv*,fcc", "train.freeze=fcc names no layer"),
        ("*", r"train.freeze=\* leaves nothing to train"),
    ],
)
def test_mistakes_are_short(pattern, message):
    with pytest.raises(UserError, match=message):
        make_spec(tiny.config(train={"freeze": pattern}), DATASET)
