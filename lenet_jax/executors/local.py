"""Tasks that run in this process, one after the other."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class LocalExecutor(Executor):
    """Runs a task when it is submitted; what it raises is raised there."""

    def submit(
        self, fn: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Future[Result]:
        """Runs `fn`, and returns a future that is done."""
        future: Future[Result] = Future()
        future.set_result(fn(*args, **kwargs))
        return future

    def room(self) -> int:
        """One task at a time."""
        return 1
