"""Stage `correctness`: layers and network on the device against float64 NumPy, ties included.

Inputs: random numbers; normalised MNIST images, most of whose windows are equal background;
constant images, in which every pool is a tie; and small integers, whose sums are exact in float32
and products in bfloat16, so that any error is one of the program and not of rounding.
"""

import functools
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.accelerator.record import REFUSALS, Stage, log
from experiments.correctness import reference
from lenet_jax import data
from lenet_jax.nn import ops
from lenet_jax.nn.lenet import LeNet

BACKENDS: tuple[ops.Backend, ...] = ("phase", "plain")
# JAX's `bfloat16` means the fastest; the last two ask for
# bfloat16 and TF32 themselves, which not every device has.
PRECISIONS = (
    *("default", "highest", "tensorfloat32", "bfloat16"),
    *("BF16_BF16_F32", "TF32_TF32_F32"),
)
# Largest error relative to the largest number of an array.
BOUNDS = {"default": 1e-2, "highest": 1e-5, "tensorfloat32": 1e-2, "TF32_TF32_F32": 1e-2}
LOOSEST = 5e-2
LARGE_BIAS = 1e3  # so that no ReLU hides which pixel won
Cases = dict[str, tuple[np.ndarray, ...]]


def measure(stage: Stage) -> None:
    """Compares every backend under every precision, and lists what is out of bounds."""
    batch = 4 if stage.short else 64
    cases, network = make_cases(batch), make_network(batch)
    expected = expect(cases) | {"lenet": reference.lenet(*network)}
    checks: dict[str, Any] = {}
    violations: list[str] = []
    refused: dict[str, str] = {}
    # `pallas` last, for it takes long to trace; it multiplies in two ways, whatever the name.
    variants: list[tuple[str, ops.Backend]] = [
        *itertools.product(PRECISIONS, BACKENDS),
        ("default", "pallas"),
        ("highest", "pallas"),
    ]
    if stage.short:
        variants = [("highest", BACKENDS[0])]
    with ThreadPoolExecutor(6) as pool:
        pending = {}
        for precision, backend in variants:
            try:
                lowered = lower(backend, precision, cases, network)
                pending[f"{backend}, {precision}"] = pool.submit(lowered.compile)
            except REFUSALS as error:
                refused[f"{backend}, {precision}"] = str(error)
        for name, future in pending.items():
            try:
                values = jax.tree.map(np.asarray, future.result()(cases, network))
            except REFUSALS as error:
                refused[name] = str(error)
                continue
            checks[name] = compare(values, expected, cases)
            bound = BOUNDS.get(name.partition(", ")[2], LOOSEST)
            broken = find_violations(checks[name], bound)
            violations += [f"{name}: {message}" for message in broken]
            log(f"{name}: {len(broken)} out of bounds")
            stage.save(checks=checks, violations=violations, refused=refused, batch_size=batch)


def lower(
    backend: ops.Backend, precision: str, cases: Cases, network: tuple[Any, np.ndarray, np.ndarray]
) -> jax.stages.Lowered:
    """What is compared with the reference, traced; raises ValueError if it is refused."""
    program = jax.jit(
        lambda cases, network: {
            **compute_layers(backend, precision, cases),
            "lenet": compute_network(backend, precision, *network),
        },
        compiler_options=ops.compiler_options(),
    )
    return program.lower(cases, network)


