import dataclasses
import functools

import jax
import numpy as np
import pytest

from lenet_jax.training import parallel
from lenet_jax.training import spec as specs
from lenet_jax.training import step as train
from lenet_jax.training.loop import Programs
from tests.support import tiny

CONFIG = tiny.config(train={"micro_batch_size": 4}, augment={"shift": 1.0})
DATASET = tiny.dataset()


@functools.cache
def trained_on(num_devices):
    """An epoch, its metrics, and the test images' logits."""
    made = specs.make_spec(CONFIG, DATASET)
    made = dataclasses.replace(made, num_devices=num_devices)
    numbers = specs.hyperparameters(CONFIG)
    state = train.init_state(made, specs.seeds(CONFIG), numbers)
    placed = parallel.replicate((state, DATASET.train.images, DATASET.train.labels), num_devices)
    epoch = parallel.compile_shared(functools.partial(train.train_epoch, made), num_devices)
    state, metrics = epoch(*placed, np.int32(0), numbers)
    test = parallel.replicate((DATASET.test.images, DATASET.test.labels), num_devices)
    evaluate = parallel.compile_shared(functools.partial(train.evaluate, made), num_devices)
    return jax.device_get((state.params, metrics, evaluate(state.params, *test)))


def test_devices_that_share_a_batch_train_as_one_does():
    params, metrics, (test, logits) = trained_on(2)
    alone, alone_metrics, (alone_test, alone_logits) = trained_on(1)
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5)
    jax.tree.map(close, params, alone)
    close(metrics.loss, alone_metrics.loss, atol=1e-3)
    assert (metrics.count, test.count) == (alone_metrics.count, 33)
    close(logits, alone_logits, atol=1e-4)
    assert test.correct == alone_test.correct


@pytest.mark.parametrize(
    ("batch_size", "micro_batch_size", "num_devices"),
    [(64, 64, 1), (64, 32, 2), (96, 32, 1), (512, 32, 2), (20, 32, 1)],
)
def test_every_device_has_whole_micro_batches(batch_size, micro_batch_size, num_devices):
    assert len(jax.devices()) == 2
    assert parallel.count_sharing(batch_size, micro_batch_size) == num_devices


def test_programs_choose_the_devices_and_evaluate_each_split_whole():
    programs = Programs(CONFIG, specs.make_spec(CONFIG, DATASET), DATASET)
    assert programs.spec.num_devices == 2
    programs.compile()
    state, none = programs.init(), programs.place(train.no_metrics())
    state, metrics, rate = programs.train_steps(state, none, programs.order(state, 0), 0, 5)
    assert len(state.params["fc1"]["kernel"][...].sharding.device_set) == 2
    assert metrics.count == 70 and rate > 0
    for name, count in (("valid", 20), ("test", 33)):
        found, logits = programs.evaluate(state.params, name)
        assert found.count == count
        counted = np.any(np.asarray(logits) != 0, axis=1)
        assert np.all(counted[:count]) and not np.any(counted[count:])
