"""Checkpoints as people save them, with real files of PyTorch."""

import argparse
import collections

import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from lenet_jax import torch_bridge
from lenet_jax.errors import UserError, run_command
from lenet_jax.inference.load import load_model
from lenet_jax.inference.state_dict import to_state_dict
from lenet_jax.inference.torch_names import rename
from tests.golden import make_network as golden
from tests.support.weights import refusal

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
nn = torch.nn
SIZES = (6, 16), (120, 84)
FEATURES = {  # the layers of nn.Sequential in many tutorials
    "conv1": "features.0",
    "conv2": "features.3",
    "fc1": "classifier.0",
    "fc2": "classifier.2",
    "fc3": "classifier.4",
}


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return golden.torch_network(*SIZES).state_dict()


@pytest.fixture
def read(tmp_path):
    """Saves something, and gives the weights that are read, and what was said."""

    def read(content, name="net.pt", **options):
        torch.save(content, tmp_path / name, **options)
        said = []
        model, _ = load_model(tmp_path / name, say=said.append)
        return to_state_dict(nnx.state(model, nnx.Param)), said

    return read


def assert_equal(ours, theirs):
    assert set(ours) == set(theirs)
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name].float().numpy(), strict=True)


def renamed(weights, stems):
    return {
        f"{stem}.{kind}": weights[f"{layer}.{kind}"]
        for layer, stem in stems.items()
        for kind in ("weight", "bias")
    }


def prefixed(prefix, weights):
    return {prefix + name: tensor for name, tensor in weights.items()}


OPTIMIZER = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(6, 1, 5, 5)}}}


@pytest.mark.parametrize(
    ("name", "wrap", "entry"),
    [
        (
            "last.ckpt",
            lambda w: {"epoch": 3, "state_dict": w, "optimizer": OPTIMIZER},
            "state_dict",
        ),
        ("model_best.pth.tar", lambda w: {"net": w, "acc": 98.1, "epoch": 3}, "net"),
        ("a.pt", lambda w: {"model": w, "args": {"lr": 0.1}, "rng": torch.ones(9)}, "model"),
        (
            "b.pth",
            lambda w: {
                "epoch": 9,
                "model_state_dict": w,
                "optimizer_state_dict": OPTIMIZER,
                "loss": torch.tensor(0.1),
            },
            "model_state_dict",
        ),
        ("c.tar", lambda w: {"network": w, "best": np.float64(0.98), "n": np.int64(3)}, "network"),
        ("d", lambda w: {"ema": {k: v * 2 for k, v in w.items()}, "model": w}, "model"),
        ("e.pkl", lambda w: {"model": {"state_dict": w}, "epoch": 1}, "model.state_dict"),
        ("f.pt", lambda w: {"params": collections.OrderedDict(w)}, "params"),
        ("g.pt", lambda w: {"my_own_name": w, "history": [1.0, 2.0]}, "my_own_name"),
        ("pytorch_model.bin", lambda w: w, None),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_the_entry_with_the_weights_is_taken_and_said(read, weights, name, wrap, entry, zipped):
    ours, said = read(wrap(weights), name, _use_new_zipfile_serialization=zipped)
    assert_equal(ours, weights)
    assert len(said) == (entry is not None)
    assert entry is None or f"weights from its entry {entry!r}" in said[0]
    assert ("(left out: ema)" in "".join(said)) == (name == "d")


def test_two_networks_are_not_chosen_between(capsys, tmp_path, weights):
    torch.save({"generator": weights, "discriminator": weights}, tmp_path / "gan.pt")
    said = refusal(capsys, "inspect", tmp_path / "gan.pt")
    assert "several networks: 'generator', 'discriminator'" in said


LENETS = {layer: layer for layer in FEATURES}


@pytest.mark.parametrize(
    ("stems", "fronts"),
    [
        (LENETS, ("ema.", "model.")),
        (LENETS, ("", "ema.")),
        (LENETS, ("a.target.", "a.policy.")),
        (FEATURES, ("ema.", "model.")),
        (FEATURES, ("nets.1.", "nets.0.")),
    ],
)
def test_two_networks_under_prefixes_are_not_chosen_between(
    capsys, tmp_path, weights, stems, fronts
):
    file, theirs = tmp_path / "net.pt", renamed(weights, stems)
    other = {name: 2 * tensor for name, tensor in theirs.items()}
    torch.save(prefixed(fronts[0], other) | prefixed(fronts[1], theirs), file)
    said = refusal(capsys, "inspect", file)
    assert f"several networks, whose names begin with {fronts[0]!r}, {fronts[1]!r}" in said
    out, flag = tmp_path / "out.safetensors", said.splitlines()[-1]
    assert run_command(torch_bridge.main, ["convert", str(file), str(out), flag]) == 0
    assert_equal(safetensors.numpy.load_file(out), weights)
    assert "left out: " in capsys.readouterr().err


@pytest.mark.parametrize("stems", [LENETS, FEATURES])
def test_one_network_under_two_names_is_taken(read, weights, stems):
    theirs = renamed(weights, stems)
    for other in (theirs, {name: tensor.clone() for name, tensor in theirs.items()}):
        ours, said = read(prefixed("model.", theirs) | prefixed("best.", other))
        assert_equal(ours, weights)
        assert "left out: best." in said[0]


def test_layers_with_two_names_are_taken_once(read, weights):
    ours, said = read(weights | renamed(weights, {"fc1": "head.0", "fc2": "head.1"}))
    assert_equal(ours, weights)
    assert "left out: head.0.weight" in said[0]
    ours, _ = read({"state_dict": weights, "best_state_dict": weights})
    assert_equal(ours, weights)


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "model.",
        "net.",
        "backbone.",
        "_forward_module.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "model.net.",
        "_fsdp_wrapped_module.",
        "network.lenet.",
    ],
)
def test_prefixes_are_taken_off_and_said(read, weights, prefix):
    ours, said = read(prefixed(prefix, weights))
    assert_equal(ours, weights)
    assert len(said) == 1 and f"{prefix!r} is taken off" in said[0]


