"""Datasets as uint8 arrays, and readers of the supported formats."""

from lenet_jax.data.dataset import Dataset, Split, load
from lenet_jax.data.fit import fit_images

__all__ = ["Dataset", "Split", "fit_images", "load"]
