"""PyTorch's weights in and out: by a recorded network always, live with torch."""

import functools
import io
import json
import runpy
import struct
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lenet_jax import data, report, state_file, torch_bridge, torch_command, train
from lenet_jax.errors import UserError
from lenet_jax.models import LeNet
from lenet_jax.recipe import make_recipe
from tests import tiny
from tests.golden import make_network as golden

WITHOUT_TORCH = "torch is not installed: only the recorded network is compared"
SIZES = {"channels": (2, 3), "features": (5, 4), "num_classes": 6, "image_size": 16}
ONE_PATH = [HealthCheck.function_scoped_fixture]  # every example overwrites the same file


@functools.cache
def split(**sizes):
    return nnx.split(nnx.eval_shape(lambda: LeNet(**sizes, rngs=nnx.Rngs(0))), nnx.Param)


def random_params(seed=0, **sizes):
    """Finite numbers of all sizes and both signs, zeros and subnormals among them."""
    random = np.random.default_rng(seed)

    def draw(leaf):
        bits = random.integers(0, 2**32, leaf.shape, np.uint32) & 0xBFFFFFFF
        return jnp.array(bits.view(np.float32))

    return jax.tree.map(draw, split(**sizes)[1])


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


@pytest.fixture
def state_dict():
    return torch_bridge.to_state_dict(random_params(**SIZES))


@pytest.fixture
def saved(tmp_path, state_dict):
    """A function that writes a changed `state_dict`; None takes an entry out."""

    def save(changes, name="network.safetensors"):
        changed = {k: v for k, v in (state_dict | changes).items() if v is not None}
        state_file.write(tmp_path / name, changed, {})
        return tmp_path / name

    return save


