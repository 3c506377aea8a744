"""Corruptions have the published statistics and shapes, and SciPy's values where it has them."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from lenet_jax import data
from lenet_jax.corruptions.blur import glass_blur, motion_blur, smooth
from lenet_jax.corruptions.edges import canny_edges
from lenet_jax.corruptions.mnist_c import CORRUPTIONS, corrupt
from lenet_jax.corruptions.noise import impulse_noise, shot_noise
from lenet_jax.corruptions.strokes import dotted_line, stripe, zigzag
from lenet_jax.corruptions.warps import rotate, scale, shear, translate
from lenet_jax.corruptions.weather import brightness, fog, plasma, spatter
from lenet_jax.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.optimized(False)]

FIXED = {"scale", "brightness", "stripe", "canny_edges"}
SIDE = 28
BLACK = jnp.zeros((SIDE, SIDE))


@pytest.fixture(scope="module")
def digits():
    """Twenty test images of MNIST, (20, 28, 28), in [0, 1]."""
    return jnp.asarray(data.load("mnist", image_size=28).test.images[:20, ..., 0] / np.float32(255))


def draw(corruption, image, count=20):
    """The image under a corruption, drawn several times."""
    keys = jax.random.split(jax.random.key(1), count)
    return np.asarray(jax.jit(jax.vmap(corruption, (0, None)))(keys, image))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_is_a_pure_function_into_the_unit_interval(name, digits):
    once, again = (draw(CORRUPTIONS[name], digits[3], 3) for _ in range(2))
    assert once.shape == (3, SIDE, SIDE) and once.dtype == np.float32
    np.testing.assert_array_equal(once, again)
    assert once.min() >= 0 and once.max() <= 1 + 1e-6
    assert (once[0] != np.asarray(digits[3])).any()
    assert (once[0] == once[1]).all() == (name in FIXED)


@pytest.mark.parametrize("name", ["impulse_noise", "rotate", "brightness"])
def test_an_image_is_corrupted_alike_in_every_set(name):
    images = data.load("mnist").test.images[:300]
    whole = corrupt(images, name, (28, 28))
    np.testing.assert_array_equal(whole[:7], corrupt(images[:7], name, (28, 28)))
    margin = np.ones((32, 32), bool)
    margin[2:-2, 2:-2] = False
    assert not whole[:, margin].any() and corrupt(images, "brightness")[:, margin].all()
    others = corrupt(images, name, (28, 28), seed=1)
    assert (others != whole).any() == (name != "brightness")


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_images_may_have_other_sizes(name):
    image = jnp.asarray(np.random.default_rng(0).random((7, 12)), jnp.float32)
    drawn = jax.jit(CORRUPTIONS[name])(jax.random.key(0), image)
    assert drawn.shape == (7, 12) and bool(jnp.isfinite(drawn).all())


def test_fog_covers_large_images():
    foggy = np.asarray(jax.jit(fog)(jax.random.key(0), jnp.ones((300, 28))))
    np.testing.assert_allclose(foggy[256:], foggy[:44], rtol=1e-6)


def test_channels_are_corrupted_alike():
    images = data.load("mnist").test.images[:3]
    colour = corrupt(np.repeat(images, 3, axis=-1), "impulse_noise")
    np.testing.assert_array_equal(colour, np.repeat(corrupt(images, "impulse_noise"), 3, axis=-1))
    assert corrupt(images[:0], "fog").shape == (0, 32, 32, 1)


def test_other_names_and_forms_are_refused():
    with pytest.raises(UserError, match="frost is no corruption; there are shot_noise, "):
        corrupt(np.zeros((1, 28, 28, 1), np.uint8), "frost")
    for images, form in (
        (np.zeros((1, 28, 28), np.uint8), r"uint8 \(1, 28, 28\)"),
        (np.zeros((1, 28, 28, 1)), r"float64 \(1, 28, 28, 1\)"),
    ):
        with pytest.raises(UserError, match=rf"must be uint8 \(n, h, w, c\), not {form}"):
            inspect.unwrap(corrupt)(images, "fog")  # without the tests' own checks of types


@pytest.mark.parametrize("grey", [0.0, 0.2, 0.6, 1.0])
def test_shot_noise_counts_photons(grey):
    counts = 3 * draw(shot_noise, jnp.full((100, 100), grey))
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-5)
    shares = np.bincount(np.rint(counts).astype(int).ravel(), minlength=4) / counts.size
    expected = stats.poisson.pmf(np.arange(3), 3 * grey)
    np.testing.assert_allclose(shares, [*expected, 1 - expected.sum()], atol=4e-3)


def test_impulse_noise_is_salt_and_pepper():
    noisy = draw(impulse_noise, jnp.full((100, 100), 0.5))
    shares = [np.mean(noisy == value) for value in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(shares, [0.085, 0.83, 0.085], atol=3e-3)


@pytest.mark.parametrize("mode", ["nearest", "constant"])
def test_smoothing_is_scipys(digits, mode):
    expected = ndimage.gaussian_filter(np.asarray(digits[0]), 1.5, mode=mode)
    np.testing.assert_allclose(smooth(digits[0], 1.5, mode), expected, atol=1e-6)


def test_glass_shuffles_neighbours_between_two_blurs(digits):
    image = digits[2]
    blurred = np.floor(255 * ndimage.gaussian_filter(np.asarray(image), 0.7, mode="nearest")) / 255
    glassy = draw(glass_blur, image)
    np.testing.assert_allclose(glassy.sum((1, 2)), blurred.sum(), rtol=1e-3)
    rough = np.abs(glassy - ndimage.gaussian_filter(blurred, 0.7, mode="nearest"))
    assert 0.02 < rough.mean() < 0.1
    # A round moves a pixel down or to the right by one at most, and a blur reaches 3 pixels.
    corner = draw(glass_blur, BLACK.at[:2, :2].set(1.0))
    assert corner[:, :9, :9].any() and not corner[:, 10:].any() and not corner[:, :, 10:].any()


def test_motion_smears_half_a_gaussian_along_a_line():
    point = draw(motion_blur, BLACK.at[14, 24].set(1.0), 200)
    np.testing.assert_allclose(point.sum((1, 2)), 1, rtol=1e-5)
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    behind = 24 - (point * columns).sum((1, 2))
    aside = 14 - (point * rows).sum((1, 2))
    weights = np.exp(-np.square(np.arange(21)) / 18)
    mean = (weights * np.arange(21)).sum() / weights.sum()
    np.testing.assert_allclose(np.hypot(behind, aside), mean, rtol=0.2)
    angles = np.rad2deg(np.arctan2(aside, behind))
    assert -47 < angles.min() < -40 and 40 < angles.max() < 47
    assert stats.kstest(angles, stats.uniform(-45, 90).cdf).pvalue > 0.01
    np.testing.assert_allclose(draw(motion_blur, 1 - BLACK), 1, rtol=1e-5)


MAPS = {
    rotate: lambda s: [[np.cos(0.4), -s * np.sin(0.4)], [s * np.sin(0.4), np.cos(0.4)]],
    shear: lambda s: [[np.cos(0.4), 0], [-s * np.sin(0.4), 1]],
    scale: lambda s: [[1 / 0.7, 0], [0, 1 / 0.7]],
}


@pytest.mark.parametrize("corruption", MAPS)
def test_warps_are_scipys(corruption, digits):
    middle, either = np.full(2, 13.5), []
    for sign in (-1, 1):
        matrix = np.array(MAPS[corruption](sign))
        offset: Any = middle - matrix @ middle
        either.append(
            ndimage.affine_transform(
                np.asarray(digits[0]), matrix, offset, order=1, mode="grid-constant"
            )
        )
    distances = np.abs(draw(corruption, digits[0])[:, None] - np.array(either)).max((2, 3))
    np.testing.assert_allclose(distances.min(axis=1), 0, atol=2e-5)
    assert len(set(distances.argmin(axis=1))) == (1 if corruption is scale else 2)


def test_translation_is_by_three_pixels(digits):
    shifts = {
        (down, right): ndimage.shift(digits[0], (down, right), order=0)
        for down in (-3, 3)
        for right in (-3, 3)
    }
    seen = [
        next(by for by, image in shifts.items() if np.allclose(moved, image, atol=1e-6))
        for moved in draw(translate, digits[0], 30)
    ]
    assert set(seen) == set(shifts)


def test_stripes_and_brightness(digits):
    image, striped = np.asarray(digits[0]), draw(stripe, digits[0], 1)[0]
    np.testing.assert_array_equal(striped[:, 7:21], image[:, 7:21])
    np.testing.assert_array_equal(striped[:, :7], 1 - image[:, :7])
    np.testing.assert_array_equal(striped[:, 21:], 1 - image[:, 21:])
    np.testing.assert_array_equal(draw(brightness, digits[0], 1)[0], np.minimum(image + 0.5, 1))


def test_dashes_lie_on_a_line():
    for drawn in draw(dotted_line, BLACK):
        columns = np.arange(SIDE)
        assert not drawn[:, columns % 4 < 2].any()
        kept = columns[(columns % 4 >= 2) & (columns < 27)]
        ends = [np.argmax(drawn[:, column]) for column in kept]
        fit = np.polyfit(kept, ends, 1)
        assert np.abs(np.polyval(fit, kept) - ends).max() < 1.01
        assert drawn.max() > 0.8 and 0 <= np.polyval(fit, 0).round() <= 26


def test_a_zigzag_goes_up_and_down():
    for drawn in draw(zigzag, BLACK):
        assert not drawn[:, :2].any() and not drawn[:, 26:].any()
        seen = drawn[:, 3:25].max(axis=0) > 0  # it may leave the image
        centres = drawn[:, 3:25].argmax(axis=0)[seen]
        steps = np.diff(centres)
        turns = (np.diff(np.sign(steps[steps != 0])) != 0).sum()
        assert np.abs(steps).max() <= 3 and (turns >= 4 or not seen.all())


def test_fog_is_a_fractal_cloud(digits):
    cloud = np.asarray(jax.jit(plasma)(jax.random.key(0)))
    assert cloud.shape == (256, 256) and (cloud.min(), cloud.max()) == (0, 1)
    # It is smooth, also over its edges, and rougher over longer distances.
    rough = [np.abs(cloud - np.roll(cloud, by, 0)).mean() for by in (1, 4, 16, 64)]
    assert rough == sorted(rough) and rough[0] < 0.1
    assert np.abs(cloud[0] - cloud[-1]).mean() < 1.5 * rough[0]
    foggy = draw(fog, digits[0], 50)
    assert foggy.max() <= 1 and foggy.min(axis=(1, 2)).std() > 0.05
    np.testing.assert_allclose((foggy.max((1, 2)) - 1 / 4) / (3 / 4), 0.5, atol=0.5)
    assert not draw(fog, BLACK).any()


def test_mud_covers_in_splashes(digits):
    splashed, image = draw(spatter, digits[0], 200), np.asarray(digits[0])
    cover = splashed[:, image == 0] / (63 / 255)
    assert ((cover == 0) | ((cover >= 0.8 - 1e-5) & (cover <= 1 + 1e-5))).all()
    assert 0.1 < (cover > 0).mean() < 0.2
    same = splashed == image
    assert (same | (np.abs(splashed - 63 / 255) <= 0.2)).all()


def test_edges_are_cannys(digits):
    for digit in np.asarray(digits):
        edges = draw(canny_edges, jnp.asarray(digit), 1)[0]
        assert set(np.unique(edges)) == {0, 1}
        smoothed = ndimage.gaussian_filter(digit, 1.0, mode="constant")
        smoothed /= ndimage.gaussian_filter(np.ones_like(digit), 1.0, mode="constant")
        slopes = [ndimage.sobel(smoothed, axis) for axis in (0, 1)]
        slope = np.hypot(*slopes)
        ridge = steepest(slope, *slopes)
        # Hysteresis: whole components of weak edges, each with a strong one.
        components: Any = ndimage.label(ridge & (slope >= 0.1), np.ones((3, 3)))
        labels, count = components
        strong = ndimage.maximum(slope, labels, np.arange(count + 1)) >= 0.2
        np.testing.assert_array_equal(edges, strong[labels] & (labels > 0))


def steepest(slope, rise, run):
    """Where no neighbour across an edge is steeper, pixel by pixel."""
    result = np.zeros(slope.shape, bool)
    for i in range(1, SIDE - 1):
        for j in range(1, SIDE - 1):
            large = max(abs(rise[i, j]), abs(run[i, j]))
            if not large:
                continue
            down, right = rise[i, j] / large, run[i, j] / large
            # A point on the ring of neighbours, between two of them.
            places = [[i + down, i - down], [j + right, j - right]]
            beside = ndimage.map_coordinates(slope, places, order=1)
            result[i, j] = slope[i, j] > 0 and beside.max() <= slope[i, j]
    return result
