"""Optimisers, schedules, training and evaluation against float64 NumPy; exactness of repetition."""

import functools
import itertools
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.correctness import reference
from experiments.correctness.comparison import Comparison
from lenet_jax import config as configs
from lenet_jax import data
from lenet_jax.nn import ops
from lenet_jax.storage.checkpoint import Checkpoints
from lenet_jax.training import batches, evaluation, optim, step
from lenet_jax.training.hyperparameters import hyperparameters, seeds
from lenet_jax.training.population import Population
from lenet_jax.training.spec import make_spec

ORACLE = "NumPy, float64"
SETTINGS, STEPS = 40, 25
SMALL = {
    "data.train_examples": 1000,
    "data.valid_examples": 200,
    "train.num_epochs": 2,
    "train.batch_size": 32,
}


def compare() -> Iterator[Comparison]:
    """Yields the comparisons with NumPy, then those that are to the bit."""
    yield from map(_optimiser, ("sgd", "adam", "adamw"))
    yield from map(_schedule, ("constant", "cosine", "linear", "step", "one_cycle"))
    yield _trained_network()
    yield _evaluation()
    yield from _repetition()


def _optimiser(name: str) -> Comparison:
    """Random settings, each through some steps of random gradients."""
    subject = f"optimiser `{name}`: parameters after each of {STEPS} steps"
    comparison = Comparison(subject, ORACLE, 1e-5)
    rng = np.random.default_rng(0)
    for nesterov, clips in itertools.product({name == "sgd", False}, (False, True)):

        @jax.jit
        def run(
            start: jax.Array,
            gradients: jax.Array,
            given: Mapping[str, jax.Array],
            nesterov=nesterov,
        ) -> jax.Array:
            transform = optim.make_optimizer(name, nesterov=nesterov, **given)

            def take(carry: Any, gradient: jax.Array) -> tuple[Any, Any]:
                params, state = carry
                updates, state = transform.update(gradient, state, params)
                params = optax.apply_updates(params, updates)
                return (params, state), params

            return jax.lax.scan(take, (start, transform.init(start)), gradients)[1]

        for _ in range(SETTINGS):
            given = {
                "learning_rate": 10 ** rng.uniform(-4, -1),
                "momentum": rng.choice([0, 0.5, 0.9, 0.99]),
                "dampening": 0.0 if nesterov else rng.choice([0, 0.3, 1]),
                "weight_decay": rng.choice([0, 1e-3, 0.1]),
                "b1": rng.choice([0, 0.5, 0.9]),
                "b2": rng.choice([0.5, 0.9, 0.99]),
                "eps": rng.choice([1e-8, 1e-3]),
            } | ({"max_grad_norm": rng.choice([0.1, 3])} if clips else {})
            given = {key: float(np.float32(value)) for key, value in given.items()}
            start = rng.standard_normal(12, np.float32)
            gradients = rng.standard_normal((STEPS, 12), np.float32)
            expected = reference.optimise(name, start, gradients, nesterov=nesterov, **given)
            comparison.add(run(start, gradients, given), expected)
    return comparison


