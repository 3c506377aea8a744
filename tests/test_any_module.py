"""Styles of module that people bring: what they are given, how they are read, what is refused."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lenet_jax import config as configs
from lenet_jax.config.imports import files_of
from lenet_jax.config.source import code_of
from lenet_jax.errors import UserError
from lenet_jax.inference.network import Network
from lenet_jax.nn.layers import field, first_convolution, record
from lenet_jax.nn.variables import split_variables
from lenet_jax.report import findings
from lenet_jax.storage.checkpoint import Checkpoints
from lenet_jax.training.batches import DeviceSplit
from lenet_jax.training.forward import apply, apply_in_training
from lenet_jax.training.hyperparameters import hyperparameters, seeds
from lenet_jax.training.spec import make_spec
from lenet_jax.training.step import init_state, train_epoch
from tests.support import tiny

OWN = {k: v for k, v in tiny.CONFIG.items() if k not in ("model.channels", "model.features")}
HEAD = """
import jax, jax.numpy as jnp
from flax import nnx
class Net(nnx.Module):
    def __init__(self, *, image_shape, num_classes, rngs):
        self.linear = nnx.Linear(256, num_classes, rngs=rngs)
"""
CALL = """
    def __call__(self, x):
        return self.linear(x.reshape(len(x), -1))
"""


def config_of(folder, text, **changes):
    (folder / "net.py").write_text(text)
    values = OWN | {"model.name": f"{folder / 'net.py'}:Net"} | changes
    return configs.load("configs/notes.py", values.items())


def spec_of(folder, text):
    return make_spec(config_of(folder, text), tiny.dataset())


@pytest.mark.parametrize(
    ("arguments", "use"),
    [
        ("*, rngs", "rngs=rngs"),
        ("rngs=None", "rngs=rngs"),
        ("train: bool", "rngs=self.rngs, deterministic=not train"),
        ("training=False", "rngs=self.rngs, deterministic=not training"),
        ("deterministic=True", "rngs=self.rngs, deterministic=deterministic"),
    ],
)
def test_a_call_is_given_rngs_and_its_mode(tmp_path, arguments, use):
    text = f"""{HEAD}
        self.dropout = nnx.Dropout(0.5)
        self.rngs = rngs.fork()
    def __call__(self, x, {arguments}):
        return self.linear(self.dropout(x.reshape(len(x), -1), {use}))
"""
    spec = spec_of(tmp_path, text)
    variables = nnx.state(spec.make_model(jax.random.key(0)))
    images = jnp.asarray(tiny.dataset().test.images[:2])
    params, others = split_variables(variables)
    first, others = apply_in_training(spec, params, others, images)
    second, _ = apply_in_training(spec, params, others, images)
    plain = apply(spec, variables, images)
    assert jnp.all(apply(spec, variables, images) == plain)
    assert jnp.any(first != plain) and jnp.any(first != second)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "        self.scale = jnp.ones(3)\n" + CALL, "Net keeps bare JAX arrays: scale\n"),
        (HEAD + "        self.all = [self.linear]\n" + CALL, r"\nPut layers into nnx.List"),
        (
            HEAD.replace("image_shape, num_classes", "din, num_classes") + CALL,
            r"missing keys: model.din \(give them values or defaults; image_shape",
        ),
        (
            f"""{HEAD}        self.mean = nnx.BatchStat(jnp.zeros(256))
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        self.mean[...] = 0.9 * self.mean[...] + 0.1 * x.mean(0)
        return self.linear(x - self.mean[...][None])
