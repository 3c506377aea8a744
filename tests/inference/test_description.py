"""What a weights file does not say: given, written, read back, and found by trying."""

import json
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import lenet_jax
from lenet_jax import data, export, graph, predict, torch_bridge
from lenet_jax.data.dataset import Dataset, Split
from lenet_jax.errors import UserError
from lenet_jax.inference import description, torch_source, trials
from lenet_jax.inference.description import Description, architecture, pixel_statistics
from lenet_jax.inference.state_dict import to_state_dict
from lenet_jax.nn.lenet import LeNet
from lenet_jax.storage import weights

pytestmark = pytest.mark.slow

FORM = {"activation": "tanh", "pool": "avg", "padding": 2}
FLAGS = ["--activation=tanh", "--pool=avg", "--padding=2", "--mean=0.1307", "--std=0.3081"]


@pytest.fixture
def model():
    return LeNet((6, 16), image_size=28, **FORM, rngs=nnx.Rngs(0))


@pytest.fixture
def path(model, tmp_path):
    """Weights without a word on what they are of."""
    file = tmp_path / "net.safetensors"
    weights.write(file, to_state_dict(nnx.state(model, nnx.Param)), {})
    return file


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)


def expected(model, pixels):
    images = (pixels / 255 - 0.1307) / 0.3081
    return np.asarray(model(jnp.asarray(images, jnp.float32)))


def test_what_is_given_makes_the_network(model, path, pixels):
    network = lenet_jax.load(path, **FORM, mean=0.1307, std=[0.3081])
    np.testing.assert_allclose(network.logits(pixels), expected(model, pixels), atol=1e-5)
    assert network.layers["fc2.tanh"] == (84,)
    assert network.features(pixels).shape == (3, 84)


def test_what_is_not_known_is_said_once(path):
    with pytest.warns(UserWarning, match="does not say its activation, pool, padding: relu, max"):
        network = lenet_jax.load(path, mean=0.1307, std=0.3081)
    assert (network.model.activation, network.image_size) == ("relu", 32)
    with pytest.warns(UserWarning, match="its activation, padding: relu, 0 assumed; classes"):
        lenet_jax.load(path, mean=0.1307, std=0.3081, pool="max")


def test_all_that_is_missing_is_said_at_once(run_command, path):
    for flag in "--fit=pad", "--activation=tanh":
        code, _, error = run_command(torch_bridge.main, "evaluate", path, flag)
        assert (code, error.count("\n")) == (2, 3)
        rest = "pool, padding" if "tanh" in flag else "activation, pool, padding"
        assert f"how its images are normalised, nor its {rest}\n" in error
        assert f"evaluate {path} --try" in error


@pytest.mark.parametrize(("channels", "given"), [(1, "0.1307"), (3, "0.5,0.5,0.5")])
def test_the_flags_that_are_asked_for_are_accepted(run_command, tmp_path, channels, given):
    model, file = LeNet(in_channels=channels, rngs=nnx.Rngs(0)), tmp_path / "net.safetensors"
    weights.write(file, to_state_dict(nnx.state(model, nnx.Param)), {})
    _, _, error = run_command(torch_bridge.main, "evaluate", file)
    assert f"as --mean={given} --std=" in error
    asked = [word for word in error.split() if word.startswith(("--mean=", "--std="))]
    assert len(asked) == 2
    out = tmp_path / "out.safetensors"
    assert run_command(torch_bridge.main, "convert", file, out, *asked)[0] == 0
    wrong = run_command(torch_bridge.main, "evaluate", file, "--mean=0.1307,0.2", "--std=0.5,1")[2]
    assert f"each of {channels} input channels, std above 0; not --mean=0.1307,0.2 --std" in wrong


def test_load_names_its_keywords(path):
    with pytest.raises(TypeError, match=r"takes activation, pool, .* layers; not mean_, pooling"):
        lenet_jax.load(path, mean_=0.1, pooling="max")
    with pytest.warns(UserWarning, match="layers as --map says"):
        names = {name: name for name in ("conv1", "conv2", "fc1", "fc2", "fc3")}
        lenet_jax.load(path, **FORM, mean=0, std=1, map=names)


def test_the_converted_file_says_it(run_command, model, path, pixels, tmp_path):
    out = tmp_path / "out.safetensors"
    code, _, error = run_command(torch_bridge.main, "convert", path, out, *FLAGS)
    assert (code, error) == (0, "")
    network = lenet_jax.load(out)  # a warning would be an error
    np.testing.assert_allclose(network.logits(pixels), expected(model, pixels), atol=1e-5)
    assert (
        weights.read(out)[1] | {"activation": "tanh", "pool": "avg", "padding": "2"}
        == (weights.read(out)[1])
    )
    with pytest.warns(UserWarning, match="says activation tanh; what is given is taken instead"):
        assert lenet_jax.load(out, activation="relu").model.activation == "relu"


