import dataclasses
import io

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import PIL.Image
import pytest
from flax import nnx

from lenet_jax import data
from lenet_jax.data.form import MNIST_FORM, ImageForm
from lenet_jax.errors import UserError
from lenet_jax.inference.network import Network
from lenet_jax.nn.lenet import LeNet
from tests.support.photos import photo


def make(channels=1, fit="pad", **form):
    model = LeNet((2, 3), (8, 6), in_channels=channels, rngs=nnx.Rngs(0))
    known = dataclasses.replace(MNIST_FORM, fit=fit, **form)
    return Network(
        model, (33.0,) * channels, (78.0,) * channels, tuple("0123456789"), "a test", form=known
    )


@pytest.fixture(scope="module")
def network():
    return make()


@pytest.fixture(scope="module")
def colour():
    return make(3, handwriting=False)


@pytest.fixture(scope="module")
def digits():
    return data.load("mnist", image_size=28).test.images[:6]


@pytest.fixture(scope="module")
def photos():
    return np.random.default_rng(0).integers(0, 256, (6, 28, 28, 3)).astype(np.uint8)


def same(network, images, expected):
    np.testing.assert_array_equal(network.prepare(images), network.prepare(expected))


def test_one_image_gives_one_answer(network, colour, digits, photos):
    image = digits[0, ..., 0]
    assert network.predict(digits[0]).shape == (1,)
    for one in (image, image[..., None], image[None], image[None, None], image[None, ..., None]):
        same(network, one, digits[:1])
    for one in (photos[0], photos[:1], np.moveaxis(photos[0], -1, 0)):
        same(colour, one, photos[:1])


def test_batches_of_every_layout(network, colour, digits, photos):
    for batch in (digits[..., 0], np.moveaxis(digits, -1, 1), digits[..., 0].tolist()):
        same(network, batch, digits)
    same(colour, np.moveaxis(photos, -1, 1), photos)
    assert network.prepare(np.tile(digits[0, ..., 0], (28, 1, 1))).shape == (28, 32, 32, 1)
    assert network.prepare(digits[:3, ..., 0]).shape[0] == 3
    assert network.prepare(digits[:0, ..., 0]).shape == (0, 32, 32, 1)


def test_colour_becomes_grey_and_grey_colour_as_in_files(network, colour, digits, photos, tmp_path):
    for images in (photos[0], photos, np.moveaxis(photos, -1, 1)):
        grey = [np.asarray(PIL.Image.fromarray(p).convert("L")) for p in np.atleast_3d(photos)]
        same(network, images, np.stack(grey[: len(network.prepare(images))]))
    same(network, np.repeat(digits, 3, -1), digits)  # as OpenCV reads a grey file
    same(colour, digits, np.repeat(digits, 3, -1))
    same(colour, digits[0, ..., 0], np.repeat(digits[:1], 3, -1))
    transparent = np.zeros((28, 28, 4), np.uint8)
    transparent[..., 3] = digits[0, ..., 0]  # dark, on what is transparent
    with pytest.warns(UserWarning, match="dark on light"):
        same(network, transparent, digits[:1])
    with pytest.warns(UserWarning, match="dark on light"):
        same(network, [transparent], digits[:1])


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "int32", "int64", "uint64"])
def test_integers_of_any_width(network, digits, dtype):
    images = digits if dtype != "int8" else digits // 2
    same(network, images.astype(dtype), images)


