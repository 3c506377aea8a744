import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lenet_jax.nn import ops
from lenet_jax.training import batches
from lenet_jax.training import spec as specs
from lenet_jax.training import step as train
from tests.support import tiny

DATASET = tiny.dataset()


@pytest.fixture(scope="module", autouse=True)
def arrays():
    return jnp.asarray(DATASET.train.images), jnp.asarray(DATASET.train.labels)


def start(config):
    made = specs.make_spec(config, DATASET)
    numbers = specs.hyperparameters(config)
    return made, train.init_state(made, specs.seeds(config), numbers), numbers


def run_epoch(made, state, numbers, arrays, epoch=0):
    program = jax.jit(
        functools.partial(train.train_epoch, made), compiler_options=ops.compiler_options()
    )
    return program(state, *arrays, np.int32(epoch), numbers)


def assert_close(one, other, tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), one, other)


def test_the_order_is_a_permutation_that_the_key_and_the_epoch_decide():
    made, state, _ = start(tiny.config())
    order = batches.epoch_order(made, state.order_key, jnp.int32(0))
    assert order.shape == (5, 16)
    assert sorted(np.asarray(order).ravel()) == [-1] * 10 + list(range(70))
    assert np.all(np.asarray(order)[-1, -10:] == -1)
    again = batches.epoch_order(made, state.order_key, jnp.int32(0))
    np.testing.assert_array_equal(order, again)
    assert np.any(order != batches.epoch_order(made, state.order_key, jnp.int32(1)))
    assert np.any(order != batches.epoch_order(made, jax.random.key(5), jnp.int32(0)))


def test_an_epoch_is_plain_gradient_descent_over_every_example(arrays):
    """Against a loop that is written down as the notes have it, ragged last batch and all."""
    config = tiny.config(
        optimizer={"momentum": 0.0, "learning_rate": 0.1}, schedule={"name": "constant"}
    )
    made, state, numbers = start(config)
    after, metrics = run_epoch(made, state, numbers, arrays)
    assert metrics.count == 70

    images, labels = arrays
    params, total = state.params, 0.0
    for indices in np.asarray(batches.epoch_order(made, state.order_key, jnp.int32(0))):
        real = indices[indices >= 0]

        def mean_loss(params, real=real):
            pixels = images[real].astype(jnp.float32)
            normalised = (pixels - made.mean[0]) / made.std[0]
            logits = nnx.merge(made.graphdef, params)(normalised)
            return jnp.mean(ops.cross_entropy(logits, labels[real]))

        loss, grads = jax.value_and_grad(mean_loss)(params)
        params = jax.tree.map(lambda weight, gradient: weight - 0.1 * gradient, params, grads)
        total += float(loss) * len(real)
    assert_close(after.params, params, 1e-5)
    assert metrics.mean_loss == pytest.approx(total / 70, rel=1e-5)
    assert after.step == 5


@pytest.mark.parametrize("augment", [{}, {"shift": 2.0, "rotate": 10.0}])
def test_accumulated_parts_equal_the_whole_batch(arrays, augment):
    whole, parts = (
        run_epoch(*start(tiny.config(train={"micro_batch_size": size}, augment=augment)), arrays)
        for size in (16, 4)
    )
    assert_close(whole[0].params, parts[0].params, 1e-5)
    np.testing.assert_allclose(whole[1].loss, parts[1].loss, rtol=1e-5)
    assert whole[1].correct == parts[1].correct


def test_the_same_epoch_twice_is_the_same_to_the_bit(arrays):
    one, other = (run_epoch(*start(tiny.config()), arrays) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one[0].params, other[0].params)


def test_training_learns(arrays):
    config = tiny.config(
        model={"channels": (4, 8), "features": (32, 16)},
        train={"num_epochs": 30},
        optimizer={"name": "adam", "learning_rate": 0.01},
        schedule={"name": "constant"},
    )
    made, state, numbers = start(config)
    program = jax.jit(functools.partial(train.train_epoch, made))
    losses = []
    for epoch in range(30):
        state, metrics = program(state, *arrays, np.int32(epoch), numbers)
        losses.append(float(metrics.mean_loss))
    assert losses[0] > 1.5
    assert losses[-1] < 0.3


def test_augmentation_changes_the_loss_and_its_key_decides(arrays):
    plain, shifted, other = (
        run_epoch(*start(tiny.config(augment=augment, seeds=seeds)), arrays)[1].loss
        for augment, seeds in (
            ({}, {}),
            ({"shift": 2.0}, {}),
            ({"shift": 2.0}, {"augment": 7}),
        )
    )
    assert len({float(plain), float(shifted), float(other)}) == 3


def test_seeds_are_separable():
    base, init, order = (
        start(tiny.config(seeds=seeds))[1] for seeds in ({}, {"init": 5}, {"order": 5})
    )

    def same(a, b, what):
        return bool(jnp.all(what(a) == what(b)))

    def weight(state):
        return state.params["fc1"]["kernel"][...]

    def order_key(state):
        return jax.random.key_data(state.order_key)

    assert same(base, order, weight) and not same(base, init, weight)
    assert same(base, init, order_key) and not same(base, order, order_key)


