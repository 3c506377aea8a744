"""Networks that start from given weights, and pruned ones."""

import functools
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from lenet_jax import config as configs
from lenet_jax.inference.state_dict import from_state_dict, to_state_dict
from lenet_jax.training.batches import DeviceSplit
from lenet_jax.training.hyperparameters import hyperparameters, seeds
from lenet_jax.training.population import Population
from lenet_jax.training.spec import make_spec
from lenet_jax.training.start import Start, begin, count_pruned, restart
from lenet_jax.training.step import init_state, train_epoch
from tests.support import tiny

DATASET = tiny.dataset()
OPTIMIZERS = (
    {"name": "sgd", "weight_decay": 0.1, "nesterov": True},
    {"name": "adam", "weight_decay": 0.1},
    {"name": "adamw", "weight_decay": 0.1},
    {"name": "diagonal_lm", "learning_rate": 1e-3},
)


def make_config(seed=0, **sections):
    config = tiny.config(model={"backend": "plain"}, **sections)
    config.seed = seed
    return config


def draw(config):
    spec = make_spec(config, DATASET)
    return spec, init_state(spec, seeds(config), hyperparameters(config))


def mask_of(config, start=Start()):  # noqa: B008
    """The weights of each layer that are left, under PyTorch's names."""
    spec, state = draw(config)
    weights, masks = begin(spec, config, state.params, start)
    assert masks is not None
    left = {name: array != 0 for name, array in to_state_dict(weights).items()}
    assert sum(int((~array).sum()) for array in left.values()) == count_pruned(masks)
    return left


def kernels(params):
    return [leaf for leaf in jax.tree.leaves(params) if leaf.ndim > 1]


@pytest.mark.torch
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_magnitude_pruning_is_pytorchs(scope):
    """Twice, the second time of what the first leaves."""
    torch = pytest.importorskip("torch")
    from torch.nn.utils import prune as theirs

    names = "conv1", "conv2", "fc1", "fc2", "fc3"
    config = make_config(prune={"amount": 0.37, "scope": scope})
    spec, state = draw(config)
    params, start = state.params, Start()
    modules = {}
    for name in names:
        module = modules[name] = torch.nn.Module()
        weight = torch.from_numpy(to_state_dict(params)[f"{name}.weight"])
        module.register_parameter("weight", torch.nn.Parameter(weight))
    for _ in range(2):
        if scope == "layer":
            for module in modules.values():
                theirs.l1_unstructured(module, "weight", 0.37)
        else:
            pairs = [(module, "weight") for module in modules.values()]
            theirs.global_unstructured(pairs, theirs.L1Unstructured, amount=0.37)
        params, masks = begin(spec, config, params, start)
        ours = to_state_dict(params)
        for name, module in modules.items():
            expected: Any = module.weight
            np.testing.assert_array_equal(ours[f"{name}.weight"], expected.detach().numpy())
            assert ours[f"{name}.bias"].all()
        assert masks is not None
        start = Start(ranking=params)


def test_random_pruning_takes_what_magnitude_does_of_each_layer_but_other_weights():
    changes = {"amount": 0.5, "scope": "layer"}
    small = mask_of(make_config(prune=changes))
    random = mask_of(make_config(prune=changes | {"method": "random"}))
    other = mask_of(make_config(prune=changes | {"method": "random"}, seeds={"prune": 1}))
    for name, left in small.items():
        assert left.sum() == random[name].sum() == other[name].sum()
    assert len({str(m["fc1.weight"].tolist()) for m in (small, random, other)}) == 3
    more = mask_of(make_config(prune=changes | {"method": "random", "amount": 0.8}))
    assert all((left <= random[name]).all() for name, left in more.items())


