import errno
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open

from lenet_jax import config as configs
from lenet_jax.inference.state_dict import to_state_dict
from lenet_jax.plots import curves, filters, output, results
from lenet_jax.runs import figures as report
from lenet_jax.training.sizes import layers
from lenet_jax.training.spec import make_spec
from tests.support import tiny

DATASET = tiny.dataset()
FIGURES = ["curves", "confusion_matrix", "filters", "feature_maps", "mistakes"]
TITLE = "LeNet 2–3–8–6–6 on bars"
ROWS = [{"epoch": 1, "train/loss": 1.5}]


@pytest.fixture(scope="module")
def spec():
    return make_spec(tiny.config(), DATASET)


@pytest.fixture(scope="module")
def params(spec):
    rng = np.random.default_rng(0)
    shapes = nnx.state(nnx.eval_shape(lambda: spec.make_model(jax.random.key(0))), nnx.Param)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)


@pytest.fixture
def plots(monkeypatch):
    """Replaces drawing; holds the arguments that each figure was drawn with."""
    drawn = {}
    monkeypatch.setattr(output, "render", lambda figure, suffix: figure.encode())

    def make_plot(name):
        def plot(*args, **kwargs):
            drawn[name] = types.SimpleNamespace(args=args, **kwargs)
            return name

        return plot

    for name in FIGURES:
        module = {"curves": curves, "filters": filters, "feature_maps": filters}.get(name, results)
        monkeypatch.setattr(module, f"plot_{name}", make_plot(name))
    return drawn


def logits_of(predictions, scale=20.0):
    return scale * np.eye(6, dtype=np.float32)[predictions]


def test_every_figure_gets_its_data(spec, params, plots, tmp_path):
    labels = DATASET.test.labels
    predictions = np.where(np.arange(len(labels)) == 3, (labels + 1) % 6, labels)
    logits = logits_of(predictions)
    drawn = report.draw_figures(tmp_path, spec, params, DATASET, logits, ROWS, pytest.fail)
    assert drawn == [tmp_path / f"{name}.png" for name in FIGURES]

    assert [file.read_text() for file in drawn] == FIGURES
    assert plots["curves"].args == (ROWS,)
    assert plots["curves"].title == TITLE + f", {spec.num_examples:,} training images"
    assert all(plots[name].title == TITLE for name in FIGURES[1:])
    matrix, names = plots["confusion_matrix"].args
    assert names == DATASET.class_names
    assert matrix.sum() == len(labels) and matrix.trace() == len(labels) - 1
    (kernel,) = plots["filters"].args
    np.testing.assert_array_equal(kernel, params["conv1"]["kernel"][...])
    images, true, shown, names = plots["mistakes"].args
    np.testing.assert_array_equal(images, DATASET.test.images)
    np.testing.assert_array_equal(true, labels)
    np.testing.assert_array_equal(shown, logits)
    assert names == DATASET.class_names


def test_the_feature_maps_are_of_a_confidently_classified_image(spec, params, plots, tmp_path):
    labels = DATASET.test.labels
    last = np.flatnonzero(labels == labels.max())
    wrong, uncertain, confident = last[:3]
    logits = logits_of(labels)
    logits[wrong] = logits_of((labels[wrong] + 1) % 6)
    logits[uncertain] = logits_of(labels[uncertain], scale=1.0)
    report.draw_figures(tmp_path, spec, params, DATASET, logits, ROWS, pytest.fail)
    shown = plots["feature_maps"]
    image, _, maps = shown.args
    np.testing.assert_array_equal(image, DATASET.test.images[confident])
    name = DATASET.class_names[labels[confident]]
    assert shown.captions == [
        f"test image {confident}",
        f"true class: {name}",
        f"predicted: {name}",
    ]
    pixels = (DATASET.test.images[[confident]] - spec.mean[0]) / spec.std[0]
    model = nnx.merge(spec.graphdef, params)
    expected = model.feature_maps(jnp.asarray(pixels, jnp.float32))
    np.testing.assert_allclose(maps, expected[0], rtol=1e-4, atol=1e-3)