def test_floats_and_booleans(network, digits):
    for dtype in (np.float16, np.float32, np.float64):
        same(network, (digits / 255).astype(dtype), digits)
        same(network, digits.astype(dtype), digits)
    same(network, digits > 128, np.where(digits > 128, np.uint8(255), np.uint8(0)))
    same(network, (digits // 255).astype(ml_dtypes.bfloat16), (digits // 255) * np.uint8(255))


def test_tensors_of_jax_and_torch(network, colour, digits, photos):
    same(network, jnp.asarray(digits), digits)
    same(network, jnp.asarray(digits[0, ..., 0]) / 255, digits[:1])
    torch = pytest.importorskip("torch")
    first = torch.tensor(np.moveaxis(digits, -1, 1))  # as a DataLoader gives them
    same(network, first, digits)
    same(network, (first / 255).requires_grad_(), digits)
    same(network, [first[0], digits[1], first[2] / 255], digits[:3])
    same(network, first[0], digits[:1])
    same(colour, torch.tensor(np.moveaxis(photos, -1, 1)) / 255, photos)
    black_and_white = digits // 255 * np.uint8(255)
    same(network, (torch.tensor(black_and_white) / 255).bfloat16(), black_and_white)


def test_lists_of_all_kinds(network, digits, tmp_path):
    path = tmp_path / "a.png"
    pictures = [PIL.Image.fromarray(image[..., 0]) for image in digits]
    pictures[0].save(path)
    mixed = [path, str(path), digits[1], pictures[2], digits[3] / 255, jnp.asarray(digits[4])]
    same(network, mixed, digits[[0, 0, 1, 2, 3, 4]])
    same(network, tuple(pictures), digits)
    same(network, (picture for picture in pictures), digits)
    same(network, pictures[0], digits[:1])
    same(network, np.array([str(path)] * 2), digits[[0, 0]])
    same(network, np.array([path, path], object), digits[[0, 0]])
    same(network, list(digits), digits)


def test_a_pil_image_is_read_like_a_file(network, tmp_path):
    picture = PIL.Image.fromarray(photo(3))
    picture.save(tmp_path / "a.png")
    same(network, picture, tmp_path / "a.png")
    same(network, [picture.convert("RGBA")], tmp_path / "a.png")
    with pytest.raises(UserError, match="the PIL image has 0 × 5 pixels"):
        network.predict(PIL.Image.new("L", (0, 5)))
    with pytest.raises(UserError, match="no character found"):
        network.predict(PIL.Image.new("L", (200, 200)))
    with PIL.Image.open(tmp_path / "a.png") as closed:
        pass
    with pytest.raises(UserError, match="the PIL image cannot be read"):
        network.predict(closed)


def test_what_is_resized_may_have_any_size():
    network = make(fit="resize", handwriting=False, size=32)
    image = np.arange(40 * 50, dtype=np.float64).reshape(40, 50) / 2000
    expected = np.rint(image * 255).astype(np.uint8)
    same(network, image, data.fit_images(expected[None, ..., None], 32, "resize"))


NORMALISED = (np.arange(784.0).reshape(1, 28, 28) % 256 - 33) / 78
REFUSED = {
    "half black and white": (np.eye(28, dtype=np.uint8), "black and white"),
    "16 bits": (np.arange(784, dtype=np.uint16).reshape(28, 28) * 83, "Of 16 bits"),
    "14 bits": (np.arange(784, dtype=np.int32).reshape(28, 28) * 20, "Of 14 bits"),
    "12 bits": (np.arange(784).reshape(28, 28) * 5, "Of 12 bits"),
    "10 bits": (np.arange(784, dtype=np.int16).reshape(28, 28), "Of 10 bits"),
    "signed": (np.arange(784).reshape(28, 28) - 400, "To scale them"),
    "int8": ((np.arange(784) % 256 - 128).astype(np.int8).reshape(28, 28), "To scale them"),
    "32 bits": (np.arange(784, dtype=np.uint32).reshape(28, 28) * 5_000_000, "To scale them"),
    "interpolated": (np.linspace(-0.005, 1.004, 784).reshape(28, 28), "To cut them"),
    "interpolated more": (np.linspace(-0.02, 1.03, 784).reshape(28, 28), "To cut them"),
    "interpolated by Lanczos": (np.linspace(-0.2, 1.2, 784).reshape(28, 28), "To cut them"),
    "interpolated to 255": (np.linspace(-9, 270, 784).reshape(28, 28), r"clip\(0, 255"),
    "-0.5 to 0.5": (np.linspace(-0.5, 0.5, 784).reshape(28, 28), r"\+ 0.5"),
    "-1 to 1, interpolated": (np.linspace(-1.1, 1.1, 784).reshape(28, 28), "in -1..1"),
    "-1 to 1": (np.linspace(-1, 1, 784, dtype=np.float32).reshape(28, 28), "in -1..1"),
    "normalised": (NORMALISED, "Of normalised ones"),
    "NaN": (np.full((28, 28), np.nan), "To make them black"),
    "infinite": (np.full((28, 28), np.inf), "To make them black"),
    "huge floats": (np.linspace(0, 1e6, 784).reshape(28, 28), "To scale them"),
    "images last": (np.zeros((28, 28, 20), np.uint8), "axis -1"),
    "fitted images last": (np.zeros((32, 32, 20), np.uint8), "axis -1"),
    "two images last": (np.zeros((28, 28, 2)), "axis -1"),
    "ten images last": (np.zeros((28, 28, 10), bool), "axis -1"),
    "many images last": (np.zeros((28, 28, 100), np.uint8), "axis -1"),
    "images last, one channel": (np.zeros((28, 28, 1, 20), np.uint8), "axis -1"),
    "images last, channels first": (np.zeros((3, 28, 28, 20), np.uint8), "axis -1"),
    "images in the middle": (np.zeros((28, 20, 28), np.uint8), "axis 1"),
    "a channel in the middle": (np.zeros((28, 1, 28), np.uint8), "axis 1"),
    "channels before columns": (np.zeros((5, 28, 1, 28), np.uint8), "Without axes"),
    "two axes of channels": (np.zeros((2, 28, 28, 1, 1), np.uint8), "Without axes"),
    "a column": (np.zeros((784, 1), np.uint8), "Of rows"),
    "a flat image": (np.zeros(784, np.uint8), "Of rows"),
    "half the size": (np.stack([photo(3)[::20, ::14]] * 2), "To find their"),
    "the size between": (photo(3)[::10, ::7], "To find its"),
    "torchvision's picture": (np.repeat(photo(3)[None], 3, 0), "To find its character"),
    "torchvision's grey picture": (photo(3)[None] / 255, "To find its character"),
    "five axes": (np.zeros((2, 3, 28, 28, 1), np.uint8), "As one batch"),
    "five axes, first": (np.zeros((2, 3, 1, 28, 28), np.uint8), "As one batch"),
    "a row": (np.zeros(784, np.uint8)[None], "Of rows"),
    "rows": (np.zeros((5, 784)), "Of rows"),
    "fitted rows": (np.zeros((5, 1024)), "Of rows"),
    "nested list": ((np.arange(784).reshape(28, 28) % 1000).tolist(), "Of 10 bits"),
    "a photo": (photo(3), "To find its character"),
    "a photo of OpenCV": (np.repeat(photo(3)[..., None], 3, -1), "To find its character"),
    "a photo, one channel": (photo(3)[..., None], "To find its character"),
    "a photo in 0..1": (photo(3) / 255, "To find its character"),
    "a photo of integers": (photo(3).astype(int), "To find its character"),
    "a black and white photo": (photo(3) > 128, "To find its character"),
    "photos": (np.stack([photo(3), photo(4)]), "To find their characters"),
    "photos, channels first": (np.stack([photo(3)] * 6).reshape(2, 3, 300, 200), "To find their"),
    "photos, channels last": (np.stack([photo(3)])[..., None], "To find their characters"),
}


def obey(error, **names):
    """Does what the second line of an error says."""
    code = str(error).split("\n")[1].partition(": ")[2]
    return eval(code, {"np": np, "PIL": PIL} | names)


@pytest.mark.parametrize("name", REFUSED)
def test_the_remedy_of_what_is_refused_works(network, name):
    images, remedy = REFUSED[name]
    with pytest.raises(UserError, match=remedy) as caught:
        network.predict(images)
    assert str(caught.value).count("\n") == 1
    assert max(map(len, str(caught.value).split("\n"))) < 200
    assert len(network.predict(obey(caught.value, images=images, network=network)))


def test_the_remedy_for_tensors_works(network, colour):
    torch = pytest.importorskip("torch")
    digits = data.load("mnist", image_size=28).test.images[:4]
    first = torch.tensor(np.moveaxis(digits, -1, 1))
    for taken in (network, colour):
        normalised = (first.float().repeat(1, taken.channels, 1, 1) - 33) / 78
        for given in (normalised, jnp.asarray(normalised.numpy()), normalised.half()):
            with pytest.raises(UserError, match="Of normalised ones") as caught:
                taken.predict(given)
            restored = taken.prepare(obey(caught.value, images=given, network=taken))
            np.testing.assert_array_equal(restored, taken.prepare(digits))
    with pytest.raises(UserError) as caught:
        network.predict(first // 255)
    same(network, obey(caught.value, images=first // 255), digits > 254)


def test_the_remedy_in_a_list_is_for_each_of_it(network):
    images = [np.full((28, 28), 4000, np.uint16), np.zeros((28, 28), np.uint8)]
    with pytest.raises(UserError, match=r"Of 12 bits: \[.* for image in images\]") as caught:
        network.predict(images)
    assert network.predict(obey(caught.value, images=images)).shape == (2,)
    images = [np.zeros((2, 28, 28), np.uint8), np.zeros((1, 28, 28), np.uint8)]
    with pytest.raises(UserError, match=r"must be one image, not 2") as caught:
        network.predict(images)
    assert network.predict(obey(caught.value, images=images)).shape == (3,)


class Loader:
    """Gives batches, as a DataLoader of PyTorch does."""

    def __iter__(self):
        return iter([[np.zeros((2, 28, 28)), np.zeros(2)]])


@pytest.mark.parametrize(
    "images",
    [
        *(None, 3, b"abc", {}, [], [1, 2], [None], [[1, 2], [3]], "", 1j, np.zeros(3, complex)),
        *(bytearray(b"abc"), io.BytesIO(b"abc"), [b"abc"], np.zeros((2, 28, 28), object)),
        *(np.array(b"abc"), Loader(), iter([[np.zeros((2, 28, 28)), np.zeros(2)]])),
    ],
)
def test_what_is_no_image_is_refused(network, images):
    with pytest.raises(UserError, match=r"images must be|'' is|\. is a folder") as caught:
        network.predict(images)
    assert len(str(caught.value).split("\n")) == 1


def test_many_errors_are_counted(network, tmp_path):
    with pytest.raises(UserError, match=r"a\.png cannot be read: No such file.* \(and 1 more\)"):
        network.predict([tmp_path / "a.png", np.zeros((28, 28), np.uint8), tmp_path / "b.png"])
    with pytest.raises(UserError, match="is a folder: give one of its files"):
        network.predict(tmp_path)


def test_within_jit_the_model_is_to_be_called(network, digits):
    with pytest.raises(UserError, match="not traced by") as caught:
        jax.jit(network.predict)(jnp.asarray(digits))
    code = str(caught.value).split("call ")[1].rstrip(".")
    images = jnp.asarray(network.prepare(digits))
    logits = jax.jit(lambda images: eval(code, {"network": network, "images": images}))(images)
    np.testing.assert_allclose(logits, network.logits(digits), atol=2e-5)


def test_the_form_of_rows_is_that_of_the_data():
    network = make(size=8, box=8, sides=(8, 8))
    with pytest.raises(UserError, match=r"reshape\(-1, 8, 8\)") as caught:
        network.predict(np.zeros((5, 64), np.uint8))
    assert len(network.predict(obey(caught.value, images=np.zeros((5, 64), np.uint8)))) == 5
    assert isinstance(network.form, ImageForm)


def test_what_is_refused_names_a_remedy_that_works(network, digits, tmp_path):
    torch = pytest.importorskip("torch")
    with pytest.raises(UserError, match="not DataLoader; give its batches one by one"):
        network.predict(torch.utils.data.DataLoader(torch.tensor(digits)))
    PIL.Image.fromarray(digits[0, ..., 0]).save(tmp_path / "a.png")
    data_of_file = (tmp_path / "a.png").read_bytes()
    for images in (data_of_file, bytearray(data_of_file)):
        with pytest.raises(UserError, match=r"PIL\.Image\.open\(io\.BytesIO\(data\)\)$"):
            network.predict(images)
    with (
        (tmp_path / "a.png").open("rb") as file,
        pytest.raises(UserError, match=r"PIL\.Image\.open\(file\)$"),
    ):
        network.predict(file)
    same(network, PIL.Image.open(io.BytesIO(data_of_file)), digits[:1])
    with pytest.raises(UserError, match=r"of numbers: np\.asarray\(images\)\.astype\(float\)$"):
        network.predict(digits.astype(object))
    same(network, digits.astype(object).astype(float), digits)


@pytest.mark.parametrize("shape", [(28, 28, 20), (28, 28, 2), (28, 28, 1, 20), (28, 20, 28)])
def test_images_on_another_axis_are_the_same_images(network, shape):
    images = np.arange(np.prod(shape)).astype(np.uint8).reshape(shape)
    axis = shape.index(next(n for n in shape if n in (2, 20)))
    with pytest.raises(UserError, match=r"np\.moveaxis\(np\.asarray\(images\), -?1, 0\)") as caught:
        network.predict(images)
    np.testing.assert_array_equal(obey(caught.value, images=images), np.moveaxis(images, axis, 0))


def test_what_is_resized_may_be_as_wide_as_high_as_many():
    network = make(fit="resize", handwriting=False, size=32)
    for shape in ((32, 32, 32), (40, 784), (600, 1024), (32, 20, 32), (5, 32, 50)):
        assert network.prepare(np.zeros(shape, np.uint8)).shape[1:] == (32, 32, 1)
    with pytest.raises(UserError, match="If axis -1 counts the images"):
        network.prepare(np.zeros((32, 32, 50), np.uint8))


@pytest.mark.parametrize("dark_on_light", [False, True])
@pytest.mark.parametrize("fit", ["pad", "resize"])
def test_images_of_the_other_polarity_are_inverted(dark_on_light, fit):
    size = 28 if fit == "pad" else 32
    network = make(fit=fit, dark_on_light=dark_on_light, size=size)
    light = data.load("mnist", image_size=28).test.images
    known, other = (255 - light, light) if dark_on_light else (light, 255 - light)
    fitted = data.fit_images(known, 32, fit)
    np.testing.assert_array_equal(network.prepare(known), fitted)
    np.testing.assert_array_equal(network.prepare(fitted), fitted)
    known, other, fitted = known[:50], other[:50], fitted[:50]
    margin = ((0, 0), (2, 2), (2, 2), (0, 0))
    given = [other, other / 255, np.where(np.arange(50)[:, None, None, None] % 2, known, other)]
    if fit == "pad":
        given += [np.pad(other, margin), np.pad(other, margin, constant_values=other[0, 0, 0, 0])]
    for images in given:
        with pytest.warns(UserWarning, match="were inverted: the network knows"):
            prepared = network.prepare(images)
        np.testing.assert_allclose(prepared.astype(int), fitted, atol=2 if fit == "resize" else 0)


def test_what_has_no_other_polarity_is_not_inverted(photos):
    frames = make(handwriting=False)
    np.testing.assert_array_equal(
        frames.prepare(255 - photos[..., 0] // 9),
        data.fit_images(255 - photos[..., :1] // 9, 32, "pad"),
    )
    network = make()
    for image in (photos[..., 0], np.zeros((28, 28), np.uint8), np.full((28, 28), 255, np.uint8)):
        expected = np.reshape(image, (-1, 28, 28, 1))
        np.testing.assert_array_equal(network.prepare(image), data.fit_images(expected, 32, "pad"))
