"""A sweep as it is sent to other machines, where a task trains one of its chunks.

A `Job` carries what every chunk needs: config, overrides, groups, data, weights to start from, and
files of the user's own code. A task is the job and a chunk's number; it returns the chunk's files.
Nothing is read from the sweep's directory, so no file system need be shared.
"""

import atexit
import contextlib
import dataclasses
import hashlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int32

from lenet_jax import config as configs
from lenet_jax import machine
from lenet_jax.config.imports import files_of, root_of
from lenet_jax.config.source import split, use_copies
from lenet_jax.data.dataset import Dataset, Statistics, pixel_statistics
from lenet_jax.errors import UserError, counted, expand
from lenet_jax.reading import read_bytes
from lenet_jax.storage.columns import Columns
from lenet_jax.storage.files import write_atomically
from lenet_jax.storage.sums import manifest
from lenet_jax.sweeps.members import Members
from lenet_jax.sweeps.options import Options
from lenet_jax.sweeps.plan import Chunk, Group, make_group, memory_needed
from lenet_jax.sweeps.starts import Weights, load_named, own_weights
from lenet_jax.sweeps.train import ChunkTrainer
from lenet_jax.terminal.interrupt import Interrupt
from lenet_jax.terminal.progress import MemberEpochs
from lenet_jax.training.environment import own_code, own_subsets, training_environment
from lenet_jax.training.population import choose_strategy

# What decides on the bits, and the driver sets for all: of the environment, and of JAX, which has
# read its own variables by then.
XLA_FLAGS = "XLA_FLAGS"
SETTINGS = ("jax_default_matmul_precision", "jax_enable_x64")


class Code(NamedTuple):
    """Files of a network, a loss, measurements or a subset of the user's own.

    Attributes:
      where: the first file or the module, as configs have it.
      is_module: whether it is a module.
      first: the path of the first file below their folder.
      files: their contents by path below their folder.
    """

    where: str
    is_module: bool
    first: str
    files: Mapping[str, bytes]


class PlannedGroup(NamedTuple):
    """The numbers of a group's members, and which of the job's datasets is theirs."""

    members: Int32[np.ndarray, " n"]
    dataset: int


class PlannedChunk(NamedTuple):
    """A chunk: the number of its group, of its members, and see `plan.Chunk.size`."""

    group: int
    members: Int32[np.ndarray, " m"]
    size: int


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """What the tasks of a sweep have in common.

    Attributes:
      key: differs between jobs whose chunks may differ.
      config: of the sweep, as nested dicts.
      columns: the overrides of all members.
      groups: of the plan.
      chunks: by their numbers.
      datasets: with the statistics of their pixels.
      code: files of the user's own.
      weights: that members name, by the numbers of their groups.
      sums: of those files, see `environment.own_code`.
      options: how members are trained, and what is recorded.
      package: the sum of this package's code.
      xla_flags: of the environment.
      settings: of JAX, see `SETTINGS`.
    """

    key: str
    config: Mapping[str, Any]
    columns: Columns
    groups: Sequence[PlannedGroup]
    chunks: Mapping[int, PlannedChunk]
    datasets: Sequence[tuple[Dataset, Statistics]]
    code: Sequence[Code]
    weights: Mapping[int, Weights]
    sums: Mapping[str, str | None]
    options: Options
    package: str
    xla_flags: str
    settings: Mapping[str, Any]


class LittleMemoryError(Exception):
    """A machine has too little free memory for a chunk; another may have enough."""


class TrainedChunk(NamedTuple):
    """What a task returns.

    Attributes:
      files: the content of each of the chunk's files.
      sums: see `storage.sums.manifest`.
      environment: what its bits may depend on, of the machine that trained it.
    """

    files: Mapping[str, bytes]
    sums: str
    environment: Mapping[str, Any]


def make_job(
    members: Members, groups: Sequence[Group], chunks: Sequence[Chunk], options: Options, plan: str
) -> Job:
    """The job that trains chunks.

    Args:
      members: all of the sweep.
      groups: all groups.
      chunks: those to train.
      options: of the sweep.
      plan: the sum of its plan.

    Raises:
      UserError: a file of the user's own, or weights, cannot be read.
    """
    datasets = list({id(group.dataset): group.dataset for group in groups}.values())
    places = {id(dataset): place for place, dataset in enumerate(datasets)}
    numbers = {id(group): number for number, group in enumerate(groups)}
    sums, package = sums_of_code(members), machine.sum_of_package()
    xla_flags = os.environ.get(XLA_FLAGS, "")
    settings = {name: getattr(jax.config, name) for name in SETTINGS}
    contents = sums | own_weights(members)
    parts = plan, package, repr(sorted(contents.items())), xla_flags, repr(settings)
    return Job(
        hashlib.sha256("\0".join(parts).encode()).hexdigest(),
        configs.to_dict(members.config),
        members.columns,
        [PlannedGroup(group.members.numbers, places[id(group.dataset)]) for group in groups],
        {
            chunk.number: PlannedChunk(numbers[id(chunk.group)], chunk.members.numbers, chunk.size)
            for chunk in chunks
        },
        [(dataset, pixel_statistics(dataset)) for dataset in datasets],
        list(_pack_code(members)),
        load_named(groups, chunks),
        sums,
        options,
        package,
        xla_flags,
        settings,
    )


def sums_of_code(members: Members) -> dict[str, str | None]:
    """The sums of the files of a sweep's networks, losses, measurements and subsets.

    Raises:
      UserError: one cannot be read.
    """
    names, losses = members.values("model.name"), members.values("train.loss")
    code = own_code(names, losses, members.config.train.measurements)
    return code | own_subsets(members.values("data.subset_file"))


