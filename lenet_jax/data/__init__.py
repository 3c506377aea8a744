"""Datasets as uint8 arrays, and the formats they are read from."""

from lenet_jax.data.dataset import Dataset, Split, fit_images, load

__all__ = ["Dataset", "Split", "fit_images", "load"]
