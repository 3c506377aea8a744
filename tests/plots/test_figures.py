import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from lenet_jax.plots import filters as filter_figures
from lenet_jax.plots import results as figures
from lenet_jax.plots.style import Sheet

NAMES = [str(digit) for digit in range(10)]
HISTORY = [
    {
        "epoch": epoch,
        "train/loss": 0.4 / epoch,
        "train/accuracy": 1 - 0.1 / epoch,
        "valid/loss": 0.3 / epoch,
        "valid/accuracy": accuracy,
        "learning_rate": 0.05,
        "images_per_second": 4e4,
    }
    for epoch, accuracy in enumerate([0.91, 0.97, 0.985, 0.97, 0.985], 1)
]


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def texts(monkeypatch):
    """What the figures write with `Sheet.text`, and on their axes when they are saved."""
    written = []
    write, save = Sheet.text, Sheet.save

    def record(self, x, y, text, **style):
        written.append(text)
        return write(self, x, y, text, **style)

    def record_axes(self, path):
        save(self, path)
        for axes in self.figure.axes:
            labels = [*axes.get_xticklabels(), *axes.get_yticklabels()]
            written.extend(label.get_text() for label in labels)

    monkeypatch.setattr(Sheet, "text", record)
    monkeypatch.setattr(Sheet, "save", record_axes)
    return written


