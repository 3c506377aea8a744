"""LeNet-class networks in JAX: trained, swept and understood.

    network = lenet_jax.load("runs/first")  # or train("configs/notes.py", workdir="runs/first")
    network.predict(images), network.features(images)

Importing the package costs nothing: JAX comes with the first call.
"""

import importlib
import sys
from types import ModuleType
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "load":
        return importlib.import_module("lenet_jax.trained").load
    if name == "train":
        return importlib.import_module("lenet_jax.train")
    raise AttributeError(f"module 'lenet_jax' has no attribute {name!r}")


class _Train(ModuleType):
    """`lenet_jax.train`: the module of that name which, called, trains a run."""

    def __call__(self, config: Any, workdir: Any = None) -> Any:
        """Trains a run and gives its network, see `lenet_jax.api.train`."""
        return importlib.import_module("lenet_jax.api").train(config, workdir)


class _Package(ModuleType):
    """The package itself, which sees its modules come: they are set as its attributes."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "train":
            value.__class__ = _Train
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
