"""What a loaded network does beside predicting: it is called, evaluated and saved."""

import json

import numpy as np
import pytest

import lenet_jax
from lenet_jax.data import load_section
from lenet_jax.errors import UserError


@pytest.fixture(scope="module")
def network(notes_run):
    return lenet_jax.load(notes_run)


def test_its_evaluation_is_that_of_the_run(network, notes_run):
    summary = json.loads((notes_run / "summary.json").read_text())
    dataset = load_section(network.config.data)
    result = network.evaluate(dataset)
    assert result["accuracy"] == pytest.approx(summary["test_accuracy"], abs=1e-7)
    assert result["loss"] == pytest.approx(summary["test_loss"], rel=1e-5)
    assert result["examples"] == summary["test_examples"]


def test_classes_are_numbers_or_names(network):
    images = np.zeros((3, 28, 28), np.uint8)
    np.testing.assert_array_equal(network(images), network.logits(images))
    numbers = network.predict(images)
    for classes in (numbers, numbers.tolist(), [network.class_names[n] for n in numbers]):
        assert network.evaluate((images, classes))["accuracy"] == 1


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([1, 2], "3 images, but 2 classes"),
        ([1, 2, 10], "classes must be numbers 0 to 9, or names of class_names; not 10"),
        (["1", "2", "ten"], "not ten"),
        ([[1, 2, 3]], r"not an array of shape \(1, 3\)"),
        ([1.0, 2.0, 3.5], "not 3.5|not 1.0"),
    ],
)
def test_wrong_classes_are_one_line(network, classes, message):
    with pytest.raises(UserError, match=message):
        network.evaluate((np.zeros((3, 28, 28), np.uint8), classes))


def test_no_images_are_not_evaluated(network):
    with pytest.raises(UserError, match="there are no images to evaluate"):
        network.evaluate((np.zeros((0, 28, 28), np.uint8), []))


def test_what_is_saved_is_loaded(network, tmp_path):
    file = network.save(tmp_path / "a.safetensors")
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28), np.uint8)
    loaded = lenet_jax.load(file)
    np.testing.assert_array_equal(loaded(images), network(images))
    with pytest.raises(UserError, match=r"must end in \.safetensors"):
        network.save(tmp_path / "a.pt")
    file.write_bytes(b"another")
    with pytest.raises(UserError, match=r"a\.safetensors"):
        network.save(file)
    assert network.save(file, force=True) == file