def test_wrappers_of_single_layers_are_taken_off(read, weights):
    wrapped = {name.replace(".", "._fsdp_wrapped_module."): w for name, w in weights.items()}
    assert_equal(read(prefixed("_fsdp_wrapped_module.", wrapped))[0], weights)


def test_a_checkpoint_of_lightning(read, weights):
    checkpoint = {
        "epoch": 4,
        "global_step": 3750,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {**prefixed("model.", weights), "criterion.weight": torch.ones(10)},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": {"best": torch.tensor(0.03)}},
        "optimizer_states": [OPTIMIZER],
        "hyper_parameters": {"lr": 0.1},
    }
    ours, said = read(checkpoint, "epoch=4-step=3750.ckpt")
    assert_equal(ours, weights)
    assert "its entry 'state_dict'" in said[0]
    assert said[1].endswith("left out: criterion.weight")
    assert "'model.' is taken off" in said[2]


def test_wrapped_modules_of_torch_itself(read, weights):
    network = golden.torch_network(*SIZES)
    network.load_state_dict(weights)
    parallel = nn.DataParallel(network)
    assert_equal(read(parallel.state_dict())[0], weights)
    averaged = torch.optim.swa_utils.AveragedModel(network)
    ours, said = read(averaged.state_dict())
    assert_equal(ours, weights)
    assert any(text.endswith("left out: n_averaged") for text in said)


