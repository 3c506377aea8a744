"""Derivatives of every kind and order, against the plain layers in float64.

The plain layers are JAX's own convolution and pooling, whose values and gradients
`experiments.correctness.layers` compares with NumPy.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.correctness.comparison import Comparison
from lenet_jax.nn import ops

BATCH, CLASSES, SEEDS = 3, 4, 5
Tree = Any
Loss = Callable[[Tree, Any, Any], jax.Array]


class Point(NamedTuple):
    """Where a derivative is taken: parameters, a direction for them, images and labels."""

    params: Tree
    tangents: Tree
    images: Any
    labels: Any


def draw(seed: int) -> Point:
    """A random point in float64."""
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (5, 5, 2, 3), "bias": (3,), "weight": (24, CLASSES), "shift": (CLASSES,)}
    params, tangents = (
        {name: 0.3 * rng.normal(size=shape) for name, shape in shapes.items()} for _ in range(2)
    )
    labels = rng.integers(0, CLASSES, BATCH).astype(np.int32)
    return Point(params, tangents, rng.normal(size=(BATCH, 8, 12, 2)), labels)


def loss(params: Tree, images: Any, labels: Any, backend: ops.Backend) -> jax.Array:
    """The mean loss of a convolution, a linear layer and tanh, which has a third derivative."""
    x = ops.conv_pool_relu(images, params["kernel"], params["bias"], backend=backend)
    logits = ops.linear(ops.flatten(x), params["weight"], params["shift"], backend=backend)
    return jnp.mean(ops.cross_entropy(jnp.tanh(logits), labels))


def of_one_image(loss: Loss) -> Loss:
    """The loss as a function of one image and its label."""
    return lambda params, image, label: loss(params, image[None], label[None])


def two_networks(at: Point) -> Tree:
    """Two networks' parameters, stacked."""
    return jax.tree.map(lambda a, b: jnp.stack([a, a + b]), at.params, at.tangents)


def jvp(loss: Loss, at: Point) -> Tree:
    """Forward mode, in parameters and images."""
    directions = at.tangents, 0.5 * at.images
    return jax.jvp(lambda p, x: loss(p, x, at.labels), (at.params, at.images), directions)


def linearize(loss: Loss, at: Point) -> Tree:
    """Forward mode, linearised first."""
    return jax.linearize(lambda p: loss(p, at.images, at.labels), at.params)[1](at.tangents)


def jacfwd(loss: Loss, at: Point) -> Tree:
    """The Jacobian, column by column."""
    return jax.jacfwd(loss)(at.params, at.images, at.labels)


def gradient(loss: Loss, at: Point) -> Tree:
    """The gradient by parameters and images."""
    return jax.grad(loss, argnums=(0, 1))(at.params, at.images, at.labels)


def hessian_vector(loss: Loss, at: Point) -> Tree:
    """The Hessian times a vector: forward over reverse."""
    gradient = jax.grad(loss, argnums=(0, 1))
    directions = at.tangents, 0.5 * at.images
    return jax.jvp(lambda p, x: gradient(p, x, at.labels), (at.params, at.images), directions)


def gradient_of_gradient(loss: Loss, at: Point) -> Tree:
    """The gradient of the gradient's squared norm: reverse over reverse."""

    def squared_norm(params: Tree, images: Any) -> Any:
        gradients = jax.grad(loss, argnums=(0, 1))(params, images, at.labels)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradients))

    return jax.grad(squared_norm, argnums=(0, 1))(at.params, at.images)


def gradient_of_tangent(loss: Loss, at: Point) -> Tree:
    """The gradient of a directional derivative: reverse over forward."""

    def tangent(params: Tree) -> jax.Array:
        return jax.jvp(lambda p: loss(p, at.images, at.labels), (params,), (at.tangents,))[1]

    return jax.grad(tangent)(at.params)


