import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lenet_jax
from lenet_jax import data
from lenet_jax.data.dataset import Split
from lenet_jax.errors import UserError
from lenet_jax.report import findings
from lenet_jax.storage import weights


@pytest.fixture(scope="module")
def network(notes_run):
    return lenet_jax.load(notes_run)


@pytest.fixture(scope="module")
def images():
    return data.load("mnist").test.images[:400]


@pytest.fixture(scope="module")
def survey(network, images):
    return findings.survey(network, images)


@pytest.mark.parametrize("layer", findings.CONVOLUTIONS)
def test_a_patch_alone_excites_the_filter_as_much_as_in_its_image(layer, network, images, survey):
    """The receptive field is what the unit sees: no pixel less, and none too many."""
    patches = findings.exciting_patches(survey, images, layer)
    filters = len(patches)
    side = {"conv1": 5, "conv2": 14}[layer]
    assert patches.shape == (filters, 9, side, side, 1)
    strongest = -np.sort(-survey.peaks[layer], axis=0)[:9].T
    for k in range(filters):
        x = network.normalise(patches[k])
        if layer == "conv1":
            alone = network.model.conv1(x)[:, 0, 0, k]
        else:
            x = jnp.maximum(network.model.conv1(x), 0)
            pooled = x.reshape(9, 5, 2, 5, 2, -1).max((2, 4))
            alone = network.model.conv2(pooled)[:, 0, 0, k]
        np.testing.assert_allclose(alone, strongest[k], rtol=1e-4, atol=1e-4)


def test_the_survey_says_which_units_are_dead(network, images, survey):
    features = network.features(images, "fc1.relu")
    np.testing.assert_array_equal(survey.active["fc1.relu"], features > 0)
    maps = network.features(images, "conv2.relu")
    np.testing.assert_array_equal(survey.active["conv2.relu"], (maps > 0).any((1, 2)))
    dead = {name: active.copy() for name, active in survey.active.items()}
    dead["fc1.relu"][:, [3, 7]] = False
    measured = findings.Survey(survey.peaks, survey.places, dead).dead()
    assert {3, 7} <= set(measured["fc1.relu"].tolist())
    assert len(measured["conv2.relu"]) == (~(maps > 0).any((0, 1, 2))).sum()


def test_a_network_without_finite_logits_is_refused(network, images, tmp_path):
    huge = {name: np.full_like(array, 1e30) for name, array in network.state_dict.items()}
    weights.write(tmp_path / "huge.safetensors", huge, network.metadata)
    test = Split(images[:5], np.zeros(5, np.int32))
    with pytest.raises(UserError, match="logits of 5 of 5 test images are NaN or infinite"):
        findings.find(
            lenet_jax.load(tmp_path / "huge.safetensors"), test, findings.Example(images[0], "one")
        )


def test_saliency_is_the_gradient_of_the_winning_logit(network, images):
    measured = findings.saliency(network, images[0])
    pixels = network.normalise(images[:1])
    grads = jax.grad(lambda x: network.model(x).max())(pixels)
    np.testing.assert_allclose(measured, np.abs(grads[0, :, :, 0]), atol=1e-5)
    assert measured.max() > 0.01


def test_a_journey_has_every_step_of_the_image(network, images):
    steps = findings.journey(network, images[3])
    assert list(steps) == list(network.layers)
    np.testing.assert_allclose(steps["fc3"], network.logits(images[3:4])[0], atol=2e-5)


def test_the_most_confident_mistakes_come_first(network):
    test = data.load("mnist").test
    part = data.Split(test.images[:3000], test.labels[:3000])
    example = findings.Example(test.images[0], "a 7")
    measured = findings.find(network, part, example)
    wrong = measured.mistakes()
    assert set(wrong) == set(np.flatnonzero(network.predict(part.images) != part.labels))
    margins = measured.logits[wrong].max(1) - measured.logits[wrong, part.labels[wrong]]
    assert (np.diff(margins) <= 0).all()
    assert measured.mistake is not None
    followed, steps = measured.mistake.example, measured.mistake.steps
    np.testing.assert_array_equal(followed.image, part.images[wrong[0]])
    assert followed.true == part.labels[wrong[0]] and str(wrong[0]) in followed.label
    np.testing.assert_allclose(steps["fc3"], measured.logits[wrong[0]], atol=2e-5)
