"""Tasks as jobs of Slurm, submitted by submitit as arrays.

Arguments and results travel through a folder that all nodes see, as submitit's pickles; nobody else
may write to it. Each result is written as soon as it is there, so a job that is preempted, requeued
or lost costs the task that it was at.
"""

import getpass
import hashlib
import math
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

from lenet_jax import machine
from lenet_jax.errors import UserError, expand, printable, show

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

POLL = 1.0  # seconds between looks for results
LOOK = 10  # that many polls between questions to Slurm's controller
ARRAY = 1000  # jobs of an array, where Slurm does not say
# States of jobs that are not over, or that Slurm itself starts again.
ALIVE = {
    *("PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "RESIZING", "SIGNALING"),
    *("STAGE_OUT", "STOPPED", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"),
}


class JobLostError(Exception):
    """A job ended without the result of one of its tasks."""


class Call(NamedTuple):
    """A task: a function, its arguments after the first, and the file of its result."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    result: Path


class Batch:
    """What a job runs: some tasks, one after the other."""

    def __init__(self, shared: Path, calls: Sequence[Call]):
        self._shared, self._calls = shared, calls

    def __call__(self) -> None:
        """Runs the tasks that have no result yet."""
        from submitit.core import utils

        machine.use_cores()
        shared = utils.pickle_load(self._shared)
        for call in self._calls:
            if call.result.exists():
                continue
            result = failure = None
            try:
                result = call.function(shared, *call.arguments)
            except Exception as error:  # noqa: BLE001  # which the driver raises
                failure = error
            with utils.temporary_save_path(call.result) as draft:
                utils.cloudpickle_dump((failure, result), draft)

    def checkpoint(self) -> Any:
        """Has submitit requeue a job that is preempted, or out of time."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class SlurmExecutor(Executor):
    """Runs tasks as Slurm jobs; their first argument is written once.

    Jobs of a driver that has died are cancelled with the first task of the next one of the same
    folder, which takes the results that they left.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        jobs: int = 100,
        tasks_per_job: int = 1,
        poll: float = POLL,
        **parameters: Any,
    ):
        """Finds Slurm.

        Args:
          folder: a new one, or of a former driver, that all nodes see under this name; the first
            task creates it.
          jobs: how many may be in the queue at once.
          tasks_per_job: how many tasks a job runs, one after the other.
          poll: seconds between looks for results.
          **parameters: options of sbatch, as submitit has them: `partition`, `time` in minutes,
            `gres`, `cpus_per_task`, `mem`, `account`, `qos`, `constraint`, …

        Raises:
          UserError: submitit or Slurm is not there, or an option is none of sbatch's.
        """
        try:
            import submitit
        except ImportError as error:
            raise UserError(
                "--executor=slurm needs submitit: pip install submitit, or '.[slurm]' in the"
                " repository\nWithout it, --print_sbatch prints a script."
            ) from error
        self._submitit, self._folder = submitit, expand(folder).absolute()
        self._jobs, self._tasks_per_job, self._poll = jobs, tasks_per_job, poll
        name = f"lenet-{hashlib.sha256(str(self._folder).encode()).hexdigest()[:8]}"
        self._own = "--name", name, "--user", getpass.getuser()
        try:
            self._array = _largest_array()
            self._engine = submitit.SlurmExecutor(self._folder)
            self._engine.update_parameters(
                job_name=name, array_parallelism=jobs, stderr_to_stdout=True, **parameters
            )
        except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
            reason = getattr(error, "stderr", None) or error
            raise UserError(f"--executor=slurm: {printable(reason)}") from error
        self._shared: tuple[Any, Path, str] | None = None
        self._waiting: list[tuple[Call, Future[Any]]] = []
        self._running: dict[str, list[tuple[Call, Future[Any]]]] = {}  # by job
        self._open = set[Future[Any]]()  # those without a result
        self._broken: str | None = None  # why no task is served any more
        self._change, self._ending = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="slurm", daemon=True)
        self._thread.start()

    def submit(
        self, fn: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Future[Result]:
        """Submits a task, with others of the same second as an array of jobs."""
        first, *rest = args
        if self._shared is None:  # a driver holds the sweep's lock by now: no other one lives
            try:
                self._scancel()
            except OSError as error:
                raise UserError(f"--executor=slurm: {printable(error)}") from error
        if self._shared is None or self._shared[0] is not first:
            key = getattr(first, "key", None) or hex(id(first))
            path = self._folder / f"{_digest(key)}.shared.pkl"
            if problem := machine.make_private(self._folder):
                raise UserError(f"{show(self._folder, 120)} {problem}; choose another --workdir")
            with self._submitit.core.utils.temporary_save_path(path) as draft:
                self._submitit.core.utils.cloudpickle_dump(first, draft)
            self._shared = first, path, key
        _, _, key = self._shared
        file = self._folder / f"{_digest(key, fn.__qualname__, *map(repr, rest))}.result.pkl"
        future = Future[Any]()
        with self._change:
            if self._broken is not None:
                raise BrokenExecutor(self._broken)
            self._open.add(future)
            self._waiting.append((Call(fn, tuple(rest), file), future))
        future.add_done_callback(self._open.discard)
        return future

    def room(self) -> int:
        """As many tasks as there are, and those of jobs that may be submitted."""
        with self._change:
            tasks = len(self._waiting) + sum(map(len, self._running.values()))
            jobs = math.ceil(len(self._waiting) / self._tasks_per_job) + len(self._running)
        return tasks + self._tasks_per_job * max(0, self._jobs - jobs)

    def describe(self) -> str:
        """What is submitted, and where to."""
        partition = self._engine.parameters.get("partition")
        where = "" if partition is None else f", partition {partition}"
        return f"Slurm{where}: up to {self._jobs} jobs of {self._tasks_per_job} chunks"

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancels all jobs, of which there are none before the first task."""
        self._ending.set()
        self._thread.join()
        if self._shared is not None:
            self._scancel()

    def _watch(self) -> None:
        """Serves the tasks until the end; if that fails, all of them do."""
        reason = "its thread has ended"
        try:
            self._serve()
        except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
            reason = printable(error)
        finally:
            if not self._ending.is_set():  # nobody would give the tasks their results
                with self._change:
                    self._broken = f"Slurm: {reason}"
                for future in list(self._open):
                    _end(future, BrokenExecutor(self._broken))

    def _serve(self) -> None:
        """Submits, takes results, and asks Slurm for jobs that are gone."""
        look = 0
        while not self._ending.wait(self._poll):
            with self._change:
                waiting, self._waiting = self._waiting, []
            waiting = [(call, future) for call, future in waiting if not _take(call, future)]
            self._submit(waiting)
            with self._change:
                for job, tasks in list(self._running.items()):
                    self._running[job] = [each for each in tasks if not _take(*each)]
                    if not self._running[job]:
                        del self._running[job]
            look = (look + 1) % LOOK
            if look == 0 and (states := self._states()) is not None:
                self._give_up(states)

    def _submit(self, waiting: Sequence[tuple[Call, Future[Any]]]) -> None:
        """Submits tasks; what Slurm does not take is tried again while other jobs run."""
        size = self._tasks_per_job
        batches = [list(waiting[i : i + size]) for i in range(0, len(waiting), size)]
        for first in range(0, len(batches), self._array):
            some = batches[first : first + self._array]
            assert self._shared is not None
            try:
                with self._engine.batch():
                    jobs = [
                        self._engine.submit(Batch(self._shared[1], [call for call, _ in batch]))
                        for batch in some
                    ]
            except (OSError, subprocess.SubprocessError, self._failures) as error:
                with self._change:
                    if self._running:
                        self._waiting += [each for batch in some for each in batch]
                        continue
                for _, future in (each for batch in some for each in batch):
                    _end(future, UserError(f"sbatch refuses: {printable(error)}"))
                continue
            with self._change:
                self._running |= {job.job_id: batch for job, batch in zip(jobs, some, strict=True)}

    @property
    def _failures(self) -> type[Exception]:
        return self._submitit.core.utils.FailedJobError

    def _states(self) -> Mapping[str, str] | None:
        """The states of the jobs that Slurm remembers; None if it does not answer."""
        try:
            listed = _ask("squeue", "--noheader", "--array", "--states=all", *self._own, "-o%i %T")
        except (OSError, subprocess.SubprocessError):
            return None
        lines = map(str.split, listed.splitlines())
        return {words[0]: words[1] for words in lines if len(words) == 2}

    def _give_up(self, states: Mapping[str, str]) -> None:
        """Ends the tasks of jobs that are over and left no result."""
        with self._change:
            gone = [job for job in self._running if states.get(job, "unknown") not in ALIVE]
            lost = {job: self._running.pop(job) for job in gone}
        for job, tasks in lost.items():
            for call, future in tasks:
                if not _take(call, future):
                    log = self._folder / f"{job}_0_log.out"
                    state = states.get(job, "no more known to Slurm").lower()
                    _end(future, JobLostError(f"job {job} is {state}, see {log}"))

    def _scancel(self) -> None:
        subprocess.run(["scancel", *self._own], capture_output=True, check=False)


def _take(call: Call, future: Future[Any]) -> bool:
    """Gives a future the result that a task has left; whether the task is over."""
    if future.cancelled():
        return True
    if not call.result.exists():
        return False
    from submitit.core import utils

    result = None
    try:
        error, result = utils.pickle_load(call.result)
    except Exception as unreadable:  # noqa: BLE001  # as pickles may raise anything
        error = unreadable
    call.result.unlink()
    _end(future, error, result)
    return True


def _end(future: Future[Any], error: Exception | None, result: Any = None) -> None:
    """Gives a future its error or its result, unless it is cancelled."""
    if future.cancelled() or not future.set_running_or_notify_cancel():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _largest_array() -> int:
    """How many jobs an array of this site may have."""
    for line in _ask("scontrol", "show", "config").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "MaxArraySize" and value.strip().isdigit():
            return max(1, int(value) - 1)
    return ARRAY


def _ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
