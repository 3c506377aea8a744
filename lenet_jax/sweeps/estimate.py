"""The dry run of a sweep: its groups, memory and estimated time."""

import dataclasses
import time
from collections.abc import Sequence

import jax

from lenet_jax import machine
from lenet_jax.data.dataset import Split
from lenet_jax.errors import counted
from lenet_jax.sweeps import plan as sweep_plan
from lenet_jax.sweeps.options import Options
from lenet_jax.sweeps.plan import Chunk, Group
from lenet_jax.terminal.progress import clock
from lenet_jax.training import sizes
from lenet_jax.training.population import Population, Strategy, choose_strategy

TRIAL_STEPS = 20  # steps of a chunk, to estimate the time
SHOWN_GROUPS = 10


def describe(
    groups: Sequence[Group],
    chunks: Sequence[Chunk],
    missing: Sequence[Chunk],
    options: Options,
) -> list[str]:
    """The plan as lines of text: groups, chunks, memory, disk space and, after a trial, the time.

    Args:
      groups: all groups of the sweep.
      chunks: all chunks.
      missing: the chunks that are not trained yet.
      options: how they are trained, and what is recorded.
    """
    devices = machine.devices()
    strategy = choose_strategy(options.strategy, devices[0])
    memory = machine.available_memory(devices[0])
    free = "not known" if memory is None else f"{memory / 1e9:.1f} GB"
    lines = [
        f"{counted(sum(len(g.members) for g in groups), 'member')} in"
        f" {counted(len(groups), 'group')} and {counted(len(chunks), 'chunk')},"
        f" on {len(devices)} × {devices[0].device_kind}; available memory {free}",
        "",
        "group  members  chunks  a chunk  epochs  parameters  memory",
    ]
    own: dict[int, list[Chunk]] = {id(group): [] for group in groups}
    for chunk in chunks:
        own[id(chunk.group)].append(chunk)
    for number, group in enumerate(groups[:SHOWN_GROUPS]):
        of_group = own[id(group)]
        size = of_group[0].size
        need = sweep_plan.memory_needed(group, devices, -(-size // len(devices)), strategy)
        lines.append(
            f"{number:>5}  {len(group.members):>7}  {len(of_group):>6}  {size:>7}"
            f"  {group.spec.num_epochs:>6}  {sizes.num_params(group.spec):>10,}"
            f"  {need / 1e9:>4.1f} GB"
        )
    if len(groups) > SHOWN_GROUPS:
        lines.append(f"… and {counted(len(groups) - SHOWN_GROUPS, 'more group')}")
    if options.record is not None:
        lines += [
            "",
            f"to record: {options.record.bytes_of_chunks(missing) / 1e9:,.2f} GB on the disk",
        ]
    if missing:
        speed = _trial(missing[0], strategy, options.shared_data_order)
        costs = [sum(sizes.multiplications(chunk.group.spec)) for chunk in missing]
        if not all(costs):  # a network without matrix products: images count alike
            costs = [1] * len(missing)
        work = sum(chunk.images * cost for chunk, cost in zip(missing, costs, strict=True))
        lines += [
            "",
            f"about {clock(work / costs[0] / speed)} for {counted(len(missing), 'chunk')}"
            f" (at {speed:,.0f} img/s in a trial of the first)",
        ]
    return [*lines, "nothing was written"]


def _trial(chunk: Chunk, strategy: Strategy, shared_data_order: bool) -> float:
    """Throughput of a chunk in images per second, summed over members, from a few steps."""
    spec, dataset = chunk.group.spec, chunk.group.dataset
    count = min(spec.num_examples, TRIAL_STEPS * spec.batch_size)
    short = dataclasses.replace(spec, num_examples=count)
    population = Population(
        short, chunk.size, strategy=strategy, shared_data_order=shared_data_order
    )
    subset = Split(dataset.train.images[:count], dataset.train.labels[:count])
    train_split, valid = (
        population.put(subset),
        population.put(Split(subset.images[:1], subset.labels[:1])),
    )
    members, settings = population.start([member.config for member in chunk.members])
    best = float("inf")
    for epoch in range(3):  # the first epoch compiles
        started = time.perf_counter()
        members, metrics = population.train_epoch(members, settings, train_split, valid, epoch)
        jax.block_until_ready(metrics)
        best = min(best, time.perf_counter() - started)
    return len(chunk.members) * count / best
