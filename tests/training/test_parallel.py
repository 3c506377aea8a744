import dataclasses
import functools

import jax
import numpy as np
import pytest

from lenet_jax.errors import UserError
from lenet_jax.training import parallel
from lenet_jax.training.batches import DeviceSplit, EpochSlice
from lenet_jax.training.evaluation import evaluate, no_metrics
from lenet_jax.training.hyperparameters import hyperparameters, seeds
from lenet_jax.training.loop import Trainer
from lenet_jax.training.spec import make_spec
from lenet_jax.training.step import init_state, train_epoch
from tests.support import tiny

pytestmark = [pytest.mark.slow, pytest.mark.optimized(False)]

CONFIG = tiny.config(train={"micro_batch_size": 4}, augment={"shift": 1.0})
DATASET = tiny.dataset()


@functools.cache
def trained_on(num_devices):
    """Parameters and metrics after an epoch, and the evaluation of the test images."""
    spec = dataclasses.replace(make_spec(CONFIG, DATASET), num_devices=num_devices)
    settings = hyperparameters(CONFIG)
    state = init_state(spec, seeds(CONFIG), settings)
    placed = parallel.replicate((state, DeviceSplit.of(DATASET.train)), num_devices)
    epoch = parallel.compile_shared(functools.partial(train_epoch, spec), num_devices)
    state, metrics = epoch(*placed, np.int32(0), settings)
    test = parallel.replicate(DeviceSplit.of(DATASET.test), num_devices)
    test_all = parallel.compile_shared(functools.partial(evaluate, spec), num_devices)
    return jax.device_get((state.params, metrics, test_all(state.params, test)))


def test_two_devices_that_share_a_batch_train_like_one():
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


@pytest.mark.parametrize(
    ("processes", "each", "batch_size", "micro_batch_size", "num_devices"),
    [(2, 1, 64, 32, 2), (2, 4, 64, 16, 4), (4, 2, 256, 32, 8), (3, 2, 96, 32, 3)],
)
def test_as_many_devices_of_every_process_share_a_batch(
    monkeypatch, processes, each, batch_size, micro_batch_size, num_devices
):
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    monkeypatch.setattr(jax, "local_device_count", lambda: each)
    assert parallel.count_sharing(batch_size, micro_batch_size) == num_devices
    with pytest.raises(
        UserError, match=f"^{processes} processes cannot share a batch of 64 images"
    ):
        parallel.count_sharing(64, 64)


def test_the_trainer_chooses_devices_and_evaluates_whole_splits():
    trainer = Trainer(CONFIG, DATASET)
    assert trainer.spec.num_devices == 2
    trainer.compile()
    state, none = trainer.init(), trainer.place(no_metrics())
    steps = EpochSlice(trainer.order(state, 0), 0, 5)
    state, metrics, rate = trainer.take_steps(state, none, steps)
    assert len(state.params["fc1"]["kernel"][...].sharding.device_set) == 2
    assert metrics.count == 70 and rate > 0
    for name, count in (("valid", 20), ("test", 33)):
        metrics, logits = trainer.evaluate(state.params, name)
        assert metrics.count == count
        counted = np.any(np.asarray(logits) != 0, axis=1)
        assert np.all(counted[:count]) and not np.any(counted[count:])
