"""Resampling is exact bilinear interpolation, and the draws follow the given strengths."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from lenet_jax.config.base import get_config
from lenet_jax.training.augment import apply_affine, augment, draw_affine, draw_displacements

pytestmark = [pytest.mark.slow, pytest.mark.optimized(False)]

NONE = {"shift": 0.0, "rotate": 0.0, "scale": 0.0, "shear": 0.0, "squeeze": 0.0}
AFFINE = {"shift": 2.0, "rotate": 15.0, "scale": 0.2, "shear": 10.0}
SOME = AFFINE | {"squeeze": 0.1, "elastic_alpha": 8.0, "elastic_sigma": 2.0}
QUARTER_TURN = np.array([[0, -1], [1, 0]], np.float32)


@pytest.fixture
def images():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 9, 2))
    return jnp.asarray(pixels, jnp.float32)


def for_all(images, matrix, shift):
    b = images.shape[0]
    matrices = jnp.broadcast_to(jnp.asarray(matrix, jnp.float32), (b, 2, 2))
    return apply_affine(jnp.asarray(images), matrices, jnp.broadcast_to(jnp.float32(shift), (b, 2)))


def dense_bilinear(images, matrices, shifts):
    """Every output pixel as a weighted sum of all input pixels, in float64."""
    images, matrices, shifts = (np.asarray(a, np.float64) for a in (images, matrices, shifts))
    size = np.array(images.shape[1:3])
    centre = (size - 1) / 2
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1) - centre
    outputs = []
    for image, matrix, shift in zip(images, matrices, shifts, strict=True):
        source = (grid - shift) @ matrix.T + centre
        row, column = (
            np.maximum(0, 1 - np.abs(source[:, :, axis, None] - np.arange(size[axis])))
            for axis in (0, 1)
        )
        outputs.append(np.einsum("hwi,hwj,ijc->hwc", row, column, image))
    return np.stack(outputs)


@pytest.mark.optimized(True)
@pytest.mark.parametrize("compiled", [True, False])
def test_zero_strengths_leave_the_images_bit_identical(images, compiled):
    function = jax.jit(augment) if compiled else augment
    out = function(jax.random.key(3), images, **NONE)
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, images)


@pytest.mark.parametrize("shift", [(2, 0), (0, -3), (-1, 4)])
def test_integer_shift_is_a_roll_with_zeros(images, shift):
    expected = np.zeros_like(images)
    (down, right), (h, w) = shift, images.shape[1:3]
    expected[:, max(down, 0) : h + down, max(right, 0) : w + right] = images[
        :, max(-down, 0) : h - down, max(-right, 0) : w - right
    ]
    np.testing.assert_array_equal(for_all(images, np.eye(2), shift), expected)


def test_quarter_turn_is_rot90(images):
    for size in (9, 8):  # the centre is on a pixel, or between pixels
        square = images[:, :size, :size]
        turned = np.rot90(square, axes=(1, 2))
        np.testing.assert_array_equal(for_all(square, QUARTER_TURN.T, (0, 0)), turned)
        np.testing.assert_array_equal(for_all(turned, QUARTER_TURN, (0, 0)), square)


def test_far_outside_is_zero(images):
    np.testing.assert_array_equal(for_all(images, np.eye(2), (0, 1e6)), 0)


@pytest.mark.parametrize("size", [(9, 9), (9, 6), (5, 8)])
def test_resampling_is_bilinear(images, size):
    images = images[:, : size[0], : size[1]]
    matrices, shifts = draw_affine(
        jax.random.key(1), len(images), shift=3.0, rotate=180.0, scale=0.5, shear=40.0
    )
    out = apply_affine(images, matrices, shifts)
    np.testing.assert_allclose(out, dense_bilinear(images, matrices, shifts), rtol=0, atol=5e-3)


def test_shift_is_uniform_in_both_directions():
    matrices, shifts = draw_affine(jax.random.key(0), 4000, **NONE | {"shift": 2.5})
    np.testing.assert_array_equal(matrices, np.broadcast_to(np.eye(2), (4000, 2, 2)))
    for pixels in np.asarray(shifts).T:
        assert_uniform(pixels, -2.5, 2.5)
    assert abs(np.corrcoef(np.asarray(shifts).T)[0, 1]) < 0.1


def test_rotation_is_uniform_in_degrees():
    matrices, shifts = draw_affine(jax.random.key(0), 4000, **NONE | {"rotate": 30.0})
    angle = np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])
    assert_uniform(np.rad2deg(angle), -30, 30)
    cosine, sine = np.cos(angle), np.sin(angle)
    expected = np.stack([np.stack([cosine, -sine], 1), np.stack([sine, cosine], 1)], 1)
    np.testing.assert_allclose(matrices, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(shifts, 0)


def test_scale_is_uniform_as_an_enlargement_factor():
    matrices, _ = draw_affine(jax.random.key(0), 4000, **NONE | {"scale": 0.5})
    assert_uniform(1 / np.asarray(matrices)[:, 0, 0], 0.5, 1.5)
    np.testing.assert_array_equal(matrices[:, 0, 0], matrices[:, 1, 1])
    np.testing.assert_array_equal(matrices[:, [0, 1], [1, 0]], 0)


def test_shear_is_uniform_in_degrees_along_the_width():
    matrices, _ = draw_affine(jax.random.key(0), 4000, **NONE | {"shear": 20.0})
    assert_uniform(np.rad2deg(np.arctan(matrices[:, 1, 0])), -20, 20)
    np.testing.assert_array_equal(matrices[:, 0, :], np.broadcast_to([1.0, 0.0], (4000, 2)))
    np.testing.assert_array_equal(matrices[:, 1, 1], 1)


def test_a_squeeze_changes_the_width_and_inverts_the_height():
    matrices, _ = draw_affine(jax.random.key(0), 4000, **NONE | {"squeeze": 0.3})
    assert_uniform(1 / np.asarray(matrices)[:, 1, 1], 0.7, 1.3)
    np.testing.assert_allclose(matrices[:, 0, 0] * matrices[:, 1, 1], 1, rtol=1e-6)
    np.testing.assert_array_equal(matrices[:, [0, 1], [1, 0]], 0)


def test_displacements_are_smoothed_noise_of_the_stated_size():
    """Against SciPy's Gaussian filter: Simard's field, for each place of the batch its own."""
    draw = functools.partial(draw_displacements, jax.random.key(4), size=(29, 32))
    few = draw(jnp.array([0, 7, 2]), alpha=34.0, sigma=4.0)
    np.testing.assert_array_equal(few[1], draw(jnp.arange(8), alpha=34.0, sigma=4.0)[7])
    # Almost without smoothing it is the noise itself.
    noise = np.asarray(draw(jnp.array([0, 7, 2]), alpha=1.0, sigma=0.05))
    assert_uniform(noise.ravel(), -1, 1)
    smooth = scipy.ndimage.gaussian_filter(
        noise.astype(np.float64), 4.0, mode="constant", truncate=20.0, axes=(1, 2)
    )
    np.testing.assert_allclose(few, 34 * smooth, rtol=0, atol=1e-4)
    inner = draw(jnp.arange(300), alpha=34.0, sigma=4.0)[:, 12:-12, 12:-12]
    assert np.std(inner) == pytest.approx(0.16 * 34 / 4, rel=0.1)


def test_displaced_pixels_are_interpolated(images):
    displacements = draw_displacements(
        jax.random.key(2), jnp.arange(len(images)), images.shape[1:3], 20.0, 2.0
    )
    maps = draw_affine(jax.random.key(1), len(images), **AFFINE)
    ours = apply_affine(images, *maps, displacements)
    centre = (np.array(images.shape[1:3]) - 1) / 2
    grid = np.stack(np.meshgrid(*map(np.arange, images.shape[1:3]), indexing="ij"), axis=-1)
    batch = map(np.asarray, (images, ours, *maps, displacements))
    for image, out, matrix, shift, moved in zip(*batch, strict=True):
        source = (grid - centre - shift) @ matrix.T + centre + moved
        expected = scipy.ndimage.map_coordinates(
            image[..., 0], source.transpose(2, 0, 1), order=1, mode="grid-constant"
        )
        np.testing.assert_allclose(out[..., 0], expected, rtol=0, atol=5e-3)


def test_all_strengths_compose():
    """The map from output to input is shear · rotation / factor, each within its strength."""
    matrices, _ = draw_affine(jax.random.key(0), 4000, **AFFINE)
    matrices = np.asarray(matrices, np.float64)
    factor = 1 / np.hypot(matrices[:, 0, 0], matrices[:, 0, 1])
    assert_uniform(factor, 0.8, 1.2)
    angle = np.arctan2(-matrices[:, 0, 1], matrices[:, 0, 0])
    assert_uniform(np.rad2deg(angle), -15, 15)
    cosine, sine = np.cos(angle), np.sin(angle)
    undone = np.stack([np.stack([cosine, sine], 1), np.stack([-sine, cosine], 1)], 1)
    shear = factor[:, None, None] * matrices @ undone
    assert_uniform(np.rad2deg(np.arctan(shear[:, 1, 0])), -10, 10)
    np.testing.assert_allclose(shear[:, 1, 1], 1, rtol=1e-5)


def assert_uniform(draws, low, high):
    """Asserts draws within the bounds, close to them, and evenly distributed over tenths."""
    margin = (high - low) * 1e-5
    assert low - margin <= draws.min() < low + 1e3 * margin
    assert high - 1e3 * margin < draws.max() <= high + margin
    counts, _ = np.histogram(draws, bins=10, range=(low - margin, high + margin))
    assert np.all(np.abs(counts - len(draws) / 10) < 5 * np.sqrt(len(draws) / 10))


def test_draws_are_independent_of_each_other():
    matrices, shifts = draw_affine(jax.random.key(0), 4000, **NONE | {"shift": 1.0, "rotate": 30.0})
    angle = np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])
    correlations = np.corrcoef(np.column_stack([shifts, angle]).T)
    assert np.abs(correlations - np.eye(3)).max() < 0.1


def test_map_depends_only_on_key_and_position(images):
    same = jnp.broadcast_to(images[:1], images.shape)
    out = augment(jax.random.key(5), same, **SOME)
    np.testing.assert_array_equal(out, augment(jax.random.key(5), same, **SOME))
    np.testing.assert_array_equal(out[:2], augment(jax.random.key(5), same[:2], **SOME))
    assert len({image.tobytes() for image in np.asarray(out)}) == len(out)
    assert np.any(out != augment(jax.random.key(6), same, **SOME))


def test_config_section_unpacks(images):
    config: Any = get_config()
    assert augment(jax.random.key(0), images, **config.augment).shape == images.shape


def test_channels_move_together(images):
    single = augment(jax.random.key(5), images[..., :1], **SOME)
    np.testing.assert_array_equal(augment(jax.random.key(5), images, **SOME)[..., :1], single)


@pytest.mark.optimized(True)
def test_population_of_strengths_equals_single_calls(images):
    members = {key: jnp.array([0.0, 0.5, 1.0]) * value for key, value in SOME.items()}
    members["elastic_sigma"] = jnp.array([2.0, 1.0, 4.0])

    def member(strengths):
        return augment(jax.random.key(5), images, **strengths)

    population = jax.jit(jax.vmap(member))(members)
    np.testing.assert_array_equal(population[0], images)
    for i in range(3):
        single = jax.jit(member)({key: values[i] for key, values in members.items()})
        np.testing.assert_allclose(population[i], single, rtol=0, atol=1e-3)


@pytest.mark.optimized(True)
def test_interpolation_is_not_fused_into_what_follows(images):
    """The loop must survive compilation: without it training is several times slower."""
    maps = draw_affine(jax.random.key(0), len(images), **AFFINE)
    compiled = jax.jit(apply_affine).lower(images, *maps).compile()
    assert " while(" in str(compiled.as_text())
