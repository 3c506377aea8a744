"""Has the missing chunks of a sweep trained by an executor, and publishes each that is returned.

The executor places tasks, and may repeat them itself. A chunk whose task fails nevertheless is
submitted again, `Options.attempts` times in all; then the others go on without it. So is one whose
result is damaged.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from typing import NamedTuple, TypeVar

from lenet_jax.errors import UserError, printable
from lenet_jax.executors.local import LocalExecutor
from lenet_jax.machine import cores, what_changed
from lenet_jax.storage.chunk import DamagedError, Row
from lenet_jax.storage.sweep_dir import SweepDir
from lenet_jax.sweeps import results
from lenet_jax.sweeps.job import Job, TrainedChunk, train_chunk
from lenet_jax.sweeps.options import Options
from lenet_jax.sweeps.plan import Chunk
from lenet_jax.sweeps.train import ChunkTrainer
from lenet_jax.terminal.console import Console
from lenet_jax.terminal.interrupt import Interrupt
from lenet_jax.terminal.progress import MemberEpochs

MOST_LINES = 50  # of chunks
POLL = 0.5  # seconds between looks for a signal
AHEAD = 2  # tasks for each worker of an executor that does not say how many

Result = TypeVar("Result")


class Failure(NamedTuple):
    """A chunk that could not be trained, and what its last task raised."""

    chunk: Chunk
    reason: str


def missing_chunks(store: SweepDir, chunks: Sequence[Chunk]) -> list[Chunk]:
    """The chunks that are not finished."""
    done = store.done()
    return [chunk for chunk in chunks if chunk.number not in done]


def train_here(
    store: SweepDir,
    chunks: Sequence[Chunk],
    options: Options,
    console: Console,
    interrupt: Interrupt,
) -> list[Failure] | None:
    """Trains chunks one after the other in this process.

    A process of a job array shares the chunks with others, and leaves those that are done.

    Returns:
      None if it was stopped by a signal; else no failure: an error in this process is raised.
    """
    trainer, shared = ChunkTrainer(options), options.worker is not None

    def train(chunk: Chunk) -> Sequence[Row] | None:
        if shared and store.is_done(chunk.number):
            return ()
        with store.draft(chunk.number, shared=shared) as folder:
            rows = trainer.train(chunk, folder, progress, interrupt)
            if rows is not None:
                store.publish(chunk.number, folder)
                _warn_of_url(store, console)
            return rows

    def submit(chunk: Chunk) -> Future[Sequence[Row] | None]:
        return LocalExecutor().submit(train, chunk)

    with console.member_epochs(_epochs(chunks)) as progress:
        return _dispatch(
            chunks, submit, lambda _, rows: rows, lambda: 1, options, console, progress, interrupt
        )


def train_elsewhere(
    store: SweepDir,
    chunks: Sequence[Chunk],
    job: Job,
    executor: Executor,
    options: Options,
    console: Console,
    interrupt: Interrupt,
) -> list[Failure] | None:
    """Trains chunks by an executor, and publishes what is returned.

    Args:
      store: the sweep's directory.
      chunks: to train.
      job: which has them.
      executor: any; what it runs is `train_chunk`.
      options: of the sweep.
      console: prints a line for a chunk.
      interrupt: of the driver. If stopped, tasks that have not begun are cancelled.

    Returns:
      The chunks that failed too often; None if stopped by a signal.

    Raises:
      UserError: a task says that the user can mend it, or the executor takes no tasks any more.
    """
    workers = getattr(executor, "_max_workers", None) or cores()
    room = getattr(executor, "room", lambda: AHEAD * workers)
    here = store.environment()

    def submit(chunk: Chunk) -> Future[TrainedChunk]:
        return executor.submit(train_chunk, job, chunk.number)

    def take(chunk: Chunk, trained: TrainedChunk) -> Sequence[Row]:
        rows = [dict(row) for row in store.unpack(chunk.number, trained.files, trained.sums)]
        _warn_of_url(store, console)
        if changed := what_changed(here, trained.environment):
            if changed not in differences:
                console.warn(f"a machine may give other last bits than this one: {changed}")
            differences.add(changed)
        progress.advance(chunk.member_epochs, chunk.images)
        return rows

    differences: set[str] = set()
    with console.member_epochs(_epochs(chunks)) as progress:
        return _dispatch(chunks, submit, take, room, options, console, progress, interrupt)


def _dispatch(
    chunks: Sequence[Chunk],
    submit: Callable[[Chunk], Future[Result]],
    take: Callable[[Chunk, Result], Sequence[Row] | None],
    room: Callable[[], int],
    options: Options,
    console: Console,
    progress: MemberEpochs,
    interrupt: Interrupt,
) -> list[Failure] | None:
    """Keeps as many tasks submitted as there is room for, until each has its result."""
    waiting, running = deque(chunks), dict[Future[Result], Chunk]()
    attempts, failures, done = Counter[int](), list[Failure](), 0
    ending: UserError | BrokenExecutor | None = None  # once the results that are there are taken
    every = math.ceil(len(chunks) / MOST_LINES)
    try:
        while (waiting or running) and ending is None:
            try:
                for _ in range(min(len(waiting), room() - len(running))):
                    chunk = waiting.popleft()
                    running[submit(chunk)] = chunk
            except (UserError, BrokenExecutor) as error:
                ending = error
            for future in wait(running, POLL if ending is None else 0, FIRST_COMPLETED).done:
                chunk, rows = running.pop(future), None
                try:
                    reason = _failure(future)
                    if reason is None:
                        rows = take(chunk, future.result())
                except DamagedError as error:
                    reason = f"its result is damaged: {error.reason}"
                except (UserError, BrokenExecutor) as error:
                    ending = ending or error
                    continue
                if reason is not None:
                    attempts[chunk.number] += 1
                    often = attempts[chunk.number] >= options.attempts
                    again = "not again" if often else "it is trained again"
                    console.warn(f"{name_of(chunk)}: {reason}; {again}")
                    if often:
                        failures.append(Failure(chunk, reason))
                    else:
                        waiting.append(chunk)
                    continue
                if rows is None:
                    return None
                done += 1
                if rows and (done % every == 1 or every == 1 or not (waiting or running)):
                    progress.finish(_line(chunk, rows))
                elif not rows:
                    progress.skip(chunk.member_epochs)
            if ending is None and (waiting or running) and interrupt.notice():
                return None
    finally:
        for future in running:
            future.cancel()
    if isinstance(ending, BrokenExecutor):
        raise UserError(
            f"the executor has broken: {printable(ending)}\nRun the same command again."
        ) from ending
    if ending is not None:
        raise ending
    return failures


def name_of(chunk: Chunk) -> str:
    """A chunk and its members, for messages: `chunk 7: members 14–15`."""
    first, last = chunk.members.numbers[[0, -1]]
    members = f"member {first}" if first == last else f"members {first}–{last}"
    return f"chunk {chunk.number}: {members}"


def _failure(future: Future[Result]) -> str | None:
    """Why a task has no result, in a line; None if it has one.

    Raises:
      UserError, BrokenExecutor: the next task would fail likewise.
    """
    if future.cancelled():
        return "its task was cancelled"
    error = future.exception()
    if isinstance(error, UserError | BrokenExecutor):
        raise error
    return None if error is None else f"{type(error).__name__}: {printable(error)}"


def _warn_of_url(store: SweepDir, console: Console) -> None:
    """Warns if the URL of a sweep cannot be written; what is trained is kept."""
    if (problem := store.take_problem()) is not None:
        console.warn(problem)


def _epochs(chunks: Sequence[Chunk]) -> int:
    return sum(chunk.member_epochs for chunk in chunks)


def _line(chunk: Chunk, rows: Sequence[Row]) -> str:
    """What a chunk has brought, in a line."""
    done = [row for row in rows if row["status"] == "done"]
    line = name_of(chunk)
    best = max(done, key=results.rank, default=None)
    if best and best["valid_accuracy"] is not None:
        line += f", best valid acc {100 * best['valid_accuracy']:.2f} % (member {best['member']})"
    if len(done) < len(rows):
        line += f", {len(rows) - len(done)} diverged"
    return line
