"""How a sweep is run."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from lenet_jax.errors import UserError, show
from lenet_jax.sweeps.recording import Recording, make_recording
from lenet_jax.training.population import Strategy


class Options(NamedTuple):
    """The options of a sweep, besides its config and sweep file."""

    workdir: str
    save: str = "best"
    shared_data_order: bool = False
    strategy: Strategy = "auto"
    chunk_size: int | None = None
    worker: tuple[int, int] | None = None  # of a job array: its number, from 1, and how many
    attempts: int = 3  # to train a chunk elsewhere
    collect: bool = False
    dry_run: bool = False
    plan_only: bool = False  # which is written
    record: Recording | None = None
    corruptions: bool = False
    formats: Sequence[str] = (".png",)  # of the figures

    @property
    def trains_here(self) -> bool:
        """Whether nothing is to be trained by an executor."""
        return bool(self.dry_run or self.plan_only or self.collect or self.worker)

    @property
    def saved(self) -> str:
        """Whose weights are saved: of all members, if weights are recorded."""
        return "all" if self.record is not None and self.record.weights else self.save


RECORD = ("record", "record_every", "record_split", "record_dtype")
SWITCHES = "shared_data_order", "corruptions"
CHOICES = {"save": ("best", "all", "none"), "strategy": ("auto", "map", "vmap")}


def make_options(workdir: str, **given: Any) -> Options:
    """The options of a sweep that is started in Python.

    Args:
      workdir: its folder.
      **given: `save`, `strategy`, `shared_data_order`, `chunk_size`, `corruptions`, `record`,
        `record_every`, `record_split` and `record_dtype`.

    Raises:
      TypeError: one is none of these.
      UserError: one has no such value.
    """
    names = (*CHOICES, *SWITCHES, "chunk_size", *RECORD)
    if unknown := ", ".join(name for name in given if name not in names):
        raise TypeError(f"the options of a sweep are {', '.join(names)}; not {unknown}")
    for name, choices in CHOICES.items():
        if name in given and given[name] not in choices:
            raise UserError(f"{name}={show(given[name])}: must be one of {', '.join(choices)}")
    for name in SWITCHES:
        if not isinstance(given.get(name, False), bool):
            raise UserError(f"{name}={show(given[name])}: must be True or False")
    size = given.get("chunk_size")
    if size is not None and not (type(size) is int and size >= 1):
        raise UserError(f"chunk_size={show(size)}: must be an integer of at least 1, or None")
    record = {name.removeprefix("record_"): given.pop(name) for name in RECORD if name in given}
    return Options(workdir, **given, record=make_recording(**record))
