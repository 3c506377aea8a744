"""Hooks: objects of the user's own that a run calls at its start, after each epoch, at its end."""

import functools
import inspect
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import jax
from flax import nnx

from lenet_jax import config as configs
from lenet_jax.data.form import measure_form
from lenet_jax.errors import IF_DIVERGED, UserError, printable, show
from lenet_jax.nn.lenet import LeNet
from lenet_jax.runs.trackers import Tracker
from lenet_jax.storage.run_dir import Row
from lenet_jax.training.loop import Trainer

if TYPE_CHECKING:
    from lenet_jax.inference.network import Network
else:  # importing this module does not import it
    Network = Any

METHODS = ("on_start", "on_epoch", "on_end")
RESUMES = "The same call resumes the run."
# What to do after a hook failed at the end of a run, by the run's status.
AT_END = {
    "done": "The run is finished: the same call loads it, and calls no hook.",
    "diverged": f"The run diverged: {IF_DIVERGED}.",
}


class Hooks:
    """The hooks of a run, called in their order; `lenet_jax.train` says what they are given."""

    def __init__(self, hooks: Any = (), trackers: Sequence[Tracker] = ()):
        """Checks the hooks, which come after the trackers.

        Raises:
          UserError: they are no list of objects that have some of `METHODS`.
        """
        if not isinstance(hooks, list | tuple):
            raise UserError(f"hooks must be a list of objects, not {show(type(hooks).__name__)}")
        for hook in hooks:
            _check(hook)
        self._hooks = (*trackers, *hooks)

    def start(self, trainer: Trainer, folder: Path, epoch: int) -> None:
        """Calls `on_start` of a run with so many complete epochs; raises as `_call` does."""
        self._call("on_start", folder, configs.to_dict(trainer.config), epoch)

    def epoch(self, trainer: Trainer, row: Row, variables: nnx.State) -> None:
        """Calls `on_epoch` after an epoch; raises as `_call` does."""
        network = functools.partial(_network, trainer, variables, int(row["epoch"]))
        self._call("on_epoch", MappingProxyType(dict(row)), functools.cache(network))

    def end(self, status: str, summary: Mapping[str, Any]) -> None:
        """Calls `on_end`; raises as `_call` does."""
        values = status, MappingProxyType(dict(summary))
        self._call("on_end", *values, advice=AT_END.get(status, RESUMES))

    def _call(self, method: str, *values: Any, advice: str = RESUMES) -> None:
        """Calls a method of all hooks that have it.

        Args:
          method: its name.
          *values: its arguments.
          advice: what to do where it fails.

        Raises:
          UserError: a hook failed; the others after it are not called.
        """
        for hook in self._hooks:
            if not hasattr(hook, method):
                continue
            try:
                getattr(hook, method)(*values)
            except (Exception, SystemExit) as error:  # a user's hook may raise anything
                name = f"the hook {show(type(hook).__name__, 40)}.{method} failed{_place(error)}"
                raise UserError(
                    f"{name}: {type(error).__name__}: {printable(error, 100)}\n{advice}"
                ) from error


def _check(hook: object) -> None:
    name = show(hook.__name__ if isinstance(hook, type) else type(hook).__name__, 40)
    if isinstance(hook, type):
        raise UserError(f"the hook {name} is a class; give an object of it: {name}(…)")
    methods = {method: getattr(hook, method) for method in METHODS if hasattr(hook, method)}
    if not methods:
        raise UserError(f"the hook {name} has none of {', '.join(METHODS)}")
    for method, function in methods.items():
        if not callable(function):
            raise UserError(f"the hook {name}.{method} is no method, but {show(function)}")
        if inspect.iscoroutinefunction(function):
            raise UserError(f"the hook {name}.{method} is async; take `async` away")


def _place(error: BaseException) -> str:
    """The file and line of a hook's code that failed; empty if it could not be called."""
    _, *frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    return f" ({show(Path(own[-1].filename).name)}:{own[-1].lineno})" if own else ""


def _network(trainer: Trainer, variables: nnx.State, epoch: int) -> Network:
    """The network of these variables, with the preprocessing of the run's data."""
    from lenet_jax.inference.network import Network

    spec, dataset, fit = trainer.spec, trainer.dataset, trainer.config.data.fit
    return Network(
        nnx.merge(spec.graphdef, jax.device_get(variables)),
        spec.mean,
        spec.std,
        tuple(dataset.class_names),
        f"epoch {epoch}",
        trainer.config,
        form=measure_form(dataset.train.images, fit, dataset.native_size),
        image_shape=None if spec.network is LeNet else spec.image_shape,
    )
