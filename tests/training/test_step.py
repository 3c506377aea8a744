import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lenet_jax.nn import ops
from lenet_jax.training import evaluation
from lenet_jax.training import step as steps
from lenet_jax.training.batches import DeviceSplit, EpochSlice, epoch_order, make_batch
from lenet_jax.training.hyperparameters import hyperparameters, seeds
from lenet_jax.training.spec import Spec, make_spec
from tests.support import tiny

pytestmark = pytest.mark.optimized(False)

DATASET = tiny.dataset()


@pytest.fixture(scope="module")
def split():
    return jax.device_put(DeviceSplit.of(DATASET.train))


def start(config):
    spec, settings = make_spec(config, DATASET), hyperparameters(config)
    return spec, steps.init_state(spec, seeds(config), settings), settings


def run_epoch(spec, state, settings, split, epoch=0):
    compiled = jax.jit(
        functools.partial(steps.train_epoch, spec), compiler_options=ops.compiler_options()
    )
    return compiled(state, split, np.int32(epoch), settings)


def assert_close(one, other, tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), one, other)


def test_the_order_is_a_permutation_determined_by_key_and_epoch():
    spec, state, _ = start(tiny.config())
    order = epoch_order(spec, state.order_key, jnp.int32(0))
    assert order.shape == (5, 16)
    assert sorted(np.asarray(order).ravel()) == [-1] * 10 + list(range(70))
    assert np.all(np.asarray(order)[-1, -10:] == -1)
    again = epoch_order(spec, state.order_key, jnp.int32(0))
    np.testing.assert_array_equal(order, again)
    assert np.any(order != epoch_order(spec, state.order_key, jnp.int32(1)))
    assert np.any(order != epoch_order(spec, jax.random.key(5), jnp.int32(0)))


def test_an_epoch_is_plain_gradient_descent_over_every_example(split):
    """Against a plain training loop as in PyTorch's tutorial, with a smaller last batch."""
    config = tiny.config(
        optimizer={"momentum": 0.0, "learning_rate": 0.1}, schedule={"name": "constant"}
    )
    spec, state, settings = start(config)
    after, metrics = run_epoch(spec, state, settings, split)
    assert metrics.count == 70

    images, labels, *_ = split
    params, total = state.params, 0.0
    for indices in np.asarray(epoch_order(spec, state.order_key, jnp.int32(0))):
        real = indices[indices >= 0]

        def mean_loss(params, real=real):
            pixels = images[real].astype(jnp.float32)
            normalised = (pixels - spec.mean[0]) / spec.std[0]
            logits = nnx.merge(spec.graphdef, params)(normalised)
            return jnp.mean(ops.cross_entropy(logits, labels[real]))

        loss, grads = jax.value_and_grad(mean_loss)(params)
        params = jax.tree.map(lambda weight, gradient: weight - 0.1 * gradient, params, grads)
        total += float(loss) * len(real)
    assert_close(after.params, params, 1e-5)
    assert metrics.mean_loss == pytest.approx(total / 70, rel=1e-5)
    assert after.step == 5


@pytest.mark.parametrize("augment", [{}, {"shift": 2.0, "rotate": 10.0}])
def test_accumulated_micro_batches_equal_the_whole_batch(split, augment):
    whole, accumulated = (
        run_epoch(*start(tiny.config(train={"micro_batch_size": size}, augment=augment)), split)
        for size in (16, 4)
    )
    assert_close(whole[0].params, accumulated[0].params, 1e-5)
    np.testing.assert_allclose(whole[1].loss, accumulated[1].loss, rtol=1e-5)
    assert whole[1].correct == accumulated[1].correct


@pytest.mark.optimized(True)
def test_an_epoch_is_reproducible_to_the_bit(split):
    one, other = (run_epoch(*start(tiny.config()), split) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one[0].params, other[0].params)


def test_training_reduces_the_loss(split):
    config = tiny.config(
        model={"channels": (4, 8), "features": (32, 16)},
        train={"num_epochs": 30},
        optimizer={"name": "adam", "learning_rate": 0.01},
        schedule={"name": "constant"},
    )
    spec, state, settings = start(config)
    compiled = jax.jit(functools.partial(steps.train_epoch, spec))
    losses = []
    for epoch in range(30):
        state, metrics = compiled(state, split, np.int32(epoch), settings)
        losses.append(float(metrics.mean_loss))
    assert losses[0] > 1.5
    assert losses[-1] < 0.3


