import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import lenet_jax
from lenet_jax import config as configs
from lenet_jax import data
from lenet_jax.errors import UserError
from lenet_jax.inference.load import load
from lenet_jax.storage import weights
from tests.support import tiny
from tests.support.runs import renew_sums


@pytest.fixture(scope="module")
def network(notes_run):
    return lenet_jax.load(notes_run)


@pytest.fixture(scope="module")
def images():
    return data.load("mnist").test.images


def test_importing_the_package_is_light():
    code = "import lenet_jax, sys; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_loaded_network_has_the_test_accuracy_of_its_run(network, images):
    labels = data.load("mnist").test.labels
    hits = int((network.predict(images) == labels).sum())
    assert hits == round(10_000 * network.summary["test_accuracy"])
    assert network.config.data.train_examples == 12_000
    assert [row["epoch"] for row in network.history] == [1, 2, 3]
    assert network.class_names == tuple("0123456789")


def test_logits_do_not_depend_on_the_batch_size(network, images):
    logits = network.logits(images[:300])
    assert logits.shape == (300, 10)
    for count in (1, 3, 129):
        np.testing.assert_allclose(network.logits(images[:count]), logits[:count], atol=2e-5)
    assert network.logits(images[:0]).shape == (0, 10)


def test_images_are_fitted_as_the_data_was(network, images):
    expected = network.logits(images[:5])
    small = images[:5, 2:-2, 2:-2]
    for form in (small, small[..., 0]):
        np.testing.assert_array_equal(network.logits(form), expected)
    np.testing.assert_allclose(network.logits(small[0, :, :, 0]), expected[:1], atol=2e-5)


def test_image_files_are_accepted(network, images, tmp_path):
    for index in range(3):
        Image.fromarray(images[index, 2:-2, 2:-2, 0]).save(tmp_path / f"{index}.png")
    files = sorted(tmp_path.iterdir())
    np.testing.assert_array_equal(network.prepare(files), images[:3])
    np.testing.assert_array_equal(network.prepare(str(files[0])), images[:1])


def test_probabilities_sum_to_1(network, images):
    probabilities = network.probabilities(images[:50])
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(1), network.predict(images[:50]))


def test_features_of_every_layer_have_its_shape_and_lead_to_the_logits(network, images):
    for layer, shape in network.layers.items():
        assert network.features(images[:4], layer).shape == (4, *shape)
    assert network.layers["conv1.pool"] == (14, 14, 6)
    features = network.features(images[:4])
    assert features.shape == (4, 84)
    last = network.model.fc3(jnp.asarray(features))
    np.testing.assert_allclose(last, network.logits(images[:4]), atol=2e-5)


def test_normalised_images_are_what_the_model_takes(network, images):
    logits = network.model(network.normalise(network.prepare(images[:4])))
    np.testing.assert_allclose(logits, network.logits(images[:4]), atol=2e-5)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((2, 28, 28), -3e9, np.float32), "floats must be in 0..1 or 0..255"),
        (np.zeros((2, 28, 28, 2), np.uint8), r"\(n, height, width, 1\)"),
        (np.zeros(28, np.uint8), r"not of shape \(28,\)"),
        (
            np.zeros((2, 40, 40), np.uint8),
            "40×40 are larger than the 32×32 that the",
        ),
        (["no.png"], "no.png cannot be read: No such file"),
        ([], "names of files"),
        ([1, 2], "names of files"),
    ],
)
def test_invalid_images_are_refused(network, images, message):
    with pytest.raises(UserError, match=message):
        network.predict(images)


def test_an_unknown_layer_is_refused_with_a_list_of_layers(network, images):
    with pytest.raises(UserError, match=r"no layer 'conv3'; there are conv1, conv1.relu"):
        network.features(images[:1], "conv3")


