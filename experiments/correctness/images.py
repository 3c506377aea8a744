"""Augmentation against SciPy's interpolation, in float64."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from experiments.correctness.comparison import Comparison
from lenet_jax import data
from lenet_jax.training.augment import apply_affine, augment, draw_affine

STRENGTHS = {"shift": 3.0, "rotate": 30.0, "scale": 0.3, "shear": 20.0}
BATCH = 64


def compare() -> Iterator[Comparison]:
    """Yields the comparisons: the images of random maps, and the maps that are drawn."""
    moved = Comparison("augmented digits, by random affine maps", "SciPy, float64", 1e-4)
    images = data.load("mnist").test.images[:BATCH].astype(np.float32)
    centre = (np.array(images.shape[1:3]) - 1) / 2
    for seed in range(10):
        key = jax.random.key(seed)
        matrices, shifts = (np.asarray(x, np.float64) for x in draw_affine(key, BATCH, **STRENGTHS))
        expected = np.stack(
            [
                scipy.ndimage.affine_transform(
                    image[..., 0].astype(np.float64),
                    matrix,
                    offset=centre - matrix @ (centre + shift),
                    order=1,
                    mode="grid-constant",
                )[..., None]
                for image, matrix, shift in zip(images, matrices, shifts, strict=True)
            ]
        )
        moved.add(jax.jit(apply_affine)(images, np.float32(matrices), np.float32(shifts)), expected)
    yield moved

    still = Comparison("augmentation of strength 0", "the images", 0.0)
    for seed in range(10):
        still.add(
            augment(jax.random.key(seed), jnp.asarray(images), **dict.fromkeys(STRENGTHS, 0.0)),
            images,
        )
    yield still