@pytest.mark.parametrize(
    "stems",
    [
        FEATURES,
        {"conv1": "0", "conv2": "3", "fc1": "7", "fc2": "9", "fc3": "11"},
        {"conv1": "c1", "conv2": "c3", "fc1": "f5", "fc2": "f6", "fc3": "output"},
        {"conv1": "layer1.0", "conv2": "layer2.0", "fc1": "fc", "fc2": "fc1", "fc3": "fc2"},
        {"conv1": "convs.0", "conv2": "convs.1", "fc1": "fcs.0", "fc2": "fcs.1", "fc3": "fcs.2"},
        {
            "conv1": "module.features.0",
            "conv2": "module.features.3",
            "fc1": "module.classifier.1",
            "fc2": "module.classifier.3",
            "fc3": "module.classifier.5",
        },
        {"conv1": "conv0", "conv2": "conv1", "fc1": "fc0", "fc2": "fc1", "fc3": "fc2"},
    ],
)
@pytest.mark.parametrize("sorted_by_name", [False, True])
def test_other_names_are_taken_by_shape_and_shown(tmp_path, read, weights, stems, sorted_by_name):
    theirs = renamed(weights, stems)
    if sorted_by_name:  # as safetensors does
        path = tmp_path / "net.safetensors"
        safetensors.numpy.save_file({name: w.numpy() for name, w in theirs.items()}, path)
        said = []
        model, _ = load_model(path, say=said.append)
        ours = to_state_dict(nnx.state(model, nnx.Param))
    else:
        ours, said = read(theirs)
    assert_equal(ours, weights)
    assert len(said) == 1
    first, *table = said[0].splitlines()
    assert "--map" in first
    assert table[0] == f"  conv1.weight <- {stems['conv1']}.weight (6, 1, 5, 5)"
    assert table[4] == f"  fc3.weight <- {stems['fc3']}.weight (10, 84)"


def test_c5_as_a_convolution_is_its_linear_equal(read, weights):
    stems = {"conv1": "c1", "conv2": "c3", "fc1": "c5", "fc2": "f6", "fc3": "f7"}
    theirs = renamed(weights, stems)
    theirs["c5.weight"] = theirs["c5.weight"].reshape(120, 16, 5, 5)
    theirs["f7.weight"] = theirs["f7.weight"].reshape(10, 84, 1, 1)
    ours, said = read(theirs)
    assert_equal(ours, weights)
    assert "  fc1.weight <- c5.weight (120, 16, 5, 5) as (120, 400)" in said[0]
    names = {"conv1": "conv1", "conv2": "conv2", "fc1": "conv3", "fc2": "fc1", "fc3": "fc2"}
    theirs = renamed(weights, names)
    theirs["conv3.weight"] = theirs["conv3.weight"].reshape(120, 16, 5, 5)
    assert_equal(read(theirs)[0], weights)


def test_the_order_of_the_file_must_agree(capsys, tmp_path, weights):
    backwards = dict(reversed(FEATURES.items()))
    torch.save(renamed(weights, backwards), tmp_path / "net.pt")
    said = refusal(capsys, "inspect", tmp_path / "net.pt")
    assert "its order is another" in said and "convert" in said
    flag = next(line for line in said.splitlines() if line.startswith("--map="))
    assert run_command(torch_bridge.main, ["inspect", str(tmp_path / "net.pt"), flag]) == 0
    assert "layers as --map says" in capsys.readouterr().err


def test_shapes_that_fit_twice_need_the_map(capsys, tmp_path):
    torch.manual_seed(0)
    weights = golden.torch_network((1, 1), (10, 10)).state_dict()
    theirs = renamed(weights, FEATURES)
    torch.save(theirs, tmp_path / "net.pt")
    said = refusal(capsys, "inspect", tmp_path / "net.pt")
    assert "several assignments fit" in said
    with pytest.raises(UserError, match="several assignments"):
        rename(theirs, "it", {"conv1": "features.0"}, print)
    layers = {
        "conv1": "features.3",
        "conv2": "features.0",
        "fc2": "4",
        "fc3": "classifier.2.weight",
    }
    ours = rename(theirs, "it", layers, print)
    for layer, other in (("conv1", "conv2"), ("fc1", "fc1"), ("fc2", "fc3"), ("fc3", "fc2")):
        assert ours[f"{layer}.weight"] is weights[f"{other}.weight"]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"conv3": "features.0"}, "LeNet's layers are conv1, conv2, fc1"),
        ({"conv1": "features.9"}, "the layers of it are features.0, features.3, classifier.0"),
        ({"conv1": "0"}, "the layers of it are"),
        ({"conv1": "classifier.0"}, "--map=conv1=classifier.0 does not fit"),
    ],
)
def test_a_map_of_something_else_is_refused(weights, layers, message):
    with pytest.raises(UserError, match=message):
        rename(renamed(weights, FEATURES), "it", layers, print)


