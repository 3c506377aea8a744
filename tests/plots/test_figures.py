import io
import itertools
import re
import subprocess
import sys
from html import escape
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from lenet_jax.plots import curves, filters, results
from lenet_jax.plots.output import png, svg
from lenet_jax.plots.settings import Setting
from lenet_jax.plots.style import paint
from lenet_jax.plots.sweeps import plot_sweep
from lenet_jax.statistics import summarise

NAMES = [str(digit) for digit in range(10)]
HISTOGRAM_CAPTIONS = {"conv1.relu": "83 % are 0\n0 of 6 dead", "fc3": "logits"}
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


def texts(figure):
    """What a figure says, drawn once so that its ticks are set."""
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def pixels(figure):
    with Image.open(io.BytesIO(png(figure))) as image:
        assert image.format == "PNG"
        assert image.width <= 1400
        return np.asarray(image.convert("RGB"))


def count(picture, colour):
    return int((picture == np.array(colour)).all(2).sum())


def confusion_of(k, random):
    return (random.poisson(0.5, (k, k)) + np.diag(random.poisson(90, k))).astype(np.int32)


@pytest.fixture
def figures(random):
    """One of each kind."""
    images = random.integers(0, 255, (20, 28, 28, 1), np.uint8)
    labels = random.integers(0, 10, 20).astype(np.int32)
    kernel = random.normal(size=(5, 5, 1, 6)).astype(np.float32)
    probabilities = random.dirichlet(np.ones(10), 20).astype(np.float32)
    maps = np.abs(random.normal(size=(14, 14, 6))).astype(np.float32)
    patches = random.integers(0, 255, (6, 9, 5, 5, 1), np.uint8)
    confidence = np.array([np.nan, 0.4, 0.7, 0.9], np.float64)
    steps = {"conv1": maps, "fc3": np.log(probabilities[0])}
    return {
        "curves": curves.plot_curves(HISTORY, title="a"),
        "accuracies": curves.plot_accuracies([("a", HISTORY), ("b", HISTORY)], title="mnist"),
        "confusion": results.plot_confusion_matrix(confusion_of(10, random), NAMES, title="a"),
        "filters": filters.plot_filters(kernel, title="a"),
        "maps": filters.plot_feature_maps(images[0], kernel, maps, title="a", captions=["7"]),
        "mistakes": results.plot_mistakes(images, labels, np.log(probabilities), NAMES, title="a"),
        "patches": filters.plot_exciting_patches(kernel, patches, layer="conv1", title="a"),
        "journey": filters.plot_journey(
            images[0], steps, probabilities[0], NAMES, title="a", label="b", true=3
        ),
        "saliency": filters.plot_saliency(
            images[0], images[1, ..., 0] / np.float32(255), prediction="7", label="b", title="a"
        ),
        "calibration": results.plot_calibration(
            confidence, confidence**2, np.array([0, 3, 1000, 7]), 0.01, title="a"
        ),
        "histograms": results.plot_histograms(
            {"conv1": kernel},
            {"conv1.relu": maps, "fc3": maps},
            HISTOGRAM_CAPTIONS,
            title="a",
            images=20,
        ),
    }


def test_a_figure_is_the_same_bytes_twice_and_carries_no_dates(figures):
    for name, figure in figures.items():
        content = png(figure)
        assert content == png(figure), name
        with Image.open(io.BytesIO(content)) as image:
            assert set(image.info) == {"dpi", "Software"}, name
            assert image.info["Software"] == "lenet_jax", name
        assert count(pixels(figure), (255, 255, 255)) > 1000, name


def test_a_page_may_hold_every_figure(figures):
    """Each is an element of its own: small, without dates, with identifiers that do not clash."""
    identifiers = []
    for name, figure in figures.items():
        text = svg(figure, f"{name} <b>")
        assert text == svg(figure, f"{name} <b>"), name
        assert len(text) < 130_000, name
        root = ElementTree.fromstring(text)
        assert (root.tag, root.get("role"), root.get("aria-label")) == ("svg", "img", f"{name} <b>")
        own = [element.get("id") for element in root.iter() if element.get("id")]
        used = set(re.findall(r'(?:href="|url\()#(\w+)', text))
        assert set(own) == used, name
        identifiers += own
        assert not re.search(r"(?:href=\"|url\()(?!#|data:image/png;base64,)", text), name
        assert "currentColor" in text and "#222222" not in text, name
        assert "</text>" in text and "<!--" not in text and "xmlns" not in text, name
    assert len(identifiers) == len(set(identifiers)) > 20