def make_cases(batch: int) -> Cases:
    """Arguments and cotangent of each layer's checks, by `layer: input`."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    def integers(*shape: int) -> np.ndarray:
        return rng.integers(-3, 4, shape).astype(np.float32)

    def constant(*shape: int) -> np.ndarray:
        return np.broadcast_to(normal(shape[0], 1, 1, shape[3]), shape).copy()

    images, _ = normalised_images(batch)
    cases: Cases = {}
    for layer, side, c, k in (("conv1", 32, 1, 6), ("conv2", 14, 6, 12)):
        shape, half = (batch, side, side, c), side // 2 - 2
        inputs = {"random": normal(*shape), "constant": constant(*shape)}
        if layer == "conv1":
            inputs["mnist"] = images
        for name, x in inputs.items():
            weights = normal(5, 5, c, k) / 5, normal(k) / 5
            cases[f"{layer}: {name}"] = (x, *weights, normal(batch, half, half, k))
        exact = integers(*shape), integers(5, 5, c, k), integers(k), integers(batch, half, half, k)
        cases[f"{layer}: integers"] = exact
    for name, draw in (("random", normal), ("integers", integers)):
        cases[f"linear: {name}"] = draw(batch, 300), draw(300, 120), draw(120), draw(batch, 120)
    cases["relu_flatten: integers"] = integers(batch, 5, 5, 12), integers(batch, 300)
    cases["cross_entropy: random"] = (3 * normal(batch, 10), rng.integers(0, 10, batch, np.int32))
    return cases


def normalised_images(batch: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images of MNIST's test set, with mean 0 and deviation 1, and their labels."""
    split = data.load("mnist").test
    pixels = split.images[:batch].astype(np.float64)
    return ((pixels - pixels.mean()) / pixels.std()).astype(np.float32), split.labels[:batch]