def _schedule(name: str) -> Comparison:
    """Random settings, each at every step and some steps after the last."""
    comparison = Comparison(f"schedule `{name}`: the rate of every step", ORACLE, 1e-5)
    rng = np.random.default_rng(0)
    per_epoch = 10

    @functools.partial(jax.jit, static_argnums=0)
    def rates(num_steps: int, steps: jax.Array, given: Mapping[str, Any]) -> Any:
        schedule = optim.make_schedule(
            name, num_steps=num_steps, steps_per_epoch=per_epoch, **given
        )
        return jax.vmap(schedule)(steps)

    for num_steps, _ in itertools.product((10, 60, 200), range(SETTINGS // 4)):
        given = {
            "learning_rate": 10 ** rng.uniform(-3, 0),
            "warmup_epochs": rng.integers(0, num_steps // per_epoch) / 2,
            "final_scale": rng.choice([0, 0.1, 0.5]),
            "step_epochs": rng.integers(1, 5),
            "step_scale": rng.uniform(0.1, 0.9),
            "pct_start": rng.choice([0.2, 0.3, 0.55, 0.8]),
            "div_factor": rng.choice([3, 25]),
            "final_div_factor": rng.choice([10, 1e4]),
        }
        given = {key: float(np.float32(value)) for key, value in given.items()}
        steps = np.arange(num_steps + 5, dtype=np.int32)
        expected = reference.rates(name, steps, num_steps, per_epoch, **given)
        comparison.add(rates(num_steps, steps, given), expected)
    return comparison


def _trained_network() -> Comparison:
    """A whole network through the first steps of training, from the same weights and batches."""
    taken = 20
    subject = f"LeNet on MNIST, trained for {taken} steps: loss of each step, weights at the end"
    comparison = Comparison(subject, ORACLE, 1e-4)
    for seed in range(2):
        config, dataset = _load(seed)
        spec, settings = make_spec(config, dataset), hyperparameters(config)
        state = step.init_state(spec, seeds(config), settings)
        split = jax.device_put(batches.DeviceSplit.of(dataset.train))
        order = np.asarray(batches.epoch_order(spec, state.order_key, jnp.int32(0)))
        params = _plain_params(state.params)
        buffers = {name: np.zeros(array.shape) for name, array in params.items()}
        train = jax.jit(
            functools.partial(step.train_step, spec), compiler_options=ops.compiler_options()
        )
        losses, expected = [], []
        for number, indices in enumerate(order[:taken]):
            batch = batches.make_batch(spec, split, indices, state.augment_key, settings)
            state, metrics = train(state, batch, settings)
            losses.append(float(metrics.mean_loss))
            images = (dataset.train.images[indices] - np.array(spec.mean)) / spec.std
            results = reference.lenet(_nested(params), images, dataset.train.labels[indices])
            expected.append(float(results["loss"][0]))
            rate = float(step.learning_rate(spec, settings, jnp.int32(number)))
            for name, array in params.items():
                decayed = results[name] + config.optimizer.weight_decay * array
                buffers[name] = config.optimizer.momentum * buffers[name] + decayed
                params[name] = array - rate * buffers[name]
        comparison.add(losses, expected)
        comparison.add_each(_plain_params(state.params), params)
    return comparison


def _evaluation() -> Comparison:
    """The sums of a split, for batches that do and do not divide it."""
    comparison = Comparison("evaluation: mean loss, accuracy and logits", ORACLE, 1e-5)
    config, dataset = _load(0)
    for size, seed in itertools.product((1, 7, 80, 200, 512), range(2)):
        changed = configs.replace(config, {"train.eval_batch_size": size, "seed": seed})
        spec = make_spec(changed, dataset)
        params = step.init_state(spec, seeds(changed), hyperparameters(changed)).params
        split = batches.DeviceSplit.of(dataset.valid)
        metrics, logits = jax.jit(functools.partial(evaluation.evaluate, spec))(params, split)
        images = (dataset.valid.images - np.array(spec.mean)) / spec.std
        expected = reference.lenet(_nested(_plain_params(params)), images, dataset.valid.labels)
        hits = expected["logits"].argmax(axis=1) == dataset.valid.labels
        comparison.add(metrics.mean_loss, expected["loss"][0])
        comparison.add(metrics.accuracy, hits.mean())
        comparison.add(logits, expected["logits"])
    return comparison


def _repetition() -> Iterator[Comparison]:
    """What must be equal to the bit: a repeated run, one in slices, one that resumes, a member."""
    again = Comparison("a run repeated: all its state", "the run", 0.0)
    sliced = Comparison("a run in slices of random lengths", "the run", 0.0)
    resumed = Comparison("a run saved and restored in mid-epoch", "the run", 0.0)
    members = Comparison("a member of a population", "the run of its config", 0.0)
    rng = np.random.default_rng(0)
    each = [_load(seed, rate=rate) for seed, rate in ((0, 0.05), (1, 0.01), (2, 0.2), (3, 0.1))]
    dataset = each[0][1]
    spec = make_spec(each[0][0], dataset)
    split = jax.device_put(batches.DeviceSplit.of(dataset.train))
    init, shuffle, take = (
        jax.jit(functools.partial(function, spec), compiler_options=ops.compiler_options())
        for function in (step.init_state, batches.epoch_order, step.train_steps)
    )

    def run(config: configs.Config, cuts: list[int], saves: bool = False) -> step.TrainState:
        settings = hyperparameters(config)
        state = init(seeds(config), settings)
        for epoch in range(spec.num_epochs):
            order, sums = shuffle(state.order_key, np.int32(epoch)), evaluation.no_metrics()
            for first, last in itertools.pairwise([0, *cuts, spec.steps_per_epoch]):
                slice_ = batches.EpochSlice(order, np.int32(first), np.int32(last))
                state, sums = take(state, sums, split, slice_, settings)
                if saves:
                    state = _save_and_restore(state)
        return state

    ends = [run(config, []) for config, _ in each]
    for (config, _), end in zip(each, ends, strict=True):
        cuts = sorted(rng.choice(np.arange(1, spec.steps_per_epoch), 3, replace=False).tolist())
        _add_bits(again, run(config, []), end)
        _add_bits(sliced, run(config, cuts), end)
        _add_bits(resumed, run(config, cuts, saves=True), end)
    yield from (again, sliced, resumed)

    population = Population(spec, len(each), strategy="map")
    splits = population.put(dataset.train), population.put(dataset.valid)
    stacked, settings = population.start([config for config, _ in each])
    for epoch in range(spec.num_epochs):
        stacked, _ = population.train_epoch(stacked, settings, *splits, epoch)
    picked = population.pick(stacked.state.params, len(each))
    for index, end in enumerate(ends):
        _add_bits(members, jax.tree.map(lambda a, i=index: a[i], picked), end.params)
    yield members


def _save_and_restore(state: step.TrainState) -> step.TrainState:
    with tempfile.TemporaryDirectory() as folder:
        with Checkpoints(Path(folder), keep=1) as checkpoints:
            checkpoints.save(1, state, {})
        with Checkpoints(Path(folder), keep=1) as checkpoints:
            restored = checkpoints.restore(state, warn=print)
    assert restored is not None
    return restored[0]


def _add_bits(comparison: Comparison, actual: Any, expected: Any) -> None:
    """Compares all arrays of two trees; keys as their numbers."""
    for one, other in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        comparison.add(*(_numbers(leaf) for leaf in (one, other)))


def _numbers(leaf: Any) -> Any:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


@functools.cache
def _load(seed: int, rate: float = 0.05) -> tuple[configs.Config, data.Dataset]:
    changes = SMALL | {"seed": seed, "optimizer.learning_rate": rate}
    config = configs.load("configs/notes.py", list(changes.items()))
    return config, data.load_section(config.data)


def _plain_params(params: nnx.State) -> dict[str, np.ndarray]:
    """The parameters by `layer.name`, in float64."""
    return {
        f"{layer}.{name}": np.asarray(value[...], np.float64)
        for layer, values in params.items()
        for name, value in values.items()
    }


def _nested(params: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    nested: dict[str, dict[str, np.ndarray]] = {}
    for key, array in params.items():
        layer, name = key.split(".")
        nested.setdefault(layer, {})[name] = array
    return nested