def hessian(loss: Loss, at: Point) -> Tree:
    """The Hessian by the biases."""
    few = {name: at.params[name] for name in ("bias", "shift")}
    return jax.hessian(lambda few: loss(at.params | few, at.images, at.labels))(few)


def third_order(loss: Loss, at: Point) -> Tree:
    """The third derivative: forward over forward over reverse."""

    def hessian_vector(params: Tree) -> Tree:
        gradient = partial(jax.grad(loss), images=at.images, labels=at.labels)
        return jax.jvp(gradient, (params,), (at.tangents,))[1]

    return jax.jvp(hessian_vector, (at.params,), (at.tangents,))


def gradient_of_each(loss: Loss, at: Point) -> Tree:
    """The gradient of each image."""
    gradient = jax.grad(of_one_image(loss), argnums=(0, 1))
    return jax.vmap(gradient, in_axes=(None, 0, 0))(at.params, at.images, at.labels)


def hessian_vector_of_each(loss: Loss, at: Point) -> Tree:
    """The Hessian of each image times a vector."""

    def hessian_vector(image: Any, label: Any) -> Tree:
        gradient = jax.grad(of_one_image(loss))
        return jax.jvp(lambda p: gradient(p, image, label), (at.params,), (at.tangents,))[1]

    return jax.vmap(hessian_vector)(at.images, at.labels)


def gradient_of_networks(loss: Loss, at: Point) -> Tree:
    """The gradients of two networks."""
    over_networks = jax.vmap(jax.grad(loss), in_axes=(0, None, None))
    return over_networks(two_networks(at), at.images, at.labels)


def each_of_networks(loss: Loss, at: Point) -> Tree:
    """The gradients of each image, of two networks."""
    of_each = jax.vmap(jax.grad(of_one_image(loss)), in_axes=(None, 0, 0))
    return jax.vmap(of_each, in_axes=(0, None, None))(two_networks(at), at.images, at.labels)


DERIVATIVES = (
    *(jvp, linearize, jacfwd, gradient, hessian_vector, gradient_of_gradient, gradient_of_tangent),
    *(hessian, third_order, gradient_of_each, hessian_vector_of_each, gradient_of_networks),
    each_of_networks,
)


def compare_one(
    derivative: Callable[[Loss, Point], Tree],
    backends: Sequence[ops.Backend],
    compiled: bool,
    seeds: int = SEEDS,
) -> Comparison:
    """Compares a derivative at random points, of functions that are compiled, or not.

    An error is relative to the largest number of an array, or to 1 where all are smaller.
    """
    kind = (derivative.__doc__ or "").rstrip(".")
    subject = f"derivatives: {kind[0].lower()}{kind[1:]}"
    comparison = Comparison(subject, "`plain`, float64", 1e-5)

    def function(backend: ops.Backend) -> Callable[[Point], Tree]:
        function = partial(derivative, partial(loss, backend=backend))
        return jax.jit(function) if compiled else function

    functions = {backend: function(backend) for backend in (*backends, "plain")}
    for point in map(draw, range(seeds)):
        with jax.enable_x64(True):
            wide = jax.tree.map(jnp.asarray, point)
            expected = jax.tree.map(np.asarray, functions["plain"](wide))
        narrow = jax.tree.map(lambda x: jnp.asarray(np.float32(x)), point)
        narrow = narrow._replace(labels=jnp.asarray(point.labels))
        for backend in backends:
            actual = functions[backend](narrow)
            if jax.tree.structure(actual) != jax.tree.structure(expected):
                raise ValueError(f"{subject} of `{backend}` has another structure")
            for one, other in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
                assert other.dtype == np.float64
                comparison.add(one, other, least=1.0)
    return comparison


def compare(backends: Sequence[ops.Backend]) -> Iterator[Comparison]:
    """Yields a comparison for each derivative, over all backends."""
    for derivative in DERIVATIVES:
        yield compare_one(derivative, backends, compiled=True)
