"""Datasets as uint8 arrays, and readers of the supported formats."""

from lenet_jax.data.arrays import from_arrays, write_idx
from lenet_jax.data.dataset import Dataset, Split, load, load_section
from lenet_jax.data.fit import fit_images

__all__ = ["Dataset", "Split", "fit_images", "from_arrays", "load", "load_section", "write_idx"]
