import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import lenet_jax.graph
from lenet_jax.nn import graph
from lenet_jax.nn.lenet import LeNet
from tests.support.backends import NATIVE


def lenet_operations(backend):
    graphdef, params = nnx.split(nnx.eval_shape(lambda: LeNet(backend=backend, rngs=nnx.Rngs(0))))

    def forward(params, x):
        return nnx.merge(graphdef, params)(x)

    return graph.operations(forward, params, jax.ShapeDtypeStruct((1, 32, 32, 1), "float32"))


@pytest.mark.parametrize("backend", ["plain", "phase", NATIVE])
def test_every_operation_of_the_network_has_its_layer(backend):
    operations = lenet_operations(backend)
    layers = list(dict.fromkeys(operation.layer for operation in operations))
    assert layers == ["conv1", "conv2", "flatten", "fc1", "fc2", "fc3"]
    assert operations[-1].output == "float32[1,10]"
    used = {name for operation in operations for name in operation.inputs}
    names = {f"{layer}.{part}" for layer in layers for part in ("kernel", "bias")}
    assert names - used == {"flatten.kernel", "flatten.bias"} and "x" in used


def test_the_plain_network_is_convolution_pool_bias_relu():
    operations = [op for op in lenet_operations("plain") if op.layer == "conv1" and op.depth == 0]
    assert [(op.name, op.output) for op in operations] == [
        ("conv_general_dilated", "float32[1,28,28,6]"),
        ("reduce_window_max", "float32[1,14,14,6]"),
        ("reshape", "float32[1,1,1,6]"),
        ("add", "float32[1,14,14,6]"),
        ("relu (custom_jvp)", "float32[1,14,14,6]"),
    ]
    assert operations[0].inputs == ("x", "conv1.kernel")
    assert operations[3].inputs == ("%2", "%3")


@pytest.mark.compiler
def test_the_native_network_is_two_convolutions_and_three_products():
    names = [op.name for op in lenet_operations("native") if op.depth == 0]
    assert names.count("conv_pool_relu") == 2
    assert names.count("linear") == 3
    assert not {"conv_general_dilated", "dot_general"} & set(names)


def test_a_function_with_a_custom_derivative_precedes_its_operations():
    operations = lenet_operations("phase")
    at = next(i for i, op in enumerate(operations) if op.name == "max_over_phases (custom_jvp)")
    assert operations[at].depth == 0 and operations[at + 1].depth == 1
    phases, _ = operations[at].inputs  # the other tells which of them are equal
    assert operations[at + 1].inputs == (phases,)


def test_the_text_of_a_small_graph():
    def forward(params, x):
        with jax.named_scope("layer"):
            low, high = jnp.split(jax.nn.relu(x["a"] @ params["weight"]), 2)
        return 2 * low + high

    params, x = {"weight": jnp.ones((3, 2))}, {"a": jnp.ones((4, 3))}
    assert graph.describe(forward, params, x).splitlines() == [
        "    layer  operation          output                      inputs",
        "%1  layer  dot_general        float32[4,2]                x.a, weight",
        "%2  layer  relu (custom_jvp)  float32[4,2]                %1",
        "%3  layer    max              float32[4,2]                %1, 0.0",
        "%4  layer  split              float32[2,2], float32[2,2]  %2",
        "%5         mul                float32[2,2]                2.0, %4[0]",
        "%6         add                float32[2,2]                %5, %4[1]",
    ]


def test_bodies_of_loops_and_branches_are_shown():
    def forward(params, x):
        x = jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x)
        return jax.lax.scan(lambda carry, w: (carry * w, carry), x, params)

    operations = graph.operations(forward, jnp.ones((5, 3)), jnp.ones(3))
    inner = [(op.name, op.inputs) for op in operations if op.depth == 1]
    assert ("sin", (graph.UNKNOWN,)) in inner and ("cos", (graph.UNKNOWN,)) in inner
    assert any(name == "mul" and "…" not in inputs for name, inputs in inner)


def test_the_command_prints_the_requested_backend(capsys):
    assert lenet_jax.graph.main(["--backend", "plain"]) == 0
    text = capsys.readouterr().out
    assert "conv_general_dilated" in text and "pooling_windows" not in text
    assert lenet_jax.graph.main(["--backend", "phase"]) == 0
    assert "max_over_phases (custom_jvp)" in capsys.readouterr().out