def test_biases_that_are_not_there_are_zeros(read, weights):
    without = {name: w for name, w in weights.items() if not name.startswith("conv1.b")}
    ours, said = read(without)
    assert not ours["conv1.bias"].any()
    assert_equal(ours, {**weights, "conv1.bias": torch.zeros(6)})
    assert said[0].endswith("zeros for the biases that it has not, of conv1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {
                "bn1.weight": torch.ones(6),
                "bn1.bias": torch.ones(6),
                "bn1.running_mean": torch.ones(6),
                "bn1.num_batches_tracked": torch.tensor(1),
            },
            "has batch normalisation (bn1): not a LeNet",
        ),
        ({"norm.weight": torch.ones(6)}, "not a LeNet: it has norm.weight (6,) beside its layers"),
        ({"fc4.weight": torch.ones(10, 10)}, "not a LeNet: it has fc4.weight (10, 10) beside"),
        ({"conv1.weight_g": torch.ones(6, 1, 1, 1)}, "has weight normalisation (conv1)"),
    ],
)
def test_other_layers_are_refused_by_name(capsys, tmp_path, weights, change, message):
    for name, theirs in (("a.pt", weights), ("b.pt", prefixed("model.", weights))):
        front = "" if name == "a.pt" else "model."
        torch.save(theirs | prefixed(front, change), tmp_path / name)
        assert message.replace("(bn1", f"({front}bn1").replace(
            "has norm", f"has {front}norm"
        ).replace("has fc4", f"has {front}fc4").replace("(conv1)", f"({front}conv1)") in refusal(
            capsys, "inspect", tmp_path / name
        )


def test_other_networks_are_refused_with_their_layers(capsys, tmp_path):
    network = nn.Sequential(nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3), nn.Linear(9216, 128))
    torch.save(network.state_dict(), tmp_path / "net.pt")
    said = refusal(capsys, "inspect", tmp_path / "net.pt")
    assert "is not a LeNet, which has two 5×5 convolutions" in said
    assert "0 (32, 1, 3, 3), 1 (64, 32, 3, 3), 2 (128, 9216)" in said


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x):
        return self.fc(x)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_what_is_no_state_dict_is_named_as_what_it_is(capsys, tmp_path, weights, zipped):
    options = {"_use_new_zipfile_serialization": zipped}
    path = tmp_path / "net.pt"
    torch.save(Net(), path, **options)
    said = refusal(capsys, "inspect", path)
    assert "holds more than weights: a whole object of" in said and "Net" in said
    assert "weights_only=False).state_dict(), 'network.pt')" in said
    torch.save({"args": argparse.Namespace(lr=1), "state_dict": weights}, path, **options)
    said = refusal(capsys, "inspect", path)
    assert "holds more than weights: argparse.Namespace" in said
    assert "c['state_dict']" in said
    torch.save([weights["fc1.bias"]], path, **options)
    assert "it holds a list, not a state_dict" in refusal(capsys, "inspect", path)
    torch.save({"epoch": 3}, path, **options)
    assert "there are no weights in it" in refusal(capsys, "inspect", path)
    for content, entry in (
        ({"args": argparse.Namespace(lr=1), "model": weights}, "torch.save(c['model'], 'w.pt')"),
        ({"epoch": 1, "net": Net()}, "torch.save(c['net'].state_dict(), 'w.pt')"),
        ({"mine": weights, "args": argparse.Namespace()}, "torch.save(c[KEY], 'w.pt')"),
        ({"fc.weight": np.ones((2, 2))}, "torch.tensor(v) for k, v in c.items()}"),
        ({"model": {"fc.weight": np.ones((2, 2))}}, "torch.tensor(v) for k, v in c['model'].it"),
    ):
        torch.save(content, path, **options)
        assert entry in refusal(capsys, "inspect", path)
    torch.save(torch.optim.Adam(Net().parameters()).state_dict(), path, **options)
    assert "the state of an optimizer" in refusal(capsys, "inspect", path)
    torch.save({"nets": {0: weights, 1: weights}}, path, **options)
    assert "['nets'][1], 'network.pt')" in refusal(capsys, "inspect", path)
    torch.jit.script(Net()).save(path)
    said = refusal(capsys, "inspect", path)
    assert "it is a TorchScript archive" in said and "torch.jit.load(" in said


