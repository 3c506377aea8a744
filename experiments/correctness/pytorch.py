"""Whole networks of every form, and training, against PyTorch in float64, where it is installed."""

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.correctness.comparison import Comparison
from lenet_jax import data
from lenet_jax.inference.state_dict import to_state_dict
from lenet_jax.nn import ops
from lenet_jax.nn.lenet import LeNet

BATCH = 64
# Activation, pool and padding.
FORMS: tuple[tuple[ops.Activation, ops.Pool, int], ...] = (
    *(("relu", "max", 0), ("relu", "max", 2), ("relu", "avg", 0), ("tanh", "avg", 2)),
    *(("leaky_relu", "max", 0), ("elu", "avg", 0), ("gelu", "max", 0), ("silu", "avg", 0)),
    ("sigmoid", "max", 0),
)


def is_installed() -> bool:
    """Whether there is a PyTorch to compare with."""
    return importlib.util.find_spec("torch") is not None


def compare() -> Iterator[Comparison]:
    """Yields the comparisons."""
    forms = Comparison(
        f"LeNet of {len(FORMS)} forms: logits, loss, gradients of all weights",
        "PyTorch, float64",
        1e-5,
    )
    split = data.load("mnist").test
    images = ((split.images[:BATCH] - 33.0) / 78.0).astype(np.float32)
    labels = jnp.asarray(split.labels[:BATCH])
    for seed, (activation, pool, padding) in enumerate(FORMS):
        model = LeNet(
            (4 + seed, 9 + seed),
            activation=activation,
            pool=pool,
            padding=padding,
            rngs=nnx.Rngs(seed),
        )
        graphdef, params = nnx.split(model, nnx.Param)

        def loss(params: nnx.State, graphdef: Any = graphdef) -> tuple[jax.Array, jax.Array]:
            logits = nnx.merge(graphdef, params)(images)
            return ops.cross_entropy(logits, labels).mean(), logits

        (value, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        ours = {"logits": logits, "loss": value} | to_state_dict(gradients)
        weights = to_state_dict(params)
        forms.add_each(
            ours, run_torch(weights, images, split.labels[:BATCH], activation, pool, padding)
        )
    yield forms


def run_torch(
    weights: Mapping[str, np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    activation: str,
    pool: str,
    padding: int,
) -> dict[str, np.ndarray]:
    """Logits, mean loss and gradients, by the names of PyTorch's `state_dict`."""
    import torch
    from torch.nn import functional

    activate = getattr(torch, activation, None) or getattr(functional, activation)
    pooled = functional.max_pool2d if pool == "max" else functional.avg_pool2d
    params = {
        name: torch.tensor(array, dtype=torch.float64, requires_grad=True)
        for name, array in weights.items()
    }

    def layer(name: str) -> tuple[Any, Any]:
        return params[f"{name}.weight"], params[f"{name}.bias"]

    x = torch.tensor(images, dtype=torch.float64).permute(0, 3, 1, 2)
    x = pooled(activate(functional.conv2d(x, *layer("conv1"), padding=padding)), 2)
    x = pooled(activate(functional.conv2d(x, *layer("conv2"))), 2).flatten(1)
    x = activate(functional.linear(x, *layer("fc1")))
    x = activate(functional.linear(x, *layer("fc2")))
    logits = functional.linear(x, *layer("fc3"))
    loss = functional.cross_entropy(logits, torch.tensor(labels).long())
    gradients = torch.autograd.grad(loss, list(params.values()))
    results = {"logits": logits, "loss": loss} | dict(zip(params, gradients, strict=True))
    return {name: tensor.detach().numpy() for name, tensor in results.items()}
