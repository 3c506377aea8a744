"""The processes that train one network together: how they meet, agree, and end together.

Process 0 listens at `HOST:PORT`, and each of the others keeps one connection to it. A thread per
connection receives what the peer sends, and another one sends a sign of life every second: a peer
that ended, or stopped as a whole, is noticed even while compiled code waits for it. JAX's own
service notices that too, but then ends the process by an abort with a stack trace.

The connections carry JSON and bytes of arrays, neither signed nor encrypted, like those of JAX.
"""

import contextlib
import errno
import json
import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from lenet_jax.errors import ExitCode, UserError, WriteError, print_error, show

INTERVAL = 1.0  # seconds between two signs of life, at most
GREETING = "lenet_jax 1"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
# A task's number and their count, as Slurm and Open MPI tell them.
LAUNCHERS = (
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
)
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
        length, size = _HEADER.unpack(self._read(_HEADER.size))
        if length > _MOST_JSON:
            raise ValueError("no message of lenet_jax")
        message = json.loads(self._read(length))
        if not isinstance(message, dict):
            raise ValueError("no message of lenet_jax")
        return message, self._read(size)

    def shut_down(self) -> None:
        """Ends what other threads receive."""
        with contextlib.suppress(OSError):  # the peer has
            self._stream.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the connection."""
        self._stream.close()

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            chunk = self._stream.recv(min(size - len(data), 1 << 20))
            if not chunk:
                raise ConnectionResetError(errno.ECONNRESET, "the connection is closed")
            data += chunk
        return bytes(data)


class Processes:
    """The processes of a run, as one of them sees them; entered while they train.

    Leaving it with an error ends the others too, with the same message and exit code.

    Attributes:
      index: this process's number; 0 leads.
      count: how many there are.
      on_stop: of process 0: called with the number of a signal that another process received.
      received_signal: of the others: the number of a signal that this process received, or None.
      before_exit: called with the reason before the process is ended because of a peer.
    """

    def __init__(self, index: int, count: int, peers: dict[int, Connection], timeout: float):
        """Takes the connections over; nothing is received before it is entered."""
        self.index, self.count = index, count
        self.on_stop: Callable[[int], None] = lambda number: os.kill(os.getpid(), number)
        self.received_signal: Callable[[], int | None] = lambda: None
        self.before_exit: Callable[[str], None] = lambda _: None
        self._peers, self._timeout = peers, timeout
        self._inbox = {peer: queue.SimpleQueue[tuple[Message, bytes]]() for peer in peers}
        self._ending, self._ended = threading.Lock(), threading.Event()
        self._end_code: int | None = None  # with which process 0 ended the run
        self._left = threading.Event()
        self._listeners = [
            threading.Thread(target=self._listen, args=item, daemon=True) for item in peers.items()
        ]

    def __enter__(self) -> "Processes":
        for connection in self._peers.values():
            connection.set_timeout(self._timeout)
        for listener in self._listeners:
            listener.start()
        threading.Thread(target=self._give_signs_of_life, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, RuntimeError | ValueError):
            # A collective fails so if a peer is gone: the thread that listens to it, or to process
            # 0, says which, and ends this process.
            time.sleep(self._timeout)
        self._left.set()
        if error is None:
            for connection in self._peers.values():
                connection.shut_down()
            for listener, connection in zip(self._listeners, self._peers.values(), strict=True):
                listener.join()
                connection.close()
            return
        with self._ending:
            if self._ended.is_set():
                return
            self._ended.set()
            text, code = f"process {self.index}: {error or type(error).__name__}", ExitCode.USAGE
            if isinstance(error, WriteError):
                code = ExitCode.DISK
            elif isinstance(error, KeyboardInterrupt):
                text, code = "", getattr(error, "code", ExitCode.INTERRUPTED)
            self._tell_all({"kind": "fail", "code": code, "text": text})

    def send(self, message: Message, payload: bytes = b"") -> None:
        """Sends a message from process 0 to all others, or from one of them to process 0.

        A process that is gone is noticed elsewhere.
        """
        for connection in self._peers.values():
            with contextlib.suppress(OSError):
                connection.send(message, payload)

    def receive(self) -> tuple[Message, bytes]:
        """The next message of process 0."""
        return self._inbox[0].get()

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Compares facts, JSON values by name, between all processes.

        Raises:
          UserError: they differ; in every process.
        """
        if self.index:
            self.send({"kind": "facts", "facts": facts})
            text = self.receive()[0]["text"]
        else:
            own = json.loads(json.dumps(facts))
            others = {peer: inbox.get()[0]["facts"] for peer, inbox in self._inbox.items()}
            text = next(filter(None, (_differences(own, *item) for item in others.items())), None)
            self.send({"kind": "verdict", "text": text})
        if text:
            with self._ending:
                self._ended.set()  # each reports it itself
            raise UserError(text)

    def end(self, code: int) -> None:
        """Ends the others, in process 0, with an exit code."""
        with self._ending:
            if not self._ended.is_set():
                self._ended.set()
                self._tell_all({"kind": "end", "code": code})

    def _listen(self, peer: int, connection: Connection) -> None:
        """Receives what a peer sends."""
        while True:
            try:
                message, payload = connection.receive()
            except TimeoutError:
                self._lose(peer, f"has given no sign of life for {self._timeout:g} s")
                return
            except (OSError, ValueError):
                self._lose(peer, "has ended or was killed")
                return
            kind = message["kind"]
            if kind == "fail":
                self._end(message["code"], message["text"])
            elif kind == "alive":
                if "signal" in message:
                    self.on_stop(message["signal"])
            else:
                if kind == "end":
                    self._end_code = message["code"]
                if kind == "end" or (kind == "verdict" and message["text"]):
                    self._ended.set()
                self._inbox[peer].put((message, payload))

    def _lose(self, peer: int, what: str) -> None:
        if self._end_code is not None:  # a computation that takes process 0 too would not end
            if not self._left.wait(INTERVAL):
                os._exit(self._end_code)
            return
        self._end(
            ExitCode.LOST,
            f"process {peer} {what}; the other processes of the run end, too\n"
            "Start all of them again, with the same commands, to resume the run.",
        )

    def _end(self, code: int, text: str) -> None:
        """Ends this process, and those that are connected to it."""
        if self._ended.is_set():
            return
        with self._ending:
            if self._ended.is_set():
                return
            self._ended.set()
            self._tell_all({"kind": "fail", "code": code, "text": text})
            try:
                if text:
                    print_error(text)
                with contextlib.suppress(OSError):
                    self.before_exit(text.partition("\n")[0] or "stopped")
            finally:
                os._exit(code)

    def _tell_all(self, message: Message) -> None:
        """Sends the last message, and waits a moment until the peers have read it and left."""
        deadline = time.monotonic() + INTERVAL
        for connection in self._peers.values():
            connection.set_timeout(INTERVAL)
        self.send(message)
        for listener in self._listeners:
            if listener is not threading.current_thread():
                listener.join(max(deadline - time.monotonic(), 0))

    def _give_signs_of_life(self) -> None:
        before = sent = None
        while not self._ended.wait(min(INTERVAL, self._timeout / 5)):
            message: Message = {"kind": "alive"}
            number = self.received_signal()
            # A terminal sends Ctrl-C to all its processes: process 0 gets time for its own.
            if number is not None and number == before and number != sent:
                message["signal"] = sent = int(number)
            before = number
            self.send(message)