def make_network(batch: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """Initial parameters of LeNet, by layer and name, with images and their labels."""
    state = nnx.state(LeNet(rngs=nnx.Rngs(params=jax.random.key(0))), nnx.Param)
    params = {
        layer: {name: np.asarray(value[...]) for name, value in arrays.items()}
        for layer, arrays in state.items()
    }
    return params, *normalised_images(batch)


def expect(cases: Cases) -> dict[str, Any]:
    """The reference's values of every case."""
    functions = {
        "conv1": lambda *arrays: reference.conv_pool_relu(*arrays)._asdict(),
        "conv2": lambda *arrays: reference.conv_pool_relu(*arrays)._asdict(),
        "linear": reference.linear,
        "relu_flatten": reference.relu_flatten,
        "cross_entropy": lambda *arrays: reference.cross_entropy(*arrays, smoothing=0.1),
    }
    return {name: functions[name.partition(":")[0]](*args) for name, args in cases.items()}


def compute_layers(
    backend: ops.Backend, precision: str, cases: dict[str, tuple[jax.Array, ...]]
) -> dict[str, dict[str, jax.Array]]:
    """Values and gradients of each case, by the package's layers."""
    how: Any = {"backend": backend, "precision": precision}
    results = {}
    for name, arrays in cases.items():
        layer = name.partition(":")[0]
        if layer.startswith("conv"):
            function = functools.partial(ops.conv_pool_relu, **how)
            results[name] = value_and_gradients(function, *arrays)
            if not name.endswith("random"):  # in which no two pixels tie
                results[name]["probes"] = probe_winners(function, *arrays[:3])
        elif layer == "linear":
            function = functools.partial(ops.linear, **how)
            results[name] = value_and_gradients(function, *arrays)
        elif layer == "relu_flatten":
            results[name] = value_and_gradients(lambda x: ops.flatten(ops.relu(x)), *arrays)
        else:
            logits, labels = arrays
            losses = functools.partial(ops.cross_entropy, labels=labels, label_smoothing=0.1)
            results[name] = value_and_gradients(losses, logits, jnp.ones(len(labels)))
    return results


def value_and_gradients(function: Any, *arrays: jax.Array) -> dict[str, jax.Array]:
    """The output, and the gradients of its product with the last array by the others."""
    *arguments, cotangent = arrays
    output, vjp = jax.vjp(function, *arguments)
    names = ("dx", "dkernel", "dbias")[: len(arguments)]
    return {"output": output, **dict(zip(names, vjp(cotangent), strict=True))}


def compute_network(
    backend: ops.Backend, precision: str, params: Any, images: jax.Array, labels: jax.Array
) -> dict[str, jax.Array]:
    """Logits, loss and gradients of the network, by the package's."""
    model = nnx.eval_shape(
        lambda: LeNet(backend=backend, precision=precision, rngs=nnx.Rngs(params=0))
    )
    graphdef, state = nnx.split(model, nnx.Param)

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        leaves = jax.tree.leaves(params)
        model = nnx.merge(graphdef, jax.tree.unflatten(jax.tree.structure(state), leaves))
        logits = model(images)
        return jnp.mean(ops.cross_entropy(logits, labels)), logits

    (value, logits), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    named = {f"{layer}.{k}": v for layer, arrays in gradients.items() for k, v in arrays.items()}
    return {"logits": logits, "loss": value.reshape(1)} | named


def probe_winners(function: Any, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """The gradients of x by single pixels of the output, for `read_winners`.

    Pixels three apart have windows that do not touch, so nine gradients of a channel hold those of
    all its pixels: (3, 3, k, b, h, w, c).
    """
    output, vjp = jax.vjp(lambda x: function(x, kernel, bias + LARGE_BIAS), x)
    rows, columns, channels = (np.arange(n) for n in output.shape[1:])
    third = np.arange(3)
    row = (rows % 3 == third[:, None])[:, None, None, None, :, None, None]
    column = (columns % 3 == third[:, None])[None, :, None, None, None, :, None]
    channel = (channels == channels[:, None])[None, None, :, None, None, None, :]
    cotangents = jnp.broadcast_to(
        jnp.asarray(row & column & channel, x.dtype), (3, 3, len(channels), *output.shape)
    )
    over_probes = jax.vmap(jax.vmap(jax.vmap(lambda cotangent: vjp(cotangent)[0])))
    return over_probes(cotangents)


def read_winners(probes: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Which pixel of its block each output (b, h2, w2, k) sent its gradient to.

    There its gradient is the kernel; the nearest of the kernel's four places is taken.
    """
    size, _, _, k = kernel.shape
    sides = tuple((side - size + 1) // 2 for side in probes.shape[4:6])
    windows = np.lib.stride_tricks.sliding_window_view(probes, (size + 1, size + 1), axis=(4, 5))
    i, j = np.indices(sides)
    own = windows[i % 3, j % 3, :, :, 2 * i, 2 * j]  # (h2, w2, k, b, c, s + 1, s + 1)
    placed = np.zeros((4, k, 1, kernel.shape[2], size + 1, size + 1))
    for phase in range(4):
        row, column = divmod(phase, 2)
        there = placed[phase, :, 0, :, row : row + size, column : column + size]
        there[...] = kernel.transpose(3, 2, 0, 1)
    distances = [((own - there) ** 2).sum(axis=(-3, -2, -1)) for there in placed]
    return np.argmin(distances, axis=0).transpose(3, 0, 1, 2)


def compare(values: dict[str, Any], expected: dict[str, Any], cases: Cases) -> dict[str, Any]:
    """Of each case the largest errors of each array, and which winners moved."""
    checks = {}
    for name, arrays in expected.items():
        errors = {}
        for key in values[name].keys() & arrays.keys():
            difference = np.abs(values[name][key] - arrays[key]).max()
            largest = np.abs(arrays[key]).max()
            errors[key] = {
                "absolute": float(difference),
                "relative": float(difference / largest if largest > 0 else difference),
            }
        checks[name] = {"errors": dict(sorted(errors.items()))}
        if "probes" in values[name]:
            moved = read_winners(values[name]["probes"], cases[name][1]) != arrays["winner"]
            tied = arrays["tied"]
            checks[name] |= {
                "pools": moved.size,
                "ties": int(tied.sum()),
                "ties_moved": int((moved & tied).sum()),
                "others_moved": int((moved & ~tied).sum()),
            }
        if name == "lenet":
            predicted, right = (np.argmax(a["logits"], axis=1) for a in (values[name], arrays))
            checks[name]["predictions_changed"] = int((predicted != right).sum())
    return checks


def find_violations(checks: dict[str, Any], bound: float) -> list[str]:
    """What is out of bounds: any error of integers; other errors by the bound; any tie moved."""
    messages = []
    for name, check in checks.items():
        allowed = 0.0 if name.endswith("integers") else bound
        for array, error in check["errors"].items():
            # Written so that an error that is no number is out of bounds.
            if not error["relative"] <= allowed:
                messages.append(f"{name}: {array}: relative error {error['relative']:.1e}")
        if check.get("ties_moved"):
            messages.append(f"{name}: {check['ties_moved']} of {check['ties']} ties moved")
    return messages