def test_a_file_of_weights_is_a_network_without_a_config(network, notes_run, images):
    alone = lenet_jax.load(notes_run / "model.safetensors")
    assert alone.config is None
    np.testing.assert_array_equal(alone.logits(images[:9]), network.logits(images[:9]))


def test_a_member_of_a_sweep_is_a_network_with_its_own_config(network, sweep, images):
    member = lenet_jax.load(sweep, member=7)
    np.testing.assert_array_equal(member.logits(images[:9]), network.logits(images[:9]))
    assert member.config is not None
    assert member.config.seed == 7
    assert member.summary["test_accuracy"] == pytest.approx(0.7)
    assert [row["epoch"] for row in member.history] == [1, 2, 3]
    assert [row["valid/accuracy"] for row in member.history] == pytest.approx([0.7, 0.8, 0.9])
    other = lenet_jax.load(sweep, member=3)
    assert np.abs(other.logits(images[:9]) - network.logits(images[:9])).max() > 1


def test_a_network_is_shown_in_three_lines(notes_run):
    network = lenet_jax.load(notes_run)
    accuracy = 100 * network.summary["test_accuracy"]
    assert repr(network).splitlines() == [
        f"Network of {notes_run}: 49,102 parameters",
        "  conv1 6, conv2 12, fc1 120, fc2 84, fc3 10; relu, max pooling",
        f"  data mnist, input 32×32×1, 10 classes, test accuracy {accuracy:.2f} %",
    ]