def train_chunk(job: Job, number: int) -> TrainedChunk:
    """Trains a chunk of a job on this machine.

    A process that trains several of a job compiles once for each group, and copies the data to its
    devices once.

    Raises:
      UserError: the package or a file of the user's own is not the driver's.
    """
    global _workplace
    if _workplace is None or _workplace.job.key != job.key:
        _workplace = Workplace(job)
    return _workplace.train(job, number)


class Workplace:
    """What a process needs to train chunks of a job.

    Attributes:
      job: the job.
    """

    def __init__(self, job: Job):
        """Sets up JAX, unless it has started, and places copies of the user's files.

        Raises:
          UserError: the package or a file of the user's own is not the driver's.
        """
        if job.package != machine.sum_of_package():
            raise UserError(
                "a machine that trains chunks has another lenet_jax than this one\n"
                "Install the same version on all, or start the sweep from a folder that they share."
            )
        os.environ[XLA_FLAGS] = job.xla_flags
        for name, value in job.settings.items():
            jax.config.update(name, value)
        # Several processes may share a GPU, of which JAX would take three quarters.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        machine.use_compilation_cache()
        machine.use_cores()
        self.job = job
        self._originals = dict[str, str]()  # folders by those of their copies
        if job.code:
            copies = _unpack_code(job.code, _copies_folder(job.code))
            use_copies(copies)
            first = {each.where: each.first for each in job.code}
            self._originals = {
                path.removesuffix(first[where]): where.removesuffix(first[where])
                for where, path in copies.items()
            }
        config = configs.from_dict(job.config)
        self._members = Members(config, job.columns)
        if sums_of_code(self._members) != job.sums:
            raise UserError(
                "a machine that trains chunks has another network, loss, measurement or subset of"
                " the user's own than this one\nInstall the same versions of packages on all."
            )
        self._trainer = ChunkTrainer(job.options)
        self._last: tuple[int, Group] | None = None
        self._environment = training_environment(config, ())

    def train(self, job: Job, number: int) -> TrainedChunk:
        """Trains a chunk; raises UserError if the user's own code fails.

        Args:
          job: of the same key; it may have other chunks, and the weights that those name.
          number: of the chunk.
        """
        planned = job.chunks[number]
        with self._naming_originals(), tempfile.TemporaryDirectory(prefix="lenet_jax-") as name:
            members = self._members.part(planned.members)
            chunk = Chunk(number, self._group(planned), members, planned.size)
            folder, progress = Path(name), MemberEpochs(_ignore, 0, None)
            weights = job.weights.get(planned.group)
            self._trainer.train(chunk, folder, progress, Interrupt(), weights)
            files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
            return TrainedChunk(files, manifest(folder), self._environment)

    @contextlib.contextmanager
    def _naming_originals(self) -> Iterator[None]:
        """Has errors name files as the user does, and not their copies."""
        try:
            yield
        except UserError as error:
            text = str(error)
            for copy, original in self._originals.items():
                text = text.replace(copy, original)
            raise UserError(text) from error

    def _group(self, chunk: PlannedChunk) -> Group:
        """A chunk's group; that of the chunk before stays the same, which is not compiled again."""
        if self._last is None or self._last[0] != chunk.group:
            planned = self.job.groups[chunk.group]
            members = self._members.part(planned.members)
            group = make_group(members, *self.job.datasets[planned.dataset])
            _check_memory(group, chunk.size, self.job.options)
            self._last = chunk.group, group
        return self._last[1]


_workplace: Workplace | None = None


def _check_memory(group: Group, size: int, options: Options) -> None:
    """Raises LittleMemoryError if so many members do not fit here, before it is tried."""
    devices = machine.devices()
    strategy = choose_strategy(options.strategy, devices[0])
    need = memory_needed(group, devices, -(-size // len(devices)), strategy)
    free = machine.available_memory(devices[0])
    if free is not None and need > free:
        raise LittleMemoryError(
            f"{counted(size, 'member')} at once need {need / 1e9:.1f} GB, and {free / 1e9:.1f} GB"
            f" are free on {platform.node()}: a new --workdir with a smaller --chunk_size fits"
        )


def _pack_code(members: Members) -> Iterable[Code]:
    """The files of the user's own that the members' configs name."""
    names = [*members.values("model.name"), *members.values("train.loss")]
    for name in [*names, *members.config.train.measurements]:
        where, attribute = split(name)
        files = files_of(where) if attribute else {}
        if files:
            first, root = next(iter(files)), root_of(where, next(iter(files)))
            contents = {str(path.relative_to(root)): read_bytes(path) for path in files}
            yield Code(where, not where.endswith(".py"), str(first.relative_to(root)), contents)
    for name in members.values("data.subset_file"):
        if name is not None:
            path = expand(name)
            yield Code(name, False, path.name, {path.name: read_bytes(path)})


def _copies_folder(code: Sequence[Code]) -> Path:
    """A folder for copies of files, the same for all processes that get the same ones.

    It is a cache: processes that an engine kills could not delete what they wrote.
    """
    parts = [(each.where, sorted(each.files.items())) for each in code]
    parent = machine.cache_folder() / "code"
    if machine.make_private(parent) is None:
        return parent / hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
    folder = tempfile.mkdtemp(prefix="lenet_jax-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _unpack_code(code: Sequence[Code], folder: Path) -> dict[str, str]:
    """Writes files below a folder; returns where those are that a config names as files.

    Modules are found in it after those that are installed.
    """
    copies = {}
    for number, each in enumerate(code):
        root = folder / str(number)
        for name, content in each.files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_file() or path.read_bytes() != content:
                write_atomically(path, content)
        if each.is_module:
            sys.path.append(str(root))
        else:
            copies[each.where] = str(root / each.first)
    return copies


def _ignore(line: str) -> None:
    """What a task would print is in what the driver prints of its result."""
