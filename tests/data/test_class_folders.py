"""Folders of images by class: what is found, how it is read, and what is refused."""

import os
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lenet_jax import data
from lenet_jax.data import files
from lenet_jax.errors import UserError
from tests.support.datasets import arrays, digits, write_idx_folder, write_images


def load(name, **settings):
    defaults: dict[str, Any] = {"image_size": 8, "valid_examples": 10}
    return data.load(str(name), **defaults | settings)


def write(folder, train="train", test="test", suffix=".png"):
    values = arrays()
    write_images(folder / train, values["x_train"], values["y_train"], suffix)
    if test:
        write_images(folder / test, values["x_test"], values["y_test"], suffix)
    return folder


def by_class(split):
    """The images with their labels, in any order."""
    return sorted(zip(map(bytes, split.images), split.labels.tolist(), strict=True))


@pytest.fixture
def plain(tmp_path):
    """The same images as idx files."""
    return load(write_idx_folder(tmp_path / "plain"), valid_examples=0)


@pytest.mark.parametrize("suffix", [".png", ".PNG"])
@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("training", "testing"),
        ("Train", "Validation"),
        ("train", "val"),
        ("train", "dev"),
        ("mnist_png/training", "mnist_png/testing"),
    ],
)
def test_train_and_test_folders_are_read_exactly(tmp_path, plain, train, test, suffix):
    dataset = load(write(tmp_path / "new", train, test, suffix), valid_examples=0)
    assert by_class(dataset.train) == by_class(plain.train)
    assert by_class(dataset.test) == by_class(plain.test)
    assert dataset.class_names == ("0", "1", "2", "3")
    remark = "there is no test set: its 10 validation images are taken as one"
    assert dataset.remarks == (() if "test" in test else (remark,))


def test_the_training_folder_stands_for_what_lies_beside_it(tmp_path):
    folder = write(tmp_path / "new")
    assert load(folder / "train").fingerprint == load(folder).fingerprint


def test_the_fingerprint_is_of_the_content(tmp_path):
    folder = write(tmp_path / "new")
    before = load(folder).fingerprint
    paths = sorted(folder.rglob("*.png"))
    for path in paths:
        Image.open(path).convert("RGB").save(path, compress_level=0)
    assert load(folder).fingerprint == before
    Image.fromarray(np.zeros((6, 6), np.uint8)).save(paths[0])
    assert load(folder).fingerprint != before


def test_without_a_test_folder_a_fifth_of_each_class_is_drawn(tmp_path):
    folder = write(tmp_path / "new", ".", "")
    dataset, other = load(folder), load(folder, split_seed=2)
    assert (len(dataset.train), len(dataset.valid), len(dataset.test)) == (22, 10, 8)
    assert np.bincount(dataset.test.labels).tolist() == [2, 2, 2, 2]
    np.testing.assert_array_equal(dataset.test.images, other.test.images)
    assert dataset.remarks[0].startswith("there is no test set: a fifth of each class, 8 images")


def test_images_of_a_third_folder_are_trained_on(tmp_path):
    folder = write(tmp_path / "new")
    write_images(folder / "val", *digits(20, seed=5))
    dataset = load(folder)
    assert (len(dataset.train), len(dataset.valid), len(dataset.test)) == (50, 10, 10)
    assert dataset.remarks == ("its 20 validation images are added to the training images",)


def test_two_folders_of_one_split_are_ambiguous(tmp_path):
    folder = write(tmp_path / "new", test="dev")
    (folder / "valid").mkdir()
    with pytest.raises(UserError, match="new has both dev and valid; keep one"):
        load(folder)


def test_folders_of_images_beside_the_splits_are_named(tmp_path):
    folder = write(tmp_path / "new")
    write_images(folder / "extra", *digits(5))
    Image.new("L", (6, 6)).save(folder / "one.png")
    (folder / "labels").mkdir()
    (folder / "labels" / "0.txt").write_text("0 0.5 0.5 1 1")
    for path in (folder, folder / "train"):
        (remark,) = load(path).remarks
        assert remark.endswith("/extra is left out: it is neither train, test nor val")


@pytest.mark.parametrize("count", [4, 2])
def test_a_test_set_cannot_be_held_out_of_one_image_a_class(tmp_path, count):
    folder = write_images(tmp_path / "new", *digits(count))
    with pytest.raises(UserError, match=r"new has too few images to hold out a test set: no class"):
        load(folder, valid_examples=500)


def test_of_a_class_with_one_image_none_is_held_out(tmp_path):
    folder = write_images(tmp_path / "new", *digits(40))
    write_images(folder, digits(1, seed=3)[0], np.array([7]))
    dataset = load(folder)
    assert np.bincount(dataset.test.labels, minlength=5).tolist() == [2, 2, 2, 2, 0]
    assert dataset.remarks[0].endswith("the same in every run; of 1 with one image, none")


