import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lenet_jax.config.file import load, replace
from lenet_jax.nn import ops
from lenet_jax.training import population
from lenet_jax.training.batches import DeviceSplit, epoch_order, make_batch
from lenet_jax.training.evaluation import evaluate
from lenet_jax.training.hyperparameters import hyperparameters, seeds
from lenet_jax.training.population import Population
from lenet_jax.training.spec import make_spec
from lenet_jax.training.step import init_state, train_epoch, train_step
from lenet_jax.training.training_set import make_split, make_training_set
from tests.support import tiny
from tests.support.backends import at_hand

pytestmark = pytest.mark.slow

DATASET = tiny.dataset()
EPOCHS, STEPS = 3, 5
DEVICES = jax.devices()


class Trained:
    """A trained population: its members without padding, and their curves."""

    curves: population.EpochMetrics

    def __init__(self, configs, size=None, dataset=DATASET, sets=(), **settings):
        spec = make_spec(configs[0], dataset)
        trainer = make_population(spec, size or len(configs), **settings)
        splits = dataset.train, dataset.valid, dataset.test
        train_split, valid_split, test_split = map(trainer.put, splits)
        members, varied = trainer.start(configs, sets)
        rows = []
        for epoch in range(spec.num_epochs):
            members, metrics = trainer.train_epoch(members, varied, train_split, valid_split, epoch)
            rows.append(trainer.pick(metrics, len(configs)))
        self.curves = jax.tree.map(lambda *epochs: np.stack(epochs, axis=1), *rows)
        self.test = trainer.pick(trainer.test(members, test_split), len(configs))
        self.params = trainer.pick(members.state.params, len(configs))
        self.best_params = trainer.pick(members.best_params, len(configs))
        self.step = trainer.pick(members.state.step, len(configs))
        self.best_epoch = trainer.pick(members.best_epoch, len(configs))

    def all(self):
        return self.params, self.best_params, self.curves, self.test, self.best_epoch, self.step


def make_population(spec, size, count=1, strategy="map", shared_data_order=False):
    return cached_population(spec, size, count, strategy, shared_data_order)


@functools.cache
def cached_population(spec, size, count, strategy, shared_data_order):
    """Caches populations, so that tests with the same one compile once."""
    return Population(
        spec,
        size,
        devices=DEVICES[:count],
        strategy=strategy,
        shared_data_order=shared_data_order,
    )


def member(seed=0, rate=0.05, **sections):
    model = {"backend": "plain"}  # compiles fast
    config = tiny.config(optimizer={"learning_rate": rate}, **{"model": model, **sections})
    config.seed = seed
    return config


@functools.cache
def single_run(spec):
    options = ops.compiler_options()
    return tuple(
        jax.jit(functools.partial(function, spec), compiler_options=options)
        for function in (init_state, train_epoch, evaluate)
    )


@functools.cache
def single_step(spec):
    """A step on the examples of these indices, compiled."""

    def step(state, split, indices, settings):
        batch = make_batch(spec, split, indices, state.augment_key, settings)
        return train_step(spec, state, batch, settings)

    return jax.jit(step)


def on_device(split):
    return jax.device_put(DeviceSplit.of(split))


def run_alone(config, epochs=None):
    """Trains one network: the losses of every epoch, the last state and the first."""
    spec = make_spec(config, DATASET)
    settings = hyperparameters(config)
    init, train, validate = single_run(spec)
    first = state = init(seeds(config), settings)
    train_split, valid_split = on_device(make_split(config, DATASET)), on_device(DATASET.valid)
    losses = []
    for number in range(spec.num_epochs if epochs is None else epochs):
        state, metrics = train(state, train_split, np.int32(number), settings)
        valid, _ = validate(state.params, valid_split)
        losses.append((float(metrics.mean_loss), float(valid.mean_loss)))
    return np.asarray(losses), state, first


def take(tree, index):
    return jax.tree.map(lambda array: array[index], tree)


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def assert_close(one, other, tolerance=1e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), one, other
    )


BACKENDS = [
    ("map", "plain"),
    *(pytest.param(s, "phase", marks=pytest.mark.optimized(False)) for s in ("map", "vmap")),
    *(pytest.param(strategy, "native", marks=pytest.mark.compiler) for strategy in ("map", "vmap")),
]
SEEDS_AND_RATES = (0, 0.05), (1, 0.05), (0, 0.01), (2, 0.2)
MEMBERS = [member(seed, rate) for seed, rate in SEEDS_AND_RATES]


@pytest.fixture(scope="module")
def four():
    return Trained(MEMBERS)


