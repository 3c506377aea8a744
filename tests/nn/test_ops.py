from functools import partial
from inspect import unwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lenet_jax.nn import ops, phase
from tests.support.backends import NATIVE, at_hand

KINDS = ("random", "constant", "quantised", "mostly background")


def draw_images(kind: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = {
        "random": rng.normal(size=shape),
        "constant": np.full(shape, rng.normal()),
        "quantised": rng.integers(0, 3, shape) / 2,
        "mostly background": np.where(rng.random(shape) < 0.1, rng.normal(size=shape), -0.42),
    }
    return values[kind].astype(np.float32)


@partial(jax.jit, static_argnums=0, compiler_options=ops.compiler_options())
def value_and_gradients(backend, x, kernel, bias, cotangent):
    def forward(x, kernel, bias):
        return ops.conv_pool_relu(x, kernel, bias, backend=backend)

    out, vjp = jax.vjp(forward, x, kernel, bias)
    return out, *vjp(cotangent)


@pytest.mark.optimized(False)
@settings(max_examples=8)
@example(batch=64, size=5, blocks=(2, 5), channels=1, features=1, seed=0)
@given(
    batch=st.sampled_from((1, 3, 17, 64)),
    size=st.sampled_from((3, 5)),
    blocks=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    channels=st.integers(1, 7),
    features=st.integers(1, 9),
    seed=st.integers(0, 2**16),
)
def test_fast_backends_equal_plain_in_value_and_gradient(
    batch, size, blocks, channels, features, seed
):
    rng = np.random.default_rng(seed)
    height, width = (2 * n + size - 1 for n in blocks)
    kernel = rng.normal(size=(size, size, channels, features)).astype(np.float32)
    bias = rng.normal(size=features).astype(np.float32)
    cotangent = rng.normal(size=(batch, *blocks, features)).astype(np.float32)
    sum_size = np.max(np.linalg.norm(cotangent.reshape(-1, features), axis=0))
    for kind in KINDS:
        x = draw_images(kind, (batch, height, width, channels), seed)
        plain = value_and_gradients("plain", x, kernel, bias, cotangent)
        # Gradients of kernel and bias are sums over the whole batch, which may cancel to nothing.
        sizes = (0, 0, np.max(np.abs(x)) * sum_size, sum_size)
        for backend in at_hand(size)[1:]:
            fast = value_and_gradients(backend, x, kernel, bias, cotangent)
            case = f"{backend}, {kind}"
            for expected, actual, summed in zip(plain, fast, sizes, strict=True):
                scale = max(float(np.max(np.abs(expected))), float(summed)) + 1e-6
                np.testing.assert_allclose(
                    actual / scale, expected / scale, atol=1e-5, err_msg=case
                )


@pytest.mark.parametrize("backend", ["phase", NATIVE])
@pytest.mark.parametrize(("batch", "channels", "features"), [(64, 1, 6), (64, 6, 16), (512, 6, 12)])
def test_ties_at_real_sizes_send_the_gradient_to_the_same_pixel(batch, channels, features, backend):
    rng = np.random.default_rng(0)
    size = {1: 32, 6: 14}[channels]
    x = draw_images("mostly background", (batch, size, size, channels), 1)
    kernel = rng.normal(size=(5, 5, channels, features)).astype(np.float32)
    bias = np.zeros(features, np.float32)
    cotangent = rng.normal(size=(batch, size // 2 - 2, size // 2 - 2, features))
    cotangent = cotangent.astype(np.float32)
    plain = value_and_gradients("plain", x, kernel, bias, cotangent)[1]
    fast = value_and_gradients(backend, x, kernel, bias, cotangent)[1]
    scale = float(jnp.max(jnp.abs(plain)))
    np.testing.assert_allclose(fast / scale, plain / scale, atol=1e-5)


@pytest.mark.parametrize("backend", ["plain", "phase", NATIVE])
def test_the_first_of_equal_maxima_receives_the_gradient(backend):
    x = np.ones((1, 6, 6, 1), np.float32)
    kernel = np.zeros((5, 5, 1, 1), np.float32)
    kernel[0, 0] = 1.0
    _, dx, _, _ = value_and_gradients(
        backend, x, kernel, np.zeros(1, np.float32), np.ones((1, 1, 1, 1), np.float32)
    )
    expected = np.zeros((6, 6), np.float32)
    expected[0, 0] = 1.0
    np.testing.assert_array_equal(dx[0, :, :, 0], expected)


def images_of_repeated_values(kind: str, batch: int, channels: int) -> np.ndarray:
    """6×6 images: one window for each phase, of which all, or the rows' or columns', are equal."""
    rng = np.random.default_rng(batch)
    sizes = {"constant": (1, 1), "of equal rows": (1, 6), "of equal columns": (6, 1)}
    height, width = sizes[kind]
    values = rng.normal(size=(batch, height, width, channels))
    return np.broadcast_to(values, (batch, 6, 6, channels))


@pytest.mark.parametrize(
    ("batch", "channels", "dtype", "options", "mapped"),
    [
        (1, 12, "float32", ops.compiler_options(), False),
        (3, 40, "float32", {}, False),
        (17, 24, "bfloat16", {}, True),
        (64, 16, "float64", ops.compiler_options(), False),
        (200, 9, "float32", ops.compiler_options(), False),
    ],
)
def test_the_first_of_equal_windows_wins(batch, channels, dtype, options, mapped):
    with jax.enable_x64(dtype == "float64"):
        kernel, cotangent = jnp.ones((5, 5, channels, 5), dtype), jnp.ones((1, 1, 1, 5), dtype)
        kernel *= jnp.asarray(np.random.default_rng(0).normal(size=kernel.shape), dtype)

        def output(x):
            bias = jnp.full(5, 1e4, dtype)  # ReLU cuts nothing
            return ops.conv_pool_relu(x, kernel, bias, backend="phase")

        def gradient(x):
            return jax.vjp(output, x)[1](jnp.broadcast_to(cotangent, (len(x), 1, 1, 5)))[0]

        def of_each(x):
            return jax.vmap(lambda image: gradient(image[None])[0])(x)

        compiled = jax.jit(of_each if mapped else gradient, compiler_options=options)
        for kind in ("constant", "of equal rows", "of equal columns"):
            x = jnp.asarray(images_of_repeated_values(kind, batch, channels), dtype)
            actual = np.asarray(compiled(x), np.float64)
            # The input gradient is 0 in the row and the column that only other phases see.
            if kind != "of equal columns":
                np.testing.assert_array_equal(actual[:, 5], 0)
            if kind != "of equal rows":
                np.testing.assert_array_equal(actual[:, :, 5], 0)


def test_max_over_phases_breaks_every_tie_for_the_first():
    values = np.array(np.meshgrid(*[[0.0, 1.0]] * 4)).reshape(4, -1).astype(np.float32)
    phases = jnp.asarray(values).reshape(4, 1, 1, 1, -1)
    unequal = jnp.broadcast_to(jnp.arange(4, dtype=jnp.int8).reshape(4, 1, 1, 1), (4, 1, 1, 16))
    out, vjp = jax.vjp(lambda phases: phase.max_over_phases(phases, unequal), phases)
    gradient = vjp(jnp.ones_like(out))[0].reshape(4, 16)
    np.testing.assert_array_equal(out.ravel(), values.max(axis=0))
    np.testing.assert_array_equal(gradient.argmax(axis=0), values.argmax(axis=0))
    np.testing.assert_array_equal(gradient.sum(axis=0), np.ones(16))


def test_pooling_windows_are_slices_of_the_input():
    x = np.arange(2 * 8 * 10 * 3, dtype=np.float32).reshape(2, 8, 10, 3)
    windows: jax.Array = phase.pooling_windows(jnp.asarray(x), 3)
    windows = windows.reshape(6, 6, 2, 2, 3, 3)
    for i in range(2):
        for j in range(3):
            expected = x[:, 2 * i : 2 * i + 6, 2 * j : 2 * j + 6]
            np.testing.assert_array_equal(windows[:, :, :, i, j], expected.transpose(1, 2, 0, 3))


@pytest.mark.parametrize(
    ("shape", "kernel", "message"),
    [
        ((1, 8, 8, 1), (4, 4, 1, 1), "odd, not 4"),
        ((1, 9, 8, 1), (5, 5, 1, 1), "height of 9 leaves 5"),
        ((1, 8, 4, 1), (5, 5, 1, 1), "width of 4 leaves 0"),
    ],
)
def test_sizes_that_cannot_be_pooled_are_refused(shape, kernel, message):
    with pytest.raises(ValueError, match=message):
        ops.conv_pool_relu(jnp.zeros(shape), jnp.zeros(kernel), jnp.zeros(1))


def test_relu_and_its_gradient_at_zero():
    x = jnp.asarray([-3.0, 5.0, -1.0, 2.0])
    np.testing.assert_array_equal(ops.relu(x), [0, 5, 0, 2])
    np.testing.assert_array_equal(jax.grad(lambda x: ops.relu(x).sum())(jnp.zeros(3)), [0, 0, 0])


def test_flatten_varies_channels_fastest():
    x = jnp.arange(2 * 2 * 3 * 4.0).reshape(2, 2, 3, 4)
    flat = ops.flatten(x)
    assert flat.shape == (2, 24)
    np.testing.assert_array_equal(flat[1, :4], x[1, 0, 0])


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.asarray([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    labels = jnp.asarray([0, 1], jnp.int32)
    np.testing.assert_allclose(ops.cross_entropy(logits, labels), -np.log([0.5, 0.8]), rtol=1e-6)
    smooth = ops.cross_entropy(logits, labels, label_smoothing=0.3)
    by_hand = [
        -(0.8 * np.log(0.5) + 0.1 * np.log(0.25) * 2),
        -(0.8 * np.log(0.8) + 0.1 * np.log(0.1) * 2),
    ]
    np.testing.assert_allclose(smooth, by_hand, rtol=1e-6)


@pytest.mark.parametrize("jit", [False, True])
def test_cross_entropy_of_ruled_out_classes(jit):
    """As `torch.nn.functional.cross_entropy`; with smoothing they make it infinite there too."""
    logits = jnp.asarray([[0.0, -jnp.inf, 0.0], [-jnp.inf, 3.0, -jnp.inf]])
    labels = jnp.asarray([2, 1], jnp.int32)
    function = jax.jit(ops.cross_entropy) if jit else ops.cross_entropy
    losses = function(logits, labels)
    np.testing.assert_allclose(losses, [np.log(2), 0.0], atol=1e-7)
    gradient = jax.grad(lambda x: function(x, labels).sum())(logits)
    np.testing.assert_allclose(gradient, [[0.5, 0, -0.5], [0, 0, 0]], atol=1e-7)
    assert float(function(logits, jnp.asarray([1, 1], jnp.int32))[0]) == np.inf
    assert np.isinf(ops.cross_entropy(logits, labels, label_smoothing=0.1)).all()


@pytest.mark.parametrize("label", [-1, 3, 255])
def test_cross_entropy_of_no_class_is_nan(label):
    losses = ops.cross_entropy(jnp.zeros((2, 3)), jnp.asarray([label, 1], jnp.int32))
    np.testing.assert_allclose(losses, [np.nan, np.log(3)], rtol=1e-6)
    labels = jnp.asarray([label, 1], jnp.int32)
    gradient = jax.grad(lambda x: ops.cross_entropy(x, labels).sum())(jnp.zeros((2, 3)))
    np.testing.assert_array_equal(np.isnan(gradient).all(axis=1), [True, False])
    assert np.isfinite(gradient[1]).all()


@pytest.mark.torch
@settings(max_examples=12)
@given(
    dtype=st.sampled_from(("float32", "bfloat16")),
    smoothing=st.sampled_from((0.0, 0.1, 0.5)),
    ruled_out=st.sampled_from((0.0, 0.3, 0.9)),
    seed=st.integers(0, 2**16),
)
def test_cross_entropy_is_that_of_pytorch(dtype, smoothing, ruled_out, seed):
    """With classes ruled out, whether or not the label is one of them."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    logits = np.where(rng.random((8, 5)) < ruled_out, -np.inf, rng.normal(0, 5, (8, 5)))
    labels = rng.integers(0, 5, 8, np.int32)
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits, dtype=getattr(torch, dtype)),
        torch.tensor(labels, dtype=torch.int64),
        reduction="none",
        label_smoothing=smoothing,
    )
    losses = jax.jit(ops.cross_entropy)(
        jnp.asarray(logits, dtype), jnp.asarray(labels), label_smoothing=smoothing
    )
    assert losses.dtype == dtype
    tolerance = {"float32": 1e-5, "bfloat16": 2e-2}[dtype]
    expected = expected.float().numpy()
    np.testing.assert_allclose(losses.astype(jnp.float32), expected, tolerance, tolerance)


def test_cross_entropy_without_examples_has_a_gradient_without_rows():
    labels = jnp.zeros(0, jnp.int32)
    gradient = jax.grad(lambda x: ops.cross_entropy(x, labels).sum())(jnp.zeros((0, 10)))
    assert gradient.shape == (0, 10)


def test_cross_entropy_of_huge_logits_is_finite():
    logits = jnp.asarray([[1e4, -1e4]])
    assert float(ops.cross_entropy(logits, jnp.asarray([1], jnp.int32))[0]) == 2e4


@pytest.mark.parametrize("backend", ["plain", "phase", NATIVE])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_bias_of_another_dtype_than_its_kernel_is_refused(dtype, backend):
    x, kernel, bias = jnp.ones((2, 8, 8, 1)), jnp.ones((5, 5, 1, 3)), jnp.ones(3, dtype)
    message = f"the kernel is float32 and the bias {dtype}; both must have one dtype"
    with pytest.raises(ValueError, match=message):
        ops.conv_pool_relu(x, kernel, bias, backend=backend)
    with pytest.raises(ValueError, match=message):
        ops.conv_activate_pool(x, kernel, bias, "tanh", "avg", backend=backend)
    with pytest.raises(ValueError, match=message):
        ops.linear(jnp.ones((2, 4)), jnp.ones((4, 3)), bias, backend=backend)


@pytest.mark.parametrize("backend", ["plain", "phase", NATIVE])
def test_no_images_have_no_gradient(backend):
    shapes = (0, 8, 8, 1), (5, 5, 1, 2), (2,)
    value, *gradients = value_and_gradients(backend, *map(jnp.ones, shapes), jnp.ones((0, 2, 2, 2)))
    assert value.shape == (0, 2, 2, 2)
    for gradient, shape in zip(gradients, shapes, strict=True):
        np.testing.assert_array_equal(gradient, np.zeros(shape))


@pytest.mark.parametrize("backend", ["plain", "phase", NATIVE])
@pytest.mark.parametrize(
    "shapes",
    [
        ((3, 5), (5000, 4), (4,)),
        ((3, 5), (5, 4), (5,)),
        ((3, 5), (5, 4), (1, 4)),
        ((2, 3, 5), (5, 4), (4,)),
        ((2, 8, 8, 2), (5, 5, 1, 4), (4,)),
        ((2, 8, 8, 1), (5, 3, 1, 1), (1,)),
        ((2, 8, 8, 1), (5, 5, 1, 4), (5,)),
        ((2, 8, 8, 1), (5, 5, 1, 4), (1,)),
        ((8, 8, 1), (5, 5, 1, 4), (4,)),
        ((2, 8, 8, 5), (5, 4), (4,)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes, backend):
    x, kernel, bias = map(jnp.ones, shapes)
    layers = [unwrap(ops.linear)]  # without the tests' own checks of annotations
    if len(kernel.shape) == 4:
        general = partial(unwrap(ops.conv_activate_pool), activation="tanh", pool="avg")
        layers = [unwrap(ops.conv_pool_relu), general]
    for layer in layers:
        with pytest.raises(ValueError, match="do not fit") as error:
            layer(x, kernel, bias, backend=backend)
        assert all(str(shape) in str(error.value) for shape in shapes)


@pytest.mark.parametrize("backend", ["auto", "plain", "phase", NATIVE])
@pytest.mark.parametrize("dtype", ["float16", "int32"])
def test_an_input_of_another_dtype_is_promoted(dtype, backend):
    x, kernel, bias = jnp.ones((2, 6, 6, 1), dtype), jnp.ones((5, 5, 1, 3)), jnp.ones(3)
    with jax.numpy_dtype_promotion("standard"):
        maps = unwrap(ops.conv_pool_relu)(x, kernel, bias, backend=backend)
        rows = unwrap(ops.linear)(x[0, 0, :, :1], kernel[0, 0], bias, backend=backend)
    assert maps.dtype == rows.dtype == kernel.dtype
    np.testing.assert_array_equal(maps, 26)
    np.testing.assert_array_equal(rows, 2)


@pytest.mark.parametrize(("dtype", "k"), [("uint8", 256), ("uint8", 300), ("int8", 128)])
def test_cross_entropy_of_labels_in_few_bits(dtype, k):
    labels = jnp.asarray([0, 7, 127], dtype)
    losses = ops.cross_entropy(jnp.zeros((3, k)), labels)
    np.testing.assert_allclose(losses, np.full(3, np.log(k)), rtol=1e-6)


def test_batches_of_no_images_through_a_flattened_map():
    assert ops.flatten(jnp.zeros((0, 5, 4, 3))).shape == (0, 60)


@pytest.mark.parametrize("backend", ["phase", NATIVE])
def test_a_mapped_axis_without_examples(backend):
    shapes = {"kernel": (5, 5, 1, 2), "bias": (2,), "weight": (8, 3), "shift": (3,)}
    params = {name: jnp.ones(shape) for name, shape in shapes.items()}

    def loss(params, image):
        maps = ops.conv_pool_relu(image[None], params["kernel"], params["bias"], backend=backend)
        rows = ops.flatten(maps)
        return ops.linear(rows, params["weight"], params["shift"], backend=backend).sum()

    of_each = jax.vmap(jax.grad(loss), (None, 0))
    gradients = jax.eval_shape(of_each, params, jnp.ones((0, 8, 8, 1)))
    assert {name: g.shape for name, g in gradients.items()} == {
        name: (0, *shape) for name, shape in shapes.items()
    }
    networks = jax.tree.map(lambda p: jnp.ones((0, *p.shape)), params)
    of_networks = jax.vmap(loss, (0, None))
    assert jax.eval_shape(of_networks, networks, jnp.ones((8, 8, 1))).shape == (0,)


@pytest.mark.parametrize("backend", ["plain", NATIVE])
def test_input_and_bias_are_transposed_together(backend):
    x, kernel, bias = jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.ones(4)

    def function(x, bias):
        return ops.linear(x, kernel, bias, backend=backend)

    of_x, of_bias = jax.linear_transpose(function, x, bias)(jnp.ones((2, 4)))
    np.testing.assert_array_equal(of_x, np.full((2, 3), 4))
    np.testing.assert_array_equal(of_bias, np.full(4, 2))