def test_images_of_0_and_1_are_scaled(tmp_path):
    images, labels = digits(40)
    write_images(tmp_path / "bits", images & 1, labels)
    write_images(tmp_path / "pixels", (images & 1) * 255, labels)
    bits, pixels = load(tmp_path / "bits"), load(tmp_path / "pixels")
    assert bits.fingerprint == pixels.fingerprint
    assert bits.remarks[-1] == "pixels of 0 and 1 are scaled to 0 and 255"


@pytest.mark.parametrize("suffix", [".jp2", ".tga", ".sgi", ".pcx", ""])
def test_images_of_any_suffix_or_none(tmp_path, plain, suffix):
    folder = write(tmp_path / "new", suffix=suffix or ".png")
    for path in sorted(folder.rglob("*.png")):
        path.rename(path.with_suffix(suffix))
    dataset = load(folder, valid_examples=0)
    assert by_class(dataset.train) == by_class(plain.train)
    assert by_class(dataset.test) == by_class(plain.test)


def test_class_names_are_the_folders_in_order(tmp_path):
    for names in (["9", "10", "8"], ["cat", "Dog", "ant"]):
        folder = tmp_path / names[0]
        write_images(folder, digits(30)[0], np.array(names)[np.arange(30) % 3])
        expected = ("8", "9", "10") if names[0] == "9" else ("Dog", "ant", "cat")
        assert load(folder).class_names == expected


def test_colour_is_kept_if_any_image_has_it(tmp_path):
    folder = write(tmp_path / "new")
    path = folder / "test" / "1" / "colour.png"
    Image.fromarray(np.full((6, 6, 3), (10, 20, 30), np.uint8)).save(path)
    dataset = load(folder)
    assert dataset.image_shape == (8, 8, 3)
    assert (dataset.train.images == dataset.train.images[..., :1]).all()
    assert [10, 20, 30] in dataset.test.images.reshape(-1, 3).tolist()
    for grey in folder.rglob("*.png"):
        image = Image.open(grey).convert("RGB")
        (Image.new("RGB", (6, 6)) if grey == path else image).save(grey)
    assert load(folder).image_shape == (8, 8, 1)


def test_images_in_folders_below_their_class(tmp_path, plain):
    folder = write(tmp_path / "new")
    for path in sorted(folder.rglob("*.png")):
        (path.parent / "more").mkdir(exist_ok=True)
        path.rename(path.parent / "more" / path.name)
    first = folder / "train" / "0"
    (first / "more" / "000.png").rename(first / "000.png")
    assert by_class(load(folder, valid_examples=0).train) == by_class(plain.train)


def test_no_image_of_a_class_is_too_deep_or_in_a_folder_too_many(tmp_path, plain, monkeypatch):
    monkeypatch.setattr(files, "MAX_FOLDERS", 3)
    folder = write(tmp_path / "new")
    for path in sorted(folder.rglob("*.png"))[::2]:
        deeper = path.parent / path.stem / "a" / "b" / "c" / "d"
        deeper.mkdir(parents=True)
        (deeper / "circle").symlink_to(path.parent)
        path.rename(deeper / path.name)
    assert by_class(load(folder, valid_examples=0).train) == by_class(plain.train)


def test_a_link_in_a_class_to_what_it_is_in_is_not_followed(tmp_path, plain):
    folder = write(tmp_path / "new")
    for place, target in enumerate(("..", "../..", folder / "train", "/")):
        (folder / "train" / "0" / f"up{place}").symlink_to(target)
    assert by_class(load(folder, valid_examples=0).train) == by_class(plain.train)


def test_hidden_files_are_skipped_and_others_counted(tmp_path):
    folder = write(tmp_path / "new")
    before = load(folder).fingerprint
    for name in (".DS_Store", "train/._0", "train/0/._000.png", "train/0/Thumbs.db"):
        (folder / name).write_bytes(b"hidden")
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    (folder / "__MACOSX" / "train").mkdir(parents=True)
    assert load(folder).remarks == ()
    (folder / "train" / "0" / "notes.txt").write_text("not an image")
    os.mkfifo(folder / "train" / "1" / "pipe.png")
    dataset = load(folder)
    assert dataset.fingerprint == before
    assert dataset.remarks == ("left out as no images: 2 files, such as notes.txt, pipe.png",)


def test_images_outside_the_classes_are_named(tmp_path):
    folder = write_images(tmp_path / "new", *digits(40))
    Image.new("L", (6, 6)).save(folder / "loose.png")
    (folder / "0" / "notes.txt").write_text("not an image")
    assert load(folder).remarks[:2] == (
        "left out as in no folder of a class: 1 image, loose.png",
        "left out as no images: 1 file, notes.txt",
    )


def test_a_test_folder_without_classes_is_left_out(tmp_path):
    folder = write(tmp_path / "new", test="")
    (folder / "test").mkdir()
    Image.new("L", (6, 6)).save(folder / "test" / "1.png")
    remarks = load(folder).remarks
    assert remarks[0].endswith("test is left out: it has no folders of images by class")
    assert remarks[1].startswith("there is no test set")