@pytest.mark.parametrize(("strategy", "backend"), BACKENDS)
def test_a_member_is_the_single_run_of_its_config(strategy, backend):
    configs = [replace(config, {"model.backend": backend}) for config in MEMBERS]
    trained = Trained(configs, strategy=strategy)
    trainer = make_population(make_spec(configs[0], DATASET), 4, strategy=strategy)
    members, _ = trainer.start(configs)
    for index, config in enumerate(configs):
        losses, state, first = run_alone(config)
        initial = take(members.state, index)
        assert_same(initial.params, first.params)
        assert_same(
            *(epoch_order(trainer.spec, s.order_key, jnp.int32(1)) for s in (initial, first))
        )
        np.testing.assert_allclose(trained.curves.train_loss[index], losses[:, 0], rtol=1e-4)
        np.testing.assert_allclose(trained.curves.valid_loss[index], losses[:, 1], rtol=1e-4)
        assert_close(take(trained.params, index), state.params, 1e-4)
    assert np.all(trained.step == EPOCHS * STEPS)


@pytest.mark.optimized(False)
def test_every_hyperparameter_can_differ_between_members():
    changes = (
        {"optimizer": {"momentum": 0.5}},
        {"optimizer": {"weight_decay": 0.1}},
        {"optimizer": {"dampening": 0.5}},
        {"train": {"label_smoothing": 0.3}},
        {"schedule": {"pct_start": 0.6, "div_factor": 5.0}},
        {"schedule": {"final_div_factor": 2.0}},
        {"seeds": {"init": 5}},
        {"seeds": {"order": 5}},
        {"augment": {"shift": 2.0}},
        {"augment": {"rotate": 20.0}, "seeds": {"augment": 5}},
    )
    configs = [tiny.config(model={"backend": "plain"}, **change) for change in changes]
    specs = {dataclasses.replace(make_spec(c, DATASET), augments=True) for c in configs}
    assert len(specs) == 1
    curves = set()
    for first in range(0, len(configs), 3):
        some = configs[first : first + 3]
        trained = Trained([configs[-1], *some], 4, count=2)  # the first has the spec of all
        for index, config in enumerate(some, start=1):
            losses, state, _ = run_alone(config)
            np.testing.assert_allclose(trained.curves.train_loss[index], losses[:, 0], rtol=1e-4)
            assert_close(take(trained.params, index), state.params, 1e-4)
            curves.add(str(trained.curves.train_loss[index]))
    assert len(curves) == len(changes)


def test_the_best_parameters_are_those_of_the_first_best_epoch(four):
    best = np.argmax(four.curves.valid_accuracy, axis=1) + 1
    np.testing.assert_array_equal(four.best_epoch, best)
    for index, config in enumerate(MEMBERS):
        _, state, _ = run_alone(config, epochs=best[index])
        assert_close(take(four.best_params, index), state.params, 1e-4)
    *_, test = single_run(make_spec(MEMBERS[0], DATASET))
    metrics, _ = test(take(four.best_params, 0), on_device(DATASET.test))
    assert four.test.count[0] == len(DATASET.test)
    np.testing.assert_allclose(four.test.loss[0], metrics.loss, rtol=1e-5)
    assert four.test.correct[0] == metrics.correct


def test_the_order_of_members_changes_no_bit(four):
    order = [2, 0, 3, 1]
    permuted = Trained([MEMBERS[index] for index in order])
    assert_same(permuted.all(), take(four.all(), np.asarray(order)))


def test_equal_numbers_of_members_per_device_are_bit_identical(four):
    """Two members per device, on 1 and 2 devices."""
    on_two = Trained(MEMBERS, count=2)
    for first in (0, 2):
        pair = slice(first, first + 2)
        assert_same(Trained(MEMBERS[pair], count=1).all(), take(on_two.all(), pair))
    # Four on one device differ by rounding alone, if at all.
    assert_close(four.all(), on_two.all())


def check_eight_devices():
    """Two members per device, on 2, 4 and 8 devices: of a network that compiles fast."""
    members = [
        load("configs/notes.py", (tiny.MLP | {"seed": s, "optimizer.learning_rate": r}).items())
        for s, r in SEEDS_AND_RATES
    ]
    on_two, on_four = Trained(members, count=2), Trained([*members, *members], count=4)
    assert_same(take(on_four.all(), slice(4)), on_two.all())
    assert_same(take(on_four.all(), slice(4, 8)), on_two.all())
    padded = Trained([*members, *members[:3]], 8, count=4)
    assert_same(padded.all(), take(on_four.all(), slice(7)))
    padded = Trained([*members, *members, *members, members[0]], 16, count=8)
    assert_same(take(padded.all(), slice(4, 12)), on_four.all())
    assert_same(take(padded.all(), slice(12, 13)), take(on_two.all(), slice(1)))


