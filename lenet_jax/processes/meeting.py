"""How the processes of a run meet: process 0 listens at `HOST:PORT`, and the others connect."""

import contextlib
import os
import socket
import time
from collections.abc import Mapping

from lenet_jax.errors import UserError, show
from lenet_jax.processes.connection import Connection
from lenet_jax.processes.group import Processes

GREETING = "lenet_jax 1"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
# A task's number and their count, as Slurm and Open MPI give them.
LAUNCHERS = (
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
)


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
                hello = connection.receive_greeting()
            except (OSError, ValueError):
                hello = {}
            index, its_count = hello.get("index"), hello.get("count")
            if not (
                hello.get("greeting") == GREETING
                and isinstance(index, int)
                and isinstance(its_count, int)
                and 0 < index < its_count
            ):
                connection.close()  # not one of ours
                continue
            wrong = None
            if its_count != count:
                wrong = f"process {index} has --num_processes={its_count}, process 0 {count}"
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
        answer = connection.receive_greeting()
    except (OSError, ValueError) as error:
        connection.close()
        raise UserError(
            f"--coordinator={host}:{port}: process 0 does not answer there: {error}\n"
            "It has ended, or something else listens at that port: start all processes again."
        ) from error
    if answer.get("kind") == "fail":
        connection.close()
        raise UserError(answer["text"])
    return connection
