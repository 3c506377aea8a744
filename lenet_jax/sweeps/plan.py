"""The plan of a sweep: which members train together, in which chunks, and the memory they need.

Members with the same specification form a group, which is compiled once. A group is split into
chunks of equal size. A chunk is trained at once, written, and never trained again. The plan fixes
which member is in which chunk, so a member's result does not depend on when, where or after how
many interruptions its chunk is trained.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import jax
import numpy as np

from lenet_jax.config.file import Config
from lenet_jax.config.networks import find_class, traced_arguments
from lenet_jax.config.schema import current_names
from lenet_jax.data.dataset import SECTION, Dataset, Statistics, pixel_statistics
from lenet_jax.device_defaults import defaults_of
from lenet_jax.errors import UserError
from lenet_jax.statistics import chance
from lenet_jax.storage.columns import Columns
from lenet_jax.storage.formats import Plan
from lenet_jax.sweeps.members import Members
from lenet_jax.training.hyperparameters import (
    STRENGTHS,
    compiled_value,
    hyperparameters,
    seeds,
)
from lenet_jax.training.sizes import num_params, population_memory
from lenet_jax.training.spec import Spec, make_spec
from lenet_jax.training.start import is_pruned


class Group(NamedTuple):
    """Members trained by one compiled function, on the same data."""

    spec: Spec
    dataset: Dataset
    members: Members

    @property
    def images(self) -> int:
        """Training images processed, summed over members and epochs."""
        return len(self.members) * self.spec.num_epochs * self.spec.num_examples

    @property
    def chance(self) -> float:
        """The accuracy of always answering the most frequent class, on validation if there is."""
        split = self.dataset.valid if len(self.dataset.valid) else self.dataset.test
        return chance(split.labels)

    @property
    def has_own_training_sets(self) -> bool:
        """Whether members train on subsets, or with replaced labels, of their own."""
        columns = map(self.members.values, ("data.subset", "data.subset_file", "data.label_noise"))
        return any(value for values in columns for value in values)

    @property
    def is_pruned(self) -> bool:
        """Whether the members are pruned: all are, or none is."""
        return is_pruned(self.members[0].config)


class Chunk(NamedTuple):
    """Members that are trained together."""

    number: int
    group: Group
    members: Members
    size: int  # the same for every chunk of a group; may exceed len(members)

    @property
    def member_epochs(self) -> int:
        """Epochs to train, summed over members."""
        return len(self.members) * self.group.spec.num_epochs

    @property
    def images(self) -> int:
        """Training images processed, summed over members and epochs."""
        return self.member_epochs * self.group.spec.num_examples


def make_groups(
    members: Members, load_data: Callable[[Config], Dataset], shared_data_order: bool
) -> list[Group]:
    """Sorts members into groups, in the order of their first members.

    Members with and without augmentation share a group, since a strength of 0 changes nothing.

    Raises:
      UserError: a config's data cannot be loaded or does not fit its model, or members that are
        to share batches would get different ones.
    """
    parts: dict[Any, list[Members]] = {}
    datasets: dict[str, tuple[Dataset, Statistics]] = {}
    networks = map(find_class, members.values("model.name"))
    traced = [{f"model.{name}" for name in traced_arguments(each)} for each in networks]
    view = functools.partial(compiled_value, traced=set.intersection(*traced))
    for part in members.split(view):
        config = part[0].config
        section = json.dumps({key: config.data[key] for key in SECTION})
        if section not in datasets:
            dataset = load_data(config)
            datasets[section] = dataset, pixel_statistics(dataset)
        spec = make_spec(config, *datasets[section]).without_traced()
        spec = dataclasses.replace(spec, augments=False, is_elastic=False)
        shape = jax.tree.structure(hyperparameters(config)), is_pruned(config)
        parts.setdefault((section, spec, shape), []).append(part)
    groups = []
    for (section, spec, _), (first, *others) in parts.items():
        same = first.join(others)
        if shared_data_order:
            _check_shared(same)
        groups.append(_group(spec, datasets[section][0], same))
    return groups


def make_group(members: Members, dataset: Dataset, statistics: Statistics) -> Group:
    """The group of members that `make_groups` found to be one.

    Args:
      members: all of the group.
      dataset: theirs.
      statistics: of the dataset.
    """
    spec = make_spec(members[0].config, dataset, statistics).without_traced()
    return _group(spec, dataset, members)


def _group(spec: Spec, dataset: Dataset, members: Members) -> Group:
    """A group, whose spec is that of one of its members, with what the others need."""
    augments = any(any(members.values(f"augment.{name}")) for name in STRENGTHS)
    is_elastic = any(members.values("augment.elastic_alpha"))
    return Group(
        dataclasses.replace(spec, augments=augments, is_elastic=is_elastic), dataset, members
    )


def make_chunks(groups: Sequence[Group], devices: int, sizes: Sequence[int]) -> list[Chunk]:
    """Splits each group into as few chunks as `sizes` allow, as equal as possible."""
    chunks = []
    for group, max_size in zip(groups, sizes, strict=True):
        count = len(group.members)
        size = math.ceil(count / math.ceil(count / max_size))
        size = math.ceil(size / devices) * devices
        for first in range(0, count, size):
            members = group.members.part(slice(first, first + size))
            chunks.append(Chunk(len(chunks), group, members, size))
    return chunks


def to_json(members: Members, groups: Sequence[Group], **settings: Any) -> dict[str, Any]:
    """What a sweep's plan says besides the chunks; `settings` are options that must not change."""
    return {
        "settings": settings,
        "data_fingerprints": sorted({group.dataset.fingerprint for group in groups}),
        "members": members.columns.to_json(),
    }