def test_augmentation_and_its_seed_change_the_loss(split):
    plain, shifted, other = (
        run_epoch(*start(tiny.config(augment=augment, seeds=changed)), split)[1].loss
        for augment, changed in (
            ({}, {}),
            ({"shift": 2.0}, {}),
            ({"shift": 2.0}, {"augment": 7}),
        )
    )
    assert len({float(plain), float(shifted), float(other)}) == 3


def test_the_seeds_of_weights_and_order_are_independent():
    base, init, order = (
        start(tiny.config(seeds=changed))[1] for changed in ({}, {"init": 5}, {"order": 5})
    )

    def same(a, b, select):
        return bool(jnp.all(select(a) == select(b)))

    def weight(state):
        return state.params["fc1"]["kernel"][...]

    def order_key(state):
        return jax.random.key_data(state.order_key)

    assert same(base, order, weight) and not same(base, init, weight)
    assert same(base, init, order_key) and not same(base, order, order_key)


def test_no_two_purposes_draw_from_one_key(monkeypatch):
    """The parameters fold their number into `init`, the order the epoch, augmentation the step."""
    make_model, drawn_from = Spec.make_model, []

    def record(spec, key, traced):
        drawn_from.append(key)
        return make_model(spec, key)

    monkeypatch.setattr(Spec, "make_model", record)
    _, state, _ = start(tiny.config())
    *_, init = drawn_from  # after those for shapes alone
    of_one_seed = (init, state.order_key, state.augment_key)
    numbers = jnp.arange(1000)
    fold_in = jax.vmap(jax.random.fold_in, (None, 0))
    children = [fold_in(key, numbers) for key in of_one_seed]
    keys = jnp.concatenate([jnp.stack(of_one_seed), *children])
    assert len(np.unique(jax.random.key_data(keys), axis=0)) == len(keys) == 3003


@pytest.mark.optimized(True)
def test_an_epoch_in_slices_is_bit_identical(split):
    spec, state, settings = start(tiny.config(augment={"shift": 2.0}))
    options = ops.compiler_options()
    compiled = jax.jit(functools.partial(steps.train_steps, spec), compiler_options=options)
    order = epoch_order(spec, state.order_key, jnp.int32(0))
    ends = []
    for slices in ([(0, 5)], [(0, 1), (1, 4), (4, 5)]):
        at, metrics = state, evaluation.no_metrics()
        for first, last in slices:
            epoch_slice = EpochSlice(order, np.int32(first), np.int32(last))
            at, metrics = compiled(at, metrics, split, epoch_slice, settings)
        ends.append((at.params, at.opt_state, at.step, metrics))
    jax.tree.map(np.testing.assert_array_equal, *ends)
    assert ends[0][2] == 5
    whole, _ = run_epoch(spec, state, settings, split)
    assert_close(whole.params, ends[0][0], 1e-5)


def test_an_infinite_weight_with_a_finite_loss_freezes_the_state(split, monkeypatch):
    """A bias of -inf becomes 0 in the following ReLU."""
    spec, state, settings = start(tiny.config())
    train_step = steps.train_step

    def spoil(*args):
        new, metrics = train_step(*args)
        bias = new.params["fc1"]["bias"][...].shape
        params = jax.tree.map(
            lambda leaf: leaf.at[0].set(-jnp.inf) if leaf.shape == bias else leaf, new.params
        )
        return dataclasses.replace(new, params=params), metrics

    monkeypatch.setattr(steps, "train_step", spoil)
    indices = jnp.arange(16, dtype=jnp.int32)
    batch = make_batch(spec, split, indices, state.augment_key, settings)
    after, metrics = steps.guarded_step(spec, state, batch, settings)
    assert jnp.isfinite(metrics.loss)
    assert after.step == -1
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
    again, _ = steps.guarded_step(spec, after, batch, settings)
    assert again.step == -1


