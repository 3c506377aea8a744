"""Tasks on the nodes of a Ray cluster: https://docs.ray.io."""

import contextlib
import socket
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any, NamedTuple, ParamSpec, TypeVar

from lenet_jax import machine
from lenet_jax.errors import UserError, counted, printable, show

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

CONNECT = 5  # seconds for an address to answer
RETRIES = 3  # of a task whose node or process died, by Ray itself
POLL = 0.5  # seconds between looks for results
STALLED = 30  # seconds in which tasks wait beside free nodes, until they are submitted again
AHEAD = 2  # tasks for each that the cluster can run at once, so that none waits for the driver


class RayExecutor(Executor):
    """Runs tasks on a Ray cluster; nodes that join are used, tasks of lost nodes run elsewhere.

    A task's first argument is put into the object store once, from which each node fetches it once.
    Results come back through it.
    """

    def __init__(
        self, address: str | None = None, num_cpus: float = 1, num_gpus: float | None = None
    ):
        """Connects to a cluster.

        Args:
          address: `HOST:PORT`; None: that of `RAY_ADDRESS`, or of this machine, on which one is
            started if there is none.
          num_cpus: cores of a task, each a device of JAX's where there is no GPU.
          num_gpus: GPUs of a task, of less than 1 as many share one; None: 1 if there are any.

        Raises:
          UserError: Ray is not installed, or there is no cluster at the address.
        """
        try:
            import ray
        except ImportError as error:
            raise UserError(
                "--executor=ray needs Ray: pip install ray, or '.[ray]' in the repository"
            ) from error
        self._ray = ray
        self._owns = not ray.is_initialized()
        if self._owns:
            try:
                _check_listens(address)
                with warnings.catch_warnings():
                    # Ray forks and execs at once, which JAX's threads do not hinder.
                    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
                    ray.init(address, log_to_driver=False, logging_level="ERROR")
            except (OSError, OverflowError, ValueError, RuntimeError) as error:
                where = "there" if address is None else f"at {show(address)}"
                raise UserError(
                    f"no Ray cluster {where}: {printable(error)}\n"
                    "Start one with `ray start --head`, and give --executor=ray:HOST:PORT."
                ) from error
        if num_gpus is None:
            num_gpus = 1 if ray.cluster_resources().get("GPU") else 0
        self._num_cpus, self._num_gpus = num_cpus, num_gpus
        self._call = ray.remote(max_retries=RETRIES, num_cpus=num_cpus, num_gpus=num_gpus)(_call)
        self._shared: tuple[Any, Any] | None = None  # the last first argument, and its reference
        self._tasks: dict[Future[Any], Task] = {}
        self._broken: str | None = None  # why no task is served any more
        self._change, self._ending = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ray", daemon=True)
        self._thread.start()

    def submit(
        self, fn: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Future[Result]:
        """Submits a task; cancelling its future ends it soon."""
        first, *rest = args
        if self._shared is None or self._shared[0] is not first:
            self._shared = first, self._ray.put(first)
        own = max(1, int(self._num_cpus)), self._num_gpus
        task = Task((*own, fn, self._shared[1], rest), [])
        task.references.append(self._call.remote(*task.arguments))
        future = Future[Any]()
        with self._change:
            if self._broken is not None:
                raise BrokenExecutor(self._broken)
            self._tasks[future] = task
        return future

    def room(self) -> int:
        """A few tasks for each that the nodes which are there can run at once."""
        return AHEAD * max(1, self._slots(self._ray.cluster_resources()))

    def describe(self) -> str:
        """How many nodes there are, and what they have."""
        total = self._ray.cluster_resources()
        nodes = sum(node["Alive"] for node in self._ray.nodes())
        gpus = f", {total['GPU']:g} GPUs" if total.get("GPU") else ""
        text = f"Ray cluster: {counted(nodes, 'node')}, {total.get('CPU', 0):g} CPUs{gpus}"
        needs = {"CPU": self._num_cpus, "GPU": self._num_gpus}
        resources = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if any(all(own.get(key, 0) >= need for key, need in needs.items()) for own in resources):
            return text
        wanted = ", ".join(f"{need:g} {key}" for key, need in needs.items() if need)
        return f"{text}; none has {wanted} yet, which tasks wait for"

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends tasks that run, and disconnects."""
        self._ending.set()
        self._thread.join()
        for task in self._tasks.values():
            self._cancel(task)
        if self._owns:
            self._ray.shutdown()

    def _watch(self) -> None:
        """Serves the tasks until the end; if Ray fails, all of them do."""
        reason = "its thread has ended"
        try:
            self._serve()
        except (self._ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
            reason = printable(error)
        finally:
            if not self._ending.is_set():  # nobody would give the tasks their results
                with self._change:
                    self._broken = f"Ray: {reason}"
                for future in self._tasks:
                    if not future.done():
                        future.set_exception(BrokenExecutor(self._broken))

    def _serve(self) -> None:
        """Takes results, ends tasks that are cancelled, and submits stalled ones again."""
        since = time.monotonic()
        while not self._ending.wait(POLL):
            with self._change:
                tasks = dict(self._tasks)
            references = {each: future for future in tasks for each in tasks[future].references}
            ready = (
                references
                and self._ray.wait(list(references), num_returns=len(references), timeout=POLL)[0]
            )
            over = {references[each]: each for each in ready if not references[each].done()}
            for future, reference in over.items():
                self._take(future, reference)
            for future in tasks:
                if future.done():
                    self._cancel(tasks[future])
                    with self._change:
                        del self._tasks[future]
            if over or not self._is_stalled(len(tasks)):
                since = time.monotonic()
            elif time.monotonic() > since + STALLED:
                since = time.monotonic()
                for task in tasks.values():  # whichever is done first counts
                    task.references.append(self._call.remote(*task.arguments))

    def _is_stalled(self, tasks: int) -> bool:
        """Whether tasks wait although there are free nodes.

        Ray may leave those for good that it had given to a node which died as the driver started.
        """
        total, free = self._ray.cluster_resources(), self._ray.available_resources()
        slots = self._slots(total)
        return self._slots(free) >= 1 and tasks > slots - self._slots(free)

    def _slots(self, resources: Mapping[str, float]) -> int:
        """How many tasks resources allow at once."""
        fits = [resources.get("CPU", 0) // self._num_cpus] if self._num_cpus else []
        fits += [resources.get("GPU", 0) / self._num_gpus] if self._num_gpus else []
        return int(min(fits, default=1))

    def _take(self, future: Future[Any], reference: Any) -> None:
        """Gives a future its result, unless it is cancelled."""
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            # What the task raised, without Ray's report around it.
            future.set_exception(getattr(error, "cause", None) or error)

    def _cancel(self, task: "Task") -> None:
        """Ends a task that has not ended; without effect on its results."""
        for reference in task.references:
            with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
                self._ray.cancel(reference, force=True)


def _check_listens(address: str | None) -> None:
    """Raises OSError or OverflowError if nothing listens at `HOST:PORT`; Ray would wait long."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), CONNECT).close()


class Task(NamedTuple):
    """What was submitted, and the references to its results: one, unless it stalled."""

    arguments: tuple[Any, ...]
    references: list[Any]


def _call(
    devices: int, gpus: float, fn: Callable[..., Result], first: Any, rest: list[Any]
) -> Result:
    """Runs in the process of a node."""
    machine.use_cores(devices)
    if 0 < gpus < 1:
        machine.use_share_of_gpu(gpus)
    return fn(first, *rest)
