"""PyTorch's weights in and out: by a recorded network always, live with torch."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from lenet_jax.errors import UserError
from lenet_jax.inference.load import load_model, load_params, save_params
from lenet_jax.inference.state_dict import from_state_dict, infer_sizes, to_state_dict
from lenet_jax.storage import weights
from tests.golden import make_network as golden
from tests.support.weights import ONE_PATH, SIZES, WITHOUT_TORCH, random_params, refusal, split


def logits_of(model, images):
    graphdef, params = nnx.split(model)
    return jax.jit(lambda params, images: nnx.merge(graphdef, params)(images))(params, images)


def assert_same_bits(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype == np.float32
        np.testing.assert_array_equal(
            np.asarray(a).view(np.uint32), np.asarray(b).view(np.uint32), strict=True
        )


def test_recorded_network_gives_pytorchs_logits():
    model, metadata = load_model(golden.NETWORK)
    with np.load(golden.LOGITS, allow_pickle=False) as recorded:
        ours = logits_of(model, jnp.asarray(recorded["images"]))
        np.testing.assert_allclose(ours, recorded["logits"], rtol=0, atol=1e-5)
        assert metadata["torch_version"] == str(recorded["torch_version"])
    assert metadata["torch_version"].startswith("2.")


def test_recorded_network_round_trip_is_exact():
    model, _ = load_model(golden.NETWORK)
    recorded = safetensors.numpy.load_file(golden.NETWORK)
    assert infer_sizes(recorded) == golden.SIZES
    assert_same_bits(to_state_dict(nnx.state(model, nnx.Param)), recorded)


sizes_of_all_kinds = st.fixed_dictionaries(
    {
        "channels": st.tuples(st.integers(1, 4), st.integers(1, 4)),
        "features": st.tuples(st.integers(1, 6), st.integers(1, 6)),
        "num_classes": st.integers(2, 5),
        "in_channels": st.integers(1, 3),
        "image_size": st.sampled_from([16, 20, 24, 32]),
    }
)


@settings(max_examples=12, suppress_health_check=ONE_PATH)
@given(sizes_of_all_kinds, st.integers(0, 2**31))
def test_round_trip_is_bit_identical(tmp_path, sizes, seed):
    params = random_params(seed, **sizes)
    _, like = split(**sizes)
    path = tmp_path / "network.safetensors"
    save_params(path, params, {"name": "first"})
    assert_same_bits(load_params(path, like), params)
    assert_same_bits(load_params(path, params), params)  # `like` may have numbers of its own
    stored, metadata = weights.read(path)
    assert metadata == {"name": "first"}
    assert infer_sizes(stored) == sizes
    assert_same_bits(
        {name: np.asarray(tensor) for name, tensor in stored.items()},
        to_state_dict(params),
    )


def test_state_dict_is_copied_both_ways(state_dict):
    _, like = split(**SIZES)
    kept = {name: array.copy() for name, array in state_dict.items()}
    state_dict = {name: aligned(array) for name, array in state_dict.items()}
    params = from_state_dict(state_dict, like)
    for array in state_dict.values():
        array[...] = 1  # as an optimiser of PyTorch would
    assert_same_bits(to_state_dict(params), kept)


def aligned(array):
    """A copy in memory such as JAX would use without copying it, if it were let."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def test_equal_weights_and_metadata_give_identical_bytes(tmp_path, state_dict):
    metadata = {name: name.upper() for name in "abcdefgh"}
    for name, order in (("a", 1), ("b", -1)):
        weights.write(tmp_path / name, state_dict, dict(list(metadata.items())[::order]))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_file_may_be_read_by_others(saved):
    plain = saved({}).with_name("plain")
    plain.write_text("")
    assert saved({}).stat().st_mode == plain.stat().st_mode