""",
            "changes mean in evaluation too, and its logits depend on that",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        spec_of(tmp_path, text)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_list_is_a_key(tmp_path):
    head = HEAD.replace("rngs):", "rngs, widths=[8, 6]):")
    text = f"{head}        self.widths = nnx.static(widths + [num_classes])\n{CALL}"
    config = config_of(tmp_path, text, **{"model.widths": (4, 3)})
    assert make_spec(config, tiny.dataset()).abstract_model.widths == [4, 3, 6]
    assert config_of(tmp_path, text).model.widths == (8, 6)


@jax.numpy_dtype_promotion("standard")  # as in a run
def test_bfloat16_parameters_are_trained_and_kept(tmp_path):
    text = HEAD.replace("rngs=rngs)", "param_dtype=jnp.bfloat16, rngs=rngs)") + CALL
    config = config_of(tmp_path, text, **{"train.ema_decay": 0.9})
    dataset = tiny.dataset()
    spec = make_spec(config, dataset)
    settings = jax.tree.map(jnp.float32, hyperparameters(config))  # as a member's: not weakly typed
    state = init_state(spec, seeds(config), settings)
    train = functools.partial(train_epoch, spec, hyperparameters=settings)
    trained, _ = jax.eval_shape(train, state, DeviceSplit.of(dataset.train), jnp.int32(0))
    assert jax.tree.map(lambda x: x.dtype, trained) == jax.tree.map(lambda x: x.dtype, state)
    with Checkpoints(tmp_path / "checkpoints", 1) as checkpoints:
        checkpoints.save(1, state.params, {})
    with Checkpoints(tmp_path / "checkpoints", 1) as checkpoints:
        restored = checkpoints.restore(state.params, pytest.fail)
    assert restored is not None
    jax.tree.map(np.testing.assert_array_equal, restored[0], state.params)


class Block(nnx.Module):
    def __init__(self, conv, rngs):
        self.conv, self.norm = conv, nnx.LayerNorm(8, rngs=rngs)

    def __call__(self, x):
        return nnx.relu(self.norm(self.conv(x)))


class Deep(nnx.Module):
    """Its first convolution is not its first attribute; one is called twice."""

    def __init__(self, *, rngs, **options):
        shared = nnx.Conv(8, 8, (3, 3), rngs=rngs)
        self.blocks = nnx.List([Block(shared, rngs), Block(shared, rngs)])
        self.stem = nnx.Sequential(nnx.Conv(3, 8, (5, 3), rngs=rngs, **options), nnx.relu)
        self.out = nnx.Linear(8, 4, rngs=rngs)
        self.rngs = rngs  # which a pass in evaluation changes, as an `nnx.RNN` does

    def __call__(self, x):
        x = self.stem(x) + 0 * self.rngs.normal()
        for block in self.blocks:
            x = block(x)
        return self.out(x.mean((1, 2)))


class Jitted(nnx.Module):
    def __init__(self):
        self.inner = Deep(rngs=nnx.Rngs(0))

    def __call__(self, x):
        return nnx.jit(lambda inner, x: inner(x))(self.inner, x)


def test_layers_are_recorded_in_the_order_of_execution():
    images = jnp.ones((2, 16, 16, 3))
    call = Block.__call__
    model = Deep(rngs=nnx.Rngs(0))
    calls = record(model, images)
    assert [each.name for each in calls] == [
        *("stem.layers.0", "stem", "blocks.0.conv", "blocks.0.norm", "blocks.0"),
        *("blocks.0.conv:2", "blocks.1.norm", "blocks.1", "out"),
    ]
    np.testing.assert_array_equal(calls[-1].output, model(images))
    assert Block.__call__ is call
    first: Any = first_convolution(model, calls)
    assert (first[0], first[2]) == ("stem.layers.0", calls[0])
    hidden = Jitted()
    assert record(hidden, images) == []
    first = first_convolution(hidden, [])
    assert (first[0], first[2]) == ("inner.blocks.0.conv", None)


@pytest.mark.parametrize(
    "options",
    [
        {"strides": 2},
        {"strides": (1, 3), "padding": "VALID", "kernel_dilation": 2},
        {"padding": ((2, 1), (0, 3))},
        {"padding": 1},
        {"padding": "REFLECT"},
    ],
)
def test_a_unit_sees_its_field(options):
    model = Deep(rngs=nnx.Rngs(0), **options)
    convolution: Any = model.stem.layers[0]
    seen = field(convolution, (16, 16))
    assert seen is not None

    def unit(x):
        return convolution(x)[0, 2, 2].sum()

    rows, columns = np.nonzero(np.abs(jax.grad(unit)(jnp.ones((1, 16, 16, 3))))[0].sum(-1))
    corner = [2 * s - b for s, b in zip(seen.step, seen.before, strict=True)]
    assert (rows.min(), columns.min()) == tuple(max(0, c) for c in corner)
    last = [c + s - 1 for c, s in zip(corner, seen.size, strict=True)]
    assert (rows.max(), columns.max()) == tuple(last)


def test_findings_of_any_module():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 16, 16, 3)).astype(np.uint8)
    network = Network(
        Deep(rngs=nnx.Rngs(0), strides=2),
        (0.0,) * 3,
        (255.0,) * 3,
        tuple("abcd"),
        "x",
        image_shape=(16, 16, 3),
    )
    test = tiny.Split(images, rng.integers(0, 4, 20).astype(np.int32))
    measured = findings.find(network, test, findings.Example(images[3], "image 3"))
    ((name, filters),) = measured.filters.items()
    assert (name, filters.size) == ("stem.layers.0", (5, 3))
    assert filters.patches is not None and filters.patches.shape == (8, 9, 5, 3, 3)
    convolution = network.model.stem.layers[0]
    maps = np.asarray(convolution(network.normalise(images)))
    alone = nnx.clone(convolution)
    alone.padding = "VALID"
    for k in range(8):
        strongest = -np.sort(-maps[..., k].max((1, 2)))[:9]
        again = np.asarray(alone(network.normalise(filters.patches[k])))[:, 0, 0, k]
        np.testing.assert_allclose(again, strongest, atol=1e-5)
    np.testing.assert_allclose(measured.example_logits, network.logits(images[3:4])[0], atol=1e-5)
    assert set(measured.activations) == {*network.layers, "logits"} - {"out"}  # which gives them
    assert measured.saliency.shape == (16, 16)


def test_the_files_of_a_package_are_its_code(tmp_path, monkeypatch):
    package = tmp_path / "some_package"
    (package / "blocks").mkdir(parents=True)
    for name, text in {
        "__init__": "",
        "net": "import jax\nfrom .blocks import conv\nfrom some_package.helpers import f\n",
        "helpers": "import some_package.missing\nf = 1\n",
        "blocks/__init__": "from . import conv\n",
        "blocks/conv": "from ..helpers import f\n",
        "unused": "",
    }.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    files = files_of("some_package.net")
    assert [path.relative_to(package).as_posix() for path in files] == [
        *("net.py", "blocks/__init__.py", "blocks/conv.py", "helpers.py"),
    ]
    before = code_of("some_package.net:Net", "network")
    (package / "helpers.py").write_text("f = 2\n")
    assert code_of("some_package.net:Net", "network") != before
    assert code_of("cross_entropy", "loss") is None