def chunks_to_json(chunks: Sequence[Chunk]) -> list[dict[str, Any]]:
    """What a sweep's plan says of the chunks."""
    return [{"members": chunk.members.numbers.tolist(), "size": chunk.size} for chunk in chunks]


def from_json(
    written: Plan, requested: dict[str, Any], groups: Sequence[Group], where: str
) -> list[Chunk]:
    """The chunks of a written plan, which do not change with the available memory.

    Raises:
      UserError: the plan belongs to another sweep.
    """
    members = Columns.from_json(written["members"], where)
    columns = Columns(len(members), current_names(members.by_key))
    plain = {**written, "members": columns.to_json()}
    different = [key for key in requested if requested[key] != plain.get(key)]
    if different:
        now, was = requested["settings"], plain.get("settings", {})
        named = ", ".join(sorted(key for key in {*now, *was} if now.get(key) != was.get(key)))
        raise UserError(
            f"{where} holds another sweep: its {' and '.join(different)} differ"
            f"{f': {named}' if named else ''}\n"
            "Use the same config, sweep and data to resume it, or choose another --workdir to start"
            " over."
        )
    numbers = [number for entry in written["chunks"] for number in entry["members"]]
    if sorted(numbers) != list(range(len(columns))):
        raise UserError(
            f"the plan of {where} is damaged: its chunks do not have each member once\n"
            "Restore a backup, or choose another --workdir to start over."
        )
    group_of, place = (np.zeros(len(columns), np.int32) for _ in range(2))
    for number, group in enumerate(groups):
        group_of[group.members.numbers] = number
        place[group.members.numbers] = np.arange(len(group.members))
    chunks = []
    for number, entry in enumerate(written["chunks"]):
        own = group_of[entry["members"]]
        if (own != own[0]).any() or entry["size"] < len(own):
            raise UserError(
                f"the plan of {where} is damaged: chunk {number} is of several groups,"
                " or too small for its members\n"
                "Restore a backup, or choose another --workdir to start over."
            )
        group = groups[int(own[0])]
        members = group.members.part(place[entry["members"]])
        chunks.append(Chunk(number, group, members, entry["size"]))
    return chunks


def chunk_size(
    group: Group, devices: Sequence[Any], strategy: str, memory: int, asked: int | None = None
) -> int:
    """How many members of a group to train at once, so that they fit in memory.

    Args:
      group: the group.
      devices: what they train on.
      strategy: `map` or `vmap`.
      memory: free, in bytes.
      asked: the most; None: what suits the devices.

    Raises:
      UserError: not even one member fits.
    """
    defaults = defaults_of(devices[0])
    per_device, allowed = defaults.members, defaults.share_of_memory * memory
    if asked is not None:
        per_device = -(-asked // len(devices))
    while memory_needed(group, devices, per_device, strategy) > allowed:
        if per_device == 1:
            need = memory_needed(group, devices, 1, strategy)
            raise UserError(
                f"member {group.members[0].number} is too large for the memory, even one at a time:"
                f" {need / 1e9:,.1f} GB of {memory / 1e9:,.1f} GB\n"
                "Use fewer channels, features or images."
            )
        per_device //= 2
    size = per_device * len(devices)
    return size if asked is None else min(size, asked)


def memory_needed(group: Group, devices: Sequence[Any], per_device: int, strategy: str) -> int:
    """Estimated memory of a chunk in bytes: for CPUs that of all devices, otherwise of one.

    See `sizes.population_memory`.
    """
    averages = group.members.values("train.ema_decay") != [None]
    need = population_memory(group.spec, devices[0], per_device, strategy, averages=averages)
    splits = (group.dataset.train, group.dataset.valid, group.dataset.test)
    if group.is_pruned:  # a byte for each weight, as many copies as of the parameters
        need += 3 * per_device * num_params(group.spec)
    if group.has_own_training_sets:  # an index and a label for each example
        need += 8 * per_device * group.spec.num_examples
    data = sum(split.images.nbytes + split.labels.nbytes for split in splits)
    device = data + need
    return device * len(devices) + data if devices[0].platform == "cpu" else device


def _check_shared(members: Members) -> None:
    """Raises UserError if members that are to share batches would get different ones."""
    chosen = [
        name
        for name, used in (
            ("order", True),
            ("augment", True),
            ("subset", members.values("data.subset") != [None]),
            ("label_noise", any(members.values("data.label_noise"))),
        )
        if used
    ]
    settings = [f"augment.{name}" for name in members.config.augment]
    settings += ["data.subset_file", "data.label_noise", "data.class_weights"]
    names = [*settings, *(f"seeds.{name}" for name in chosen)]
    if any(None in members.values(f"seeds.{name}") for name in chosen):
        names.append("seed")
    parts = members.split(lambda path, value: value if path in names else None)
    member = parts[0][0]
    first = member.config
    for part in parts[1:]:
        config = part[0].config
        different = [
            f"seeds.{name}" for name in chosen if seeds(config)[name] != seeds(first)[name]
        ] + [path for path in settings if attrgetter(path)(config) != attrgetter(path)(first)]
        if different:
            raise UserError(
                f"--shared_data_order: members {member.number} and {part[0].number} differ in"
                f" {' and '.join(different)}\n"
                "Members that share batches must agree on these; remove the flag or the keys."
            )
