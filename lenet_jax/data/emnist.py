"""EMNIST as it is published: transposed images, and labels that stand for characters.

Source: Cohen et al., "EMNIST: an extension of MNIST to handwritten letters", 2017, and the mapping
files (`emnist-balanced-mapping.txt`, …) in its archive.
"""

import re
import string

import numpy as np

from lenet_jax.data.examples import Source

MERGED = string.digits + string.ascii_uppercase + "abdefghnqrt"
CHARACTERS = {
    "balanced": MERGED,
    "bymerge": MERGED,
    "byclass": string.digits + string.ascii_uppercase + string.ascii_lowercase,
    "digits": string.digits,
    "mnist": string.digits,
    "letters": string.ascii_lowercase,
}
FIRST_LABEL = {"letters": 1}
NAME = re.compile(rf"emnist(?:[-_/]({'|'.join(CHARACTERS)}))?(?![^:])", re.IGNORECASE)
DEFAULT = "byclass"  # of TFDS
REMARK = "EMNIST's images, which are published transposed, are turned upright"


def variant(name: str) -> str | None:
    """The variant that `emnist/letters:3.1.0` or `emnist-letters` names; None: another dataset."""
    match = NAME.match(name)
    return None if match is None else (match[1] or DEFAULT).lower()


def class_names(variant: str) -> dict[int, str]:
    """The characters of a variant by label."""
    return dict(enumerate(CHARACTERS[variant], FIRST_LABEL.get(variant, 0)))


def rename(source: Source, variant: str) -> Source:
    """Calls the classes of published labels by their characters, and leaves any other labels."""
    first, characters = FIRST_LABEL.get(variant, 0), CHARACTERS[variant]
    labels = source.train_labels - first, source.test_labels - first
    if not all(0 <= some.min() <= some.max() < len(characters) for some in labels):
        return source
    return source._replace(
        train_labels=labels[0], test_labels=labels[1], class_names=tuple(characters)
    )


def upright(source: Source) -> Source:
    """Transposes each image, which is published with its rows as columns."""
    train_images, test_images = (
        np.ascontiguousarray(images.swapaxes(1, 2))
        for images in (source.train_images, source.test_images)
    )
    remarks = (*source.remarks, REMARK)
    return source._replace(train_images=train_images, test_images=test_images, remarks=remarks)