def test_several_sizes_are_counted_or_resized(tmp_path):
    folder = write(tmp_path / "new")
    for name, size in (("a", (5, 7)), ("b", (5, 7)), ("c", (9, 9)), ("d", (4, 3))):
        Image.new("L", size).save(folder / "train" / "0" / f"{name}.png")
    with pytest.raises(UserError, match=r"train has images of 4 sizes: 50 of 6×6, 2 of 7×5, 1 of"):
        load(folder)
    with pytest.raises(UserError, match=r"and 1 more; --config.data.fit=resize takes them"):
        load(folder)
    dataset = load(folder, fit="resize", image_size=4)
    assert dataset.image_shape == (4, 4, 1)
    assert len(dataset.train) == 34


def test_images_that_are_turned_by_their_orientation(tmp_path):
    folder = tmp_path / "new"
    for index in range(20):
        exif = Image.Exif()
        exif[0x0112] = 6 if index == 11 else 1
        path = folder / str(index % 2) / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 7), index).save(path, exif=exif)
    with pytest.raises(UserError, match=r"turned by their EXIF orientation; --config.data.fit=re"):
        load(folder, valid_examples=2)
    assert len(load(folder, valid_examples=2, fit="resize").test) == 4


def test_images_that_are_too_large_to_be_padded(tmp_path):
    with pytest.raises(
        UserError, match=r"images of 6×6 cannot be padded to data.image_size=4; try"
    ):
        load(write(tmp_path / "new"), image_size=4)


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("train/2/damaged.png", b"\x89PNG\r\n\x1a\n damaged", "train/2/damaged.png"),
        ("train/2/empty.jpg", b"", "train/2/empty.jpg"),
        ("test/2/text.png", b"text", "test/2/text.png"),
        ("train/4/", None, "train/4 has no image; remove the folder, or add the images"),
        ("train/4/notes.txt", b"", "train/4 has no image"),
        ("test/4/", None, "test/4 has no image"),
    ],
)
def test_an_unreadable_image_and_an_empty_class_are_named(tmp_path, path, content, message):
    folder = write(tmp_path / "new")
    (folder / path).parent.mkdir(exist_ok=True)
    if content is None:
        (folder / path).mkdir()
    else:
        (folder / path).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load(folder)
    assert len(str(error.value).splitlines()) == 1


def test_classes_must_be_two_and_the_same(tmp_path):
    images, labels = digits(10)
    folder = write_images(tmp_path / "one" / "train", images, labels * 0).parent
    with pytest.raises(UserError, match="train has the one class 0; at least two are needed"):
        load(folder)
    with pytest.raises(UserError, match="train has the one class 0; at least two are needed"):
        load(folder / "train")
    folder = write(tmp_path / "new")
    write_images(folder / "test", images, labels + 3)
    with pytest.raises(UserError, match=r"test has a class 4, which .*train has not"):
        load(folder)


def test_classes_a_level_deeper(tmp_path):
    images, labels = digits(40)
    for name, rest in (("even", 0), ("odd", 1)):
        write_images(tmp_path / name, images[labels % 2 == rest], labels[labels % 2 == rest])
    with pytest.raises(UserError, match=r"a level deeper; give the folder .* into one: even, odd"):
        load(tmp_path)
    assert load(tmp_path / "odd").class_names == ("1", "3")


def test_several_datasets_are_listed(tmp_path):
    write(tmp_path / "letters")
    write(tmp_path / "digits")
    with pytest.raises(
        UserError, match="several datasets; give the folder of one: digits, letters"
    ):
        load(tmp_path)
    assert len(load(tmp_path / "digits").test) == 10


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "has no dataset that is read; it is empty"),
        (("a.png", "b.png"), "that is read; its images are not in a folder for each class"),
        (("train.tsv", "test.tsv"), "has no dataset that is read; it has test.tsv, train.tsv"),
        (("0/a.npy", "1/b.npy", "1/c.svg"), "the files in its folders, of type .npy, .svg, are no"),
        (("train/a.png", "b/b.png"), "the images in its folders are not in a folder for each cl"),
        (("mnist.zip",), "holds archives; unpack them first: mnist.zip"),
        (("train/a.png", "test/b.png"), "has no dataset that is read; it has test, train"),
    ],
)
def test_a_folder_of_something_else(tmp_path, files, message):
    folder = tmp_path / "new"
    folder.mkdir()
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    with pytest.raises(UserError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.zip", "a.zip is packed; unpack it, and give the folder"),
        ("a.tar.gz", "a.tar.gz is packed; unpack it"),
        ("a.tsv", "a.tsv is a file of a kind that is not read; datasets are read from idx files"),
        ("a.png", "a.png is a file of a kind that is not read"),
    ],
)
def test_a_file_of_something_else(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=message):
        load(tmp_path / name)


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    folder = write(tmp_path / "new")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot read .*new: Permission denied"):
        load(folder)