def join(address: str, count: int | None, index: int | None, timeout: float) -> Processes:
    """Meets the other processes of a run.

    Args:
      address: `HOST:PORT` of process 0.
      count: how many processes there are; None: what Slurm or Open MPI say.
      index: this process's number; None: likewise.
      timeout: seconds to meet in, and without a sign of life until a peer counts as lost.

    Raises:
      UserError: an argument is wrong; not all come in time, or their numbers do not fit.
    """
    host, port = _parse(address)
    index, count = _number(index, count)
    if index:
        return Processes(index, count, {0: _reach(host, port, index, count, timeout)}, timeout)
    return Processes(index, count, _gather(host, port, count, timeout), timeout)


def start_jax(processes: Processes, address: str) -> None:
    """Connects JAX with that of the other processes, before its backend starts.

    Raises:
      UserError: the backend has started.
    """
    import jax

    if processes.index == 0:
        with _listen_at(_parse(address)[0], 0) as server:
            processes.send({"kind": "jax", "port": server.getsockname()[1]})
            port = server.getsockname()[1]
    else:
        port = processes.receive()[0]["port"]
    host = address.rpartition(":")[0]
    try:
        jax.distributed.initialize(
            f"{host}:{port}",
            processes.count,
            processes.index,
            coordinator_bind_address=f"{host}:{port}" if host.strip("[]") in LOOPBACK else None,
            heartbeat_timeout_seconds=24 * 3600,  # `Processes` has its own
            shutdown_timeout_seconds=30,  # that one which failed waits at its exit for the others
        )
    except RuntimeError as error:
        raise UserError(
            f"JAX cannot connect the processes: {show(error, 140)}\n"
            "A file of your own must compute nothing when it is imported."
        ) from error