def test_members_on_eight_devices_are_bit_identical():
    """In a separate process."""
    folders = Path(__file__).parent, Path(__file__).parents[2]
    environment = {
        "JAX_NUM_CPU_DEVICES": "8",
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
    }
    code = "import test_population; test_population.check_eight_devices()"
    subprocess.run([sys.executable, "-c", code], env=os.environ | environment, check=True)


@pytest.mark.parametrize(("strategy", "count"), [("map", 2), ("vmap", 1)])
def test_padding_changes_nothing_and_is_not_reported(four, strategy, count):
    padded = Trained(MEMBERS[:3], 4, count=count, strategy=strategy)
    assert padded.step.shape == (3,)
    assert padded.curves.train_loss.shape == (3, EPOCHS)
    assert_close(padded.all(), take(four.all(), slice(3)), 1e-4)


@pytest.mark.parametrize("strategy", ["map", "vmap"])
@pytest.mark.parametrize(
    "diverging",
    [
        {"optimizer.weight_decay": 240.0, "optimizer.momentum": 0.0, "schedule.div_factor": 1.0},
        {"optimizer.learning_rate": 1e30},  # the loss is finite, and the weights it leaves are not
    ],
)
def test_a_diverging_member_is_frozen_and_the_others_are_unaffected(strategy, diverging):
    stable = Trained(MEMBERS, strategy=strategy)
    configs = [MEMBERS[0], replace(MEMBERS[1], diverging), *MEMBERS[2:]]
    trained = Trained(configs, strategy=strategy)
    others = np.asarray([0, 2, 3])
    assert_same(take(trained.all(), others), take(stable.all(), others))

    spec, settings = make_spec(configs[1], DATASET), hyperparameters(configs[1])
    init, *_ = single_run(spec)
    state = init(seeds(configs[1]), settings)
    split = on_device(DATASET.train)
    failed = 0
    for epoch in range(EPOCHS):
        for indices in epoch_order(spec, state.order_key, jnp.int32(epoch)):
            after, metrics = single_step(spec)(state, split, indices, settings)
            failed += 1
            finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params)]
            if not (jnp.isfinite(metrics.loss) and all(finite)):
                break
            state = after
        else:
            continue
        break
    assert 0 < failed < EPOCHS * STEPS
    assert trained.step[1] == -failed
    assert_close(take(trained.params, 1), state.params, 1e-3)
    if failed <= STEPS:
        assert_same(take(trained.best_params, 1), take(trained.params, 1))
        assert trained.best_epoch[1] == 0
    since = (failed - 1) // STEPS
    for curve in jax.tree.leaves(trained.curves):
        assert np.isfinite(curve[1]).tolist() == [epoch < since for epoch in range(EPOCHS)]


def test_a_member_that_diverges_late_keeps_its_best_parameters():
    # The decay multiplies the weights by up to -3 a step, until their products overflow.
    late = {"optimizer.weight_decay": 80.0, "optimizer.momentum": 0.0, "schedule.div_factor": 1.0}
    config = replace(MEMBERS[0], late)
    trained = Trained([config, *MEMBERS[1:]])
    assert -2 * STEPS <= trained.step[0] < -STEPS
    assert trained.best_epoch[0] == 1
    assert np.isfinite(trained.curves.valid_loss[0]).tolist() == [True, False, False]
    _, state, _ = run_alone(config, epochs=1)
    assert_close(take(trained.best_params, 0), state.params, 1e-4)
    same = jax.tree.map(np.array_equal, take(trained.params, 0), take(trained.best_params, 0))
    assert not any(jax.tree.leaves(same))


@pytest.mark.optimized(False)
@pytest.mark.parametrize("strategy", ["map", "vmap"])
@pytest.mark.parametrize("augment", [{}, {"shift": 2.0}])
def test_a_shared_order_equals_equal_orders(strategy, augment):
    shared = {"order": 3, "augment": 4}
    configs = [member(s, r, seeds=shared, augment=augment) for s, r in ((0, 0.05), (1, 0.1))]
    configs.append(member(2, 1e30, seeds=shared, augment=augment))
    apart = Trained(configs, 4, count=2)  # one after the other, for both strategies
    together = Trained(configs, 4, strategy=strategy, count=2, shared_data_order=True)
    assert_close(together.all(), apart.all(), 1e-4)
    assert together.step[2] < 0


