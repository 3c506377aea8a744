"""Reader for idx files, the format in which the MNIST family is published.

An idx file consists of two zero bytes, a type code, the number of dimensions, one big-endian 32-bit
size per dimension, and the big-endian values in C order. Files may be gzipped, whatever their name.

Source: "The IDX file format", at the foot of http://yann.lecun.com/exdb/mnist/.
"""

import io
import math
import os
import pathlib
import struct
import zlib
from typing import Any

import numpy as np
from jaxtyping import Int32, Shaped, UInt8

from lenet_jax.data import signatures
from lenet_jax.data.files import DEFLATE_RATIO, check_size, open_file
from lenet_jax.errors import UserError

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
CHUNK_BYTES = 1 << 22
GZIP = 16 + zlib.MAX_WBITS  # a gzip header and the checksum at the end


def read_idx(path: pathlib.Path) -> Shaped[np.ndarray, "..."]:
    """Reads one idx file, gzipped or not.

    Returns:
      The values, of the file's type in the machine's byte order, in one to four dimensions, none
      of them empty.

    Raises:
      UserError: the file cannot be read, or is not exactly one idx array. A header that
        claims more than the file can hold is refused before any memory is allocated.
    """
    try:
        with open_file(path) as file:
            return read_idx_stream(file, os.fstat(file.fileno()).st_size, str(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def read_idx_stream(file: io.BufferedIOBase, size: int, where: str) -> Shaped[np.ndarray, "..."]:
    """Reads an open idx file, gzipped or not.

    Args:
      file: seekable, at its start.
      size: its size in bytes.
      where: its name in error messages.

    Raises:
      UserError: as for `read_idx`.
    """
    head = file.read(signatures.HEAD)
    file.seek(0)
    is_gzip = head.startswith(b"\x1f\x8b")
    if reason := signatures.describe_download(head):
        raise UserError(f"{where} {reason}")
    if not is_gzip:
        return _read_array(file, size, size, where)
    try:
        with io.BufferedReader(_Inflated(file)) as unzipped:
            return _read_array(unzipped, size * DEFLATE_RATIO, size, where)
    except (EOFError, zlib.error) as error:
        raise UserError(f"{where} is truncated or damaged: {error}") from error


class _Inflated(io.RawIOBase):
    """The content of a gzipped file.

    Inflated in large pieces: beside a thread that runs Python, such as imports, `gzip` waits for
    the interpreter at each of its 8 KB.
    """

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file, self._packed = file, b""
        self._member = zlib.decompressobj(GZIP)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills the start of a buffer; returns the bytes, 0 at the end."""
        content = b""
        while not content:
            self._packed = self._packed or self._file.read(CHUNK_BYTES)
            if self._member.eof:  # another may follow, after zeros
                at_end, self._packed = not self._packed, self._packed.lstrip(b"\0")
                if at_end:
                    return 0
                if not self._packed:
                    continue
                self._member = zlib.decompressobj(GZIP)
            content = self._member.decompress(self._packed, len(buffer))
            if not content and not self._packed:
                raise EOFError("the compressed data end too early")
            left = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            self._packed = left
        buffer[: len(content)] = content
        return len(content)


def _read_array(
    stream: io.BufferedIOBase, max_bytes: int, packed: int, where: str
) -> Shaped[np.ndarray, "..."]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        start = magic.hex(" ") or "nothing"
        raise UserError(f"{where} is not an idx file: it starts with {start}")
    code, ndim = magic[2:]
    if code not in TYPES:
        known = ", ".join(f"0x{code:02x}" for code in TYPES)
        raise UserError(f"{where} has idx type 0x{code:02x}; the format knows {known}")
    if not 1 <= ndim <= 4:
        raise UserError(f"{where} claims {ndim} dimensions; images have 3 or 4, labels 1")
    sizes = stream.read(4 * ndim)
    if len(sizes) < 4 * ndim:
        raise UserError(f"{where} is truncated: it ends inside its header")

    dtype = np.dtype(TYPES[code])
    shape = struct.unpack(f">{ndim}I", sizes)
    count = math.prod(shape) * dtype.itemsize
    width = "" if dtype.itemsize == 1 else f" × {dtype.itemsize}"
    claim = f"its header claims {' × '.join(map(str, shape))}{width} bytes"
    if count == 0:
        raise UserError(f"{where} is empty: {claim}")
    if count > max_bytes:
        raise UserError(f"{where} is truncated: {claim}, more than it can hold")
    check_size(count, packed, where)
    values = np.empty(count, np.uint8)
    filled = 0
    while filled < count:
        read = stream.readinto(values.data[filled : filled + CHUNK_BYTES])
        if not read:
            raise UserError(f"{where} is truncated: {claim}, it holds {filled}")
        filled += read
    if stream.read(1):
        raise UserError(f"{where} is longer than its header says: {claim}")
    values = values.view(dtype).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)


def encode_idx(values: UInt8[np.ndarray, "..."] | Int32[np.ndarray, "..."]) -> bytes:
    """The content of an idx file."""
    code = 0x08 if values.dtype == np.uint8 else 0x0C
    header = struct.pack(f">2xBB{values.ndim}I", code, values.ndim, *values.shape)
    return header + values.astype(TYPES[code]).tobytes()
