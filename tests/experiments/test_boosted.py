"""Boosted LeNet-4 is the sum of its networks, each of which learns what those before get wrong."""

import jax
import numpy as np
import pytest

import lenet_jax
from experiments.boosted import boost, find_distorted
from lenet_jax.data.dataset import Split
from tests.nn.test_lenet_1998 import config, digits


def test_images_are_distorted_until_enough_are_accepted():
    split = digits(32).train
    seen = []

    def accept(images, labels):
        seen.append(images)
        return labels == 3

    found = find_distorted(split, accept, 20, jax.random.key(0))
    assert len(found) == 20 and set(found.labels) == {3} and len(seen) > 1
    assert found.images.dtype == np.uint8 and not np.array_equal(seen[0], seen[1])
    accepted = np.concatenate([images[split.labels == 3] for images in seen])
    np.testing.assert_array_equal(found.images, accepted[:20])


@pytest.mark.slow
def test_the_sum_of_three_networks(tmp_path, no_figures):
    dataset = digits(32)
    own = config("lenet4", **{"train.num_epochs": 1})
    network = boost(own, dataset, tmp_path, 60)
    assert network.model.__class__.__name__ == "BoostedLeNet4"
    images = dataset.test.images
    each = [lenet_jax.load(tmp_path / f"network{number}") for number in range(3)]
    outputs = [1.7159 * np.tanh(2 / 3 * each.logits(images)) for each in each]
    np.testing.assert_allclose(network.logits(images), sum(outputs), atol=1e-4)
    first = each[0]
    assert first.mean != each[1].mean  # the second's images are others
    assert isinstance(dataset.train, Split)
