"""The processes of a run, as one of them sees them.

Process 0 keeps one connection to each of the others. A thread per connection receives what the peer
sends, and another one sends a sign of life every second: a peer that ended, or stopped as a whole,
is noticed even while compiled code waits for it. JAX's own service notices that too, but then ends
the process by an abort with a stack trace.
"""

import contextlib
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from lenet_jax.errors import ExitCode, UserError, WriteError, print_error, show
from lenet_jax.processes.connection import Connection, Message

INTERVAL = 1.0  # seconds between two signs of life, at most


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
