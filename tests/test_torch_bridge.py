"""The bridge's command."""

import re
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lenet_jax import data, torch_bridge
from lenet_jax.errors import UserError
from lenet_jax.inference.description import pixel_statistics
from lenet_jax.inference.load import load_model
from lenet_jax.runs import figures as report
from lenet_jax.storage import weights
from lenet_jax.training.batches import DeviceSplit
from lenet_jax.training.evaluation import evaluate
from lenet_jax.training.spec import make_spec
from tests.support import tiny
from tests.support.weights import SIZES, refusal, split

pytestmark = pytest.mark.slow


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A folder with a network's weights and metadata, as a finished run leaves them."""
    dataset = tiny.dataset()
    monkeypatch.setattr(data, "load", lambda name, **_: dataset)
    spec = make_spec(tiny.config(), dataset)
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.array(random.normal(0, 0.3, leaf.shape), jnp.float32),
        split(**SIZES | {"features": (8, 6)})[1],
    )
    report.save_weights(tmp_path / "model.safetensors", spec, params, dataset, {})
    return tmp_path, spec, params, dataset


def test_inspect_prints_what_a_run_left(capsys, run):
    folder, *_ = run
    assert torch_bridge.main(["inspect", str(folder)]) == 0
    out, _ = capsys.readouterr()
    assert "a LeNet for images of 16×16×1\n  channels: (2, 3)\n  features: (8, 6)\n" in out
    assert "conv1.weight (2, 1, 5, 5)            50\n" in out
    assert "parameters                          333\n" in out
    assert "classes: a, b, c, d, e, f\n" in out
    flags = re.search(r"as flags, of pixels in 0..1: --mean=(0\.\d+) --std=(0\.\d+)\n", out)
    assert flags and 255 * float(flags[1]) == pytest.approx(run[1].mean[0], rel=1e-3)


def test_evaluate_counts_every_test_image(capsys, monkeypatch, run):
    monkeypatch.setattr("lenet_jax.inference.forward.BATCH", 20)  # the last batch has 13
    folder, spec, params, dataset = run
    metrics, _ = evaluate(spec, params, jax.device_put(DeviceSplit.of(dataset.test)))
    wrong = int(metrics.count - metrics.correct)
    assert 0 < wrong < 33
    assert torch_bridge.main(["evaluate", str(folder), "--data=bars"]) == 0
    out, _ = capsys.readouterr()
    assert out.endswith(f"{1 - wrong / 33:.2%}, {wrong} of 33 images wrong\n")


def test_metadata_of_a_run_round_trips_exactly(run):
    folder, spec, *_ = run
    _, metadata = load_model(folder)
    mean, std = pixel_statistics(metadata, 1, "it")
    assert (tuple(mean), tuple(std)) == (spec.mean, spec.std)


def test_convert_keeps_weights_and_metadata_bit_for_bit(capsys, run, tmp_path):
    folder, *_ = run
    out = tmp_path / "out.safetensors"
    assert torch_bridge.main(["convert", str(folder), str(out)]) == 0
    assert out.read_bytes() == (folder / "model.safetensors").read_bytes()
    assert capsys.readouterr().out == f"{out}\n"
    assert torch_bridge.main(["convert", str(folder), str(out)]) == 0  # the same again
    capsys.readouterr()
    out.write_text("another file")
    assert f"{out} already exists" in refusal(capsys, "convert", folder, out)
    assert out.read_text() == "another file"
    assert torch_bridge.main(["convert", str(folder), str(out), "--force"]) == 0
    assert out.read_bytes() == (folder / "model.safetensors").read_bytes()


def test_convert_records_pytorchs_normalisation(saved, tmp_path):
    out = tmp_path / "out.safetensors"
    argv = ["convert", str(saved({})), str(out), "--mean=0.1307", "--std=0.3081"]
    assert torch_bridge.main(argv) == 0
    _, metadata = load_model(out)
    mean, std = pixel_statistics(metadata, 1, "it")
    np.testing.assert_allclose([mean, std], [[33.3285], [78.5655]], rtol=1e-12)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: COMMAND"),
        (["inspct", "FILE"], "invalid choice: 'inspct'"),
        (["inspect"], "required: FILE"),
        (["inspect", "FILE", "--al\nl"], "unrecognized arguments"),
        (["convert", "FILE", "OUT.pt"], "must end in .safetensors"),
        (["convert", "FILE", "OUT.safetensors", "--mean=0.1"], "must be given together"),
        (["convert", "FILE", "OUT.safetensors", "--mean=33.3", "--std=78.6"], "in [0, 1]"),
        (["convert", "FILE", "OUT.safetensors", "--mean=0.1", "--std=0"], "in (0, 1]"),
        (["convert", "FILE", "OUT.safetensors", "--mean=nan", "--std=1"], "in [0, 1]"),
        (["convert", "FILE", "OUT.safetensors", "--mean=x", "--std=1"], "'x' is not X or X,Y,Z"),
        (["convert", "FILE", "OUT.safetensors", "--mean=0,0", "--std=1"], "each of 1 input"),
        (["evaluate", "FILE"], "does not say how its images are normalised"),
        (["evaluate", "FILE", "--mean=0", "--std=1"], "for 1 channels and 6 classes, but the data"),
        (
            ["evaluate", "FILE", "--mean=0", "--std=1", "--data=./none"],
            "no file or folder none",
        ),
        (["evaluate", "FILE", "--fit=crop"], "invalid choice: 'crop'"),
    ],
)
def test_mistakes_are_reported_and_nothing_is_written(capsys, monkeypatch, saved, argv, message):
    path = saved({})
    monkeypatch.chdir(path.parent)
    argv = [path.name if word == "FILE" else word for word in argv]
    if argv[0:1] == ["evaluate"] and "--data=./none" not in argv:
        argv.append(f"--data={make_idx_folder(path.parent / 'idx')}")
    before = sorted(path.parent.iterdir())
    assert message in refusal(capsys, *argv)
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


@pytest.mark.parametrize("mean", ["x", "", "1 2", "inf", "1e999", "1_0"])
def test_invalid_metadata_is_refused(capsys, tmp_path, state_dict, mean):
    path = tmp_path / "network.safetensors"
    weights.write(path, state_dict, {"mean": mean, "std": "1.0"})
    named, _ = refusal(capsys, "evaluate", path).split(": ", 1)
    assert str(path).endswith(named.removeprefix("…"))
    with pytest.raises(UserError, match="std above 0"):
        pixel_statistics({"mean": "0", "std": "0"}, 1, "it")


def test_other_classes_than_the_networks_are_refused(capsys, monkeypatch, run):
    folder, _, _, dataset = run
    vars(dataset)["class_names"] = tuple("uvwxyz")
    said = refusal(capsys, "evaluate", folder)
    assert said.endswith("trained on other classes than those of 'bars': a, b, c, d, e, f\n")


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit, match="0"):
        torch_bridge.main(["--help"])
    out, _ = capsys.readouterr()
    assert "python -m lenet_jax.torch_bridge" in out
    assert all(f"\n    {name} " in out for name in ("inspect", "convert", "evaluate"))