@pytest.mark.parametrize(("size", "c", "k"), [(32, 1, 6), (14, 6, 6), (14, 6, 16)])
def test_ties_are_kept_on_several_devices(size, c, k):
    """On a constant background the gradient goes to the first of four equal pixels."""
    rng = np.random.default_rng(0)
    images = np.full((len(DEVICES), 17, size, size, c), 0.7, np.float32)
    images[:, :, 4:8, 4:8] = rng.normal(size=(len(DEVICES), 17, 4, 4, c))
    kernel = rng.normal(size=(5, 5, c, k)).astype(np.float32)
    cotangent = rng.normal(size=(17, size // 2 - 2, size // 2 - 2, k)).astype(np.float32)
    mesh, members = jax.sharding.Mesh(np.asarray(DEVICES), ("members",)), jax.P("members")

    def gradient(backend):
        def weigh(images, kernel):
            maps = ops.conv_pool_relu(images, kernel, jnp.ones(k), backend=backend)
            return jnp.sum(maps * cotangent)

        each = jax.shard_map(
            lambda images, kernel: jax.grad(weigh)(images[0], kernel)[None],
            mesh=mesh,
            in_specs=(members, jax.P()),
            out_specs=members,
            check_vma=False,
        )
        options = ops.compiler_options()
        compiled = jax.jit(each, compiler_options=options)
        return np.stack([compiled(images, kernel) for _ in range(5)])

    plain = gradient("plain")
    for backend in at_hand(5):
        gradients = gradient(backend)
        np.testing.assert_allclose(
            gradients, plain, atol=1e-5 * np.abs(plain).max(), err_msg=backend
        )


def test_members_side_by_side_share_the_images():
    dataset = tiny.dataset(train=4000)
    trainer = make_population(make_spec(MEMBERS[0], dataset), 4, strategy="vmap")
    splits = trainer.put(dataset.train), trainer.put(dataset.valid)
    compiled = trainer.compile_epoch(*trainer.start(MEMBERS), *splits)
    memory: Any = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < 2 * dataset.train.images.nbytes


@pytest.mark.parametrize("strategy", ["map", "vmap"])
def test_members_with_training_sets_and_class_weights_are_their_single_runs(strategy):
    weights = ((1.0,) * 6, (1.0, 0.0, 3.0, 0.5, 2.0, 6.0))
    data = [
        {"subset": 40, "label_noise": share, "class_weights": own}
        for share, own in zip((0.0, 0.5), weights, strict=True)
    ]
    configs = [member(seed, data=each) for seed, each in enumerate(data)]
    sets = [make_training_set(config, DATASET) for config in configs]
    trained = Trained(configs, sets=sets, strategy=strategy)
    for index, config in enumerate(configs):
        _, state, _ = run_alone(config)
        compare = assert_same if strategy == "map" else assert_close
        compare(take(trained.params, index), state.params)


def test_class_weights_give_the_weighted_mean_of_the_losses():
    weights = (1.0, 0.0, 3.0, 0.5, 2.0, 6.0)
    config = member(data={"class_weights": weights})
    split = on_device(DATASET.train)
    indices = jnp.array([*range(10), -1, -1])
    batch = make_batch(
        make_spec(config, DATASET), split, indices, jax.random.key(0), hyperparameters(config)
    )
    assert batch.scales is not None
    losses, own = np.linspace(1, 2, 12), np.take(weights, DATASET.train.labels[:10])
    objective = np.sum(np.ravel(batch.scales * batch.weights) * losses) / batch.total
    np.testing.assert_allclose(objective, np.average(losses[:10], weights=own), rtol=1e-6)


def test_programs_are_kept_of_the_package_s_own_code_alone():
    built_in = make_spec(member(), tiny.dataset())
    kept = functools.partial(population.population_of, size=2)
    assert kept(built_in) is kept(make_spec(member(seed=3), tiny.dataset()))
    assert kept(built_in) is not kept(built_in, strategy="vmap")
    equal = [
        dataclasses.replace(built_in, model=(*built_in.model, ("own", value)))
        for value in (1, True)
    ]
    assert equal[0] == equal[1] and kept(equal[0]) is not kept(equal[1])
    for own in ({"network": tiny.dataset}, {"loss": lambda *_: 0}, {"measurements": (("a", max),)}):
        spec = dataclasses.replace(built_in, **own)
        assert kept(spec) is not kept(spec)
