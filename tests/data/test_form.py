import numpy as np
import pytest
from flax import nnx
from PIL import Image

import lenet_jax
from lenet_jax import data, predict
from lenet_jax.data.form import ImageForm, fit_form, give_form, measure_form
from lenet_jax.data.image_files import Reading, read_all
from lenet_jax.errors import UserError
from lenet_jax.inference.network import Network
from lenet_jax.nn.lenet import LeNet
from tests.support.photos import photo

pytestmark = pytest.mark.slow


def smooth_noise(rng, count, side, channels):
    """Pictures that fill their frame."""
    coarse = rng.integers(0, 256, (count, 4, 4, channels)).astype(np.uint8)
    return data.fit_images(coarse, side, "resize")


@pytest.fixture(scope="module")
def mnist():
    return data.load("mnist", image_size=28, train_examples=5000)


@pytest.mark.parametrize(
    ("size", "fit"), [(28, "pad"), (32, "pad"), (32, "resize"), (40, "resize")]
)
def test_mnist_is_handwriting_and_its_test_images_have_its_form(size, fit):
    dataset = data.load("mnist", image_size=size, fit=fit, train_examples=5000)
    form = measure_form(dataset.train.images, fit)
    assert form.handwriting and not form.dark_on_light
    assert form.size == (size if fit == "resize" else 28)
    assert form.box == pytest.approx(20 * form.size / 28, abs=1.5)
    native = data.load("mnist", image_size=28).test.images[:1000]
    given = [give_form(image, form) for image in native]
    fitted = fit_form([characters[0].pixels for characters in given], form, size)
    np.testing.assert_array_equal(fitted, dataset.test.images[:1000])


def test_dark_on_light_data_keep_their_polarity(mnist):
    form = measure_form(255 - mnist.train.images, "pad")
    assert form.handwriting and form.dark_on_light and form.size == 28
    image = 255 - mnist.test.images[0]
    (same,) = give_form(image, form)
    assert same.pixels is image
    (turned,) = give_form(mnist.test.images[0], form)
    assert np.median(turned.pixels) > 200


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fit", ["pad", "resize"])
def test_pictures_that_fill_their_frame_stay_whole(channels, fit):
    rng = np.random.default_rng(0)
    native = smooth_noise(rng, 50, 24, channels)
    fitted = data.fit_images(native, 32, fit)
    form = measure_form(fitted, fit)
    assert not form.handwriting
    assert form.size == (24 if fit == "pad" else 32)
    given = [give_form(image, form)[0].pixels for image in native]
    np.testing.assert_array_equal(fit_form(given, form, 32), fitted)
    (photo_of_one,) = give_form(smooth_noise(rng, 1, 90, channels)[0], form)
    assert photo_of_one.box == (0, 0, 90, 90)
    assert fit_form([photo_of_one.pixels], form, 32).shape == (1, 32, 32, channels)


def test_digits_of_8_by_8_pass_unchanged(mnist):
    # Like those of scikit-learn: they fill their frame from top to bottom.
    small = np.stack(
        [
            np.asarray(Image.fromarray(image[4:24, 4:24, 0]).resize((8, 8)))
            for image in mnist.train.images[:500]
        ]
    )[..., None]
    form = measure_form(data.fit_images(small, 32, "pad"), "pad")
    assert form.size == 8
    for image in small[:50]:
        (same,) = give_form(image, form)
        assert same.pixels is image


def test_another_image_of_the_same_size_does_not_pass(mnist):
    form = measure_form(mnist.train.images, "pad")
    corner = np.zeros((28, 28, 1), np.uint8)
    corner[1:16, 1:16] = np.asarray(
        Image.fromarray(mnist.test.images[0, 4:24, 4:24, 0]).resize((15, 15))
    )[..., None]
    (found,) = give_form(corner, form)
    assert form.is_met_by(found.pixels)
    assert not form.is_met_by(255 - mnist.test.images[0])


def test_a_form_is_kept_in_a_line():
    form = ImageForm(size=8, fit="resize", box=7, sides=(5, 8), offset=1.5)
    assert ImageForm.from_json(form.to_json(), "a file") == form
    for text in (
        "",
        "[]",
        "{}",
        '{"size": 8}',
        form.to_json().replace("resize", "stretch"),
        "null",
    ):
        with pytest.raises(UserError, match="a file: bad metadata: images"):
            ImageForm.from_json(text, "a file")


def test_nothing_found_is_an_error():
    with pytest.raises(UserError, match="no character found"):
        give_form(np.full((200, 300, 1), 255, np.uint8), ImageForm())