def test_without_a_correct_prediction_the_first_image_is_shown(spec, params, plots, tmp_path):
    logits = logits_of((DATASET.test.labels + 1) % 6)
    report.draw_figures(tmp_path, spec, params, DATASET, logits, ROWS, pytest.fail)
    np.testing.assert_array_equal(plots["feature_maps"].args[0], DATASET.test.images[0])
    index, label, prediction = plots["feature_maps"].captions
    assert index == "test image 0"
    assert label.removeprefix("true class") != prediction.removeprefix("predicted")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError(), "filters.png was not drawn: ValueError: "),
        (OSError("broken font"), "filters.png was not drawn: OSError: broken font"),
        (RuntimeError("two\nlines"), "filters.png was not drawn: RuntimeError: two lines"),
        (MemoryError(), "filters.png was not drawn: MemoryError: "),
        (ImportError("no font"), "filters.png was not drawn: ImportError: no font"),
    ],
)
def test_a_failing_figure_is_a_warning_and_the_others_are_drawn(
    spec, params, plots, monkeypatch, tmp_path, error, message
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(filters, "plot_filters", fail)
    warnings = []
    logits = logits_of(DATASET.test.labels)
    drawn = report.draw_figures(tmp_path, spec, params, DATASET, logits, ROWS, warnings.append)
    assert len(drawn) == 4 and tmp_path / "filters.png" not in drawn
    (warning,) = warnings
    assert warning.startswith(message)
    assert len(warning.splitlines()) == 1


def test_a_full_disk_is_an_error(spec, params, plots, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(filters, "plot_filters", fail)
    logits = logits_of(DATASET.test.labels)
    with pytest.raises(OSError, match="No space left"):
        report.draw_figures(tmp_path, spec, params, DATASET, logits, ROWS, pytest.fail)


def test_the_weights_have_the_metadata_for_preprocessing(spec, params, tmp_path):
    report.save_weights(tmp_path / "model.safetensors", spec, params, DATASET, {"images": "x"})
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    with safe_open(tmp_path / "model.safetensors", "numpy") as file:
        metadata = file.metadata()
        expected = to_state_dict(params)
        assert set(file.keys()) == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(file.get_tensor(name), values)
    assert tuple(map(float, metadata["mean"].split())) == spec.mean
    assert tuple(map(float, metadata["std"].split())) == spec.std
    assert metadata["classes"].splitlines() == list(DATASET.class_names)
    assert metadata["images"] == "x"


@pytest.mark.parametrize("image_size", [16, 28, 32])
def test_the_table_of_layers_matches_the_network(image_size):
    config = tiny.config(data={"image_size": image_size})
    spec = make_spec(config, DATASET)
    model = nnx.eval_shape(lambda: spec.make_model(jax.random.key(0)))
    table = {name: (shape, count) for name, shape, count in layers(spec)}
    assert list(table) == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    side = (image_size // 2 - 2) // 2 - 2
    assert table["conv1"] == ((image_size // 2 - 2,) * 2 + (2,), 5 * 5 * 2 + 2)
    assert table["conv2"] == ((side, side, 3), 5 * 5 * 2 * 3 + 3)
    assert table["fc1"] == ((8,), side * side * 3 * 8 + 8)
    assert table["fc3"] == ((6,), 6 * 6 + 6)
    params = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(count for _, count in table.values()) == sum(leaf.size for leaf in params)


def test_the_table_of_ones_own_network_is_in_the_order_of_execution():
    changes = {k: v for k, v in tiny.CONFIG.items() if not k.startswith("model.")}
    changes |= {"model.name": "examples/own_network.py:Net", "model.width": 4}
    spec = make_spec(configs.load("configs/notes.py", changes.items()), DATASET)
    side = DATASET.image_shape[0]
    *others, (name, shape, _) = layers(spec)
    assert others == [
        ("conv", (side, side, 4), 3 * 3 * 4 + 4),
        ("norm", (side, side, 4), 2 * 4),
    ]
    assert (name, shape) == ("linear", (DATASET.num_classes,))