def test_an_epoch_in_parts_is_the_same_to_the_bit(arrays):
    made, state, numbers = start(tiny.config(augment={"shift": 2.0}))
    options = ops.compiler_options()
    program = jax.jit(functools.partial(train.train_steps, made), compiler_options=options)
    order = batches.epoch_order(made, state.order_key, jnp.int32(0))
    ends = []
    for parts in ([(0, 5)], [(0, 1), (1, 4), (4, 5)]):
        at, metrics = state, train.no_metrics()
        for first, last in parts:
            part = np.int32(first), np.int32(last)
            at, metrics = program(at, metrics, *arrays, order, *part, numbers)
        ends.append((at.params, at.opt_state, at.step, metrics))
    jax.tree.map(np.testing.assert_array_equal, *ends)
    assert ends[0][2] == 5
    whole, _ = run_epoch(made, state, numbers, arrays)
    assert_close(whole.params, ends[0][0], 1e-5)


def test_a_weight_that_is_infinite_but_shows_in_no_loss_freezes_the_state(arrays, monkeypatch):
    """A bias of -inf is 0 behind its ReLU."""
    made, state, numbers = start(tiny.config())
    train_step = train.train_step

    def spoil(*args):
        new, metrics = train_step(*args)
        bias = new.params["fc1"]["bias"][...].shape
        params = jax.tree.map(
            lambda leaf: leaf.at[0].set(-jnp.inf) if leaf.shape == bias else leaf, new.params
        )
        return dataclasses.replace(new, params=params), metrics

    monkeypatch.setattr(train, "train_step", spoil)
    images, labels = arrays
    indices = jnp.arange(16, dtype=jnp.int32)
    batch = batches.make_batch(made, images, labels, indices, state.augment_key, numbers)
    after, metrics = train.guarded_step(made, state, batch, numbers)
    assert jnp.isfinite(metrics.loss)
    assert after.step == -1
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
    again, _ = train.guarded_step(made, after, batch, numbers)
    assert again.step == -1


def test_label_smoothing_and_clipping_reach_the_gradient(arrays):
    plain, smooth, clipped = (
        run_epoch(*start(tiny.config(train=settings)), arrays)[0].params["fc3"]["bias"][...]
        for settings in ({}, {"label_smoothing": 0.5}, {"max_grad_norm": 1e-3})
    )
    assert np.any(plain != smooth) and np.any(plain != clipped)


@pytest.mark.parametrize("eval_batch_size", [10, 33, 50])
def test_evaluation_counts_every_image_whatever_the_batch(eval_batch_size):
    made, state, _ = start(tiny.config())
    made = dataclasses.replace(made, eval_batch_size=eval_batch_size)
    images, labels = jnp.asarray(DATASET.test.images), jnp.asarray(DATASET.test.labels)
    evaluate = jax.jit(functools.partial(train.evaluate, made))
    metrics, logits = evaluate(state.params, images, labels)
    assert logits.shape == (33, 6)
    assert metrics.count == 33
    pixels = (images.astype(jnp.float32) - made.mean[0]) / made.std[0]
    expected = nnx.merge(made.graphdef, state.params)(pixels)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    hits = np.argmax(np.asarray(expected), axis=-1) == DATASET.test.labels
    assert float(metrics.correct) == float(hits.sum())
    np.testing.assert_allclose(metrics.loss, ops.cross_entropy(expected, labels).sum(), rtol=1e-5)

    some, cut = evaluate(state.params, images, labels, np.int32(21))
    assert some.count == 21 and float(some.correct) == float(hits[:21].sum())
    np.testing.assert_array_equal(cut[:21], logits[:21])
    assert not np.any(cut[21:])


def test_an_epoch_can_be_mapped_over_members(arrays):
    made, _, numbers = start(tiny.config())
    seeds = {name: jnp.arange(2, dtype=jnp.int32) for name in ("init", "order", "augment")}
    rates = {**numbers, "optimizer": {**numbers["optimizer"], "learning_rate": None}}
    rates = jax.tree.map(lambda x: jnp.full(2, x, jnp.float32), rates)
    rates["optimizer"]["learning_rate"] = jnp.asarray([0.05, 0.01])
    states = jax.vmap(functools.partial(train.init_state, made))(seeds, rates)
    epoch = functools.partial(train.train_epoch, made)
    mapped, metrics = jax.jit(jax.vmap(epoch, in_axes=(0, None, None, None, 0)))(
        states, *arrays, np.int32(0), rates
    )
    single = tiny.config(optimizer={"learning_rate": 0.01})
    single.seed = 1
    alone, alone_metrics = run_epoch(*start(single), arrays)
    np.testing.assert_allclose(metrics.loss[1], alone_metrics.loss, rtol=1e-4)
    assert_close(jax.tree.map(lambda x: x[1], mapped.params), alone.params, 1e-4)