@pytest.mark.parametrize("share", [0.9, 0.5, 0.0])
def test_truncated_files_are_to_be_copied_again(capsys, tmp_path, weights, share):
    path = tmp_path / "net.pt"
    torch.save(weights, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "Copy or download it again" in refusal(capsys, "inspect", path)


@pytest.mark.parametrize(("side", "native"), [(7, 28), (8, 32)])
def test_padding_in_both_convolutions_is_suspected(read, weights, side, native):
    theirs = weights | {"fc1.weight": torch.ones(120, 16 * side**2)}
    _, said = read(theirs)
    assert (
        f"as for images of {native + 12}×{native + 12}; if yours are {native}×{native}" in said[0]
    )


def test_four_layers_and_pruned_ones_are_refused_as_what_they_are(capsys, tmp_path, weights):
    path = tmp_path / "net.pt"
    torch.save({k: w for k, w in weights.items() if not k.startswith("fc3")}, path)
    said = refusal(capsys, "inspect", path)
    assert "is not a LeNet, which has two 5×5" in said and "fc2 (84, 120)" in said
    pruned = {k.replace("weight", "weight_orig"): w for k, w in weights.items()}
    torch.save(pruned | {"fc1.weight_mask": torch.ones(120, 400)}, path)
    assert "prune.remove(layer, 'weight')" in refusal(capsys, "inspect", path)


def test_files_that_only_bear_the_name_are_named(capsys, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    for content, kind in (
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"\x1f\x8b\x08\x00", "packed with gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x80\x04\x95\x10\x00", "a pickle, but not one of torch.save"),
    ):
        path.write_bytes(content)
        assert kind in refusal(capsys, "inspect", path)
    np.savez(tmp_path / "a.npz", a=np.ones(3))
    assert "an archive of NumPy" in refusal(capsys, "inspect", tmp_path / "a.npz")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floats_of_torch_are_converted_and_it_is_said(read, weights, dtype):
    theirs = {name: tensor.to(dtype) for name, tensor in weights.items()}
    ours, said = read(theirs)
    assert_equal(ours, theirs)
    assert said[0].endswith(f"{str(dtype).removeprefix('torch.')} is converted to float32")


@pytest.mark.parametrize("front", ["", "params.", "params/"])
def test_flax_names_and_layouts_are_taken(weights, front):
    model, _ = load_model(golden.NETWORK)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    mark = "/" if "/" in front else "."
    flax = {
        f"{front}{layer}{mark}{kind}": np.asarray(array)
        for layer, arrays in params.items()
        for kind, array in arrays.items()
    }
    ours = rename(flax, "it", {}, print)
    for name, array in to_state_dict(nnx.state(model, nnx.Param)).items():
        np.testing.assert_array_equal(ours[name], array)
