"""A connection between two processes of a run.

It carries JSON and bytes of arrays, neither signed nor encrypted, like those of JAX.
"""

import contextlib
import errno
import json
import socket
import struct
import threading
from typing import Any

_HEADER = struct.Struct(">IQ")  # lengths of the JSON and of the bytes
_MOST_JSON = 1 << 22

Message = dict[str, Any]


class Connection:
    """A stream of messages to one process; several threads may send."""

    def __init__(self, stream: socket.socket, timeout: float):
        """Every read or write that takes longer than `timeout`, in seconds, fails."""
        stream.settimeout(timeout)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream, self._lock = stream, threading.Lock()

    def set_timeout(self, timeout: float) -> None:
        """Changes the timeout, in seconds."""
        self._stream.settimeout(timeout)

    def send(self, message: Message, payload: bytes = b"") -> None:
        """Sends a message and bytes.

        Raises:
          OSError: the connection is closed, or the peer does not read.
        """
        text = json.dumps(message).encode()
        with self._lock:
            self._stream.sendall(_HEADER.pack(len(text), len(payload)) + text + payload)

    def receive(self) -> tuple[Message, bytes]:
        """The next message and its bytes.

        Raises:
          TimeoutError: the peer sends nothing.
          OSError: the connection is closed.
          ValueError: it is no message.
        """
        message, size = self._receive_message()
        return message, self._read(size)

    def receive_greeting(self) -> Message:
        """The next message, of what may be no peer; raises as `receive`, also if bytes follow."""
        message, size = self._receive_message()
        if size:
            raise ValueError("no greeting of lenet_jax")
        return message

    def shut_down(self) -> None:
        """Ends what other threads receive."""
        with contextlib.suppress(OSError):  # the peer has
            self._stream.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the connection."""
        self._stream.close()

    def _receive_message(self) -> tuple[Message, int]:
        """The next message, and how many bytes follow it."""
        length, size = _HEADER.unpack(self._read(_HEADER.size))
        if length > _MOST_JSON:
            raise ValueError("no message of lenet_jax")
        try:
            message = json.loads(self._read(length))
        except RecursionError as error:
            raise ValueError("no message of lenet_jax") from error
        if not isinstance(message, dict):
            raise ValueError("no message of lenet_jax")
        return message, size

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            chunk = self._stream.recv(min(size - len(data), 1 << 20))
            if not chunk:
                raise ConnectionResetError(errno.ECONNRESET, "the connection is closed")
            data += chunk
        return bytes(data)
