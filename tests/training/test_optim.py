"""Optimisers and schedules match PyTorch step by step: recorded always, live with torch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lenet_jax.config.base import get_config
from lenet_jax.training.optim import clip_grad_norm, make_optimizer, make_schedule
from tests.golden import make_optim as golden

pytestmark = pytest.mark.slow

WITHOUT_TORCH = "torch is not installed: only the recorded values are compared"


@pytest.fixture(scope="module")
def recorded():
    with np.load(golden.PATH, allow_pickle=False) as arrays:
        return dict(arrays)


def by_name(recorded, prefix):
    return {key: recorded[f"{prefix}/{key}"] for key in golden.SHAPES}


def schedule_of(case, num_steps=golden.NUM_STEPS):
    settings = golden.SCHEDULE | case
    return make_schedule(**settings, num_steps=num_steps, steps_per_epoch=golden.STEPS_PER_EPOCH)


def optimizer_of(case):
    return make_optimizer(**golden.OPTIMIZER | case)


def trajectory(optimizer, initial, gradients):
    """The parameters after each step, in one compiled scan, as in training."""

    def step(carry, gradient):
        parameters, state = carry
        updates, state = optimizer.update(gradient, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        return (parameters, state), parameters

    initial = jax.tree.map(jnp.asarray, initial)
    return jax.lax.scan(step, (initial, optimizer.init(initial)), gradients)[1]


def our_trajectory(case, initial, gradients):
    settings = dict(case)
    if schedule := settings.pop("schedule", None):
        settings["learning_rate"] = schedule_of(golden.SCHEDULES[schedule])
    return jax.jit(lambda *arrays: trajectory(optimizer_of(settings), *arrays))(initial, gradients)


def our_learning_rates(case):
    rates = jax.vmap(schedule_of(case))(jnp.arange(golden.NUM_STEPS))
    assert isinstance(rates, jax.Array)
    return rates


@pytest.mark.parametrize("name", golden.OPTIMIZERS)
def test_optimizer_matches_recorded_pytorch(name, recorded):
    ours = our_trajectory(
        golden.OPTIMIZERS[name], by_name(recorded, "initial"), by_name(recorded, "gradients")
    )
    for key, theirs in by_name(recorded, f"optimizer/{name}").items():
        assert ours[key].dtype == jnp.float32
        np.testing.assert_allclose(ours[key], theirs, rtol=0, atol=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize("name", golden.OPTIMIZERS)
def test_optimizer_matches_live_pytorch(name):
    pytest.importorskip("torch", reason=WITHOUT_TORCH)
    random = np.random.default_rng(1)
    draw = {
        key: random.normal(size=(golden.NUM_STEPS + 1, *shape)).astype(np.float32)
        for key, shape in golden.SHAPES.items()
    }
    initial = {key: value[0] for key, value in draw.items()}
    gradients = {key: value[1:] for key, value in draw.items()}
    ours = our_trajectory(golden.OPTIMIZERS[name], initial, gradients)
    theirs = golden.torch_trajectory(golden.OPTIMIZERS[name], initial, gradients)
    for key in golden.SHAPES:
        np.testing.assert_allclose(ours[key], theirs[key], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", golden.SCHEDULES)
def test_schedule_matches_recorded_pytorch(name, recorded):
    ours = our_learning_rates(golden.SCHEDULES[name])
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, recorded[f"schedule/{name}"], rtol=1e-5, atol=0)


@pytest.mark.torch
@pytest.mark.parametrize("name", golden.SCHEDULES)
def test_schedule_matches_live_pytorch(name):
    pytest.importorskip("torch", reason=WITHOUT_TORCH)
    case = golden.SCHEDULES[name] | {"learning_rate": 0.3, "step_scale": 0.7}
    theirs = golden.torch_learning_rates(case)
    np.testing.assert_allclose(our_learning_rates(case), theirs, rtol=1e-5, atol=0)


def test_recording_names_its_torch(recorded):
    assert str(recorded["torch_version"]).startswith("2.")


def test_long_runs_are_exact_at_the_end():
    one_cycle = schedule_of({"name": "one_cycle"}, num_steps=20_000)
    np.testing.assert_allclose(one_cycle(19_999), 0.05 / 25 / 1e4, rtol=1e-6)
    cosine = schedule_of({"name": "cosine"}, num_steps=20_000)
    last = 0.05 * np.sin(np.pi / 2 / 20_000) ** 2
    np.testing.assert_allclose(cosine(19_999), last, rtol=1e-5)


def test_one_cycle_may_start_at_the_peak():
    """PyTorch divides by 0 if the rise has one step."""
    rates = our_learning_rates({"name": "one_cycle", "pct_start": 1 / golden.NUM_STEPS})
    np.testing.assert_allclose(rates[0], 0.05, rtol=1e-6)
    assert np.all(np.diff(rates) < 0)


@pytest.mark.parametrize("name", ["constant", "cosine", "step", "one_cycle", "linear"])
def test_schedule_is_constant_after_its_end(name):
    schedule = schedule_of({"name": name, "final_scale": 0.1, "step_epochs": 100})
    at_end = golden.NUM_STEPS - (name == "one_cycle")
    np.testing.assert_array_equal(schedule(at_end), schedule(10 * golden.NUM_STEPS))


def test_warmup_rises_linearly_to_the_peak_and_reaches_it_once():
    rates = our_learning_rates({"name": "linear", "warmup_epochs": 0.4})
    np.testing.assert_allclose(rates[:5], 0.05 * np.array([0.2, 0.4, 0.6, 0.8, 1.0]), rtol=1e-6)
    assert rates[5] < rates[4]


@pytest.mark.parametrize(
    "case",
    [
        {"name": "sgd", "nesterov": False, "dampening": 0.3},
        {"name": "sgd", "nesterov": True},
        {"name": "adam"},
        {"name": "adamw"},
    ],
    ids=["sgd", "nesterov", "adam", "adamw"],
)
def test_population_equals_single_runs(case, recorded):
    """Traced hyperparameters, including zeros, and a whole schedule, under one vmap."""
    initial, gradients = by_name(recorded, "initial"), by_name(recorded, "gradients")

    def run(hyperparameters):
        schedule = {
            key: hyperparameters[key] for key in ("learning_rate", "pct_start", "div_factor")
        }
        keys = ("momentum", "weight_decay", "b1", "max_grad_norm")
        settings = {key: hyperparameters[key] for key in keys}
        settings["learning_rate"] = schedule_of({"name": "one_cycle"} | schedule)
        return trajectory(optimizer_of(case | settings), initial, gradients)

    hyperparameters = {
        "learning_rate": [0.1, 0.01, 0.03],
        "pct_start": [0.3, 0.0, 1.0],
        "div_factor": [25.0, 10.0, 3.0],
        "momentum": [0.0, 0.9, 0.5],
        "weight_decay": [0.01, 0.0, 0.1],
        "b1": [0.9, 0.0, 0.5],
        "max_grad_norm": [1.0, 5.0, 1e9],
    }
    population = jax.jit(jax.vmap(run))(jax.tree.map(jnp.float32, hyperparameters, is_leaf=is_list))
    for member in range(3):
        single = jax.jit(run)({key: values[member] for key, values in hyperparameters.items()})
        for key in golden.SHAPES:
            np.testing.assert_allclose(population[key][member], single[key], rtol=0, atol=1e-5)


def is_list(node):
    return isinstance(node, list)


@pytest.mark.parametrize("name", ["constant", "cosine", "step", "one_cycle", "linear"])
def test_every_parameter_of_a_schedule_may_be_traced(name):
    hyperparameters = golden.SCHEDULE | {"warmup_epochs": 0.5, "final_scale": 0.1}
    static = our_learning_rates({"name": name} | hyperparameters)
    arrays = jax.tree.map(jnp.array, hyperparameters)
    traced = jax.jit(lambda hyperparameters: our_learning_rates({"name": name} | hyperparameters))(
        arrays
    )
    np.testing.assert_allclose(traced, static, rtol=1e-5)


def test_state_has_one_structure_for_all_values():
    parameters = {"kernel": jnp.ones((2, 3))}
    names = ("momentum", "dampening", "weight_decay")
    states = [
        optimizer_of({"name": "sgd"} | dict.fromkeys(names, value)).init(parameters)
        for value in (0.0, 0.9)
    ]
    first, second = (jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) for state in states)
    assert first == second


def test_clipping_bounds_the_global_norm_and_spares_small_gradients():
    clip = clip_grad_norm(1.0)
    large: Any = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full((4,), -4.0)}  # norm 10
    clipped: Any = clip.update(large, clip.init(large))[0]
    np.testing.assert_allclose(clipped["kernel"], 0.3, rtol=1e-6)
    np.testing.assert_allclose(clipped["bias"], -0.4, rtol=1e-6)
    small = jax.tree.map(lambda leaf: 0.09 * leaf, large)
    spared, _ = clip.update(small, clip.init(small))
    jax.tree.map(np.testing.assert_array_equal, spared, small)
    zero = jax.tree.map(jnp.zeros_like, large)
    spared, _ = clip.update(zero, clip.init(zero))
    jax.tree.map(np.testing.assert_array_equal, spared, zero)


def test_config_sections_unpack():
    config: Any = get_config()
    schedule = make_schedule(
        **config.schedule,
        learning_rate=config.optimizer.learning_rate,
        num_steps=golden.NUM_STEPS,
        steps_per_epoch=golden.STEPS_PER_EPOCH,
    )
    settings = {**config.optimizer, "learning_rate": schedule}
    del settings["samples"]  # of the curvature that the optimiser is given
    parameters = {"kernel": jnp.ones((2, 3))}
    make_optimizer(**settings, max_grad_norm=config.train.max_grad_norm).init(parameters)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="'sdg'; it must be sgd, adam, adamw or diagonal_lm"):
        optimizer_of({"name": "sdg"})
    with pytest.raises(ValueError, match="'onecycle'; it must be constant"):
        schedule_of({"name": "onecycle"})
