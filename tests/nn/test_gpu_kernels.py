"""The Pallas kernels, interpreted on the CPU, and lowered for GPUs that are not here."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from experiments.correctness import derivatives
from lenet_jax.errors import UserError
from lenet_jax.nn import gpu_kernels, ops

pytestmark = pytest.mark.optimized(False)

H100 = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=None, platform="gpu")


def value_and_gradients(x, kernel, bias, cotangent, backend, precision="float32"):
    layer = functools.partial(ops.conv_pool_relu, backend=backend, precision=precision)
    out, vjp = jax.vjp(layer, x, kernel, bias)
    return out, *vjp(cotangent)


def draw(batch, blocks, size, channels, features, networks=()):
    """Images, the first constant so that its windows tie; a kernel of which a third is pruned."""
    rng = np.random.default_rng(batch)
    height, width = (2 * n + size - 1 for n in blocks)
    kernel = rng.normal(size=(*networks, size, size, channels, features))
    images = rng.integers(0, 2, (*networks, batch, height, width, channels))
    images[..., 0, :, :, :] = 1
    arrays = (
        images,
        np.where(rng.random(kernel.shape) < 1 / 3, 0, kernel),
        rng.normal(size=(*networks, features)),
        rng.normal(size=(*networks, batch, *blocks, features)),
    )
    return [np.asarray(array, np.float32) for array in arrays]


def assert_equal(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize(
    ("batch", "blocks", "size", "channels", "features"),
    [(3, (4, 3), 5, 2, 3), (7, (5, 2), 3, 3, 17)],
)
def test_values_and_gradients_are_those_of_plain(batch, blocks, size, channels, features):
    """With more features than a tile has, odd batches, and columns that fill no tile."""
    arrays = draw(batch, blocks, size, channels, features)
    of_backend = jax.jit(
        value_and_gradients, static_argnames="backend", compiler_options=ops.compiler_options()
    )
    assert_equal(*(of_backend(*arrays, backend=backend) for backend in ("pallas", "plain")))


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_networks_are_mapped(shared):
    x, *weights = draw(4, (2, 3), 5, 1, 6, networks=(3,))
    arrays, axes = ([x[0], *weights], (None, 0, 0, 0)) if shared else ([x, *weights], 0)
    actual, expected = (
        jax.jit(
            jax.vmap(functools.partial(value_and_gradients, backend=backend), axes),
            compiler_options=ops.compiler_options(),
        )(*arrays)
        for backend in ("pallas", "plain")
    )
    assert_equal(actual, expected)


def test_a_window_with_a_nan_gives_a_nan():
    x, kernel, bias, _ = map(jnp.asarray, draw(1, (2, 2), 3, 1, 1))
    out = ops.conv_pool_relu(x.at[0, 0, 1].set(jnp.nan), kernel, bias, backend="pallas")
    np.testing.assert_array_equal(np.isnan(out[0, :, :, 0]), [[True, False], [False, False]])


def gradient_over_networks(loss, at):
    """The derivative of a function that maps networks, along a direction: forward over reverse."""
    networks = derivatives.two_networks(at)

    def sum_of_squares(networks):
        over_networks = jax.vmap(loss, in_axes=(0, None, None))
        return jnp.sum(over_networks(networks, at.images, at.labels) ** 2)

    return jax.jvp(jax.grad(sum_of_squares), (networks,), (networks,))


@pytest.mark.slow
@pytest.mark.parametrize("derivative", [derivatives.jvp, gradient_over_networks])
def test_derivatives_equal_those_of_the_plain_layers_in_float64(derivative):
    comparison = derivatives.compare_one(derivative, ["pallas"], compiled=True, seeds=1)
    assert comparison.holds, comparison


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")
@pytest.mark.parametrize("precision", ["float32", "tensorfloat32"])
def test_the_kernels_lower_for_a_gpu_with_one_network_after_the_other_in_the_grid(precision):
    networks, batch = 1024, 64
    shapes = (
        *((networks, 6, 14, 14, batch), (networks, 5, 5, 6, 12)),
        *((networks, 12), (networks, 12, 5, 5, batch)),
    )

    def gradients(x, kernel, bias, cotangent):
        layer = functools.partial(gpu_kernels.conv_pool_relu, precision=precision)
        return jax.vjp(layer, x, kernel, bias)[1](cotangent)

    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=H100)):
        traced = jax.jit(jax.vmap(gradients)).trace(*arrays)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("xla.gpu.triton") == text.count("grid_z = 1024") == 3


def test_other_devices_and_dtypes_are_refused():
    with pytest.raises(UserError, match="is for GPUs"):
        ops.choose_backend("pallas", SimpleNamespace(platform="tpu"))
    x, kernel, bias = (jnp.ones(s, jnp.bfloat16) for s in ((1, 6, 6, 1), (5, 5, 1, 2), (2,)))
    with pytest.raises(ValueError, match="`pallas` takes float32, not bfloat16"):
        ops.conv_pool_relu(x, kernel, bias, backend="pallas")