def test_counts_have_no_place_for_zero_and_dots_are_explained(figures):
    assert any("larger dot: more images" in text for text in texts(figures["calibration"]))
    for name in ("calibration", "histograms"):
        labels = texts(figures[name])
        assert "1" in labels
        counts = [axes for axes in figures[name].axes if axes.axison]
        for axes in counts[1:]:  # above the counts of the calibration is its accuracy
            assert axes.get_yscale() == "log" and axes.get_ylim()[0] == 0.5


def test_measurements_have_panels_below():
    rows = [row | {"valid/a": -row["epoch"], "valid/b": float("nan")} for row in HISTORY]
    figure = curves.plot_curves(rows, title="t", measured=["a", "b"])
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles[2:] == ["learning rate, end of epoch", "a", "b"]
    np.testing.assert_array_equal(figure.axes[3].lines[0].get_ydata(), [-1, -2, -3, -4, -5])
    (one, _), (two, _) = (
        f.canvas.get_width_height()[::-1] for f in (curves.plot_curves(HISTORY, title="t"), figure)
    )
    assert two == one + 288


def test_small_losses_have_whole_labels():
    figure = curves.plot_curves([row | {"train/loss": 1.2e-4} for row in HISTORY], title="a")
    figure.draw_without_rendering()
    labels = figure.axes[0].get_yticklabels()
    assert "0.0001" in [label.get_text() for label in labels]
    assert min(label.get_window_extent().x0 for label in labels) >= 0


def test_neither_pyplot_nor_jax_is_needed():
    code = (
        "import sys; from lenet_jax.plots import filters; assert 'matplotlib' not in sys.modules;"
        "import numpy; from lenet_jax.plots.output import png, svg;"
        "figure = filters.plot_filters(numpy.ones((5, 5, 1, 6), numpy.float32), title='a');"
        "assert png(figure) and svg(figure, 'a');"
        "assert not {'jax', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_confusion_matrix_by_hand():
    labels, predictions = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 0, 2])
    matrix = results.confusion_matrix(labels.astype(np.int32), predictions, 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]]


class TestCurves:
    def test_marks_the_earliest_best_epoch(self):
        written = texts(curves.plot_curves(HISTORY, title="mnist"))
        assert "★ best epoch 3: validation accuracy 98.50 %" in written
        assert "Learning curves, mnist" in written

    def test_without_validation_there_is_no_best_epoch(self):
        history = [{k: v for k, v in row.items() if "valid" not in k} for row in HISTORY]
        figure = curves.plot_curves(history, title="mnist")
        assert not any("best" in text or "valid" in text for text in texts(figure))
        assert count(pixels(figure), (0xD5, 0x5E, 0)) > 100
        assert count(pixels(figure), (0, 0x72, 0xB2)) == 0

    def test_without_a_learning_rate_there_are_two_panels(self):
        history = [{k: v for k, v in row.items() if k != "learning_rate"} for row in HISTORY]
        assert len(curves.plot_curves(history, title="mnist").axes) == 2

    def test_accuracy_ticks_are_accuracies_and_enclose_the_curves(self):
        written = texts(curves.plot_curves(HISTORY, title="mnist"))
        assert {"90", "95", "98", "98.5"} <= set(written)  # from 90 to 98.5 %
        assert not {"85", "99"} & set(written)

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
    def test_extreme_values_are_drawn_without_warnings(self, change):
        history = [row | change for row in HISTORY]
        shapes = {pixels(curves.plot_curves(h, title="a")).shape for h in (history, history[:1])}
        assert len(shapes) == 1
        pixels(curves.plot_accuracies([("a", history)], title="mnist"))

    def test_a_title_may_have_any_letters(self):
        figure = curves.plot_curves(HISTORY, title="$\\frac$ あ \x01<b>")
        hostile = "Learning curves, $\\frac$ \N{REPLACEMENT CHARACTER} \N{REPLACEMENT CHARACTER}<b>"
        assert hostile in texts(figure)
        assert f">{escape(hostile, quote=False)}<" in svg(figure, "a")


