"""Hints for datasets' names as other libraries spell them."""

import pytest

from lenet_jax.data.spelling import suggest

KNOWN = ("cifar10", "cifar100", "svhn_cropped", "stl10")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MNIST", "mnist"),
        ("Mnist", "mnist"),
        ("mnsit", "mnist"),
        ("mnist_784", "mnist"),
        ("ylecun/mnist", "mnist"),
        ("torchvision.datasets.MNIST", "mnist"),
        ("tf.keras.datasets.fashion_mnist", "fashion_mnist"),
        ("FashionMNIST", "fashion_mnist"),
        ("fashion-mnist", "fashion_mnist"),
        ("Fashion MNIST", "fashion_mnist"),
        ("zalando-datasets/fashion_mnist", "fashion_mnist"),
        ("KMNIST", "kmnist"),
        ("Kuzushiji-MNIST", "kmnist"),
        ("EMNIST", "emnist"),
        ("emnist_letters", "emnist/letters"),
        ("EMNIST-Balanced", "emnist/balanced"),
        ("tanganke/emnist_letters", "emnist/letters"),
        ("cifar-10", "cifar10"),
        ("uoft-cs/cifar100", "cifar100"),
        ("SVHN", "svhn_cropped"),
        ("QMNIST", None),
        ("MedMNIST", None),
        ("what is this?", None),
        ("...", None),
        ("", None),
    ],
)
def test_names_are_understood_across_libraries(name, meant):
    assert suggest(name, KNOWN) == meant


def test_names_that_do_not_exist_are_not_suggested():
    assert suggest("SVHN") is None
    assert suggest("cifar-10") is None