def test_predict_takes_the_flags_that_it_asks_for(run_command, path, pixels, tmp_path):
    image = tmp_path / "a.png"
    Image.fromarray(pixels[0, ..., 0]).save(image)
    code, _, error = run_command(predict.main, f"--weights={path}", image)
    assert code == 2
    asked = [word for word in error.split() if word.startswith(("--mean=", "--std="))]
    assert len(asked) == 2
    code, said, error = run_command(
        predict.main, f"--weights={path}", *FLAGS[:3], *asked, "--json", image
    )
    assert (code, error) == (0, "")
    network = lenet_jax.load(path, **FORM, mean=0.1307, std=0.3081)
    probabilities = network.probabilities([image])[0]
    assert json.loads(said)[0]["probability"] == pytest.approx(probabilities.max(), abs=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"activation": "tahn"}, "--activation=tahn: must be one of relu, "),
        ({"pool": "mean"}, "--pool=mean: must be one of max, avg"),
        ({"padding": -1}, r"--padding=-1: must be an integer in 0..16"),
        ({"mean": 0.1}, "must be given together"),
        ({"mean": 33.3, "std": 78.6}, r"in \[0, 1\]"),
        (FORM | {"padding": 16, "mean": 0, "std": 1}, "a padding of 16 leaves no image"),
    ],
)
def test_values_that_cannot_be_are_refused(path, given, message):
    with pytest.raises(UserError, match=message):
        lenet_jax.load(path, **given)


@pytest.mark.parametrize(("mean", "std"), [("1e39", "1"), ("1", "1e39"), ("1", "1e-46")])
def test_statistics_that_are_none_in_float32_are_refused(mean, std):
    with pytest.raises(UserError, match="must have a finite number"):
        pixel_statistics({"mean": mean, "std": std}, 1, "a file")
    with pytest.raises(UserError, match=r"padding=9999.*: must be an integer"):
        architecture({"padding": "9" * 5000}, "a file")


def test_every_export_is_of_the_given_network(run_command, path, tmp_path):
    for kind in ("stablehlo", "safetensors"):
        out = tmp_path / f"out.{kind}"
        flags = [f"--weights={path}", f"--format={kind}", f"--out={out}", *FLAGS]
        code, said, error = run_command(export.main, *flags)
        assert (code, error) == (0, "")
        assert "differ by at most" in said
    again = lenet_jax.load(tmp_path / "out.safetensors")
    assert {name: getattr(again.model, name) for name in FORM} == FORM


@pytest.mark.parametrize("kind", ["safetensors", pytest.param("torch", marks=pytest.mark.torch)])
def test_an_export_says_no_more_than_is_known(run_command, path, tmp_path, kind):
    if kind == "torch":
        pytest.importorskip("torch")
    out, again = tmp_path / "out.safetensors", tmp_path / "again.safetensors"
    flags = "--mean=0.1307", "--std=0.3081", "--pool=avg"
    code, _, error = run_command(
        export.main, f"--weights={path}", f"--format={kind}", f"--out={out}", *flags
    )
    assert (code, error.count("does not say its activation, padding: relu, 0 assumed")) == (0, 1)
    assert set(weights.read(out)[1]) == {"mean", "std", "pixels", "pool"}
    run_command(torch_bridge.main, "convert", path, again, *flags)
    assert weights.read(out)[1] == weights.read(again)[1]
    with pytest.warns(UserWarning, match="does not say its activation, padding: relu, 0 assumed"):
        lenet_jax.load(out)


@pytest.mark.torch
def test_the_torch_module_is_the_network_and_its_constants_follow_the_pixels(model, pixels):
    torch = pytest.importorskip("torch")
    module = {}
    exec(torch_source.source(model, [33.3285], [78.5655], "0123456789"), module)
    network = module["LeNet"]()
    state = to_state_dict(nnx.state(model, nnx.Param))
    network.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    normalised = module["normalise"](torch.from_numpy(pixels.transpose(0, 3, 1, 2)))
    logits = network(normalised).detach().numpy()
    np.testing.assert_allclose(logits, expected(model, pixels), atol=1e-5)
    elsewhere = torch.empty((3, 1, 28, 28), dtype=torch.uint8, device="meta")
    normalised = module["normalise"](elsewhere)
    assert normalised.device.type == "meta"
    assert network.to("meta")(normalised).shape == (3, 10)