class TestConfusionMatrix:
    def test_errors_are_coloured_by_their_share_and_the_diagonal_is_grey(self):
        confusion = np.diag([1000, 100]).astype(np.int32)
        confusion[0, 1], confusion[1, 0] = 10, 10
        shown = pixels(results.plot_confusion_matrix(confusion, ["a", "b"], title="a"))
        assert count(shown, (228, 228, 228)) > 2 * 200**2
        colours, counts = np.unique(shown.reshape(-1, 3), axis=0, return_counts=True)
        cells = colours[(counts > 180**2) & (colours.max(1) > colours.min(1))].astype(int)
        assert len(cells) == 2
        left, right = sorted(cells, key=lambda cell: np.nonzero((shown == cell).all(2))[1].mean())
        assert right.sum() > left.sum() + 200  # 1 % of a, upper right, is lighter than 9 % of b

    def test_numbers_and_recall(self):
        confusion = np.array([[3, 1, 0], [0, 50, 0], [0, 0, 0]], np.int32)
        figure = results.plot_confusion_matrix(confusion, ["a", "b", "c"], title="a")
        written = texts(figure)
        assert "53 of 54 test images right (98.15 %)" in written
        cells = [text.get_text() for text in figure.axes[0].texts]
        assert cells == ["3", "1", "50"]
        assert {"75.0", "100.0", "–"} <= set(written)

    @pytest.mark.parametrize("k", [1, 2, 20, 47, 100, 250])
    def test_any_number_of_classes(self, k, random):
        names = [f"class {i}" for i in range(k)]
        figure = results.plot_confusion_matrix(confusion_of(k, random), names, title="a")
        pixels(figure)
        written = len(set(names) & set(texts(figure)))
        assert written == k if k <= 47 else 50 <= written < k

    def test_odd_class_names(self):
        names = ["$\\frac$", "か", "a name that is much too long", "<br>"]
        figure = results.plot_confusion_matrix(np.eye(4, dtype=np.int32), names, title="a")
        written = texts(figure)
        assert {"$\\frac$", "a name t…oo long", "<br>"} <= set(written)
        assert not any("\N{REPLACEMENT CHARACTER}" in text for text in written)
        assert "&lt;br&gt;" in svg(figure, "a") and "<br" not in svg(figure, "a")

    def test_nothing_counted(self):
        confusion = np.zeros((10, 10), np.int32)
        written = texts(results.plot_confusion_matrix(confusion, NAMES, title="a"))
        assert "0 of 0 test images right (0.00 %)" in written


class TestFilters:
    def test_opposite_weights_have_the_two_ends_of_one_scale(self):
        kernel = np.zeros((5, 5, 1, 2), np.float32)
        kernel[..., 0], kernel[..., 1] = 0.5, -0.25
        shown = pixels(filters.plot_filters(kernel, title="a"))
        assert count(shown, (103, 0, 31)) > 100 * 100  # the darkest red of RdBu
        assert count(shown, (5, 48, 97)) < 100  # its darkest blue: in the scale only

    @pytest.mark.parametrize(("c", "o"), [(1, 1), (1, 6), (1, 64), (2, 5), (3, 6), (3, 64)])
    def test_every_filter_has_its_number(self, c, o, random):
        kernel = random.normal(size=(5, 5, c, o)).astype(np.float32)
        figure = filters.plot_filters(kernel, title="a")
        pixels(figure)
        written = texts(figure)
        assert {str(index) for index in range(o)} <= set(written)
        assert any(text.startswith(f"{o} filter") for text in written)

    def test_weights_without_a_scale(self):
        for value in (0, np.nan):
            pixels(filters.plot_filters(np.full((5, 5, 1, 6), value, np.float32), title="a"))

    def test_colours_say_on_which_side_of_0_a_number_is(self):
        values = np.array([-1.0, 0.0, 1.0], np.float32)
        signed = paint(values, filters.signed_colours(values)).astype(int)
        assert signed[0, 2] > signed[0, 0] and signed[2, 0] > signed[2, 2]  # blue, then red
        assert (signed[1] > 240).all()
        values = np.array([0.0, 0.5, 1.0], np.float32)
        after_relu = paint(values, filters.activation_colours(values)).astype(int)
        assert (np.diff(after_relu.sum(1)) > 0).all()


