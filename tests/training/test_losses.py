"""Losses by name: the built-in ones, and functions of the user's own."""

import hashlib

import jax.numpy as jnp
import numpy as np
import pytest

from lenet_jax.errors import UserError
from lenet_jax.training.environment import own_code
from lenet_jax.training.losses import find_loss, find_measurements, squared_error

SOURCE = """
import jax
import jax.numpy as jnp
import numpy as np
def margin(logits, labels):
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)
    return jnp.sum(jax.nn.relu(1 + logits - own), axis=1)
def mean(logits, labels):
    return jnp.mean(logits)
def classes(logits, labels):
    return jnp.mean(logits, axis=0)
def hits(logits, labels):
    return jnp.argmax(logits, axis=1)
def nothing(logits, labels):
    pass
def sums(logits, labels):
    return logits + labels
def on_host(logits, labels):
    return np.asarray(logits)[:, 0]
def one(logits):
    return logits[:, 0]
def backwards(logits, labels):
    return jax.lax.while_loop(lambda x: jnp.all(x < 5), lambda x: x * 2, logits[:, 0])
number = 3
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("losses") / "own.py"
    path.write_text(SOURCE)
    return path


def test_squared_error_by_hand():
    logits = jnp.asarray([[1.0, 0.0, 2.0], [0.5, 0.5, 0.0]])
    labels = jnp.asarray([0, 1], jnp.int32)
    np.testing.assert_allclose(squared_error(logits, labels), [4 / 3, 0.5 / 3], rtol=1e-6)
    assert find_loss("mse", 3) is squared_error and find_loss("cross_entropy", 3) is None


def test_a_function_of_a_file_is_the_same_each_time(file):
    loss = find_loss(f"{file}:margin", 3)
    text = hashlib.sha256(file.read_bytes()).hexdigest()
    sums = own_code(["lenet"], ["mse", f"{file}:margin"])
    assert sums == {"network_sha256": None, "loss_sha256": text}
    assert loss is find_loss(f"{file}:margin", 3)
    labels = jnp.asarray([2, 0], jnp.int32)
    assert loss is not None
    np.testing.assert_allclose(loss(jnp.asarray([[1.0, 0, 3], [0, 0, 0]]), labels), [1, 3])


def test_measurements_are_called_as_their_functions(file):
    ((name, function),) = find_measurements([f"{file}:backwards"], 3)  # none is differentiated
    assert name == "backwards" and callable(function)
    message = r"own.py:hits maps .* to int32 \(4,\), not to float32 \(4,\)\nIt must return a "
    with pytest.raises(UserError, match=message + r"measurement .* add .astype\(jnp.float32\)"):
        find_measurements([f"{file}:hits"], 3)
    with pytest.raises(UserError, match=r"own.py:\d+: TypeError: one|own.py: TypeError: one"):
        find_measurements([f"{file}:margin", f"{file}:one"], 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "mae",
            "must be one of cross_entropy, mse, squashed_mse, map, FILE.py:function or pack",
        ),
        ("{file}:", "must be one of"),
        ("{file}:absent", "own.py has no function absent"),
        ("{file}:number", "own.py has no function number"),
        ("{file}:mean", r"to float32 \(\), not to float32 \(4,\)\nIt must return a loss per ex"),
        ("{file}:classes", r"to float32 \(3,\), not to float32 \(4,\)"),
        ("{file}:hits", r"to int32 \(4,\), not to float32 \(4,\)"),
        ("{file}:nothing", r"to a NoneType, not to float32 \(4,\)"),
        ("{file}:sums", r"own.py:\d+: "),
        ("{file}:on_host", r"own.py:\d+: TracerArrayConversionError"),
        ("{file}:one", "own.py: TypeError: one"),
        ("{file}:backwards", "own.py: ValueError: Reverse-mode differentiation does not work"),
        ("no.py:f", "no loss file no.py"),
        ("no_such_package:f", "train.loss: no module no_such_package\nInstall it, or name a file"),
        ("math:sqrt", "math: "),
    ],
)
def test_mistakes_are_short(file, name, message):
    with pytest.raises(UserError, match=message) as caught:
        find_loss(name.format(file=file), 3)
    assert len(str(caught.value).splitlines()) <= 3
