"""Tasks on the nodes of a Ray cluster: https://docs.ray.io."""

import contextlib
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

from lenet_jax import machine
from lenet_jax.errors import UserError, counted, printable, show

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

RETRIES = 3  # of a task whose node or process died, by Ray itself
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
                ray.init(address, log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, ValueError, RuntimeError) as error:
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
        self._running: dict[Future[Any], Any] = {}

    def submit(
        self, fn: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Future[Result]:
        """Submits a task; cancelling its future ends it."""
        first, *rest = args
        if self._shared is None or self._shared[0] is not first:
            self._shared = first, self._ray.put(first)
        reference = self._call.remote(max(1, int(self._num_cpus)), fn, self._shared[1], rest)
        future = _RayFuture(self._ray, reference)
        reference.future().add_done_callback(future.take)
        return future

    def room(self) -> int:
        """A few tasks for each that the nodes which are there can run at once."""
        total = self._ray.cluster_resources()
        fits = [total.get("CPU", 0) // self._num_cpus] if self._num_cpus else []
        fits += [total.get("GPU", 0) / self._num_gpus] if self._num_gpus else []
        return AHEAD * max(1, int(min(fits, default=1)))

    def describe(self) -> str:
        """How many nodes there are, and what they have."""
        total = self._ray.cluster_resources()
        nodes = sum(node["Alive"] for node in self._ray.nodes())
        gpus = f", {total['GPU']:g} GPUs" if total.get("GPU") else ""
        return f"Ray cluster: {counted(nodes, 'node')}, {total.get('CPU', 0):g} CPUs{gpus}"

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Disconnects, which ends tasks that run."""
        if self._owns:
            self._ray.shutdown()


class _RayFuture(Future[Any]):
    """The future of a task, whose cancellation ends the task."""

    def __init__(self, ray: Any, reference: Any):
        super().__init__()
        self._ray, self._reference = ray, reference

    def cancel(self) -> bool:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.cancel(self._reference, force=True)
        return super().cancel()

    def take(self, done: Future[Any]) -> None:
        """Takes the result of Ray's own future."""
        if not self.set_running_or_notify_cancel():
            return
        error = done.exception()
        if error is None:
            self.set_result(done.result())
        else:
            # What the task raised, without Ray's report around it.
            self.set_exception(getattr(error, "cause", None) or error)


def _call(devices: int, fn: Callable[..., Result], first: Any, rest: list[Any]) -> Result:
    """Runs in the process of a node."""
    machine.use_cores(devices)
    return fn(first, *rest)