class TestFeatureMaps:
    @pytest.mark.parametrize(
        ("side", "c", "size", "o"),
        [(28, 1, 28, 6), (32, 1, 14, 16), (32, 3, 14, 64), (96, 3, 92, 64)],
    )
    def test_image_filters_and_maps_fit(self, side, c, size, o, random):
        image = random.integers(0, 255, (side, side, c), np.uint8)
        kernel = random.normal(size=(5, 5, c, o)).astype(np.float32)
        maps = np.maximum(random.normal(size=(size, size, o)), 0).astype(np.float32)
        captions = ["true class: seven", "predicted: one"]
        figure = filters.plot_feature_maps(image, kernel, maps, title="a", captions=captions)
        pixels(figure)
        assert {*captions, "0", str(o - 1)} <= set(texts(figure))

    def test_maps_share_one_scale_from_zero(self):
        maps = np.zeros((14, 14, 2), np.float32)
        maps[..., 1] = 3.0
        image = np.full((28, 28, 1), 77, np.uint8)
        kernel = np.zeros((5, 5, 1, 2), np.float32)
        figure = filters.plot_feature_maps(image, kernel, maps, title="a", captions=[])
        shown = pixels(figure)
        assert count(shown, (0, 0, 3)) >= 168**2  # magma's lowest colour
        assert count(shown, (251, 252, 191)) >= 168**2  # and its highest
        assert 196**2 <= count(shown, (77, 77, 77)) < 196**2 + 200  # and some edges of letters


class TestMistakes:
    def mistakes(self, n, random):
        images = random.integers(1, 250, (n, 28, 28, 1), np.uint8)
        labels = np.zeros(n, np.int32)
        probabilities = np.full((n, 10), 1e-9)
        probabilities[:, 3] = np.linspace(0.4, 0.9, n)
        probabilities[:, 5:8] = (1 - probabilities[:, 3:4]) / 3
        return images, labels, np.log(probabilities).astype(np.float32)

    def test_the_most_confident_come_first_and_right_ones_not_at_all(self, random):
        images, labels, logits = self.mistakes(6, random)
        labels[5] = 3
        figure = results.plot_mistakes(images, labels, logits, NAMES, title="a")
        written = texts(figure)
        assert written.count("0 → 3") == 5
        captions = [text for text in written if "index" in text and "|" in text and "\n" in text]
        assert captions == [f"{80 - 10 * i}.0 | 0.0 %\nindex {4 - i}" for i in range(5)]
        assert any(text.startswith("5 of 6 test images wrong: true →") for text in written)
        shown = pixels(figure)[70:180:4, 18:128:4, 0]
        np.testing.assert_array_equal(shown, images[4, :, :, 0])

    def test_their_order_is_that_of_the_margins_where_probabilities_are_1(self):
        logits = np.array([[0, 50, 9], [0, 900, 0], [0, 70, 60], [9, 0, 0]], np.float32)
        labels = np.zeros(4, np.int32)
        assert results.rank_mistakes(logits, labels).tolist() == [1, 2, 0]

    def test_at_most_forty(self, random):
        written = texts(results.plot_mistakes(*self.mistakes(50, random), NAMES, title="a"))
        assert written.count("0 → 3") == 40
        assert any(text.startswith("50 of 50 test images wrong, 40 of them") for text in written)

    def test_none_says_so(self, random):
        images, labels, logits = self.mistakes(4, random)
        figure = results.plot_mistakes(images, labels + 3, logits, NAMES, title="a")
        assert "No mistakes: every image is classified correctly." in texts(figure)

    def test_long_names_take_two_lines(self, random):
        names = ["Ankle boot", "", "", "T-shirt/top", *"456789"]
        written = texts(results.plot_mistakes(*self.mistakes(2, random), names, title="a"))
        assert {"Ankle boot", "→ T-shirt/top", "90.0 | 0.0 %\nindex 1"} <= set(written)

    def test_colour_images_keep_their_colours(self, random):
        _, labels, logits = self.mistakes(1, random)
        images = np.full((1, 32, 32, 3), (200, 30, 60), np.uint8)
        figure = results.plot_mistakes(images, labels, logits, NAMES, title="a")
        assert count(pixels(figure), (200, 30, 60)) == 96**2


def test_runs_disagree_where_one_is_right_and_another_wrong(random):
    images = random.integers(0, 255, (4, 28, 28, 1), np.uint8)
    labels = np.array([1, 2, 3, 4], np.int32)
    predictions = np.array([[1, 2, 0, 5], [1, 7, 3, 6]], np.int32)
    figure = results.plot_disagreements(images, labels, predictions, NAMES, title="a")
    written = texts(figure)
    assert [text for text in written if text.startswith("index")] == ["index 1: 2", "index 2: 3"]
    assert {"[1] 2", "[2] 7", "[1] 0", "[2] 3"} <= set(written)
    assert any(text.startswith("2 of 4 test images, which some runs get right") for text in written)


