"""Curvatures are second derivatives, and `diagonal_lm` divides by them, in every kind of run."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from lenet_jax import config as configs
from lenet_jax.data.dataset import Split
from lenet_jax.nn import ops
from lenet_jax.training import step as steps
from lenet_jax.training.batches import DeviceSplit, EpochSlice, epoch_order
from lenet_jax.training.curvature import _root, gauss_newton_diagonal
from lenet_jax.training.evaluation import no_metrics
from lenet_jax.training.forward import apply
from lenet_jax.training.hyperparameters import hyperparameters, seeds
from lenet_jax.training.optim import make_optimizer, make_schedule, set_curvature
from lenet_jax.training.population import Population
from lenet_jax.training.spec import make_spec
from tests.golden.make_optim import OPTIMIZER, SCHEDULE
from tests.support import tiny

pytestmark = pytest.mark.optimized(False)

DATASET = tiny.dataset()


def member(**optimizer):
    values = tiny.MLP | {"schedule.name": "constant", "optimizer.name": "diagonal_lm"}
    values |= {"optimizer.learning_rate": 2e-3, "optimizer.samples": 9}
    values |= {f"optimizer.{name}": value for name, value in optimizer.items()}
    return configs.load("configs/notes.py", values.items())


def start(config, dataset=DATASET):
    spec, settings = make_spec(config, dataset), hyperparameters(config)
    return spec, steps.init_state(spec, seeds(config), settings), settings


def two_classes():
    def halved(split):
        return Split(split.images, split.labels % 2)

    splits = (halved(split) for split in (DATASET.train, DATASET.valid, DATASET.test))
    names = ("train", "valid", "test")
    return dataclasses.replace(
        DATASET, **dict(zip(names, splits, strict=True)), class_names=("a", "b")
    )


def test_of_two_classes_they_are_the_second_derivatives_of_the_loss():
    """The Hessian in two logits has rank one, so that no sign matters.

    In a single weight the logits of a network of linear layers and ReLU are linear.
    """
    dataset = two_classes()
    config = member()
    spec, state, _ = start(config, dataset)
    split = jax.device_put(DeviceSplit.of(dataset.train))
    flat, unravel = ravel_pytree(state.params)
    images, labels = split.images[3:8], split.labels[3:8]

    def loss(flat):
        return jnp.mean(ops.cross_entropy(apply(spec, unravel(flat), images), labels))

    expected = jnp.diag(jax.jit(jax.hessian(loss))(flat))
    estimate = functools.partial(gauss_newton_diagonal, spec)
    curvature = jax.jit(estimate)(state.params, split, jnp.arange(3, 12), 5, jax.random.key(3))
    np.testing.assert_allclose(ravel_pytree(curvature)[0], expected, rtol=1e-3, atol=5e-7)
    assert float(expected.max()) > 0.01


def test_of_more_classes_their_mean_over_the_signs_is_exact():
    """Against Jᵀ H J of one example, with H = diag(p) - p pᵀ."""
    spec, state, _ = start(member())
    split = jax.device_put(DeviceSplit.of(DATASET.train))
    flat, unravel = ravel_pytree(state.params)

    def logits(flat):
        return apply(spec, unravel(flat), split.images[:1])[0]

    jacobian, p = jax.jacrev(logits)(flat), jax.nn.softmax(logits(flat))
    hessian = jnp.diag(p) - jnp.outer(p, p)
    expected = jnp.einsum("kn,kl,ln->n", jacobian, hessian, jacobian)
    one = functools.partial(gauss_newton_diagonal, spec, state.params, split, jnp.arange(1), 1)
    keys = jax.random.split(jax.random.key(0), 1000)
    mean = jax.jit(lambda keys: jax.tree.map(lambda x: x.mean(0), jax.lax.map(one, keys)))(keys)
    # The square of a sum with random signs varies by at most √2 times its mean.
    np.testing.assert_allclose(ravel_pytree(mean)[0], expected, rtol=5 * (2 / 1000) ** 0.5)


def test_a_negative_curvature_of_the_loss_is_left_out():
    def dented(logits, labels):
        return jnp.square(logits[:, 0]) - jnp.square(logits[:, 1])

    root = _root(dented, jnp.array([0.5, -2.0, 1.0]), jnp.int32(0))
    np.testing.assert_allclose(root.T @ root, np.diag([2, 0, 0]), atol=1e-6)


def test_a_step_divides_the_gradient_by_mu_plus_the_curvature():
    optimizer = make_optimizer(
        **OPTIMIZER | {"name": "diagonal_lm", "learning_rate": 0.5, "mu": 0.25}
    )
    params = {"curvature": jnp.ones(2), "bias": jnp.ones(1)}
    curvature = {"curvature": jnp.array([0.75, 0.0]), "bias": jnp.array([1.75])}
    state = set_curvature(optimizer.init(params), curvature)
    updates, after = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
    assert jax.tree.map(list, updates) == {"curvature": [-0.5, -2.0], "bias": [-0.25]}
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_a_piecewise_schedule_has_the_published_rates():
    schedule = make_schedule(
        "piecewise",
        **SCHEDULE | {"learning_rate": 5e-4},
        boundaries=(2.0, 5.0, 8.0, 12.0),
        factors=(0.4, 0.2, 0.1, 0.02),
        num_steps=60,
        steps_per_epoch=3,
    )
    rates = np.array([schedule(step) for step in range(0, 60, 3)])
    published = [5e-4] * 2 + [2e-4] * 3 + [1e-4] * 3 + [5e-5] * 4 + [1e-5] * 8
    np.testing.assert_allclose(rates, published, rtol=1e-6)
    assert schedule(5) == schedule(0)


@pytest.mark.optimized(True)
def test_the_estimate_is_made_before_an_epoch_and_kept_through_its_slices():
    spec, state, settings = start(member())
    split = jax.device_put(DeviceSplit.of(DATASET.train))
    take = jax.jit(functools.partial(steps.train_steps, spec))
    order = epoch_order(spec, state.order_key, jnp.int32(0))
    whole = take(state, no_metrics(), split, EpochSlice(order, 0, 5), settings)
    half = take(state, no_metrics(), split, EpochSlice(order, 0, 2), settings)
    jax.tree.map(np.testing.assert_array_equal, half[0].opt_state[1], whole[0].opt_state[1])
    halves = take(*half, split, EpochSlice(order, 2, 5), settings)
    jax.tree.map(
        np.testing.assert_array_equal, (halves[0].params, halves[1]), (whole[0].params, whole[1])
    )


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "shared"), [("map", False), ("vmap", True)])
def test_members_are_their_single_runs(strategy, shared):
    several = [member(), member(mu=0.1), member(samples=70, learning_rate=1e-3)]
    spec, *_ = start(several[0])
    population = Population(
        spec, 3, devices=jax.devices()[:1], strategy=strategy, shared_data_order=shared
    )
    splits = population.put(DATASET.train), population.put(DATASET.valid)
    members, varied = population.start(several)
    members, curves = population.train_epoch(members, varied, *splits, 0)
    epoch = jax.jit(functools.partial(steps.train_epoch, spec))
    losses = []
    for index, config in enumerate(several):
        _, state, settings = start(config)
        state, metrics = epoch(state, splits[0], np.int32(0), settings)
        of_member = jax.tree.map(lambda leaf, i=index: leaf[i], members.state)
        for one, other in (
            (of_member.params, state.params),
            (of_member.opt_state, state.opt_state),
        ):
            jax.tree.map(
                functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), one, other
            )
        losses.append(float(metrics.mean_loss))
    np.testing.assert_allclose(curves.train_loss, losses, rtol=1e-4)
    assert len(set(losses)) == 3
