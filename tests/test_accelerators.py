"""What depends on the device in use, as far as a CPU can show it."""

import functools
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.sharding import NamedSharding, PartitionSpec

from lenet_jax import config as configs
from lenet_jax import data, export, machine
from lenet_jax.device_defaults import defaults_of
from lenet_jax.errors import UserError, run_command
from lenet_jax.inference.network import Network
from lenet_jax.nn import native, ops
from lenet_jax.nn.lenet import LeNet
from lenet_jax.storage.columns import Columns
from lenet_jax.sweeps import plan
from lenet_jax.sweeps import run as sweeps
from lenet_jax.sweeps.members import Members
from lenet_jax.sweeps.options import Options
from lenet_jax.training import evaluation, forward
from lenet_jax.training import step as steps
from lenet_jax.training.batches import DeviceSplit
from lenet_jax.training.hyperparameters import hyperparameters, seeds
from lenet_jax.training.loop import Trainer
from lenet_jax.training.population import Population
from lenet_jax.training.spec import make_spec
from lenet_jax.training.streams import stream
from tests.support import tiny

DATASET = tiny.dataset()
MNIST = data.load("mnist")
SECOND = jax.devices()[1]


def equations(jaxpr):
    """The equations of a jaxpr and of what it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if isinstance(inner, ClosedJaxpr | Jaxpr):
                    yield from equations(getattr(inner, "jaxpr", inner))


def products(jaxpr):
    """Its matrix products and convolutions."""
    names = "dot_general", "conv_general_dilated"
    return [equation for equation in equations(jaxpr) if equation.primitive.name in names]


@pytest.mark.parametrize(
    ("precision", "expected"), [("float32", "HIGHEST"), ("tensorfloat32", "HIGH")]
)
@pytest.mark.parametrize("backend", ["phase", "plain"])
def test_every_product_of_training_and_inference_states_its_precision(backend, precision, expected):
    train = {"precision": precision}
    config = tiny.config(train=train, model={"backend": backend}, augment={"rotate": 5.0})
    spec, settings = make_spec(config, DATASET), hyperparameters(config)
    state = steps.init_state(spec, seeds(config), settings)
    split = DeviceSplit.of(DATASET.train)
    epoch = functools.partial(steps.train_epoch, spec)
    graphs = [
        jax.make_jaxpr(epoch)(state, split, jnp.int32(0), settings),
        jax.make_jaxpr(functools.partial(evaluation.evaluate, spec))(state.params, split),
        jax.make_jaxpr(nnx.merge(spec.graphdef, state.params).activations)(
            jnp.zeros((1, 16, 16, 1))
        ),
    ]
    found = [equation for graph in graphs for equation in products(graph.jaxpr)]
    stated = [equation.params["precision"] for equation in found]
    assert len(stated) > 15
    asked, exact = (jax.lax.Precision[name] for name in (expected, "HIGHEST"))
    assert {*stated} == {(asked, asked), (exact, exact)}  # exact: whether parameters are finite


@pytest.mark.parametrize(("backend", "shape"), [("phase", (36, 72)), ("pallas", (1, 16, 16, 2))])
def test_networks_that_share_images_share_the_windows_of_conv1(backend, shape):
    """Whatever reads windows (36 pixels of 36 blocks in 2 images), or images, reads them once."""
    model = LeNet(image_size=16, backend=backend, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(model, nnx.Param)
    networks = jax.tree.map(lambda x: jax.ShapeDtypeStruct((3, *x.shape), x.dtype), params)

    def loss(params, images):
        return nnx.merge(graphdef, params)(images).sum()

    over_networks = jax.vmap(jax.grad(loss), (0, None))
    program = jax.make_jaxpr(over_networks)(networks, jnp.zeros((2, 16, 16, 1))).jaxpr
    names = {"phase": "dot_general", "pallas": "_of_many"}
    readers = [
        equation
        for equation in equations(program)
        if equation.primitive.name.endswith(names[backend])
        and shape in [x.aval.shape for x in equation.invars]
    ]
    assert len(readers) == 2  # conv1, and the gradient of its kernel
    outputs = [x.aval.shape for equation in equations(program) for x in equation.outvars]
    assert (3, 1, 16, 16, 2) not in outputs  # the images for each network, or their gradient
    assert (3, 36, 72) not in outputs


@pytest.mark.parametrize("network", ["mlp", "flax_mnist"])
def test_every_product_of_another_network_has_the_precision_of_its_run(network, monkeypatch):
    monkeypatch.setattr(forward, "defaults_of", lambda _: defaults_of(a_gpu(None)))
    changes = [("model.name", network), ("train.precision", "tensorfloat32")]
    with jax.numpy_dtype_promotion("standard"):  # Flax's own layers mix dtypes
        spec = make_spec(configs.load("configs/notes.py", changes), MNIST)
        images = jax.ShapeDtypeStruct((2, *spec.image_shape), jnp.float32)
        graph = jax.make_jaxpr(functools.partial(forward.apply, spec))(spec.variables, images)
    stated = [equation.params["precision"] for equation in products(graph.jaxpr)]
    assert len(stated) > 2 and {*stated} == {(jax.lax.Precision.HIGH,) * 2}


def test_an_export_has_the_precision_of_its_run():
    def network(precision):
        model = LeNet(precision=precision, rngs=nnx.Rngs(0))
        return Network(model, (0.0,), (1.0,), tuple("0123456789"), "here")

    pixels = np.zeros((1, 32, 32, 1), np.uint8)
    for precision, expected in (("float32", "HIGHEST"), ("tensorfloat32", "HIGH")):
        text = jax.jit(export._logits_of(network(precision))).lower(pixels).as_text()
        stated = re.findall(r"HIGHEST|HIGH\b|DEFAULT", text)
        assert len(stated) == 10 and {*stated} == {expected}  # both operands of five layers


def test_exports_are_compared_as_closely_as_the_device_computes(monkeypatch):
    assert export.tolerance("tensorfloat32", "cpu") == export.tolerance("float32", "gpu") == 1e-5
    assert export.tolerance("float32", "gpu") < export.tolerance("tensorfloat32", "gpu")
    assert export.tolerance("tensorfloat32", "tpu") < export.tolerance("bfloat16", "tpu") < 0.1
    for multiplies, expected in ((False, "float32"), (True, "bfloat16")):
        monkeypatch.setattr(native, "has_bfloat16", lambda answer=multiplies: answer)
        assert export.tolerance("bfloat16", "cpu") == export.tolerance(expected, "tpu")


def test_backend_and_options_follow_the_platform():
    gpu = a_gpu(None)
    assert ops.choose_backend("auto", gpu) == "phase"
    assert ops.choose_backend("plain", gpu) == "plain"
    with pytest.raises(UserError, match="is for CPUs"):
        ops.choose_backend("native", gpu)
    assert ops.compiler_options(gpu) == {} != ops.compiler_options()


def test_the_default_device_trains_and_predicts_alone():
    config = tiny.config(train={"micro_batch_size": 8})
    with jax.default_device(SECOND):
        assert machine.devices() == [SECOND]
        trainer = Trainer(config, DATASET)
        assert trainer.spec.num_devices == 1  # though a batch has two micro-batches
        state = trainer.init()
        assert devices_of(state) == {SECOND}
        model = nnx.merge(trainer.spec.graphdef, state.params)
        network = Network(model, (0.0,), (1.0,), tuple("abcdef"), "here")
        seen = []

        def program(graphdef, mean, std, params, images):
            logits = jax.jit(nnx.merge(graphdef, params))(network.normalise(images))
            seen.append(logits.devices())
            return logits

        network.run(program, DATASET.test.images)
        assert seen == [{SECOND}]
    assert machine.devices() == jax.devices()


def test_a_population_computes_on_the_devices_it_is_given(monkeypatch):
    seen = []

    def choose(backend, platform=None):
        seen.extend(machine.devices())  # whose platform decides
        return "phase"

    monkeypatch.setattr(ops, "choose_backend", choose)
    config = tiny.config()
    spec = make_spec(config, DATASET)
    seen.clear()
    population = Population(spec, 1, devices=[SECOND])
    members, settings = population.start([config])
    assert devices_of(members) == {SECOND}
    splits = population.put(DATASET.train), population.put(DATASET.valid)
    population._advance.lower(members, settings, *splits, np.int32(0))
    assert {*seen} == {SECOND}


def devices_of(tree):
    return {device for leaf in jax.tree.leaves(tree) for device in leaf.devices()}


def a_gpu(stats):
    return SimpleNamespace(platform="gpu", device_kind="GPU X", memory_stats=lambda: stats)


@pytest.mark.parametrize(
    ("stats", "free"),
    [
        ({"bytes_limit": 10, "bytes_in_use": 3}, 7),
        ({"bytes_limit": 10}, 10),
        ({"bytes_in_use": 3}, None),
        ({}, None),
        (None, None),
    ],
)
def test_the_memory_of_an_accelerator_is_never_taken_for_the_hosts(stats, free):
    assert machine.available_memory(a_gpu(stats)) == free


def test_unknown_memory_is_assumed_to_be_little_unless_the_chunks_are_chosen(monkeypatch):
    monkeypatch.setattr(machine, "devices", lambda: [a_gpu(None)])
    config = tiny.config()
    members = Members(config, Columns.of([{"seed": seed} for seed in range(4000)]))
    group = plan.Group(make_spec(config, DATASET), DATASET, members)
    warnings = []
    chunks = sweeps._plan_chunks([group], Options("x"), warnings.append)
    need = plan.memory_needed(group, [a_gpu(None)], chunks[0].size, "vmap")
    assert need < machine.ASSUMED_MEMORY
    assert warnings == [
        "GPU X does not say how much memory is free: 4.0 GB are assumed;"
        " --chunk_size=N trains N members at once"
    ]
    chosen = Options("x", chunk_size=2000)
    chunks = sweeps._plan_chunks([group], chosen, warnings.append)
    assert [chunk.size for chunk in chunks] == [2000, 2000] and len(warnings) == 1


@pytest.fixture(scope="module")
def side_by_side():
    """A population as an accelerator trains it: `phase`, under `vmap`, on two devices."""
    config = tiny.config(model={"backend": "phase"})
    population = Population(make_spec(config, DATASET), 4, strategy="vmap")
    members, settings = population.start([config] * 4)
    arguments = members, settings, population.put(DATASET.train), population.put(DATASET.valid)
    return population, arguments, population.compile_epoch(*arguments)


def test_an_epoch_of_a_population_is_for_every_platform_and_adds_in_one_order(side_by_side):
    """It calls nothing that only CPUs have, and no two threads add to one number."""
    population, arguments, _ = side_by_side
    traced = population._advance.trace(*arguments, np.int32(0))
    added = ("scatter-add", "select_and_scatter_add", "reduce_window_sum")
    names = {equation.primitive.name for equation in equations(traced.jaxpr.jaxpr)}
    assert names.isdisjoint(added)
    for platform in ("cuda", "rocm", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        called = {*re.findall(r"stablehlo.custom_call @(\w+)", text)}
        assert called <= {"cu_threefry2x32_ffi", "hip_threefry2x32_ffi"}  # JAX's random bits


def test_an_epoch_of_a_population_transfers_nothing_and_takes_its_members(side_by_side):
    population, (members, *rest), compiled = side_by_side
    epoch = jax.device_put(np.int32(0), NamedSharding(population._mesh, PartitionSpec()))
    with jax.transfer_guard("disallow"):
        after, metrics = compiled(members, *rest, epoch)
    assert np.isfinite(np.asarray(metrics.train_loss)).all()
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(members.state.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((after, rest)))


def test_a_population_side_by_side_needs_no_more_memory_than_a_sweep_expects(side_by_side):
    population, _, compiled = side_by_side
    analysis = compiled.memory_analysis()  # of each of two devices
    need = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes
    members = Members(tiny.config(), Columns.of([{}]))
    group = plan.Group(population.spec, DATASET, members)
    assert need < plan.memory_needed(group, [a_gpu(None)], 2, "vmap") < 6 * need


def test_random_bits_are_those_of_threefry_whatever_the_environment_says():
    expected = jax.random.bits(stream(0, "order"))
    with jax.default_prng_impl("rbg"):
        assert jax.random.bits(stream(0, "order")) == expected


def test_exhausted_memory_of_a_device_is_a_short_error(capsys):
    assert run_command(lambda: jnp.zeros((1 << 24, 1 << 24)).size) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("the device's memory is exhausted: RESOURCE_EXHAUSTED: Out of")
    assert "--chunk_size=N" in lines[1]