def _parse(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    is_port = port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 1 << 16
    if not (host and is_port and _is_host(host)):
        raise UserError(
            f"--coordinator={show(address)}: must be HOST:PORT of process 0, such as node1:7000"
        )
    return host.strip("[]"), int(port)


def _is_host(host: str) -> bool:
    """Whether it may be the name of a host, or an address, one of IPv6 in brackets."""
    try:
        host.encode("idna")
    except UnicodeError:  # of a name with empty or long parts, which sockets would raise
        return False
    return ":" not in host or (host[0] == "[" and host[-1] == "]")


def _number(index: int | None, count: int | None) -> tuple[int, int]:
    """The number of this process and their count, from the flags or else from the launcher."""
    for names in LAUNCHERS:
        values = [os.environ.get(name, "") for name in names]
        if all(value.isascii() and value.isdigit() for value in values):
            index = int(values[0]) if index is None else index
            count = int(values[1]) if count is None else count
            break
    if index is None or count is None:
        raise UserError(
            "--coordinator needs --num_processes and --process_id too: neither Slurm nor Open MPI"
            " tells them here"
        )
    if count < 2 or not 0 <= index < count:
        raise UserError(
            f"--process_id={index} --num_processes={count}: there must be at least 2 processes,"
            f" numbered from 0 to {max(count, 2) - 1}"
        )
    return index, count


def _listen_at(host: str, port: int) -> socket.socket:
    if host in LOOPBACK:
        family = socket.AF_INET6 if host == "::1" else socket.AF_INET
        return socket.create_server(
            ("127.0.0.1" if host == "localhost" else host, port), family=family
        )
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _gather(host: str, port: int, count: int, timeout: float) -> dict[int, Connection]:
    """The connections of process 0 to all others, by their numbers."""
    deadline = time.monotonic() + timeout
    peers: dict[int, Connection] = {}
    try:
        server = _listen_at(host, port)
    except OSError as error:
        raise UserError(
            f"--coordinator={host}:{port}: process 0 cannot listen there:"
            f" {os.strerror(error.errno or 0)}\n"
            "Choose another port, the same for all processes, and start only one process 0."
        ) from error
    with server:
        while len(peers) < count - 1:
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                connection = Connection(server.accept()[0], min(timeout, 5.0))
            except TimeoutError as error:
                absent = sorted({*range(1, count)} - {*peers})
                names = ", ".join(map(str, absent[:9])) + (", …" if len(absent) > 9 else "")
                text = f"of {count} processes, number {names} did not come within {timeout:g} s"
                raise _refusal(peers, text) from error
            try:
                hello, _ = connection.receive()
            except (OSError, ValueError):
                hello = {}
            index = hello.get("index")
            if hello.get("greeting") != GREETING or not isinstance(index, int):
                connection.close()  # not one of ours
                continue
            wrong = None
            if hello["count"] != count:
                wrong = f"process {index} has --num_processes={hello['count']}, process 0 {count}"
            elif index in peers:
                wrong = f"two processes have --process_id={index}"
            if wrong:
                raise _refusal(peers | {-1: connection}, wrong)
            peers[index] = connection
    for connection in peers.values():
        with contextlib.suppress(OSError):  # one that is gone is noticed later
            connection.send({"kind": "welcome"})
    return peers


def _refusal(peers: Mapping[int, Connection], text: str) -> UserError:
    """The error of process 0, which it tells the processes that have come."""
    text += "\nStart each process once, with the same number of processes and its own --process_id."
    for connection in peers.values():
        with contextlib.suppress(OSError):
            connection.send({"kind": "fail", "text": text})
        connection.close()
    return UserError(text)


def _reach(host: str, port: int, index: int, count: int, timeout: float) -> Connection:
    """The connection of another process to process 0."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            remaining = max(deadline - time.monotonic(), 0.1)
            stream = socket.create_connection((host, port), remaining)
            break
        except OSError as error:
            if time.monotonic() + 0.2 > deadline:
                raise UserError(
                    f"--coordinator={host}:{port}: process 0 cannot be reached within"
                    f" {timeout:g} s: {error.strerror or error}\n"
                    "Start it with the same --coordinator, at an address that all can reach."
                ) from error
        time.sleep(0.2)
    connection = Connection(stream, timeout + 5)  # process 0 waits that long for the others
    try:
        connection.send({"greeting": GREETING, "index": index, "count": count})
        answer, _ = connection.receive()
    except (OSError, ValueError) as error:
        connection.close()
        raise UserError(
            f"--coordinator={host}:{port}: process 0 does not answer there: {error}\n"
            "It has ended, or something else listens at that port: start all processes again."
        ) from error
    if answer["kind"] == "fail":
        connection.close()
        raise UserError(answer["text"])
    return connection


def _differences(own: Mapping[str, Any], peer: int, other: Mapping[str, Any]) -> str | None:
    """What another process has not as process 0 has it; None if all is the same."""
    names = [name for name in {**own, **other} if own.get(name) != other.get(name)]
    if not names:
        return None
    texts = [f"{name}: {show(own.get(name), 40)} → {show(other.get(name), 40)}" for name in names]
    more = f"; and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"process {peer} differs from process 0: {'; '.join(texts[:3])}{more}\n"
        "All processes must have the same config, data, code, compiler, versions and number of"
        " devices."
    )
