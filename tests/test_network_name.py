"""Names of trained networks."""

import re
from typing import Any

import numpy as np
import pytest

from lenet_jax.errors import UserError
from lenet_jax.network_name import NetworkName, parse, whole


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("runs/first", NetworkName("runs/first")),
        ("runs/rates:7", NetworkName("runs/rates", 7)),
        ("runs/rates:7@3", NetworkName("runs/rates", 7, 3)),
        ("C:7@0", NetworkName("C", 7, 0)),
        ("a:1:2@3", NetworkName("a:1", 2, 3)),
        ("a:b@3", NetworkName("a:b", 3)),
        ("7@3", NetworkName("7", 3)),
        ("runs/rates:x", NetworkName("runs/rates:x")),
        ("runs/rates:0123456789", NetworkName("runs/rates:0123456789")),
    ],
)
def test_a_name_is_parsed(text, name):
    assert parse(text) == name


def test_a_folder_that_is_called_so_is_meant(tmp_path):
    for name in ("rates:7", "rates:7@3"):
        (tmp_path / name).mkdir()
        assert parse(f"{tmp_path}/{name}") == NetworkName(f"{tmp_path}/{name}")
    assert parse(f"{tmp_path}/rates:7@4") == NetworkName(f"{tmp_path}/rates", 7, 4)


@pytest.mark.parametrize("text", ["runs/rates", "runs/rates:7", "runs/rates:7@0"])
def test_a_name_is_written_as_it_was(text):
    assert str(parse(text)) == text


def test_a_member_has_a_label_for_files():
    assert NetworkName("runs", 7).label == "member_7"
    assert NetworkName("runs", 7, 0).label == "member_7_epoch_0"


@pytest.mark.parametrize("value", ["1", 1.0, [1]])
def test_a_member_or_an_epoch_that_is_no_whole_number_is_refused(value: Any):
    message = f"member must be a whole number, not {value!r}"
    with pytest.raises(UserError, match=re.escape(message)):
        whole("member", value)


def test_a_whole_number_of_another_kind_is_one():
    assert whole("member", np.int64(7)) == 7
    assert whole("epoch", None) is None