def test_a_run_knows_the_form_of_its_data_and_reads_its_own_test_images(notes_run, tmp_path):
    network = lenet_jax.load(notes_run)
    assert network.form.handwriting and network.form.size == 28
    test = data.load("mnist", image_size=28).test
    files = [tmp_path / f"{index:03}.png" for index in range(200)]
    for file, image in zip(files, test.images, strict=False):
        Image.fromarray(image[..., 0]).save(file)
    from_files = network.logits(files)
    np.testing.assert_array_equal(from_files, network.logits(test.images[:200]))
    again = lenet_jax.load(notes_run / "model.safetensors")
    assert again.form == network.form and again.least_energy == network.least_energy
    readings = list(read_all(files[:5], 1, network.form))
    assert all(
        isinstance(reading, Reading) and len(reading.characters) == 1 for reading in readings
    )


def test_what_is_none_of_the_classes_has_little_energy(notes_run):
    from lenet_jax.inference.forward import energy

    network = lenet_jax.load(notes_run)
    assert network.least_energy is not None
    test = data.load("mnist", image_size=28).test
    assert (energy(network.logits(test.images[:1000])) < network.least_energy).mean() < 0.05
    noise = np.random.default_rng(0).integers(0, 60, (100, 28, 28)).astype(np.uint8)
    assert (energy(network.logits(noise)) < network.least_energy).mean() > 0.5


def test_a_photo_is_found_whatever_its_form():
    (character,) = give_form(photo(3)[..., None], ImageForm())
    assert character.inverted and character.pixels.shape == (28, 28, 1)


def _native(kind, mnist):
    """Training and test images of their native size, and how many channels they have."""
    rng = np.random.default_rng(0)
    if kind == "handwriting":
        return mnist.train.images[:600], mnist.test.images[:40]
    if kind == "8 by 8":
        small = [Image.fromarray(i[4:24, 4:24, 0]).resize((8, 8)) for i in mnist.train.images[:640]]
        images = np.stack([np.asarray(image) for image in small])[..., None]
    elif kind == "frames":
        images = smooth_noise(rng, 200, 28, 1)
    elif kind == "tall":
        images = mnist.train.images[:300, :, 4:24]
    else:
        images = smooth_noise(rng, 200, 24, 3)
    return images[:-40], images[-40:]


SAVED = {"png": {}, "bmp": {}, "tif": {"compression": "tiff_lzw"}, "webp": {"lossless": True}}


@pytest.mark.parametrize("kind", ["handwriting", "8 by 8", "frames", "tall", "colour"])
@pytest.mark.parametrize(
    ("fit", "size"), [("pad", 28), ("pad", 32), ("resize", 28), ("resize", 32)]
)
def test_test_images_saved_as_files_give_the_arrays_answers(kind, fit, size, mnist, tmp_path):
    train, test = _native(kind, mnist)
    fitted = data.fit_images(train, size, fit)
    form = measure_form(fitted, fit, train.shape[1:3])
    channels = test.shape[-1]
    model = LeNet((2, 3), (8, 6), in_channels=channels, image_size=size, rngs=nnx.Rngs(0))
    statistics = (33.0,) * channels, (78.0,) * channels
    network = Network(model, *statistics, tuple("0123456789"), "a test", form=form)
    expected = data.fit_images(test, size, fit)
    np.testing.assert_array_equal(network.prepare(test), expected)
    for suffix, options in SAVED.items():
        files = [tmp_path / f"{index}.{suffix}" for index in range(len(test))]
        for file, image in zip(files, test, strict=True):
            picture = Image.fromarray(image[..., 0] if channels == 1 else image)
            picture.save(file, **options)
        np.testing.assert_array_equal(network.prepare(files), expected)
        np.testing.assert_array_equal(network.predict(files), network.predict(test))
        rows, errors = predict.classify(network, files)
        assert not errors
        assert [row["class"] for row in rows] == [str(c) for c in network.predict(test)]


def test_a_run_of_few_images_knows_their_size(mnist):
    few = mnist.train.images[:3]
    assert measure_form(few, "pad").size < 28
    form = measure_form(data.fit_images(few, 32, "pad"), "pad", (28, 28))
    assert form.size == 28 and form.shape is None
    tall = measure_form(data.fit_images(few[:, :, 4:24], 32, "pad"), "pad", (28, 20))
    assert tall.native == (28, 20)
    assert ImageForm.from_json(tall.to_json(), "a file") == tall
    resized = measure_form(data.fit_images(few[:, :, 4:24], 32, "resize"), "resize", (28, 20))
    assert resized.native == (32, 32) and resized.shape == (28, 20)
    bad = tall.to_json().replace("[28, 20]", "[29, 20]")
    with pytest.raises(UserError, match="bad metadata: images"):
        ImageForm.from_json(bad, "a file")