def test_a_journey_marks_the_true_class_and_says_its_scales(figures):
    written = texts(figures["journey"])
    assert sum("true class" in text for text in written) == 1
    assert all(written.count(name) >= 2 for name in NAMES)  # of a unit and a probability
    assert written.count("max") == 2 and any(text.startswith("max ") for text in written)


class TestExcitingPatches:
    @pytest.mark.parametrize(("c", "o", "side"), [(1, 1, 5), (3, 64, 5), (6, 12, 14), (64, 64, 14)])
    def test_any_number_of_filters_fits(self, c, o, side, random):
        kernel = random.normal(size=(5, 5, c, o)).astype(np.float32)
        patches = random.integers(0, 255, (o, 9, side, side, 1), np.uint8)
        figure = filters.plot_exciting_patches(kernel, patches, layer="conv2", title="a")
        pixels(figure)
        assert f"filter {o - 1}" in texts(figure)
        indices = np.arange(9 * o).reshape(o, 9) + 9000
        look = {"layer": "conv2", "title": "a", "indices": indices}
        figure = filters.plot_exciting_patches(kernel, patches, **look)
        assert {f"{index}" for index in indices.ravel()} <= set(texts(figure))


class TestSweep:
    def settings(self, *overrides, diverged=()):
        return [
            Setting(
                name=", ".join(f"{key}={value}" for key, value in changed.items()),
                overrides=changed,
                diverged=2 if place in diverged else 0,
                stuck=0,
                errors=np.zeros((0,)) if place in diverged else np.full((2, 3), place % 90 + 1.0),
                test_errors=[] if place in diverged else [place % 90 + 1.0, place % 90 + 1.2],
                test=summarise(
                    [] if place in diverged else [place % 90 + 1.0, place % 90 + 1.2], 100.0
                ),
                best=place == 0,
            )
            for place, changed in enumerate(overrides)
        ]

    def test_one_key_has_curves_and_points(self):
        settings = self.settings(*({"lr": lr} for lr in (0.01, 0.1, 1.0)), diverged=[2])
        figure = plot_sweep(settings, title="$a$")
        written = texts(figure)
        assert {"Sweep $a$", "lr=0.01", "lr (log scale)", "1"} <= set(written)
        assert any(
            text.startswith("6 networks, 3 settings, 2 diverged (× if all); test errors")
            for text in written
        )

    def test_labels_of_near_values_are_apart(self):
        for rates, shown in (
            ((0.05, 0.0501, 0.4), ["0.05", "0.4"]),
            ((0.02, 0.03, 0.04, 0.05), ["0.02", "0.03", "0.04", "0.05"]),
        ):
            figure = plot_sweep(self.settings(*({"lr": lr} for lr in rates)), title="a")
            assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == shown

    def test_one_star_stands_for_the_best_setting(self):
        figure = plot_sweep(self.settings({"lr": 0.1}, {"lr": 0.2}), title="a")
        stars = [line for line in figure.axes[1].lines if line.get_marker() == "*"]
        (star,) = [np.asarray(line.get_xydata()) for line in stars]
        np.testing.assert_allclose(star, [[0.1, 1.1]])
        assert any(text.endswith("★ best mean on validation") for text in texts(figure))

    @pytest.mark.parametrize(("count", "bands"), [(5, 5), (6, 0)])
    def test_many_bands_would_hide_each_other(self, count, bands):
        settings = [
            setting._replace(errors=np.arange(9.0).reshape(3, 3) + 1 + place)
            for place, setting in enumerate(self.settings(*({"lr": 0.1 * n} for n in range(count))))
        ]
        assert len(plot_sweep(settings, title="a").axes[0].collections) == bands

    def test_two_keys_are_a_heat_map(self):
        pairs = [{"lr": lr, "momentum": m} for lr in (0.1, 0.2) for m in (0.0, 0.9)]
        written = texts(plot_sweep(self.settings(*pairs, diverged=[3]), title="a"))
        assert {"★ 1.10", "2.10", "× diverged", "lr", "momentum"} <= set(written)  # n = 2: no sd
        assert "test error, %: mean of each setting; dots: each network, by colour" in written
        errors = [1.0, 1.0, 4.0, 90.0]
        settings = self.settings(*pairs)
        settings[1] = settings[1]._replace(test_errors=errors, test=summarise(errors, 100.0))
        assert "24.00 ± 44.02" in texts(plot_sweep(settings, title="a"))
        settings[1] = settings[1]._replace(stuck=1)
        written = texts(plot_sweep(settings, title="a"))
        assert {"2.50 [1.00–25.50]\n1 stuck", "★ 1.10"} <= set(written)
        title = "test error, %: median of each setting [25–75 %]; dots: each network, by colour"
        assert title in written

    def test_a_heat_map_of_many_settings_is_bounded(self):
        pairs = [{"lr": lr, "momentum": m} for lr in range(60) for m in range(50)]
        figure = plot_sweep(self.settings(*pairs), title="a")
        assert pixels(figure).shape[0] < 1000
        assert len(texts(figure)) < 100

    def test_other_keys_are_ranked(self):
        three = [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 1}]
        written = texts(plot_sweep(self.settings(*three), title="a"))
        names = dict.fromkeys(text for text in written if text.startswith("a="))
        assert list(names) == ["a=1, b=1", "a=1, b=2", "a=2, b=1"]

    def test_long_names_are_rows(self):
        names = [f"examples/own_network.py:Network{place}" for place in range(4)]
        settings = self.settings(*({"model.name": name} for name in names))
        left, right = plot_sweep(settings, title="a").axes
        assert right.get_ylabel() == "model.name"
        rows = [label.get_text() for label in right.get_yticklabels()]
        assert [row[-2:] for row in rows] == ["k0", "k1", "k2", "k3"]
        assert all("…" in row and row.startswith("examples/") for row in rows)
        assert left.get_title("left").startswith("validation error")

    @pytest.mark.parametrize("rows", [3, 25])  # with numbers, and without
    def test_a_heat_map_has_every_network_as_a_dot_of_its_own_colour(self, rows):
        pairs = [{"a": a, "b": b} for a in range(rows) for b in range(4)]
        settings = self.settings(*pairs, diverged=[3])
        axes, _ = plot_sweep(settings, title="a").axes
        assert axes.get_title("left").endswith("; dots: each network, by colour")
        dots = [dots for dots in axes.collections if len(np.asarray(dots.get_offsets()))]
        drawn = np.concatenate([np.asarray(own.get_array()) for own in dots])
        assert sorted(drawn) == sorted(error for s in settings for error in s.test_errors)
        for own, place in zip(dots, [p for p in range(4 * rows) if p != 3], strict=True):
            cells = np.round(np.asarray(own.get_offsets())).astype(int)
            assert {(row, column) for column, row in cells.tolist()} == {divmod(place, 4)}
        many = [s._replace(test_errors=[1.0] * (2001 // rows)) for s in settings]
        axes, _ = plot_sweep(many, title="a").axes
        assert "dots" not in axes.get_title("left") and not axes.collections
        once = [s._replace(test_errors=s.test_errors[:1]) for s in settings]
        assert not plot_sweep(once, title="a").axes[0].collections

    def test_a_heat_map_has_no_dots_where_they_have_no_room(self):
        wide = self.settings(*({"a": a, "b": b} for a in range(2) for b in range(120)))
        axes, _ = plot_sweep(wide, title="a").axes
        assert not axes.collections and "dots" not in axes.get_title("left")
        pairs = self.settings(*({"a": a, "b": b} for a in range(24) for b in range(3)))
        pairs[0] = pairs[0]._replace(test_errors=[1.0] * 1500)
        figure = plot_sweep(pairs, title="a")
        assert not figure.axes[0].collections and pixels(figure).shape[0] < 2000

    def test_what_is_too_long_for_a_cell_is_in_two_lines(self):
        errors = [80.0, 81.0, 89.0]
        changes = {"test_errors": errors, "test": summarise(errors, 100.0), "stuck": 1}
        for columns, written in ((3, "81.00 [80.50–85.00]"), (10, "81.00\n[80.50–85.00]")):
            pairs = [{"a": a, "b": b} for a in range(2) for b in range(columns)]
            settings = [s._replace(**changes) for s in self.settings(*pairs)]
            assert f"{written}\n1 stuck" in texts(plot_sweep(settings, title="a"))

    def test_chance_is_marked_where_errors_come_near_it(self):
        three = [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 1}]
        settings = [s._replace(chance=2.0) for s in self.settings(*three)]
        assert "chance" in texts(plot_sweep(settings, title="a"))
        settings = [s._replace(chance=90.0) for s in settings]
        assert "chance" not in texts(plot_sweep(settings, title="a"))

    def test_chance_is_named_beside_the_axes_apart_from_the_ends_of_curves(self):
        settings = [s._replace(chance=1.5) for s in self.settings({"lr": 0.1}, {"lr": 0.2})]
        for axes in plot_sweep(settings, title="a").axes:
            names = [
                text for text in axes.texts if text.get_text() in ("chance", "lr=0.1", "lr=0.2")
            ]
            heights = sorted(text.get_window_extent().y0 for text in names)
            assert "chance" in {text.get_text() for text in names}
            assert all(text.get_window_extent().x0 >= axes.get_window_extent().x1 for text in names)
            assert all(b - a > 10 for a, b in itertools.pairwise(heights))

    def test_without_curves_the_test_errors_are_alone(self):
        settings = self.settings(*({"lr": lr} for lr in (0.01, 0.1)))
        settings = [s._replace(errors=np.zeros((0,))) for s in settings]
        (axes,) = plot_sweep(settings, title="a").axes
        assert axes.get_xlabel() == "lr (log scale)"

    def test_a_lone_setting_has_no_best(self):
        written = texts(plot_sweep(self.settings({}), title="a"))
        assert any(text.startswith("2 networks, 1 setting;") for text in written)
        assert not any("★" in text for text in written)

    def test_axes_are_named_alike_and_epochs_are_whole(self):
        errors = np.array([[90.0, 9.0], [80.0, 8.0], [1.0, 2.0]])
        changes = {"test_errors": errors[:, 1].tolist(), "errors": errors}
        changes["test"] = summarise(errors[:, 1].tolist(), 100.0)
        swept = self.settings({"lr": 0.01}, {"lr": 0.1}, {"lr": 1.0}, diverged=[2])
        settings = [*(s._replace(**changes) for s in swept[:2]), swept[2]]
        left, right = plot_sweep(settings, title="a").axes
        for axes in (left, right):
            assert axes.get_title("left").endswith("mean, 95 % interval (log scale)")
        assert right.get_xlabel() == "lr (log scale)"
        np.testing.assert_allclose(np.asarray(left.lines[0].get_ydata()), errors.mean(axis=0))
        (cross,) = (line for line in right.lines if line.get_marker() == "x")
        np.testing.assert_array_equal(np.asarray(cross.get_xdata()), [1.0])
        once = [s._replace(errors=s.errors[:, :1]) for s in self.settings({})]
        left, _ = plot_sweep(once, title="a").axes
        assert [tick for tick in left.get_xticks() if tick % 1] == []

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_fewer_than_three_members_are_points(self, n):
        errors = [1.0, 1.1, 0.9][:n]
        changes = {"test_errors": errors, "test": summarise(errors, 100.0)}
        changes["errors"] = np.full((n, 4), 1.0)
        settings = [s._replace(**changes) for s in self.settings({"lr": 0.1}, {"lr": 0.2})]
        left, right = plot_sweep(settings, title="a").axes
        assert bool(right.containers) == bool(left.collections) == (n == 3)  # bars and bands
        assert ("interval" in right.get_title("left")) == (n == 3)

    def test_errors_of_zero_are_drawn(self):
        changes = {"test_errors": [0.0] * 3, "test": summarise([0.0] * 3, 100.0)}
        changes["errors"] = np.zeros((3, 4))
        settings = [s._replace(**changes) for s in self.settings({"lr": 0.1}, {"lr": 0.2})]
        figure = plot_sweep(settings, title="a")
        assert [axes.get_ylim()[0] for axes in figure.axes] == [0, 0]
        pixels(figure)

    def test_one_collapsed_member_leaves_the_axis_within_0_and_100(self):
        errors = [1.0, 1.1, 0.9, 90.0]
        collapsed = self.settings({"lr": 0.1}, {"lr": 0.2})[0]._replace(
            stuck=1, test_errors=errors, test=summarise(errors, 100.0)
        )
        settings = [collapsed, *self.settings({"lr": 0.1}, {"lr": 0.2})[1:]]
        figure = plot_sweep(settings, title="a")
        low, high = figure.axes[1].get_ylim()
        assert low > 0 and high < 130
        assert any("1 stuck near chance" in text for text in texts(figure))
