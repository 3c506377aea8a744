"""Folders packed as objects."""

import io
import tarfile

import pytest

from lenet_jax.storage import remote


def archive(*entries):
    """A tar file of entries, each with one byte."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as file:
        for entry in entries:
            file.addfile(entry, io.BytesIO(b"a"))
    return stream.getvalue()


def entry(name, size=1, **attributes):
    made = tarfile.TarInfo(name)
    made.size = size
    for attribute, value in attributes.items():
        setattr(made, attribute, value)
    return made


def sparse(size):
    """A file of this size that has one byte, in the form of GNU tar 1.0 and later."""
    headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(size), "GNU.sparse.name": "a"}
    return entry("a", pax_headers=headers)


def test_a_folder_is_packed_to_the_same_bytes_and_unpacked(tmp_path):
    for name, content in (("b", b"two"), ("a", b"")):
        (tmp_path / name).write_bytes(content)
    packed = remote.pack(tmp_path)
    assert packed == remote.pack(tmp_path)
    assert remote.unpack(packed) == {"a": b"", "b": b"two"}


@pytest.mark.parametrize("size", [1000, 1 << 62])
def test_a_sparse_entry_takes_no_memory(size):
    with pytest.raises(ValueError, match="its entry a is no file"):
        remote.unpack(archive(sparse(size)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (archive(entry("a"), entry("a")), "its entry a is no file"),
        (archive(entry("a", 0, type=tarfile.DIRTYPE)), "its entry a is no file"),
        (archive(entry("a", 0, type=tarfile.SYMTYPE, linkname="b")), "its entry a is no file"),
        (archive(entry("a"))[:300], "bad|truncated|unexpected"),
        (archive(entry("a"), entry("b"))[:512], "unexpected end of data"),
        (archive(entry("a", pax_headers={"comment": "a"}))[:1024] * 2000, "recursion"),
    ],
)
def test_what_is_no_plain_file_is_refused(content, reason):
    with pytest.raises(ValueError, match=reason):
        remote.unpack(content)
