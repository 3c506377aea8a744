import re
import sys

import matplotlib
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from lenet_jax import data
from lenet_jax.errors import UserError
from lenet_jax.inference.figures import title_of
from lenet_jax.inference.load import load
from lenet_jax.inference.network import FIGURES, Network
from lenet_jax.plots.notebook import NotebookFigure
from tests.plots.test_figures import texts

SIGNATURES = {".png": b"\x89PNG", ".svg": b"<?xml", ".PDF": b"%PDF"}


@pytest.fixture(scope="module")
def network(notes_run):
    return load(notes_run)


@pytest.fixture(scope="module")
def few(network):
    test = data.load("mnist", image_size=32, valid_examples=1).test
    return test.images[:50], test.labels[:50]


class Linear(nnx.Module):
    def __init__(self):
        self.linear = nnx.Linear(32 * 32, 10, rngs=nnx.Rngs(0))

    def __call__(self, images):
        return self.linear(images.reshape(len(images), -1))


def test_every_figure_is_shown_by_a_notebook_and_leaves_nothing_behind(network, few):
    before = dict(matplotlib.rcParams)
    arguments = {"feature_maps": few[0][7], "confusion_matrix": few, "mistakes": few}
    for kind in FIGURES:
        figure = network.plot(kind, arguments.get(kind))
        assert isinstance(figure, NotebookFigure) and figure._repr_png_()[:4] == b"\x89PNG"
        assert any("LeNet 6–12–120–84–10 on mnist" in text for text in texts(figure))
        shown = figure._repr_png_()
        with matplotlib.rc_context({"xtick.color": "red", "axes.grid": False}):
            assert figure._repr_png_() == shown
    assert dict(matplotlib.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")  # another test may have imported it
    assert pyplot is None or not pyplot.get_fignums()


def test_data_are_those_of_the_run_if_none_are_given(network):
    assert "10,000 test images right" in " ".join(texts(network.plot("confusion_matrix")))
    assert "true class: 9" in texts(network.plot("feature_maps"))


@pytest.mark.parametrize("suffix", SIGNATURES)
def test_the_suffix_says_the_format(network, suffix, tmp_path):
    path = tmp_path / f"filters{suffix}"
    figure = network.plot(path=path)
    content = path.read_bytes()
    assert content.startswith(SIGNATURES[suffix])
    assert b"Date" not in content
    path.write_text("an older figure")
    assert network.plot("filters", path=str(path)) is not figure
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "a.bmp"}, "a.bmp: the name of a figure must end in .png, .svg or .pdf"),
        ({"path": "filters"}, "filters: the name of a figure must end in .png, .svg or .pdf"),
        ({"what": "weights"}, "what to plot must be one of filters, feature_maps, curves, "),
        ({"what": "mistakes", "data": np.zeros((3, 28, 28))}, "must be a Dataset, or two: "),
        ({"what": "feature_maps", "data": np.zeros((2, 28, 28))}, "are of one image, not of 2"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(network, arguments, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        network.plot(**arguments)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_of_weights_has_neither_curves_nor_data(network, tmp_path, few):
    loaded = load(network.save(tmp_path / "a.safetensors"))
    for kind, message in (("curves", "has no curves"), ("mistakes", "does not say what data")):
        with pytest.raises(UserError, match=message):
            loaded.plot(kind)
    assert "Most confident mistakes, LeNet 6–12–120–84–10" in texts(loaded.plot("mistakes", few))


def test_a_network_without_a_convolution_has_no_filters(few):
    names = tuple(map(str, range(10)))
    network = Network(Linear(), (33.0,), (78.0,), names, "mine", image_shape=(32, 32, 1))
    with pytest.raises(UserError, match="Linear has no convolution that takes the images"):
        network.plot()
    assert title_of(Linear(), "given in Python") == "Linear on data given in Python"
    assert "Confusion matrix, Linear" in texts(network.plot("confusion_matrix", few))


def test_images_of_several_modes_and_sizes_in_one_list(network, few):
    """Pictures of one digit: grey, colour, palette, 1 bit, 16 bits; small and large; arrays."""
    pixels, expected = few[0][0, 2:-2, 2:-2, 0], few[1][0]
    grey = Image.fromarray(pixels)
    modes = [grey.convert(mode) for mode in ("L", "RGB", "RGBA", "CMYK", "P", "1", "F", "LA", "I")]
    large = [Image.fromarray(255 - pixels).resize((side, side + 20)) for side in (60, 300)]
    arrays = [pixels, pixels / np.float32(255), np.stack([pixels] * 3, axis=-1), pixels > 127]
    images = [*modes, *large, *arrays]
    assert network.predict(images).tolist() == [expected] * len(images)
    assert network.predict(iter(images[:2])).tolist() == [expected] * 2
    with pytest.raises(UserError, match="not an empty one"):
        network.predict([])
    with pytest.raises(UserError, match="arrays, PIL images and names of files, not None"):
        network.predict([grey, None])
