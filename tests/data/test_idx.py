"""The idx reader: accepted files are read exactly, others are refused with a message."""

import gzip
import pathlib
import struct
import tempfile

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lenet_jax.data import files
from lenet_jax.data.examples import pair
from lenet_jax.data.idx import read_idx
from lenet_jax.errors import UserError


def to_idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">2xBB{array.ndim}I", 8, array.ndim, *array.shape)
    return header + array.tobytes()


def read_bytes(content: bytes) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "some-idx"
        path.write_bytes(content)
        return read_idx(path)


arrays = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, max_side=5))


@given(arrays, st.booleans())
def test_an_array_is_read_exactly(array, is_gzipped):
    content = to_idx(array)
    result = read_bytes(gzip.compress(content, mtime=0) if is_gzipped else content)
    np.testing.assert_array_equal(result, array, strict=True)


def test_an_array_of_several_chunks_and_gzip_members_is_read_exactly():
    array = np.random.default_rng(0).integers(0, 256, (3, 700, 1000), np.uint8)
    content = to_idx(array)
    members = gzip.compress(content[:1_500_000], 1) + gzip.compress(content[1_500_000:], 1)
    np.testing.assert_array_equal(read_bytes(members), array, strict=True)


@given(
    st.binary(max_size=64), st.sampled_from([b"", b"\0\0\x08\x01", b"\0\0\x08\x03", b"\x1f\x8b"])
)
@example(b"\0\0\0\0", b"\0\0\x08\x01")
@example(b"\xff" * 16, b"\0\0\x08\x04")
def test_any_bytes_are_read_or_refused(tail, magic):
    for content in (magic + tail, gzip.compress(magic + tail, 1)):
        try:
            assert read_bytes(content).dtype.isnative
        except UserError as error:
            assert "some-idx" in str(error)
            assert len(str(error).splitlines()) == 1


@given(arrays, st.data())
def test_a_damaged_gzip_is_read_or_refused(array, data):
    content = bytearray(gzip.compress(to_idx(array), mtime=0))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    # A flip in the gzip header's time or system flags does not change the content.
    try:
        np.testing.assert_array_equal(read_bytes(bytes(content)), array)
    except UserError as error:
        assert "some-idx" in str(error)


VALID = to_idx(np.arange(12, dtype=np.uint8).reshape(3, 2, 2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with nothing"),
        (b"\x89PNG----", "not an idx file: it starts with 89 50 4e 47"),
        (VALID[:3], "not an idx file"),
        (VALID[:9], "truncated: it ends inside its header"),
        (VALID[:-1], "truncated: its header claims 3 × 2 × 2 bytes, it holds 11"),
        (VALID + b"\0", "longer than its header says"),
        (b"\0\0\x0a\x01" + VALID[4:], "idx type 0x0a; the format knows 0x08, 0x09, 0x0b,"),
        (b"\0\0\x0c\x01" + VALID[4:], "longer than its header says: its header claims 3 × 4 bytes"),
        (b"\0\0\x08\x00", "claims 0 dimensions"),
        (b"\0\0\x08\x05" + bytes(20), "claims 5 dimensions"),
        (b"\0\0\x08\x01" + bytes(4), "is empty"),
        (gzip.compress(VALID, mtime=0)[:-9], "truncated or damaged"),
        (gzip.compress(VALID, mtime=0)[:-1] + b"\xff", "truncated or damaged"),
        (gzip.compress(VALID[:-1], mtime=0), "it holds 11"),
        (gzip.compress(VALID + bytes(100), mtime=0), "longer than its header says"),
    ],
)
def test_a_damaged_file_is_refused(content, message):
    with pytest.raises(UserError, match=message):
        read_bytes(content)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_huge_claim_is_refused_before_memory_is_allocated(pack, monkeypatch):
    monkeypatch.setattr(np, "empty", lambda *_: pytest.fail("memory was allocated"))
    content = struct.pack(">2xBBI", 8, 1, 2**31) + b"xx"
    assert len(content) == 10
    with pytest.raises(UserError, match="truncated: its header claims 2147483648 bytes"):
        read_bytes(pack(content))


def test_a_gzip_bomb_is_read_no_further_than_its_claim(monkeypatch):
    bomb = gzip.compress(to_idx(np.zeros(10, np.uint8)) + bytes(50_000_000), 1)
    read, original = [], gzip.GzipFile.read
    monkeypatch.setattr(
        gzip.GzipFile, "read", lambda self, size: read.append(size) or original(self, size)
    )
    with pytest.raises(UserError, match="longer"):
        read_bytes(bomb)
    assert sum(read) < 30


def test_a_claim_beyond_memory_is_refused(monkeypatch):
    monkeypatch.setattr(files, "free_memory", lambda: 1)
    with pytest.raises(UserError, match="do not fit into memory"):
        read_bytes(VALID)


def test_a_file_that_unpacks_to_far_more_than_images_do_is_refused(monkeypatch):
    monkeypatch.setattr(files, "MOST_UNPACKED", 1000)
    packed = gzip.compress(to_idx(np.zeros(50_000, np.uint8)))
    with pytest.raises(UserError, match=r"claims to unpack from 0.0 MB to 0 MB, as no images do"):
        read_bytes(packed)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nowhere: No such file"):
        read_idx(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ((5, 4), (5,), r"I has shape \(5, 4\)"),
        ((5, 4, 4, 2), (5,), r"I has shape \(5, 4, 4, 2\)"),
        ((5, 4, 4), (5, 2), r"L has shape \(5, 2\)"),
        ((5, 3, 4, 4), (5,), "I has shape .*; channels come last"),
        ((5, 4, 4), (4,), "L has 4 labels for the 5 images of I"),
    ],
)
def test_images_and_labels_must_agree(images, labels, message):
    with pytest.raises(UserError, match=message):
        pair(np.ones(images, np.uint8), np.ones(labels, np.uint8), "I", "L")
