"""A network of one's own, from its file to a run that is resumed, loaded and swept."""

import json
import signal
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import lenet_jax
from lenet_jax import config as configs
from lenet_jax import inspect
from lenet_jax.config.flags import help_text, make_flags, parse
from lenet_jax.errors import UserError
from lenet_jax.export import export
from lenet_jax.inference.state_dict import make_metadata
from lenet_jax.storage.columns import Columns
from lenet_jax.sweeps.members import Members
from lenet_jax.sweeps.options import Options, make_options
from lenet_jax.sweeps.plan import make_groups
from lenet_jax.sweeps.run import run as run_sweep
from lenet_jax.training.hyperparameters import hyperparameters, seeds
from lenet_jax.training.population import Population
from lenet_jax.training.spec import make_spec
from lenet_jax.training.step import init_state, train_epoch
from tests.support import tiny
from tests.support.runs import send_in_epoch, start

EXAMPLE = "examples/own_network.py:Net"
SOURCE = Path("examples/own_network.py")
TINY = tiny.CONFIG | {"train.micro_batch_size": 8, "data.image_size": 16}
LENET = ("model.channels", "model.features")


def config(**changes):
    """The tiny config for the network of the example, or another one."""
    own = {path: value for path, value in TINY.items() if path not in LENET}
    changes = {path.replace("__", "."): value for path, value in changes.items()}
    return configs.load(
        "configs/notes.py", (own | {"model.name": EXAMPLE, "model.width": 4} | changes).items()
    )


