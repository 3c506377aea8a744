from typing import Any

from lenet_jax import config
from lenet_jax.config import base
from lenet_jax.config.protocol_1998 import train_as_published


def test_a_config_of_the_published_protocol_is_valid_and_keeps_its_network():
    then: Any = base.get_config()
    then.model.padding = 2
    train_as_published(then, batch_size=4)
    config.validate(then)
    assert then.model.padding == 2
    assert (then.train.num_epochs, then.optimizer.learning_rate) == (20, 0.0005)
    assert len(then.schedule.factors) == 4 and then.data.valid_examples == 0