def test_one_error_lists_all_that_does_not_fit(state_dict):
    del state_dict["conv1.weight"], state_dict["fc3.bias"]
    state_dict["fc1.weight"] = state_dict["fc1.weight"].T
    state_dict["fc2.bias"] = state_dict["fc2.bias"][None]
    state_dict["conv2.bias"] = state_dict["conv2.bias"].astype(np.float64)
    state_dict |= {"bn1.running_mean": np.zeros(2), "fc\n4": np.zeros(3, np.int64)}
    _, like = split(**SIZES)
    message = (
        "missing: conv1.weight, fc3.bias",
        "unexpected: bn1.running_mean, fc 4",
        "misshapen: fc1.weight (3, 5), not (5, 3), fc2.bias (1, 4), not (4)",
        "wrong dtype: conv2.bias float64, not float32",
    )
    with pytest.raises(UserError) as caught:
        from_state_dict(state_dict, like)
    assert "; ".join(message) in str(caught.value)
    assert str(caught.value).count("\n") == 2
    with pytest.raises(UserError) as caught:
        infer_sizes(state_dict)
    for part in (message[0], message[1], message[3], "fc2.bias (1, 4), not (4)"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("conv1.weight", (2, 1, 3, 3), "conv1.weight (2, 1, 3, 3), not (2, 1, 5, 5)"),
        ("conv1.weight", (2, 25), "conv1.weight (2, 25), not (2, in_channels, 5, 5)"),
        ("conv2.weight", (3, 7, 5, 5), "conv2.weight (3, 7, 5, 5), not (3, 2, 5, 5)"),
        ("fc1.weight", (5, 4), "fc1.weight (5, 4), not (5, 3·side²)"),
        ("fc1.weight", (5, 24), "fc1.weight (5, 24), not (5, 3·side²)"),
        ("fc1.weight", (5, 0), "fc1.weight (5, 0), not (5, 3·side²)"),
        ("fc2.weight", (4, 6), "fc2.weight (4, 6), not (4, 5)"),
        ("fc3.bias", (10,), "fc3.bias (10), not (6)"),
        ("fc3.bias", (), "fc3.bias (), not (6)"),
    ],
)
def test_shapes_that_contradict_each_other(capsys, saved, name, shape, message):
    path = saved({name: np.zeros(shape, np.float32)})
    assert f"{path} does not fit the network:\nmisshapen: {message}\n" == refusal(
        capsys, "inspect", path
    )