def without_speed(file):
    """The content of a file, without the column of images per second, the last."""
    if file.suffix != ".csv":
        return file.read_bytes()
    return [line.rpartition(",")[0] for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    data = tiny.write_idx_folder(folder / "bars")
    return start(folder / "run", config(data__name=str(data)))


def test_its_arguments_are_config_keys():
    text = help_text(make_flags(), network=EXAMPLE)
    assert "model.width" in text and "model.dropout" in text and "model.channels" not in text
    own = config(model__dropout=0)
    assert own.model.to_dict() == {"name": EXAMPLE, "width": 4, "dropout": 0.0}
    assert isinstance(own.model.dropout, float)
    flags = ["--config=configs/notes.py", "--workdir=x", f"--config.model.name={EXAMPLE}"]
    parsed = parse(
        [*flags, "--config.model.width=7", "--config.model.dropout", "0.5"], make_flags()
    )
    assert (parsed.model.width, parsed.model.dropout) == (7, 0.5)
    assert configs.from_dict(configs.to_dict(parsed)).to_dict() == parsed.to_dict()


def test_a_run_writes_its_weights_statistics_and_source(finished):
    assert finished.code == 0
    weights = load_file(finished.path / "model.safetensors")
    assert set(weights) == {
        *("conv.kernel", "conv.bias", "linear.kernel", "linear.bias"),
        *("norm.scale", "norm.bias", "norm.mean", "norm.var"),
    }
    assert np.any(weights["norm.mean"] != 0)
    assert (finished.path / "network.py").read_bytes() == SOURCE.read_bytes()
    assert finished.read("summary.json")["num_params"] == sum(
        array.size for name, array in weights.items() if name not in ("norm.mean", "norm.var")
    )
    assert (finished.path / "filters.png").exists()


def test_a_finished_run_is_read_only_with_its_class(finished, monkeypatch):
    with pytest.raises(UserError, match=r"whose file runs as code\nIf you trust it, name it"):
        lenet_jax.load(finished.path)
    network = lenet_jax.load(finished.path, model=EXAMPLE)
    images = tiny.dataset().test.images
    accuracy = np.mean(network.predict(images) == tiny.dataset().test.labels)
    assert accuracy == pytest.approx(finished.read("summary.json")["test_accuracy"], abs=1e-6)
    assert "Net: dropout 0.2, width 4" in repr(network)
    assert network.layers == {
        **dict.fromkeys(("conv", "norm"), (16, 16, 4)),
        **{"dropout": (256,), "linear": (6,)},
    }
    logits = network.model.linear(network.features(images))  # what the last layer is given
    np.testing.assert_allclose(logits, network.features(images, "linear"), atol=1e-6)
    with pytest.raises(UserError, match="no layer 'fc2'; there are conv, norm, dropout, linear"):
        network.features(images, "fc2")


def test_it_is_compared_with_others_without_its_class(finished, notes_run, tmp_path, capsys):
    assert inspect.main([f"--compare={finished.path},{notes_run}", f"--out={tmp_path}"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    lines = {first: rest for first, *rest in rows}
    assert lines["model.width"] == ["4", "None"] and lines["model.pool"] == ["None", "max"]


def test_what_cannot_be_exported_is_said_in_a_line(finished, tmp_path, monkeypatch):
    network = lenet_jax.load(finished.path, model=EXAMPLE)
    with pytest.raises(UserError, match=r"is for LeNet; .* is a Net\n--format=safetensors writes"):
        export(network, "torch", tmp_path / "a.safetensors")

    def to_onnx(*arguments, **options):
        raise NotImplementedError("no operation erf_inv")

    monkeypatch.setitem(sys.modules, "jax2onnx", SimpleNamespace(to_onnx=to_onnx))
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace())
    with pytest.raises(UserError, match=r"--format=onnx: examples/own_network.py: .* erf_inv\n"):
        export(network, "onnx", tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_a_changed_file_is_said(finished, tmp_path):
    (tmp_path / "own.py").write_text(SOURCE.read_text() + "\n# changed\n")
    with pytest.warns(UserWarning, match="own.py changed since"):
        lenet_jax.load(finished.path, model=f"{tmp_path / 'own.py'}:Net")


def test_an_interrupted_run_resumes_to_the_same_bits(finished, tmp_path, monkeypatch):
    for epoch, number, code in ((1, signal.SIGTERM, 143), (2, signal.SIGINT, 130)):
        with monkeypatch.context() as patch:
            send_in_epoch(patch, epoch, number)
            assert start(tmp_path / "run", finished.config).code == code
    assert start(tmp_path / "run", finished.config).code == 0
    for name in ("model.safetensors", "metrics.csv"):
        ours, theirs = (path / name for path in (tmp_path / "run", finished.path))
        assert without_speed(ours) == without_speed(theirs)


def test_members_of_a_population_are_single_runs():
    rates = np.linspace(0.01, 0.1, 8).tolist()
    members = [config(seed=seed, optimizer__learning_rate=rate) for seed, rate in enumerate(rates)]
    dataset = tiny.dataset()
    spec = make_spec(members[0], dataset)
    population = Population(spec, 8, devices=jax.devices()[:1])
    splits: Any = [population.put(split) for split in (dataset.train, dataset.valid)]
    train_split, valid_split = splits
    state, settings = population.start(members)
    for epoch in range(2):
        state, _ = population.train_epoch(state, settings, train_split, valid_split, epoch)
    picked = population.pick(nnx.filter_state(state.state.params, nnx.Not(nnx.RngState)), 8)
    train = jax.jit(train_epoch, static_argnums=0, compiler_options=spec.compiler_options())
    for index, member in enumerate(members):
        settings = hyperparameters(member)
        alone = init_state(spec, seeds(member), settings)
        for epoch in range(2):
            alone, _ = train(spec, alone, train_split, np.int32(epoch), settings)
        expected = nnx.filter_state(alone.params, nnx.Not(nnx.RngState))
        jax.tree.map(
            lambda a, b, i=index: np.testing.assert_array_equal(a[i], b),
            picked,
            expected,
        )


TRACED = """
from flax import nnx
class Net(nnx.Module):
    traced = ("slope",)
    def __init__(self, *, image_shape, num_classes, rngs, slope: float, dropout=0.1):
        self.linear = nnx.Linear(256, num_classes, rngs=rngs)
        self.slope = nnx.Variable(slope)
    def __call__(self, x):
        return nnx.leaky_relu(self.linear(x.reshape(len(x), -1)), self.slope[...])
"""


PROTOTYPES = """
import jax.numpy as jnp
from flax import nnx

class Net(nnx.Module):
    def __init__(self, image_shape, num_classes, rngs, own: bool = True):
        if not own:
            self.linear = nnx.Linear(image_shape[0] * image_shape[1], num_classes, rngs=rngs)
        self.centres = nnx.Param(jnp.zeros((1, num_classes, *image_shape)))

    def __call__(self, x):
        if hasattr(self, "linear"):
            return self.linear(x.reshape(len(x), -1))
        return -((x[:, None] - self.centres[...]) ** 2).mean((2, 3, 4))
"""


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [[True], [True, False]])
def test_a_dry_run_takes_networks_without_matrix_products(tmp_path, capsys, sweep):
    file, data = tmp_path / "own.py", tiny.write_idx_folder(tmp_path / "bars")
    file.write_text(PROTOTYPES)
    own = {path: value for path, value in TINY.items() if path not in LENET}
    changes = own | {"model.name": f"{file}:Net", "data.name": str(data)}
    base = configs.load("configs/notes.py", changes.items())
    members = Members(base, Columns.of([{"model.own": value} for value in sweep]))
    assert run_sweep(base, members, Options(str(tmp_path / "s"), dry_run=True), ["again"]) == 0
    assert "about 0:" in capsys.readouterr().out


@pytest.mark.slow
def test_members_that_differ_in_a_traced_number_share_a_program_and_are_single_runs(
    tmp_path, no_figures
):
    file, data = tmp_path / "own.py", tiny.write_idx_folder(tmp_path / "bars")
    file.write_text(TRACED)
    name, slopes = f"{file}:Net", [0.1, 0.0, 3.0]
    own = {path: value for path, value in TINY.items() if path not in LENET}
    changes = own | {"model.name": name, "data.name": str(data), "model.slope": 0.5}
    base = configs.load("configs/notes.py", changes.items())
    path, sweep = tmp_path / "sweep", [{"model.slope": slope} for slope in slopes]
    members = Members(base, Columns.of(sweep))
    assert len(make_groups(members, lambda _: tiny.dataset(), shared_data_order=False)) == 1
    assert run_sweep(base, members, Options(str(path), save="all"), ["again"]) == 0
    alone = start(tmp_path / "run", configs.replace(base, sweep[2]))
    network, single = (
        lenet_jax.load(each, member, model=name) for each, member in ((path, 2), (alone.path, None))
    )
    for weight, values in single.state_dict.items():
        np.testing.assert_array_equal(network.state_dict[weight], values)
    assert [float(lenet_jax.load(path, m, model=name).model.slope[...]) for m in range(3)] == (
        pytest.approx(slopes)
    )
    assert "Net: dropout 0.1, slope 3.0" in repr(network)
    network.save(tmp_path / "one.safetensors")
    again = lenet_jax.load(tmp_path / "one.safetensors", model=name)
    images = tiny.dataset().test.images
    np.testing.assert_array_equal(again.logits(images), single.logits(images))
    # A run that starts from its weights has its own slope.
    changes = {"model.slope": 0.7, "train.initial_weights": f"{path}:2"}
    run = start(tmp_path / "on", configs.replace(base, changes))
    assert load_file(run.path / "model.safetensors")["slope"] == np.float32(0.7)


NETWORK = """
from flax import nnx
class Net(nnx.Module):
    def __init__(self, *, image_shape, num_classes, rngs{arguments}):
        self.linear = nnx.Linear(256, {units}, rngs=rngs)
    def __call__(self, x):
        return self.linear(x.reshape(len(x), {inputs}))
    {traced}
class Other:
    pass
"""


@pytest.mark.parametrize(
    ("name", "text", "changes", "message"),
    [
        (
            "mlpp",
            "",
            {},
            "model.name=mlpp: must be one of lenet, mlp, .*, FILE.py:Class",
        ),
        ("no.py:Net", None, {}, "no network file no.py"),
        ("{file}:Nett", {}, {}, "has no class Nett"),
        ("{file}:Other", {}, {}, "has no nnx.Module Other"),
        ("no_such_package:Net", None, {}, "no module no_such_package"),
        ("{file}:Net", {}, {"model.width": 3}, "unknown key --config.model.width"),
        ("{file}:Net", {"arguments": ", width"}, {}, "missing keys: model.width"),
        (
            "{file}:Net",
            {"arguments": ", w: int = 2"},
            {"model.w": "x"},
            "model.w=x: must be an int",
        ),
        ("{file}:Net", {"arguments": ", w: dict"}, {}, "argument w has no default"),
        (
            "{file}:Net",
            {
                "arguments": ", w=0.1",
                "units": "6, rngs=rngs); self.dropout = nnx.Dropout(w",
                "traced": "traced = ('w',)",
            },
            {},
            "keeps bare JAX arrays: .*\n.*\nIf a layer needs the value of w, as nnx.Dropout does",
        ),
        (
            "{file}:Net",
            {"arguments": ", w: int = 2", "traced": "traced = 'w'"},
            {},
            "Net.traced names w, which is no argument of its constructor that takes a float",
        ),
        ("{file}:Net", {"units": 5}, {}, r"to \(2, 5\), not to logits of shape \(2, 6\)"),
        ("..x:Net", None, {}, r"model.name: ..x is neither a module nor a file"),
        ("lenet_jax.nn.lenet:LeNet", None, {}, "is called lenet here"),
        (
            "{file}:Net",
            {"arguments": ", w=((1, 2),)"},
            {"model.w": 3},
            "unknown key --config.model.w",
        ),
        (
            "{file}:Net",
            {"arguments": ", pool=2"},
            {"model.pool": "max"},
            "model.pool=max: must be an int",
        ),
        ("{file}:Net", {"inputs": "-1)).astype(int)  #"}, {}, r"to int32 \(2, 6\), not to logits"),
        ("{file}:Net", {"inputs": 99}, {}, r"own.py:7: TypeError"),
        ("{file}:Net", {"units": "1 / 0"}, {}, r"own.py:5: ZeroDivisionError"),
    ],
)
def test_mistakes_are_short(tmp_path, name, text, changes, message):
    file = tmp_path / "own.py"
    if text is not None:
        defaults = {"arguments": "", "units": "num_classes", "inputs": -1, "traced": ""}
        file.write_text(NETWORK.format(**defaults | (text or {})))
    with pytest.raises(UserError, match=message) as caught:
        own = {path: value for path, value in TINY.items() if path not in LENET}
        overrides = own | {"model.name": name.format(file=file)} | changes
        make_spec(configs.load("configs/notes.py", overrides.items()), tiny.dataset())
    assert len(str(caught.value).splitlines()) <= 3


ODD = """
import jax, jax.numpy as jnp
from flax import nnx
from beside import double
class Count(nnx.Variable):
    pass
class Net(nnx.Module):
    def __init__(self, *, image_shape, num_classes, rngs, pool: int = 2, limit=float("inf")):
        self.linear = nnx.Linear(256, num_classes, rngs=rngs)
        self.mask = nnx.BatchStat(jnp.array([True, False]))
        self.bias = nnx.BatchStat(jnp.full(2, -jnp.inf))
        self.calls = Count(jnp.int32(0))
        self.scale = nnx.Variable(2.0)
        self.key = nnx.Variable(jax.random.key(0))
    def __call__(self, x):
        self.calls[...] += 1
        self.seen = nnx.Intermediate(x)
        return double(self.scale / 2.0 * self.linear(x.reshape(len(x), -1)))
"""


def test_a_module_may_keep_what_it_likes(tmp_path):
    (tmp_path / "own.py").write_text(ODD)
    (tmp_path / "beside.py").write_text("def double(x):\n    return 2 * x\n")
    data = tiny.write_idx_folder(tmp_path / "bars")
    own = {path: value for path, value in TINY.items() if path not in LENET}
    name = f"{tmp_path / 'own.py'}:Net"
    changes = own | {"model.name": name, "data.name": str(data), "train.num_epochs": 1}
    run = start(tmp_path / "run", configs.load("configs/notes.py", changes.items()))
    assert run.code == 0
    assert "Net has no convolution that takes the images: filters.png and feat" in run.output
    assert {file.name for file in run.path.glob("*.png")} == {
        *("confusion_matrix.png", "curves.png", "mistakes.png"),
    }
    weights = load_file(run.path / "model.safetensors")
    assert set(weights) == {"linear.kernel", "linear.bias", "mask", "bias", "calls", "scale"}
    assert weights["calls"] == 70 // 16 + 1  # the last batch is smaller
    network = lenet_jax.load(run.path, model=name)
    images = tiny.dataset().test.images
    accuracy = np.mean(network.predict(images) == tiny.dataset().test.labels)
    assert accuracy == pytest.approx(run.read("summary.json")["test_accuracy"], abs=1e-6)
    for kind in ("stablehlo", "safetensors"):
        assert "reloaded" in export(network, kind, tmp_path / f"a.{kind}")[-1]
    # Edited, its weights would mean something else.
    (tmp_path / "own.py").write_text(ODD.replace("2 * x", "x") + "\n")
    longer = configs.replace(run.config, {"train.num_epochs": 2, "train.schedule_epochs": 1})
    changed = "own.py or a file that it imports changed since "
    with pytest.raises(UserError, match=f"{changed}.*run was started"):
        start(run.path, longer)
    assert (run.path / "network.py").read_text() == ODD
    assert changed in start(run.path, run.config).output
    (tmp_path / "own.py").write_text(ODD)
    (tmp_path / "beside.py").write_text("def double(x):\n    return 3 * x  # edited\n")
    with pytest.raises(UserError, match=changed):
        start(run.path, longer)
    with pytest.warns(UserWarning, match=changed):
        edited = lenet_jax.load(run.path, model=name)
    np.testing.assert_allclose(edited.logits(images), 1.5 * network.logits(images), rtol=1e-5)


MIXED = """
import jax.numpy as jnp
from flax import nnx
class Net(nnx.Module):
    def __init__(self, *, image_shape, num_classes, rngs):
        self.linear = nnx.Linear(256, num_classes, param_dtype=jnp.bfloat16, rngs=rngs)
        self.scale = nnx.Linear(1, num_classes, rngs=rngs)
        self.count = nnx.Variable(jnp.int32(7))
    def __call__(self, x):
        return self.linear(x.reshape(len(x), -1)) * self.scale(jnp.ones((1, 1)))
"""


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@jax.numpy_dtype_promotion("standard")  # as in a run
def test_a_member_is_loaded_in_the_dtypes_of_its_network(tmp_path, dtype, no_figures):
    (tmp_path / "own.py").write_text(MIXED)
    name, data = f"{tmp_path / 'own.py'}:Net", tiny.write_idx_folder(tmp_path / "bars")
    own = {path: value for path, value in TINY.items() if path not in LENET}
    changes = own | {"model.name": name, "data.name": str(data), "train.num_epochs": 1}
    base = configs.load("configs/notes.py", changes.items())
    flags = {"record": "weights", "record_every": 1, "record_dtype": dtype}
    options = make_options(str(tmp_path / "sweep"), save="all", **flags)
    members = Members(base, Columns.of([{"seed": 0}, {"seed": 1}]))
    assert run_sweep(base, members, options, ["again"]) == 0
    final = lenet_jax.load(tmp_path / "sweep", 1, model=name).state_dict
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*recorded in float16")
        recorded = lenet_jax.load(tmp_path / "sweep", 1, model=name, epoch=1).state_dict
    assert {array.dtype.name for array in final.values()} == {"bfloat16", "float32", "int32"}
    for path, array in final.items():
        assert recorded[path].dtype == array.dtype
        rounded = array.astype(dtype) if array.dtype == np.float32 else array
        np.testing.assert_array_equal(recorded[path], rounded.astype(array.dtype))


CLAIMING = """
import jax
from flax import nnx
class Net(nnx.Module):
    traced = "slope"
    def __init__(self, *, image_shape, num_classes, rngs, units: int = 3, slope: float = 0.1):
        assert isinstance(rngs(), jax.core.Tracer), "memory is taken"
        self.linear = nnx.Linear(units, num_classes, rngs=rngs)
    def __call__(self, x):
        return self.linear(x.reshape(len(x), -1))
"""


@pytest.mark.parametrize(
    ("arguments", "classes", "message"),
    [
        ({"units": 1 << 40}, "ab", r"misshapen: linear\.kernel \(3, 2\), not \(1099511627776, 2\)"),
        ({"slope": "steep"}, "ab", r"own\.py: ValueError: .*steep"),
        ({"slope": 10**400}, "ab", r"own\.py: OverflowError"),
        ({}, "a", "a: bad metadata: classes: at least two are needed"),
    ],
)
def test_a_file_takes_no_memory_before_its_metadata_fit(tmp_path, arguments, classes, message):
    (tmp_path / "own.py").write_text(CLAIMING)
    weights = {"linear.kernel": np.ones((3, 2)), "linear.bias": np.ones(2)}
    metadata = {
        **make_metadata((0.0,), (1.0,), classes),
        **{"network": "own.py:Net", "image_shape": "1 3 1", "arguments": json.dumps(arguments)},
    }
    save_file({n: a.astype(np.float32) for n, a in weights.items()}, tmp_path / "a", metadata)
    with pytest.raises(UserError, match=message):
        lenet_jax.load(tmp_path / "a", model=f"{tmp_path / 'own.py'}:Net")


def test_a_sweep_does_not_mix_members_of_two_texts(tmp_path):
    text = NETWORK.format(arguments="", units=6, inputs=-1, traced="")
    (tmp_path / "own.py").write_text(text)
    data = tiny.write_idx_folder(tmp_path / "bars")
    own = {path: value for path, value in TINY.items() if path not in LENET}
    name = f"{tmp_path / 'own.py'}:Net"
    changes = own | {"model.name": name, "data.name": str(data), "train.num_epochs": 1}
    base = configs.load("configs/notes.py", changes.items())

    def sweep(name="sweep", **flags):
        members = Members(base, Columns.of([{"seed": 0}, {"seed": 1}]))
        options = Options(str(tmp_path / name), chunk_size=1, **flags)
        return run_sweep(base, members, options, ["again"])

    changed = r"the file of the network changed since .* was started"
    assert sweep() == 0
    (tmp_path / "own.py").write_text(text + "\n# edited\n")
    with pytest.raises(UserError, match=changed):
        sweep()
    (tmp_path / "own.py").write_text(text)
    assert sweep() == 0

    assert sweep("array", plan_only=True) == 0  # as for a job array
    assert sweep("array", worker=(1, 2)) == 0
    (tmp_path / "own.py").write_text(text + "\n# edited\n")
    with pytest.raises(UserError, match=changed):
        sweep("array", worker=(2, 2))
