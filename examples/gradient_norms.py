"""Per-example gradients: the norm of the loss's gradient for each of MNIST's training examples.

    .venv/bin/python -m lenet_jax.main --config=configs/notes.py --workdir=runs/first
    .venv/bin/python -m examples.gradient_norms runs/first

These are the norms that differentially private training clips, for which Opacus extends PyTorch; in
JAX they are `vmap` of `grad`. Expect half of the 60,000 norms below 0.01, and a few above 10, of
the images that the network gets wrong.
"""

import sys
from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

import lenet_jax
from lenet_jax.data import dataset
from lenet_jax.errors import ExitCode, UserError, run_command
from lenet_jax.inference.network import Network
from lenet_jax.nn import ops


def gradient_norms(network: Network, split: dataset.Split) -> Float[Array, " n"]:
    """The Euclidean norm of each example's gradient, over all parameters."""
    graphdef, params = nnx.split(network.model, nnx.Param)

    def loss(params: nnx.State, image: Array, label: Array) -> Array:
        x = ops.normalise(image[None], network.mean, network.std)
        return ops.cross_entropy(nnx.merge(graphdef, params)(x), label[None])[0]

    @partial(jax.jit, compiler_options=ops.compiler_options())
    def norms(params: nnx.State, images: Array, labels: Array) -> Array:
        def norm(example: tuple[Array, Array]) -> Array:
            return optax.tree.norm(jax.grad(loss)(params, *example))

        return jax.lax.map(norm, (images, labels), batch_size=64)  # whose gradients fit the cache

    return norms(params, split.images, split.labels)


def main(arguments: Sequence[str]) -> int:
    """Prints the quantiles of the norms, and the examples with the largest ones."""
    if len(arguments) != 1:
        raise UserError("usage: python -m examples.gradient_norms RUN")
    network = lenet_jax.load(arguments[0])
    split = dataset.load("mnist", valid_examples=0).train
    norms = np.asarray(gradient_norms(network, split))
    for share in (10, 50, 90, 99, 100):
        print(f"{share} % of {len(norms):,} norms are at most {np.percentile(norms, share):.4f}")
    for index in np.argsort(-norms)[:5]:
        print(f"training example {index}, labelled {split.labels[index]}: {norms[index]:.2f}")
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