def test_paths_without_a_trained_network_are_refused(notes_run, sweep, tmp_path):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(notes_run / "config.json", unfinished)
    broken = tmp_path / "broken"
    shutil.copytree(sweep, broken)
    (broken / "sweep.json").write_text("{")
    damaged = tmp_path / "damaged"
    shutil.copytree(sweep, damaged)
    (damaged / "chunks" / "0000" / "history.npz").write_bytes(b"PK")
    (tmp_path / "w.safetensors").write_bytes(b"...")
    for path, member, message in (
        (tmp_path / "nowhere", None, "does not exist"),
        (tmp_path, None, "is not a run directory: it has no config.json"),
        (unfinished, None, "no trained network yet"),
        (notes_run, 3, "is not a sweep, so it has no member 3"),
        (sweep, None, "a sweep of 9 networks; choose one, for example .*:3"),
        (sweep, 9, "no member 9; it has 0 to 8"),
        (sweep, 8, r"no weights of member 8\nIt has those of members: 3, 7"),
        (broken, 3, "sweep.json is not JSON"),
        (damaged, 3, "0000 is damaged: "),
        (tmp_path / "w.safetensors", None, "not a valid safetensors file"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            lenet_jax.load(path, member)
        assert len(str(caught.value).splitlines()) <= 3


def test_colour_is_resized(tmp_path, monkeypatch):
    state_dict = {
        name: np.full(shape, 0.01, np.float32)
        for name, shape in {
            "conv1.weight": (2, 3, 5, 5),
            "conv1.bias": (2,),
            "conv2.weight": (3, 2, 5, 5),
            "conv2.bias": (3,),
            "fc1.weight": (8, 3),
            "fc1.bias": (8,),
            "fc2.weight": (6, 8),
            "fc2.bias": (6,),
            "fc3.weight": (4, 6),
            "fc3.bias": (4,),
        }.items()
    }
    metadata = {"mean": "1 2 3", "std": "1 1 1"}
    metadata |= {"activation": "relu", "pool": "max", "padding": "0"}
    weights.write(tmp_path / "colour.safetensors", state_dict, metadata)
    network = lenet_jax.load(tmp_path / "colour.safetensors")
    picture = np.zeros((50, 30, 3), np.uint8)
    picture[..., 0] = 200
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(picture[..., 0]).save(tmp_path / "grey.png")
    prepared = network.prepare([tmp_path / "a.png", tmp_path / "grey.png"])
    assert prepared.shape == (2, 16, 16, 3)
    assert (prepared[0] == (200, 0, 0)).all() and (prepared[1] == 200).all()
    assert network.class_names == tuple("0123")


class TestTrain:
    def test_trains_a_run_and_gives_its_network(self, tmp_path, capsys):
        values = tiny.CONFIG | {"data.name": str(tiny.write_idx_folder(tmp_path / "bars"))}
        config = configs.load("configs/notes.py", values.items())
        network = lenet_jax.train(config, tmp_path / "run")
        assert network.summary["status"] == "done"
        assert [row["epoch"] for row in network.history] == [1, 2, 3]
        again = lenet_jax.train(config, tmp_path / "run")
        assert "this run is already finished" in capsys.readouterr().out
        assert jax.tree.all(
            jax.tree.map(lambda a, b: bool((a == b).all()), network.state_dict, again.state_dict)
        )

    def test_without_a_directory_there_is_a_new_one_in_runs(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        seen = []

        def run(config, workdir, command, started, *, repeats, dataset, hooks):
            seen.append((config.train.num_epochs, workdir))
            return 3

        monkeypatch.setattr("lenet_jax.runs.run.run", run)
        config = tmp_path / "two.py"
        config.write_text("from lenet_jax.config.base import get_config\n")
        with pytest.raises(UserError, match="diverged"):
            lenet_jax.train(f"{config}:smoke")
        assert seen[0][0] == 2
        assert seen[0][1].startswith("runs/2")

    @pytest.mark.parametrize("kind", [str, Path])
    def test_a_run_is_repeated_by_its_name_or_its_path(self, tmp_path, monkeypatch, kind):
        repeated = []

        def run(*_, repeats, dataset, hooks):
            repeated.append(repeats)
            return 3

        monkeypatch.setattr("lenet_jax.runs.run.run", run)
        (tmp_path / "config.json").write_text(json.dumps(configs.to_dict(tiny.config())))
        with pytest.raises(UserError, match="diverged"):
            lenet_jax.train(kind(tmp_path), tmp_path / "again")
        assert repeated == [tmp_path / "config.json"]

    def test_a_stopped_run_stops_the_caller(self, tmp_path, monkeypatch):
        monkeypatch.setattr("lenet_jax.runs.run.run", lambda *_, repeats, dataset, hooks: 130)
        with pytest.raises(KeyboardInterrupt):
            lenet_jax.train(tiny.config(), tmp_path)


def test_the_history_ends_at_an_incomplete_line(notes_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(notes_run, folder)
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([*rows[:2], rows[2][:20]]))
    renew_sums(folder)
    assert len(lenet_jax.load(folder).history) == 2
    (folder / "summary.json").write_text(json.dumps([]))
    renew_sums(folder)
    with pytest.raises(UserError, match=r"summary.json: expected `object`"):
        lenet_jax.load(folder)


@pytest.mark.parametrize(
    "name", ["summary.json", "metrics.jsonl", "model.safetensors", "config.json"]
)
def test_a_run_whose_files_changed_is_refused(notes_run, tmp_path, name):
    folder = tmp_path / "run"
    shutil.copytree(notes_run, folder)
    assert lenet_jax.load(folder).summary == lenet_jax.load(notes_run).summary
    content = (folder / name).read_bytes()
    at = content.rindex(b"1")
    (folder / name).write_bytes(content[:at] + b"2" + content[at + 1 :])
    with pytest.raises(UserError, match=f"is damaged: {name} is not as its run wrote it"):
        lenet_jax.load(folder)
    renew_sums(folder)
    if name == "model.safetensors":
        with pytest.raises(UserError, match="it differs from its own SHA-256"):
            lenet_jax.load(folder)
    else:
        assert lenet_jax.load(folder).class_names == lenet_jax.load(notes_run).class_names


@pytest.mark.parametrize("path", [None, 3, b"run"])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(UserError, match="must be the name of a run or a file, not"):
        inspect.unwrap(load)(path)  # the tests check types before