def test_ties_are_broken_by_place_and_zeros_are_pruned_already():
    config = make_config(prune={"amount": 0.25, "scope": "layer"})
    spec, state = draw(config)
    values = {name: np.ones_like(array) for name, array in to_state_dict(state.params).items()}
    values["fc3.weight"][:, 0] = 0
    ranking = from_state_dict(values, spec.variables)
    weights, masks = begin(spec, config, state.params, Start(ranking=ranking))
    assert masks is not None
    left = np.asarray(dict(nnx.to_flat_state(masks))["fc3", "kernel"][...])
    assert left.shape == (6, 6) and not left[0].any()
    np.testing.assert_array_equal(left[1:].ravel(), np.arange(30) >= 8)  # round(0.25 · 30)
    fc3 = nnx.to_pure_dict(weights)["fc3"]["kernel"]
    np.testing.assert_array_equal(fc3 != 0, left)


@pytest.mark.optimized(False)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda each: each["name"])
def test_pruned_weights_stay_zero_as_do_their_buffers_and_averages(optimizer):
    changes = {f"optimizer.{name}": value for name, value in optimizer.items()}
    changes |= {"prune.amount": 0.6, "train.ema_decay": 0.9, "train.max_grad_norm": 1.0}
    changes |= {"train.micro_batch_size": 8}
    config = configs.load("configs/notes.py", (tiny.MLP | changes).items())
    spec, state = draw(config)
    settings = hyperparameters(config)
    state = restart(spec, state, *begin(spec, config, state.params, Start()))
    masks = state.masks
    assert masks is not None
    epoch = jax.jit(functools.partial(train_epoch, spec))
    split: Any = DeviceSplit.of(DATASET.train)
    last, _ = epoch(state, split, np.int32(0), settings)
    assert int(last.step) == spec.steps_per_epoch
    trees = [last.params, last.ema]
    if optimizer["name"] != "diagonal_lm":  # whose buffers are curvatures
        like = jax.tree.structure(masks)
        buffers = jax.tree.leaves(last.opt_state, is_leaf=lambda x: jax.tree.structure(x) == like)
        trees += [each for each in buffers if jax.tree.structure(each) == like]
        assert len(trees) > 2
    for tree in trees:
        for leaf, mask in zip(jax.tree.leaves(tree), jax.tree.leaves(masks), strict=True):
            assert not np.asarray(leaf)[~np.broadcast_to(mask, leaf.shape)].any()
    for before, after, mask in zip(
        *(kernels(tree) for tree in (state.params, last.params, masks)), strict=True
    ):
        assert (np.asarray(before) != after)[np.asarray(mask)].any()
    jax.tree.map(np.testing.assert_array_equal, last.masks, masks)


def test_frozen_layers_are_not_pruned():
    left = mask_of(make_config(prune={"amount": 0.9}, train={"freeze": "fc*"}))
    assert left["fc1.weight"].all() and left["fc3.weight"].all()
    assert not left["conv2.weight"].all()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["map", "vmap"])
def test_members_are_single_runs_of_their_weights_and_masks(strategy):
    """To the bit where members train one after the other."""
    given = draw(make_config(seed=9))[1].params
    changes = (
        {"amount": 0.5},
        {"amount": 0.2, "method": "random", "scope": "layer"},
        {"weights": "named"},
    )
    starts = Start(), Start(weights=given), Start(ranking=given)
    configs = [
        make_config(seed, prune=own, train={"ema_decay": 0.9}) for seed, own in enumerate(changes)
    ]
    spec = make_spec(configs[0], DATASET)
    population = Population(spec, 3, devices=jax.devices()[:1], strategy=strategy)
    members, settings = population.start(configs)
    members = population.restart(members, configs, starts)
    splits = population.put(DATASET.train), population.put(DATASET.valid)
    members, _ = population.train_epoch(members, settings, *splits, 0)
    state = population.pick(members.state.params, 3)
    epoch = jax.jit(
        functools.partial(train_epoch, spec),
        compiler_options=spec.compiler_options(jax.devices()[0]),
    )
    for index, (config, start) in enumerate(zip(configs, starts, strict=True)):
        _, single = draw(config)
        single = restart(spec, single, *begin(spec, config, single.params, start))
        split: Any = DeviceSplit.of(DATASET.train)
        single, _ = epoch(single, split, np.int32(0), hyperparameters(config))
        own = jax.tree.map(lambda leaf, i=index: leaf[i], state)
        compare = np.testing.assert_array_equal
        if strategy == "vmap":
            compare = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
        jax.tree.map(compare, own, single.params)