def opened(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width <= 1400
        return np.asarray(image.convert("RGB"))


def count(picture, colour):
    return int((picture == np.array(colour)).all(2).sum())


def confusion_of(k, random):
    return (random.poisson(0.5, (k, k)) + np.diag(random.poisson(90, k))).astype(np.int32)


def test_all_figures_have_the_same_bytes_twice_and_carry_no_dates(tmp_path, random):
    images = random.integers(0, 255, (20, 28, 28, 1), np.uint8)
    labels = random.integers(0, 10, 20).astype(np.int32)
    kernel = random.normal(size=(5, 5, 1, 6)).astype(np.float32)
    probabilities = random.dirichlet(np.ones(10), 20).astype(np.float32)
    predictions = probabilities.argmax(1).astype(np.int32)
    maps = np.abs(random.normal(size=(14, 14, 6))).astype(np.float32)
    random_patches = random.integers(0, 255, (6, 9, 5, 5, 1), np.uint8)
    sure = np.array([np.nan, 0.4, 0.7, 0.9], np.float64)
    draw = {
        "curves": lambda path: figures.plot_curves(HISTORY, path, title="mnist"),
        "confusion": lambda path: figures.plot_confusion_matrix(
            confusion_of(10, np.random.default_rng(1)), NAMES, path
        ),
        "filters": lambda path: filter_figures.plot_filters(kernel, path),
        "maps": lambda path: filter_figures.plot_feature_maps(
            images[0], kernel, maps, path, label="7", prediction="1"
        ),
        "mistakes": lambda path: figures.plot_mistakes(
            images, labels, predictions, probabilities, NAMES, path
        ),
        "patches": lambda path: filter_figures.plot_exciting_patches(
            kernel, random_patches, path, layer="conv1"
        ),
        "journey": lambda path: filter_figures.plot_journey(
            images[0], {"conv1": maps, "fc3": maps[0, 0]}, probabilities[0], NAMES, path, label="a"
        ),
        "saliency": lambda path: filter_figures.plot_saliency(
            images[0], images[1, ..., 0] / np.float32(255), path, prediction="7"
        ),
        "calibration": lambda path: figures.plot_calibration(
            sure, sure**2, np.array([0, 3, 1000, 7]), 0.01, path
        ),
        "histograms": lambda path: figures.plot_histograms(
            {"Weights": {"conv1": kernel, "fc1": maps}}, {"conv1": "a note"}, path
        ),
    }
    for name, plot in draw.items():
        first, second = tmp_path / f"{name}.png", tmp_path / "elsewhere.png"
        plot(first)
        plot(second)
        assert first.read_bytes() == second.read_bytes(), name
        assert b"tEXt" not in first.read_bytes(), name
        with Image.open(first) as image:
            assert set(image.info) == {"dpi"}, name
        assert count(opened(first), (255, 255, 255)) > 1000, name


def test_neither_pyplot_nor_jax_is_needed():
    code = (
        "import sys; from lenet_jax.plots import filters; assert 'matplotlib' not in sys.modules;"
        "import numpy, tempfile, pathlib; folder = pathlib.Path(tempfile.mkdtemp());"
        "filters.plot_filters(numpy.ones((5, 5, 1, 6), numpy.float32), folder / 'a.png');"
        "assert not {'jax', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class TestCurves:
    def test_marks_the_earliest_best_epoch(self, tmp_path, texts):
        figures.plot_curves(HISTORY, tmp_path / "a.png", title="mnist")
        assert "★ best epoch 3: valid accuracy 98.50 %" in texts
        assert "mnist" in texts

    def test_without_validation_there_is_no_best_epoch(self, tmp_path, texts):
        history = [{k: v for k, v in row.items() if "valid" not in k} for row in HISTORY]
        figures.plot_curves(history, tmp_path / "a.png", title="mnist")
        assert not any("best" in text or "valid" in text for text in texts)
        picture = opened(tmp_path / "a.png")
        assert count(picture, (0xD5, 0x5E, 0)) > 100
        assert count(picture, (0, 0x72, 0xB2)) == 0

    def test_accuracy_ticks_are_accuracies_and_enclose_the_curves(self, tmp_path, texts):
        figures.plot_curves(HISTORY, tmp_path / "a.png", title="mnist")
        assert {"90", "95", "98", "98.5"} <= set(texts)  # from 90 to 98.5 %
        assert not {"85", "99"} & set(texts)

    @pytest.mark.parametrize(
        "change",
        [
            {"train/accuracy": 1.0, "valid/accuracy": 1.0},
            {"train/accuracy": 0.0, "valid/accuracy": 0.0},
            {"train/loss": 0.0, "valid/loss": 3e38},
            {"train/loss": 1e-42, "valid/loss": 2.3},
            {"train/loss": 2.0, "valid/loss": 2.0},
            {"train/loss": float("nan"), "valid/loss": float("inf")},
            {k: float("nan") for k in HISTORY[0] if "/" in k},
            {"learning_rate": 0.0},
        ],
    )
    def test_extreme_values_are_drawn_without_warnings(self, tmp_path, change):
        history = [row | change for row in HISTORY]
        figures.plot_curves(history, tmp_path / "a.png", title="mnist")
        figures.plot_curves(history[:1], tmp_path / "b.png", title="mnist")
        assert opened(tmp_path / "a.png").shape == opened(tmp_path / "b.png").shape

    def test_a_title_may_have_any_letters(self, tmp_path, texts):
        figures.plot_curves(HISTORY, tmp_path / "a.png", title="$\\frac$ あ")
        assert texts[0] == "$\\frac$ \N{REPLACEMENT CHARACTER}"


class TestConfusionMatrix:
    def test_errors_are_coloured_by_their_share_and_the_diagonal_is_grey(self, tmp_path):
        confusion = np.diag([1000, 100]).astype(np.int32)
        confusion[0, 1], confusion[1, 0] = 10, 10
        figures.plot_confusion_matrix(confusion, ["a", "b"], tmp_path / "a.png")
        picture = opened(tmp_path / "a.png")
        assert count(picture, (228, 228, 228)) > 2 * 255**2
        colours, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
        cells = colours[(counts > 200**2) & (colours.max(1) > colours.min(1))].astype(int)
        assert len(cells) == 2
        left, right = sorted(cells, key=lambda cell: np.nonzero((picture == cell).all(2))[1].mean())
        assert right.sum() > left.sum() + 200  # 1 % of a, upper right, is lighter than 9 % of b

    def test_numbers_and_recall(self, tmp_path, texts):
        confusion = np.array([[3, 1, 0], [0, 50, 0], [0, 0, 0]], np.int32)
        figures.plot_confusion_matrix(confusion, ["a", "b", "c"], tmp_path / "a.png")
        assert "53 of 54 images right (98.15 %)" in texts
        assert texts.count("50") == 1
        assert "0" not in texts[2:5]
        assert {"75.0", "100.0", "–"} <= set(texts)

    @pytest.mark.parametrize("k", [1, 2, 20, 47, 100, 250])
    def test_any_number_of_classes(self, k, tmp_path, random, texts):
        names = [f"class {i}" for i in range(k)]
        figures.plot_confusion_matrix(confusion_of(k, random), names, tmp_path / "a.png")
        opened(tmp_path / "a.png")
        written = len(set(names) & set(texts))
        assert written == k if k <= 47 else 50 <= written < k

    def test_odd_class_names(self, tmp_path, texts):
        names = ["$\\frac$", "か", "a name that is much too long", "<br>"]
        figures.plot_confusion_matrix(np.eye(4, dtype=np.int32), names, tmp_path / "a.png")
        assert {"$\\frac$", "a name that is …", "<br>"} <= set(texts)
        assert not any("\N{REPLACEMENT CHARACTER}" in text for text in texts)

    def test_nothing_counted(self, tmp_path, texts):
        figures.plot_confusion_matrix(np.zeros((10, 10), np.int32), NAMES, tmp_path / "a.png")
        assert "0 of 0 images right (0.00 %)" in texts


class TestFilters:
    def test_opposite_weights_have_the_two_ends_of_one_scale(self, tmp_path):
        kernel = np.zeros((5, 5, 1, 2), np.float32)
        kernel[..., 0], kernel[..., 1] = 0.5, -0.25
        filter_figures.plot_filters(kernel, tmp_path / "a.png")
        picture = opened(tmp_path / "a.png")
        assert count(picture, (103, 0, 31)) > 100 * 100  # the darkest red of RdBu
        assert count(picture, (5, 48, 97)) < 100  # its darkest blue: in the scale only

    @pytest.mark.parametrize(("c", "o"), [(1, 1), (1, 6), (1, 64), (2, 5), (3, 6), (3, 64)])
    def test_every_filter_has_its_number(self, c, o, tmp_path, random, texts):
        kernel = random.normal(size=(5, 5, c, o)).astype(np.float32)
        filter_figures.plot_filters(kernel, tmp_path / "a.png")
        opened(tmp_path / "a.png")
        assert {str(index) for index in range(o)} <= set(texts)
        assert any(text.startswith(f"conv1: {o} filter") for text in texts)

    def test_weights_without_a_scale(self, tmp_path):
        filter_figures.plot_filters(np.zeros((5, 5, 1, 6), np.float32), tmp_path / "a.png")
        filter_figures.plot_filters(np.full((5, 5, 1, 6), np.nan, np.float32), tmp_path / "b.png")


class TestFeatureMaps:
    @pytest.mark.parametrize(
        ("side", "c", "size", "o"),
        [(28, 1, 28, 6), (32, 1, 14, 16), (32, 3, 14, 64), (96, 3, 92, 64)],
    )
    def test_image_filters_and_maps_fit_on_the_sheet(
        self, side, c, size, o, tmp_path, random, texts
    ):
        image = random.integers(0, 255, (side, side, c), np.uint8)
        kernel = random.normal(size=(5, 5, c, o)).astype(np.float32)
        maps = np.maximum(random.normal(size=(size, size, o)), 0).astype(np.float32)
        filter_figures.plot_feature_maps(
            image, kernel, maps, tmp_path / "a.png", label="seven", prediction="one"
        )
        opened(tmp_path / "a.png")
        assert {"true class: seven", "predicted: one", "0", str(o - 1)} <= set(texts)

    def test_maps_share_one_scale_from_zero(self, tmp_path):
        maps = np.zeros((14, 14, 2), np.float32)
        maps[..., 1] = 3.0
        image = np.full((28, 28, 1), 77, np.uint8)
        kernel = np.zeros((5, 5, 1, 2), np.float32)
        filter_figures.plot_feature_maps(
            image, kernel, maps, tmp_path / "a.png", label="1", prediction="1"
        )
        picture = opened(tmp_path / "a.png")
        assert count(picture, (0, 0, 3)) >= 168**2  # magma's lowest colour
        assert count(picture, (251, 252, 191)) >= 168**2  # and its highest
        assert 196**2 <= count(picture, (77, 77, 77)) < 196**2 + 200  # and some edges of letters


class TestMistakes:
    def mistakes(self, n, random):
        images = random.integers(1, 250, (n, 28, 28, 1), np.uint8)
        labels = np.zeros(n, np.int32)
        predictions = np.full(n, 3, np.int32)
        probabilities = np.zeros((n, 10), np.float32)
        probabilities[:, 3] = np.linspace(0.4, 0.9, n)
        return images, labels, predictions, probabilities

    def test_the_most_confident_come_first_and_right_ones_not_at_all(self, tmp_path, random, texts):
        images, labels, predictions, probabilities = self.mistakes(6, random)
        labels[5] = 3
        figures.plot_mistakes(images, labels, predictions, probabilities, NAMES, tmp_path / "a.png")
        captions = [text for text in texts if text.startswith("0 → 3")]
        assert captions == [f"0 → 3   {percent:.1f} %" for percent in (80, 70, 60, 50, 40)]
        assert "5 of 6 images wrong: true class → predicted class" in texts
        shown = opened(tmp_path / "a.png")[70:210:5, 24:164:5, 0]
        np.testing.assert_array_equal(shown, images[4, :, :, 0])

    def test_at_most_forty(self, tmp_path, random, texts):
        figures.plot_mistakes(*self.mistakes(50, random), NAMES, tmp_path / "a.png")
        assert sum(text.startswith("0 → 3") for text in texts) == 40
        assert "50 of 50 images wrong, 40 of them here: true class → predicted class" in texts

    def test_none_says_so(self, tmp_path, random, texts):
        images, labels, _, probabilities = self.mistakes(4, random)
        figures.plot_mistakes(images, labels, labels, probabilities, NAMES, tmp_path / "a.png")
        assert "No mistakes: every image is classified correctly." in texts

    def test_long_names_take_two_lines(self, tmp_path, random, texts):
        names = ["Ankle boot", "", "", "T-shirt/top", *"456789"]
        figures.plot_mistakes(*self.mistakes(2, random), names, tmp_path / "a.png")
        assert {"Ankle boot → T-shirt/top", "90.0 %"} <= set(texts)

    def test_colour_images_keep_their_colours(self, tmp_path, random):
        _, labels, predictions, probabilities = self.mistakes(1, random)
        images = np.full((1, 32, 32, 3), (200, 30, 60), np.uint8)
        figures.plot_mistakes(images, labels, predictions, probabilities, NAMES, tmp_path / "a.png")
        assert count(opened(tmp_path / "a.png"), (200, 30, 60)) == 128**2


class TestExcitingPatches:
    @pytest.mark.parametrize(("c", "o", "side"), [(1, 1, 5), (3, 64, 5), (6, 12, 14), (64, 64, 14)])
    def test_any_number_of_filters_fits(self, c, o, side, tmp_path, random, texts):
        kernel = random.normal(size=(5, 5, c, o)).astype(np.float32)
        patches = random.integers(0, 255, (o, 9, side, side, 1), np.uint8)
        path = tmp_path / "a.png"
        filter_figures.plot_exciting_patches(kernel, patches, path, layer="conv2")
        opened(path)
        assert f"filter {o - 1}" in texts


def test_colours_say_on_which_side_of_0_a_number_is():
    signed = filter_figures.paint(np.array([-1.0, 0.0, 1.0], np.float32)).astype(int)
    assert signed[0, 2] > signed[0, 0] and signed[2, 0] > signed[2, 2]  # blue below, red above
    assert (signed[1] > 240).all()
    after_relu = filter_figures.paint(np.array([0.0, 0.5, 1.0], np.float32)).astype(int)
    assert (np.diff(after_relu.sum(1)) > 0).all()