@pytest.mark.torch
def test_a_trained_tanh_network_of_torch_is_found_by_trying(
    run_command, monkeypatch, tmp_path, pixels
):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    nn = torch.nn
    network = nn.Sequential(
        *(nn.Conv2d(1, 2, 5), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Conv2d(2, 3, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4)),
    )
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 400)
    images = random.integers(0, 90, (400, 16, 16, 1)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[8 * (label // 2) : 8 * (label // 2) + 8, 8 * (label % 2) : 8 * (label % 2) + 8] += 60
    x = (torch.from_numpy(images.transpose(0, 3, 1, 2)).float() / 255 - 0.5) / 0.5
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), torch.from_numpy(labels)).backward()
        optimizer.step()
    path = tmp_path / "net.ckpt"
    torch.save({"epoch": 60, "state_dict": network.state_dict()}, path)
    split = Split(images, labels.astype(np.int32))
    dataset = Dataset("quarters", split, split, split, tuple("0123"), "0" * 64)
    monkeypatch.setattr(data, "load", lambda name, **_: dataset)
    code, said, error = run_command(torch_bridge.main, "evaluate", path, "--try", "--padding=0")
    assert code == 0
    assert "its entry 'state_dict'" in error and "conv1.weight <- 0.weight (2, 1, 5, 5)" in error
    assert "fc3.weight <- " in error
    lines = said.splitlines()[1:]
    rows = [line.strip("≈ ").split() for line in lines]
    others = [row for line, row in zip(lines, rows, strict=True) if line[0] != "≈"]
    assert len(rows) == 10 and lines[0].startswith("≈") and 0 < len(others) < 9
    assert others == sorted(others, key=lambda row: (-float(row[0][:-1]), float(row[1])))
    assert f"the {10 - len(others)} with ≈ are not distinguishable" in said
    assert not any("--fit=resize" in row for row in rows)  # it gives these images too
    true = ["--activation=tanh", "--pool=avg", "--padding=0", "--fit=pad"]
    best = next(row for row in rows if row[2:] == [*true, "--mean=0.5", "--std=0.5"])
    code, said, _ = run_command(torch_bridge.main, "evaluate", path, *best[2:])
    assert (code, f"accuracy {best[0]}" in said) == (0, True)
    with warnings.catch_warnings(action="ignore"):  # about the entry and the table, as above
        ours = lenet_jax.load(path, activation="tanh", pool="avg", padding=0, mean=0.5, std=0.5)
    with torch.no_grad():
        np.testing.assert_allclose(ours.logits(images), network(x).numpy(), atol=1e-5)


def make_trial(rarity, right, loss, noise=0.0):
    random = np.random.default_rng(rarity)
    return trials.Trial(
        Description(padding=rarity),
        rarity,
        np.arange(2000) < right,
        loss + noise * random.permutation(np.linspace(-1, 1, 2000)),
    )


def test_ties_are_marked_and_the_commonest_comes_first():
    ranked = trials._ranked(
        [
            make_trial(6, 1900, 0.2),
            make_trial(2, 1897, 0.204),  # 3 images fewer, a loss higher by 2 %
            make_trial(1, 1900, 0.3),  # as accurate, but clearly less likely
            make_trial(0, 1800, 0.2),
            make_trial(4, 1899, 0.21, noise=0.5),
            make_trial(7, 1900, 0.2),  # the same as the first
        ]
    )
    assert [(trial.rarity, trial.tied) for trial in ranked] == [
        *((2, True), (4, True), (6, True)),
        *((1, False), (0, False)),
    ]


DATA = (25.5,), (70.0,)


@pytest.mark.parametrize(
    ("metadata", "remarks"),
    [
        ({**FORM, "mean": "25.6", "std": "70.1"}, []),
        ({**FORM, "mean": "127.5", "std": "127.5"}, ["images with --mean=0.5 --std=0.5; this run"]),
        ({}, ["does not say its activation, pool, padding, normalisation: those of this config"]),
        ({"mean": "25.5", "std": "70"}, ["not say its activation, pool, padding: those"]),
        (
            {**FORM, "padding": "0", "pool": "max", "mean": "25.5", "std": "70"},
            ["pool max; this one has avg", "padding 0; this one has 2: model.padding (and data.im"],
        ),
    ],
)
def test_what_initial_weights_are_of_is_compared_with_the_run(metadata, remarks):
    metadata = {name: str(value) for name, value in metadata.items()}
    said = description.disagreements(metadata, FORM, DATA)
    assert len(said) == len(remarks)
    assert all(part in remark for part, remark in zip(remarks, said, strict=True))


def test_the_graph_follows(run_command):
    _, said, _ = run_command(graph.main, "--backend=plain", "--activation=tanh", "--pool=avg")
    assert said.count("tanh") == 4 and "reduce_sum" in said and "reduce_window" not in said


def test_a_description_is_nothing_by_default():
    assert Description().metadata() == {}
