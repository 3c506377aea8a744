import dataclasses

import numpy as np
import pytest

from lenet_jax.data.dataset import Split, pixel_statistics
from lenet_jax.errors import UserError
from lenet_jax.training.hyperparameters import hyperparameters
from lenet_jax.training.spec import make_spec
from tests.support import tiny


def test_statistics_are_those_of_the_training_pixels():
    dataset = tiny.dataset()
    mean, std = pixel_statistics(dataset)
    assert mean == pytest.approx((dataset.train.images.mean(),))
    assert std == pytest.approx((dataset.train.images.std(),))


def test_an_odd_number_of_pixels_is_counted_to_the_last():
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 5, 3), np.uint8)
    dataset = dataclasses.replace(tiny.dataset(), train=Split(images, np.zeros(3, np.int32)))
    mean, std = pixel_statistics(dataset)
    assert mean == pytest.approx(images.mean((0, 1, 2)), rel=1e-12)
    assert std == pytest.approx(images.std((0, 1, 2)), rel=1e-12)


def test_a_constant_channel_has_standard_deviation_1():
    dataset = tiny.dataset()
    images = np.full((4, 16, 16, 3), 9, np.uint8)
    images[..., 1] = np.arange(16)
    dataset = dataclasses.replace(dataset, train=Split(images, np.zeros(4, np.int32)))
    mean, std = pixel_statistics(dataset)
    assert mean == pytest.approx((9, 7.5, 9))
    assert std == pytest.approx((1, np.std(np.arange(16)), 1))


def test_numeric_settings_are_arguments_and_the_others_are_static():
    config = tiny.config(optimizer={"name": "adam"})
    spec = make_spec(config, tiny.dataset())
    settings = hyperparameters(config)
    assert dict(spec.optimizer) == {"name": "adam", "nesterov": False}
    assert dict(spec.schedule) == {"name": "one_cycle", "boundaries": (), "factors": ()}
    assert settings["optimizer"].keys() == set(config.optimizer) - {"name", "nesterov"}
    assert all(isinstance(value, float) for value in settings["schedule"].values())
    assert hash(spec) == hash(make_spec(config, tiny.dataset()))


def test_the_last_batch_of_an_epoch_may_be_smaller():
    spec = make_spec(tiny.config(), tiny.dataset(train=70))
    assert spec.steps_per_epoch == 5
    assert not spec.augments
    assert make_spec(tiny.config(augment={"shear": 1.0}), tiny.dataset()).augments


@pytest.mark.parametrize(("key", "actual"), [("num_classes", 6), ("in_channels", 1)])
def test_model_sizes_that_do_not_match_the_data_are_refused(key, actual):
    config = tiny.config(model={key: 3})
    with pytest.raises(
        UserError, match=f"config.model.{key} is 3, but the data 'bars' has {actual}"
    ):
        make_spec(config, tiny.dataset())