def test_label_smoothing_and_clipping_reach_the_gradient(split):
    plain, smooth, clipped = (
        run_epoch(*start(tiny.config(train=settings)), split)[0].params["fc3"]["bias"][...]
        for settings in ({}, {"label_smoothing": 0.5}, {"max_grad_norm": 1e-3})
    )
    assert np.any(plain != smooth) and np.any(plain != clipped)


def test_the_loss_is_without_label_smoothing_and_the_objective_with_it(split):
    still = {"learning_rate": 1e-30, "weight_decay": 0.0}
    plain, smooth = (
        run_epoch(*start(tiny.config(train={"label_smoothing": s}, optimizer=still)), split)[1]
        for s in (0.0, 0.5)
    )
    np.testing.assert_allclose(plain.loss, plain.objective, rtol=1e-6)
    np.testing.assert_allclose(smooth.loss, plain.loss, rtol=1e-6)
    assert abs(smooth.objective - smooth.loss) > 1e-3 * smooth.loss


def test_the_average_follows_the_parameters_step_by_step(split):
    spec, state, settings = start(tiny.config(train={"ema_decay": 0.75, "loss": "mse"}))
    take = jax.jit(functools.partial(steps.train_steps, spec))
    order, sums = epoch_order(spec, state.order_key, jnp.int32(0)), evaluation.no_metrics()
    expected = state.params
    for step in range(3):
        bounds = EpochSlice(order, np.int32(step), np.int32(step + 1))
        state, sums = take(state, sums, split, bounds, settings)
        expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, expected, state.params)
    assert_close(state.averaged, expected, 1e-6)
    assert np.any(expected["fc3"]["bias"][...] != state.params["fc3"]["bias"][...])
    assert sums.objective < 0.5 * sums.loss  # 1 / 6 at first, and log 6


@pytest.mark.parametrize("eval_batch_size", [10, 33, 50])
def test_evaluation_counts_every_image_whatever_the_batch(eval_batch_size):
    spec, state, _ = start(tiny.config())
    spec = dataclasses.replace(spec, eval_batch_size=eval_batch_size)
    split = jax.device_put(DeviceSplit.of(DATASET.test))
    evaluate = jax.jit(functools.partial(evaluation.evaluate, spec))
    metrics, logits = evaluate(state.params, split)
    assert logits.shape == (33, 6)
    assert metrics.count == 33
    pixels = (split.images.astype(jnp.float32) - spec.mean[0]) / spec.std[0]
    expected = nnx.merge(spec.graphdef, state.params)(pixels)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    hits = np.argmax(np.asarray(expected), axis=-1) == DATASET.test.labels
    assert float(metrics.correct) == float(hits.sum())
    np.testing.assert_allclose(
        metrics.loss, ops.cross_entropy(expected, split.labels).sum(), rtol=1e-5
    )

    some, cut = evaluate(state.params, split._replace(length=np.int32(21)))
    assert some.count == 21 and float(some.correct) == float(hits[:21].sum())
    np.testing.assert_array_equal(cut[:21], logits[:21])
    assert not np.any(cut[21:])


def test_an_epoch_can_be_mapped_over_members(split):
    spec, _, settings = start(tiny.config())
    each = {name: jnp.arange(2, dtype=jnp.int32) for name in ("init", "order", "augment")}
    rates = {**settings, "optimizer": {**settings["optimizer"], "learning_rate": None}}
    rates = jax.tree.map(lambda x: jnp.full(2, x, jnp.float32), rates)
    rates["optimizer"]["learning_rate"] = jnp.asarray([0.05, 0.01])
    states = jax.vmap(functools.partial(steps.init_state, spec))(each, rates)
    epoch = functools.partial(steps.train_epoch, spec)
    mapped, metrics = jax.jit(jax.vmap(epoch, in_axes=(0, None, None, 0)))(
        states, split, np.int32(0), rates
    )
    single = tiny.config(optimizer={"learning_rate": 0.01})
    single.seed = 1
    alone, alone_metrics = run_epoch(*start(single), split)
    np.testing.assert_allclose(metrics.loss[1], alone_metrics.loss, rtol=1e-4)
    assert_close(jax.tree.map(lambda x: x[1], mapped.params), alone.params, 1e-4)