def refusal(capsys, *argv):
    """What the command says to a mistake: at most three lines, and nothing else."""
    assert torch_command.main([str(word) for word in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert 1 <= err.count("\n") <= 3
    assert "Traceback" not in err
    return err


# Layouts.


def test_recorded_network_gives_pytorchs_logits():
    model, notes = torch_bridge.load_model(golden.NETWORK)
    with np.load(golden.LOGITS, allow_pickle=False) as recorded:
        ours = logits_of(model, jnp.asarray(recorded["images"]))
        np.testing.assert_allclose(ours, recorded["logits"], rtol=0, atol=1e-5)
        assert notes["torch_version"] == str(recorded["torch_version"])
    assert notes["torch_version"].startswith("2.")


def test_recorded_network_comes_back_as_it_was():
    model, _ = torch_bridge.load_model(golden.NETWORK)
    recorded = safetensors.numpy.load_file(golden.NETWORK)
    assert torch_bridge.infer_sizes(recorded) == golden.SIZES
    assert_same_bits(torch_bridge.to_state_dict(nnx.state(model, nnx.Param)), recorded)


sizes_of_all_kinds = st.fixed_dictionaries(
    {
        "channels": st.tuples(st.integers(1, 4), st.integers(1, 4)),
        "features": st.tuples(st.integers(1, 6), st.integers(1, 6)),
        "num_classes": st.integers(1, 5),
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
    torch_bridge.save(path, params, {"name": "first"})
    assert_same_bits(torch_bridge.load(path, like), params)
    assert_same_bits(torch_bridge.load(path, params), params)  # `like` may have numbers of its own
    stored, notes = state_file.read(path)
    assert notes == {"name": "first"}
    assert torch_bridge.infer_sizes(stored) == sizes
    assert_same_bits(
        {name: np.asarray(tensor) for name, tensor in stored.items()},
        torch_bridge.to_state_dict(params),
    )


def test_state_dict_is_copied_both_ways(state_dict):
    _, like = split(**SIZES)
    kept = {name: array.copy() for name, array in state_dict.items()}
    state_dict = {name: aligned(array) for name, array in state_dict.items()}
    params = torch_bridge.from_state_dict(state_dict, like)
    for array in state_dict.values():
        array[...] = 1  # as an optimiser of PyTorch would
    assert_same_bits(torch_bridge.to_state_dict(params), kept)


def aligned(array):
    """A copy in memory such as JAX would use without copying it, if it were let."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def test_same_weights_and_notes_are_the_same_bytes(tmp_path, state_dict):
    notes = {name: name.upper() for name in "abcdefgh"}
    for name, order in (("a", 1), ("b", -1)):
        state_file.write(tmp_path / name, state_dict, dict(list(notes.items())[::order]))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_file_may_be_read_by_others(saved):
    plain = saved({}).with_name("plain")
    plain.write_text("")
    assert saved({}).stat().st_mode == plain.stat().st_mode


# What does not fit.


def test_one_error_lists_all_that_does_not_fit(state_dict):
    del state_dict["conv1.weight"], state_dict["fc3.bias"]
    state_dict["fc1.weight"] = state_dict["fc1.weight"].T
    state_dict["fc2.bias"] = state_dict["fc2.bias"][None]
    state_dict["conv2.bias"] = state_dict["conv2.bias"].astype(np.float64)
    state_dict |= {"bn1.running_mean": np.zeros(2), "fc\n4": np.zeros(3, np.int64)}
    _, like = split(**SIZES)
    told = (
        "missing: conv1.weight, fc3.bias",
        "unexpected: bn1.running_mean, fc 4",
        "misshapen: fc1.weight (3, 5), not (5, 3), fc2.bias (1, 4), not (4)",
        "wrong dtype: conv2.bias float64, not float32",
    )
    with pytest.raises(UserError) as caught:
        torch_bridge.from_state_dict(state_dict, like)
    assert "; ".join(told) in str(caught.value)
    assert str(caught.value).count("\n") == 1
    with pytest.raises(UserError) as caught:
        torch_bridge.infer_sizes(state_dict)
    for part in (told[0], told[1], told[3], "fc2.bias (1, 4), not (4)"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape", "told"),
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
def test_shapes_that_contradict_each_other(capsys, saved, name, shape, told):
    path = saved({name: np.zeros(shape, np.float32)})
    assert f"{path} does not fit the network; misshapen: {told}\n" == refusal(
        capsys, "inspect", path
    )


def test_layer_of_no_units_is_refused(state_dict):
    shapes = {"conv1.weight": (0, 1, 5, 5), "conv1.bias": (0,), "conv2.weight": (3, 0, 5, 5)}
    state_dict |= {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    with pytest.raises(
        UserError, match=r"conv1.bias \(0\), not \(c1\), conv2.weight \(3, 0, 5, 5\)"
    ):
        torch_bridge.infer_sizes(state_dict)


def test_network_of_other_sizes_is_refused_by_name(saved):
    _, like = split(**SIZES | {"num_classes": 10})
    path = saved({})
    told = r"fc3.weight \(6, 4\), not \(10, 4\), fc3.bias \(6\), not \(10\)"
    with pytest.raises(UserError, match=f"^{path} does not fit the network; misshapen: {told}$"):
        torch_bridge.load(path, like)


def test_another_architecture_is_named_in_one_line(capsys, tmp_path):
    names = [f"features.{i}.{kind}" for i in range(16) for kind in ("weight", "bias")]
    path = tmp_path / "vgg.safetensors"
    state_file.write(path, dict.fromkeys(names, np.zeros(2, np.float32)), {})
    said = refusal(capsys, "inspect", path)
    assert said.count("\n") == 1
    assert all(name in said for name in (*torch_bridge.SHAPES, *names))


def test_prefix_of_all_names_is_recognised(state_dict):
    wrapped = {f"module.{name}": array for name, array in state_dict.items()}
    with pytest.raises(UserError, match="\nTake 'module\\.' off"):
        torch_bridge.infer_sizes(wrapped)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16, np.int32])
def test_dtypes_are_refused_not_rounded(capsys, saved, dtype):
    path = saved({"fc1.bias": np.ones(5, dtype), "fc2.bias": np.ones(4, dtype)})
    name = np.dtype(dtype).name.replace("int32", "I32")
    said = refusal(capsys, "inspect", path)
    assert f"fc1.bias {name}, not float32, fc2.bias {name}, not float32\n" in said
    assert "network.float()" in said


def test_numbers_that_are_none_are_refused(capsys, saved, state_dict):
    bias = state_dict["fc3.bias"].copy()
    bias[1] = np.nan
    path = saved({"fc3.bias": bias, "conv1.bias": np.array([1, -np.inf], np.float32)})
    said = refusal(capsys, "inspect", path)
    assert said == f"{path} has NaN or infinite numbers in conv1.bias, fc3.bias\n"


# Files.


def with_header(header, numbers=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def entry(shape, end, dtype="F32"):
    return {"conv1.bias": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}


BAD_FILES = {
    "empty": b"",
    "garbage": bytes(range(256)),
    "pickle": b"cbuiltins\nprint\n(S'run'\ntR.",
    "long_header": struct.pack("<Q", 2**63) + b"{}",
    "header_past_the_end": struct.pack("<Q", 90_000_000) + b"{}",
    "huge_shape": with_header(entry([10**9, 10**9], 4 * 10**18)),
    "overflowing_shape": with_header(entry([2**63, 2**63], 8), bytes(8)),
    "huge_but_empty_shape": with_header(entry([0, 2**62, 2**62], 0)),
    "too_many_axes": with_header(entry([1] * 100, 4), bytes(4)),
    "numbers_missing": with_header(entry([3], 12), bytes(8)),
    "wrong_shape": with_header(entry([3], 8), bytes(8)),
    "unknown_dtype": with_header(entry([3], 12, "F\n32"), bytes(12)),
    "eight_bits": with_header(entry([3], 3, "F8_E4M3"), bytes(3)),
    "deep_header": with_header(b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    "no_entries": with_header({}),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_is_refused_in_a_line(capsys, tmp_path, name):
    path = tmp_path / "network.safetensors"
    path.write_bytes(BAD_FILES[name])
    assert refusal(capsys, "inspect", path).startswith(f"{path} ")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_file_is_refused(capsys, saved, share):
    path = saved({})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert f"{path} is not a whole safetensors file: " in refusal(capsys, "inspect", path)


@settings(max_examples=200, suppress_health_check=ONE_PATH)
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_are_refused(tmp_path, content, framed):
    path = tmp_path / "network.safetensors"
    path.write_bytes(with_header(content) if framed else content)
    with pytest.raises(UserError):
        torch_bridge.load_model(path)


VALID = safetensors.numpy.save(torch_bridge.to_state_dict(random_params(**SIZES)))
HEADER_LENGTH = 8 + struct.unpack("<Q", VALID[:8])[0]
edits = st.lists(
    st.tuples(
        # The header is short, and where the trouble is.
        st.integers(0, HEADER_LENGTH - 1) | st.integers(0, len(VALID) - 1),
        st.sampled_from(b'0123456789[]{},:"FBIU\\') | st.integers(0, 255),
        st.integers(0, 2),
    ),
    min_size=1,
    max_size=4,
)


def edited(content, edits):
    """The content with bytes replaced (0), inserted (1) or taken out (2)."""
    content = bytearray(content)
    for place, byte, kind in edits:
        content[place : place + (kind != 1)] = b"" if kind == 2 else bytes([byte])
    return content


@settings(max_examples=200, suppress_health_check=ONE_PATH)
@given(edits)
@example([(HEADER_LENGTH + 3, 0x7F, 0), (HEADER_LENGTH + 2, 0xC0, 0)])  # a NaN
def test_mangled_file_is_read_or_refused(tmp_path, edits):
    path = tmp_path / "network.safetensors"
    path.write_bytes(edited(VALID, edits))
    try:
        model, _ = torch_bridge.load_model(path)
    except UserError as error:
        assert str(error).startswith(str(path))
        assert str(error).count("\n") <= 2
    else:
        for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)):
            assert np.isfinite(leaf).all()


def test_paths_that_are_no_files(capsys, tmp_path):
    missing = tmp_path / "network.safetensors"
    assert refusal(capsys, "inspect", missing) == (
        f"{missing} cannot be read: No such file or directory\n"
    )
    assert f"{tmp_path}/model.safetensors cannot be read" in refusal(capsys, "inspect", tmp_path)
    other = tmp_path / "network.bin"
    other.write_bytes(VALID)
    assert "must end in .safetensors, .pt, .pth" in refusal(capsys, "inspect", other)


def test_writing_fails_whole(tmp_path, state_dict):
    with pytest.raises(UserError, match="cannot be written: "):
        state_file.write(tmp_path / "none" / "network.safetensors", state_dict, {})
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(UserError, match="cannot be written: "):
        state_file.write(tmp_path / "folder.safetensors", state_dict, {})
    assert [path.name for path in tmp_path.iterdir()] == ["folder.safetensors"]


def test_pt_file_needs_torch(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    path = tmp_path / "network.pt"
    path.write_bytes(b"")
    said = refusal(capsys, "inspect", path)
    assert f"reading {path} needs PyTorch: pip install torch" in said
    assert "safetensors.torch.save_file(network.state_dict()" in said


# The command.


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A folder with a network's weights and notes, as a finished run leaves them."""
    dataset = tiny.dataset()
    monkeypatch.setattr(data, "load", lambda name, **_: dataset)
    recipe = make_recipe(tiny.config(), dataset)
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.array(random.normal(0, 0.3, leaf.shape), jnp.float32),
        split(**SIZES | {"features": (8, 6)})[1],
    )
    report.save_weights(tmp_path / "model.safetensors", recipe, params, dataset)
    return tmp_path, recipe, params, dataset


def test_inspect_prints_what_a_run_left(capsys, run):
    folder, *_ = run
    assert torch_command.main(["inspect", str(folder)]) == 0
    out, _ = capsys.readouterr()
    assert "a LeNet for images of 16×16×1\n  channels: (2, 3)\n  features: (8, 6)\n" in out
    assert "conv1.weight (2, 1, 5, 5)            50\n" in out
    assert "parameters                          333\n" in out
    assert "classes: a, b, c, d, e, f\n" in out


def test_evaluate_counts_every_test_image(capsys, monkeypatch, run):
    monkeypatch.setattr(torch_command, "EVAL_BATCH", 20)  # the last batch has 13
    folder, recipe, params, dataset = run
    metrics, _ = train.evaluate(
        recipe, params, jnp.asarray(dataset.test.images), jnp.asarray(dataset.test.labels)
    )
    wrong = int(metrics.count - metrics.correct)
    assert 0 < wrong < 33
    assert torch_command.main(["evaluate", str(folder), "--data=bars"]) == 0
    out, _ = capsys.readouterr()
    assert out.endswith(f"{1 - wrong / 33:.2%}, {wrong} of 33 images wrong\n")


def test_notes_of_a_run_are_read_back_exactly(run):
    folder, recipe, *_ = run
    _, notes = torch_bridge.load_model(folder)
    mean, std = torch_bridge.pixel_statistics(notes, 1, "it")
    assert (tuple(mean), tuple(std)) == (recipe.mean, recipe.std)


def test_convert_keeps_weights_and_notes_bit_for_bit(capsys, run, tmp_path):
    folder, *_ = run
    out = tmp_path / "out.safetensors"
    assert torch_command.main(["convert", str(folder), str(out)]) == 0
    assert out.read_bytes() == (folder / "model.safetensors").read_bytes()
    assert capsys.readouterr().out == f"{out}\n"
    assert f"{out} exists already" in refusal(capsys, "convert", folder, out)


def test_convert_writes_down_how_pytorch_normalised(saved, tmp_path):
    out = tmp_path / "out.safetensors"
    argv = ["convert", str(saved({})), str(out), "--mean=0.1307", "--std=0.3081"]
    assert torch_command.main(argv) == 0
    _, notes = torch_bridge.load_model(out)
    mean, std = torch_bridge.pixel_statistics(notes, 1, "it")
    np.testing.assert_allclose([mean, std], [[33.3285], [78.5655]], rtol=1e-12)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "required: COMMAND"),
        (["inspct", "FILE"], "invalid choice: 'inspct'"),
        (["inspect"], "required: FILE"),
        (["inspect", "FILE", "--al\nl"], "unrecognized arguments"),
        (["convert", "FILE", "OUT.pt"], "must end in .safetensors"),
        (["convert", "FILE", "OUT.safetensors", "--mean=0.1"], "go together"),
        (["convert", "FILE", "OUT.safetensors", "--mean=33.3", "--std=78.6"], "in [0, 1]"),
        (["convert", "FILE", "OUT.safetensors", "--mean=0.1", "--std=0"], "in (0, 1]"),
        (["convert", "FILE", "OUT.safetensors", "--mean=nan", "--std=1"], "in [0, 1]"),
        (["convert", "FILE", "OUT.safetensors", "--mean=x", "--std=1"], "'x' is not X or X,Y,Z"),
        (["convert", "FILE", "OUT.safetensors", "--mean=0,0", "--std=1"], "each of 1 input"),
        (["evaluate", "FILE"], "does not tell how its images are normalised"),
        (["evaluate", "FILE", "--mean=0", "--std=1"], "for 1 channels and 6 classes, but the data"),
        (["evaluate", "FILE", "--mean=0", "--std=1", "--data=./none"], "there is no folder none"),
        (["evaluate", "FILE", "--fit=crop"], "invalid choice: 'crop'"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(capsys, monkeypatch, saved, argv, told):
    path = saved({})
    monkeypatch.chdir(path.parent)
    argv = [path.name if word == "FILE" else word for word in argv]
    if argv[0:1] == ["evaluate"] and "--data=./none" not in argv:
        argv.append(f"--data={make_idx_folder(path.parent / 'idx')}")
    before = sorted(path.parent.iterdir())
    assert told in refusal(capsys, *argv)
    assert sorted(path.parent.iterdir()) == before


def make_idx_folder(folder):
    """Ten black images of 8×8, a class each."""
    folder.mkdir()
    for part in ("train", "t10k"):
        images = struct.pack(">4I", 0x803, 10, 8, 8) + bytes(640)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(images)
        labels = struct.pack(">2I", 0x801, 10) + bytes(range(10))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    return folder


@pytest.mark.parametrize("mean", ["x", "", "1 2", "inf", "1e999"])
def test_notes_that_are_no_numbers_are_refused(capsys, tmp_path, state_dict, mean):
    path = tmp_path / "network.safetensors"
    state_file.write(path, state_dict, {"mean": mean, "std": "1.0"})
    assert refusal(capsys, "evaluate", path).startswith(f"{path}: ")
    with pytest.raises(UserError, match="std above 0"):
        torch_bridge.pixel_statistics({"mean": "0", "std": "0"}, 1, "it")


def test_other_classes_than_the_networks_are_refused(capsys, monkeypatch, run):
    folder, _, _, dataset = run
    vars(dataset)["class_names"] = tuple("uvwxyz")
    said = refusal(capsys, "evaluate", folder)
    assert said.endswith("trained on other classes than those of 'bars': a, b, c, d, e, f\n")


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit, match="0"):
        torch_command.main(["--help"])
    out, _ = capsys.readouterr()
    assert "python -m lenet_jax.torch_bridge" in out
    assert all(f"\n    {name} " in out for name in ("inspect", "convert", "evaluate"))


# With PyTorch.


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
    model, _ = torch_bridge.load_model(tmp_path / "network.pt")
    images = np.random.default_rng(0).normal(size=(8, 32, 32, 1)).astype(np.float32)
    theirs = golden.torch_logits(network, images)
    np.testing.assert_allclose(logits_of(model, images), theirs, rtol=0, atol=1e-5)

    # And back, through a file.
    torch_bridge.save(tmp_path / "back.safetensors", nnx.state(model, nnx.Param), {})
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
    params = torch_bridge.from_state_dict(network.state_dict(), like)
    kept = {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        network.fc3.bias.add_(1)
    assert_same_bits(torch_bridge.to_state_dict(params), kept)


@pytest.mark.torch
def test_example_makes_the_round_trip(capsys):
    pytest.importorskip("torch", reason=WITHOUT_TORCH)
    path = Path(__file__).parents[1] / "examples" / "torch_round_trip.py"
    runpy.run_path(str(path), run_name="__main__")
    out, _ = capsys.readouterr()
    assert out.endswith("Round trip: bit-identical\n")


def torch_archive(pickled):
    """A file as `torch.save` writes it, but for its program."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("network/data.pkl", pickled)
        archive.writestr("network/version", "3\n")
    return content.getvalue()


@pytest.mark.torch
@pytest.mark.parametrize("zipped", [True, False])
def test_program_in_a_pt_file_is_not_run(capsys, tmp_path, zipped):
    pytest.importorskip("torch", reason=WITHOUT_TORCH)
    path, proof = tmp_path / "network.pt", tmp_path / "it_was_run"
    program = f"cbuiltins\nopen\n(S'{proof}'\nS'w'\ntR.".encode()
    path.write_bytes(torch_archive(program) if zipped else program)
    assert f"{path} is not a file of weights: " in refusal(capsys, "inspect", path)
    assert not proof.exists()


@pytest.mark.torch
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda torch, net: torch.nn.Linear(1, 1), "it holds more than weights"),
        (lambda torch, net: {"epoch": 3, "net": net.state_dict()}, "its entry 'epoch' is no"),
        (lambda torch, net: torch.zeros(3), "it holds one Tensor, no state_dict"),
        (
            lambda torch, net: net.state_dict() | {"fc1.bias": torch.zeros(1).expand(10**12)},
            "its tensors claim to be larger than it is",
        ),
        (lambda torch, net: net.bfloat16().state_dict(), "fc3.bias bfloat16, not float32\nIn"),
        (
            lambda torch, net: net.state_dict() | {"fc1.bias": torch.zeros(11).to_sparse()},
            "PyTorch cannot read it (",
        ),
    ],
    ids=["module", "checkpoint", "tensor", "expanded", "bfloat16", "sparse"],
)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_pt_file_of_something_else_is_refused(capsys, tmp_path, make, told):
    torch = pytest.importorskip("torch", reason=WITHOUT_TORCH)
    path = tmp_path / "network.pt"
    torch.save(make(torch, network()), path)
    assert told in refusal(capsys, "inspect", path)


def network():
    return golden.torch_network(**golden.SIZES)


@pytest.mark.torch
def test_archive_that_unpacks_to_more_is_refused(capsys, tmp_path):
    pytest.importorskip("torch", reason=WITHOUT_TORCH)
    path = tmp_path / "network.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("network/data.pkl", bytes(10**6))
    assert "its parts claim to be larger than it is" in refusal(capsys, "inspect", path)


@pytest.mark.torch
def test_mangled_pt_file_is_read_or_refused(tmp_path):
    torch = pytest.importorskip("torch", reason=WITHOUT_TORCH)
    path = tmp_path / "network.pt"
    torch.save(network().state_dict(), path)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    pickled = next(name for name in parts if name.endswith("data.pkl"))

    @settings(max_examples=100)
    @given(st.data(), st.booleans())
    def mangle(draws, inside):
        original = parts[pickled] if inside else content
        places = st.tuples(
            st.integers(0, len(original) - 1), st.integers(0, 255), st.integers(0, 2)
        )
        mangled = edited(original, draws.draw(st.lists(places, min_size=1, max_size=4)))
        if inside:
            with zipfile.ZipFile(path, "w") as archive:
                for name, part in (parts | {pickled: bytes(mangled)}).items():
                    archive.writestr(name, part)
        else:
            path.write_bytes(mangled)
        try:
            torch_bridge.load_model(path)
        except UserError as error:
            assert str(error).count("\n") <= 2

    mangle()