def test_layer_without_units_is_refused(state_dict):
    shapes = {"conv1.weight": (0, 1, 5, 5), "conv1.bias": (0,), "conv2.weight": (3, 0, 5, 5)}
    state_dict |= {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    with pytest.raises(
        UserError, match=r"conv1.bias \(0\), not \(c1\), conv2.weight \(3, 0, 5, 5\)"
    ):
        infer_sizes(state_dict)


def test_network_of_other_sizes_is_refused_by_name(saved):
    _, like = split(**SIZES | {"num_classes": 10})
    path = saved({})
    message = r"fc3.weight \(6, 4\), not \(10, 4\), fc3.bias \(6\), not \(10\)"
    with pytest.raises(
        UserError, match=f"^{path} does not fit the network:\nmisshapen: {message}$"
    ):
        load_params(path, like)


def test_another_architecture_is_named_by_its_first_entries(capsys, tmp_path):
    names = [f"features.{i}.{kind}" for i in range(16) for kind in ("weight", "bias")]
    path = tmp_path / "vgg.safetensors"
    weights.write(path, dict.fromkeys(names, np.zeros(2, np.float32)), {})
    said = refusal(capsys, "inspect", path)
    _, lists = said.splitlines()
    missing, unexpected = lists.split("; ")
    assert missing == "missing: conv1.weight, conv1.bias, conv2.weight, conv2.bias and 6 more"
    first = ", ".join(sorted(names)[:4])
    assert unexpected == f"unexpected: {first} and 28 more"


def test_prefix_of_all_names_is_recognised(state_dict):
    wrapped = {f"module.{name}": array for name, array in state_dict.items()}
    with pytest.raises(UserError, match="\nRemove 'module\\.' from"):
        infer_sizes(wrapped)


def test_a_single_class_is_refused(capsys, saved):
    path = saved({"fc3.weight": np.ones((1, 4), np.float32), "fc3.bias": np.ones(1, np.float32)})
    assert "fc3 has one output; each of two or more classes" in refusal(capsys, "inspect", path)


def test_integers_are_refused(capsys, saved):
    path = saved({"fc1.bias": np.ones(5, np.int32), "fc2.bias": np.ones(4, np.int32)})
    said = refusal(capsys, "inspect", path)
    assert "fc1.bias int32, not float32, fc2.bias int32, not float32\n" in said
    assert "network.float()" in said


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_other_floats_are_converted_and_it_is_said(saved, state_dict, dtype):
    state_dict["fc1.bias"] = np.asarray([0.1, 1, -2, 3, 1 / 3]).astype(dtype)
    path = saved({"fc1.bias": state_dict["fc1.bias"]})
    said = []
    model, _ = load_model(path, say=said.append)
    assert said == [f"{path}: {np.dtype(dtype).name} is converted to float32"]
    expected = {**state_dict, "fc1.bias": state_dict["fc1.bias"].astype(np.float32)}
    assert_same_bits(to_state_dict(nnx.state(model, nnx.Param)), expected)


def test_a_float64_beyond_float32_is_refused(capsys, saved):
    path = saved({"fc1.bias": np.full(5, 1e300)})
    assert refusal(capsys, "inspect", path) == f"{path} has NaN or infinite values in fc1.bias\n"


def test_nan_and_infinity_are_refused(capsys, saved, state_dict):
    bias = state_dict["fc3.bias"].copy()
    bias[1] = np.nan
    path = saved({"fc3.bias": bias, "conv1.bias": np.array([1, -np.inf], np.float32)})
    said = refusal(capsys, "inspect", path)
    assert said == f"{path} has NaN or infinite values in conv1.bias, fc3.bias\n"


@pytest.mark.torch
@pytest.mark.parametrize(
    "sizes",
    [
        {"channels": (6, 12), "features": (120, 84)},
        {"channels": (6, 16), "features": (120, 84)},
    ],
    ids=["notes", "lenet5"],
)
def test_logits_are_those_of_live_pytorch(tmp_path, sizes):
    torch = pytest.importorskip("torch", reason=WITHOUT_TORCH)
    network = golden.torch_network(**sizes)
    torch.save(network.state_dict(), tmp_path / "network.pt")
    model, _ = load_model(tmp_path / "network.pt")
    images = np.random.default_rng(0).normal(size=(8, 32, 32, 1)).astype(np.float32)
    theirs = golden.torch_logits(network, images)
    np.testing.assert_allclose(logits_of(model, images), theirs, rtol=0, atol=1e-5)

    # And back, through a file.
    save_params(tmp_path / "back.safetensors", nnx.state(model, nnx.Param), {})
    from safetensors.torch import load_file

    loaded = load_file(tmp_path / "back.safetensors")
    assert all(torch.equal(loaded[k], v) for k, v in network.state_dict().items())
    again = golden.torch_network(**sizes)
    again.load_state_dict(loaded)
    np.testing.assert_array_equal(golden.torch_logits(again, images), theirs)


@pytest.mark.torch
def test_tensors_of_live_pytorch_are_taken_and_copied():
    torch = pytest.importorskip("torch", reason=WITHOUT_TORCH)
    network = golden.torch_network(**golden.SIZES)
    _, like = split(**golden.SIZES)
    params = from_state_dict(network.state_dict(), like)
    kept = {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        network.fc3.bias.add_(1)
    assert_same_bits(to_state_dict(params), kept)


@pytest.mark.torch
def test_example_makes_the_round_trip(capsys):
    pytest.importorskip("torch", reason=WITHOUT_TORCH)
    path = Path(__file__).parents[2] / "examples" / "torch_round_trip.py"
    runpy.run_path(str(path), run_name="__main__")
    out, _ = capsys.readouterr()
    assert out.endswith("Round trip: bit-identical\n")
