"""The plan of a sweep: which members train together, in which chunks, and the memory they need.

Members with one specification are a group, for which one program is compiled. A group is cut into
chunks of equal size, the units that are trained at once, written, and never trained again. The plan
decides which member is in which chunk, so a member's result does not depend on when, where or after
how many interruptions its chunk is trained.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lenet_jax.config.file import Config
from lenet_jax.config.schema import current_names
from lenet_jax.data.dataset import Dataset
from lenet_jax.errors import UserError
from lenet_jax.sweeps.file import Member, Overrides
from lenet_jax.training import step as train
from lenet_jax.training.spec import Spec, hyperparameters, make_spec, seeds

MEMBERS_PER_DEVICE = {"cpu": 4}  # a chunk's, so that a minute's work at most is lost
MOST_PER_DEVICE = 1024  # where members train side by side: see results/accelerator_*.json
SHARE_OF_MEMORY = 0.8
FLOAT = 4  # bytes


class Group(NamedTuple):
    """Members that one compiled program trains; their configs have the same data."""

    spec: Spec
    dataset: Dataset
    members: tuple[Member, ...]

    @property
    def images(self) -> int:
        """Training images that all members together go through."""
        return len(self.members) * self.spec.num_epochs * self.spec.num_examples


class Chunk(NamedTuple):
    """Members that train at once."""

    number: int
    group: Group
    members: tuple[Member, ...]
    size: int  # slots: as many in every chunk of a group

    @property
    def member_epochs(self) -> int:
        """Epochs that its members train, all together."""
        return len(self.members) * self.group.spec.num_epochs


def make_groups(
    members: Sequence[Member], load_data: Callable[[Config], Dataset], shared_data_order: bool
) -> list[Group]:
    """Sorts members into groups, in the order of their first members.

    Members with and without augmentation go together, since strengths of 0 change nothing.

    Raises:
      UserError: the data of a config cannot be loaded, or does not suit its model; or members that
        should share their batches ask for different ones.
    """
    members_of: dict[Any, list[Member]] = {}
    datasets: dict[str, Dataset] = {}
    for member in members:
        section = member.config.data.to_json()
        if section not in datasets:
            datasets[section] = load_data(member.config)
        spec = dataclasses.replace(make_spec(member.config, datasets[section]), augments=False)
        shape = jax.tree.structure(hyperparameters(member.config))
        members_of.setdefault((section, spec, shape), []).append(member)
    groups = []
    for (section, spec, _), together in members_of.items():
        augments = any(any(member.config.augment.values()) for member in together)
        if shared_data_order:
            _check_shared(together)
        spec = dataclasses.replace(spec, augments=augments)
        groups.append(Group(spec, datasets[section], tuple(together)))
    return groups


def make_chunks(groups: Sequence[Group], devices: int, sizes: Sequence[int]) -> list[Chunk]:
    """Cuts each group into as few chunks as its size allows, as equal as possible."""
    chunks = []
    for group, most in zip(groups, sizes, strict=True):
        count = len(group.members)
        size = math.ceil(count / math.ceil(count / most))
        size = math.ceil(size / devices) * devices
        for first in range(0, count, size):
            chunks.append(Chunk(len(chunks), group, group.members[first : first + size], size))
    return chunks


def overrides(members: Sequence[Member]) -> dict[int, Overrides]:
    """What each member changes, by its number."""
    return {member.number: member.overrides for member in members}


def to_json(members: Sequence[Member], chunks: Sequence[Chunk], **settings: Any) -> dict[str, Any]:
    """The plan for sweep.json; the settings are what else must not change."""
    return {
        "settings": settings,
        "data_fingerprints": sorted({chunk.group.dataset.fingerprint for chunk in chunks}),
        "members": [{"member": m.number, "overrides": m.overrides} for m in members],
        "chunks": [{"members": [m.number for m in c.members], "size": c.size} for c in chunks],
    }


def from_json(
    written: dict[str, Any], asked: dict[str, Any], groups: Sequence[Group], where: str
) -> list[Chunk]:
    """The chunks of the plan in a directory, which stay as they are whatever the memory is today.

    Raises:
      UserError: it is the plan of another sweep.
    """
    plain = json.loads(json.dumps(asked))
    members = [
        entry | {"overrides": current_names(entry["overrides"])} for entry in written["members"]
    ]
    written = written | {"members": members}
    different = [key for key in plain if key != "chunks" and plain[key] != written.get(key)]
    if different:
        raise UserError(
            f"{where} holds another sweep: its {' and '.join(different)} differ\n"
            "Use the same config and sweep to resume it, or choose another --workdir to start over."
        )
    group_of = {member.number: group for group in groups for member in group.members}
    by_number = {member.number: member for group in groups for member in group.members}
    return [
        Chunk(
            number,
            group_of[entry["members"][0]],
            tuple(by_number[member] for member in entry["members"]),
            entry["size"],
        )
        for number, entry in enumerate(written["chunks"])
    ]


def chunk_size(group: Group, devices: Sequence[Any], strategy: str, memory: int) -> int:
    """How many members of a group are trained at once: what fits into the available memory.

    Raises:
      UserError: not even one member does.
    """
    platform = devices[0].platform
    per_device = MEMBERS_PER_DEVICE.get(platform, MOST_PER_DEVICE)
    while memory_needed(group, len(devices), per_device, strategy) > SHARE_OF_MEMORY * memory:
        if per_device == 1:
            need = memory_needed(group, len(devices), 1, strategy)
            raise UserError(
                f"member {group.members[0].number} is too large for the memory, even one at a time:"
                f" {need / 1e9:,.1f} GB of {memory / 1e9:,.1f} GB\n"
                "Use fewer channels, features or images."
            )
        per_device //= 2
    return per_device * len(devices)


def memory_needed(group: Group, devices: int, per_device: int, strategy: str) -> int:
    """Bytes that a chunk takes, estimated: on the host those of all its devices, else of one.

    Side by side it is 0.9 to 2.2 times what XLA reckons (lenet5 and a network of four times its
    width, 8 and 16 members, on a CPU); one by one it is more, and little anyway.
    """
    spec, config = group.spec, group.members[0].config
    state = jax.eval_shape(lambda: train.init_state(spec, seeds(config), hyperparameters(config)))
    params, opt_state = map(jax.tree.leaves, (state.params, state.opt_state))
    # What comes in, what goes out, and in the loop another copy of either.
    member = 3 * FLOAT * sum(math.prod(a.shape) for a in [*params, *params, *opt_state])
    at_work = per_device if strategy == "vmap" else 1
    images = max(spec.micro_batch_size, spec.eval_batch_size)
    work = at_work * images * FLOAT * floats_per_image(spec)
    splits = (group.dataset.train, group.dataset.valid, group.dataset.test)
    data = sum(split.images.nbytes + split.labels.nbytes for split in splits)
    device = data + per_device * member + work
    return device * devices + data if jax.default_backend() == "cpu" else device


def floats_per_image(spec: Spec) -> int:
    """Numbers that the passes over one image hold at once: ten times its windows and phases."""
    channels, total = dict(spec.model)["in_channels"], sum(dict(spec.model)["features"])
    for layer in spec.abstract_model.layer_sizes().values():
        *positions, features = layer.shape
        if positions:  # a convolution's
            total += (36 * channels + 2 * 4 * features) * math.prod(positions)
        channels = features
    return 10 * total


def num_params(group: Group) -> int:
    """Parameters of one member."""
    return sum(size.num_params for size in group.spec.abstract_model.layer_sizes().values())


def work_per_image(spec: Spec) -> int:
    """Multiplications of a training step per image: the forward pass's, thrice."""
    return 3 * sum(size.multiplications for size in spec.abstract_model.layer_sizes().values())


def available_memory(device: Any) -> int:
    """Bytes that are free: on an accelerator its own, on a CPU the machine's."""
    stats = device.memory_stats() or {}
    if device.platform != "cpu" and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    info = Path("/proc/meminfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _check_shared(members: Sequence[Member]) -> None:
    """Refuses members of one group that share their batches but ask for different ones."""
    first = members[0].config
    for member in members:
        config = member.config
        different = [
            f"seeds.{name}"
            for name in ("order", "augment")
            if seeds(config)[name] != seeds(first)[name]
        ] + [f"augment.{k}" for k, v in config.augment.items() if v != first.augment[k]]
        if different:
            raise UserError(
                f"--shared_data_order: members {members[0].number} and {member.number} differ in"
                f" {' and '.join(different)}\n"
                "Members that share their batches cannot; leave the flag or the key out."
            )
