"""Stage `profile`: what a step of a population costs, against what the device can do.

The peaks are measured: a large matrix product in each precision, and a copy. FLOPs are counted
twice: as dense products of the network's layers, which every form of them needs, and by XLA for one
compiled step, which includes what a form adds. Times of single operations are of the profiler.
"""

import collections
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.accelerator.populations import (
    ZERO,
    Compiled,
    Variant,
    compile_population,
    few_images,
    load_data,
    make_variant_spec,
    seeded_configs,
)
from experiments.accelerator.record import Stage, log
from experiments.benchmark import flops_per_image
from lenet_jax.nn import ops
from lenet_jax.training import batches
from lenet_jax.training import step as train
from lenet_jax.training.batches import DeviceSplit
from lenet_jax.training.population import Population
from lenet_jax.training.spec import Spec

MEMBERS, STEPS, TOP = 1024, 32, 25
PRECISIONS = ("highest", "default", "BF16_BF16_F32")


def measure(stage: Stage) -> None:
    """Measures the peaks, the cost and the time of a step, and its operations."""
    peaks = measure_peaks(512 if stage.short else 8192, stage)
    stage.save(peaks=peaks)
    log(f"peaks: {', '.join(f'{name} {rate:.2e}' for name, rate in peaks.items())}")

    variant = Variant(2 if stage.short else MEMBERS)
    steps = 2 if stage.short else STEPS
    spec = dataclasses.replace(make_variant_spec(variant), num_examples=64 * steps)
    cost = step_cost(variant, spec)
    compiled = compile_population(variant, spec, few_images())
    members, seconds = time_epoch(compiled)
    seconds /= steps
    images = variant.members * 64
    dense = images * flops_per_image("notes", training=True)
    stage.save(
        variant=dataclasses.asdict(variant),
        seconds_a_step=seconds,
        dense_flops_a_step=dense,
        dense_flops_per_second=dense / seconds,
        xla_flops_a_step=cost["flops"],
        xla_flops_per_second=cost["flops"] / seconds,
        xla_bytes_a_step=cost["bytes accessed"],
        xla_bytes_per_second=cost["bytes accessed"] / seconds,
        xla_bytes_an_image=cost["bytes accessed"] / images,
    )
    stage.save(operations=trace_epoch(compiled, members, steps))


def measure_peaks(size: int, stage: Stage) -> dict[str, float | None]:
    """FLOP/s of a square product in each precision; bytes/s of a copy, read and written."""
    a, b = (jax.random.normal(jax.random.key(i), (size, size)) for i in range(2))
    peaks: dict[str, float | None] = {}
    for precision in PRECISIONS[: 1 if stage.short else None]:
        with jax.default_matmul_precision(precision):
            peaks[f"matmul {precision}"] = 2 * size**3 / best_seconds(jax.jit(jnp.matmul), a, b)
    numbers = jnp.zeros((16 * size, size))
    peaks["copy"] = 2 * numbers.nbytes / best_seconds(jax.jit(lambda x: x + 1), numbers)
    return peaks


def best_seconds(function: Callable[..., Any], *arguments: Any) -> float:
    """The shortest of ten calls, after one that compiles."""
    seconds = []
    for _ in range(11):
        begun = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:])


def step_cost(variant: Variant, spec: Spec) -> dict[str, float]:
    """What XLA counts for one step of all members, with the gathering of their batches."""

    def take_step(states: Any, hyperparameters: Any, indices: Any, split: DeviceSplit) -> Any:
        def advance(state: train.TrainState, hyperparameters: Any, indices: jax.Array) -> Any:
            key = state.augment_key
            batch = batches.make_batch(spec, split, indices, key, hyperparameters)
            return train.guarded_step(spec, state, batch, hyperparameters)

        return jax.vmap(advance)(states, hyperparameters, indices)

    population = Population(spec, variant.members, devices=jax.devices()[:1])
    members, settings = population.start(seeded_configs(variant.members))
    indices = np.zeros((variant.members, 64), np.int32)
    split = population.put(load_data().train)
    arguments = members.state, settings.hyperparameters, indices, split
    program = jax.jit(take_step, compiler_options=ops.compiler_options()).lower(*arguments)
    cost: Any = program.compile().cost_analysis()
    return cost[0] if isinstance(cost, list) else cost


def time_epoch(compiled: Compiled) -> tuple[Any, float]:
    """The members after an epoch, and the seconds of the shortest of three, after a first one."""
    members, seconds = compiled.members, []
    for _ in range(4):
        begun = time.perf_counter()
        members, _ = jax.block_until_ready(compiled.train_epoch(members, *compiled.arguments, ZERO))
        seconds.append(time.perf_counter() - begun)
    return members, min(seconds[1:])


def trace_epoch(compiled: Compiled, members: Any, steps: int) -> list[dict[str, Any]]:
    """The operations of an epoch by the profiler, the longest first; none on a CPU."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(compiled.train_epoch(members, *compiled.arguments, ZERO))
        (file,) = Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(file))
    nanoseconds: dict[str, float] = collections.defaultdict(float)
    calls: dict[str, int] = collections.defaultdict(int)
    for plane in profile.planes:
        for line in plane.lines:
            # A GPU's kernels are on its streams; what XLA derives from them is on other lines.
            if plane.name.startswith("/device:") and line.name.startswith("Stream"):
                for event in line.events:
                    nanoseconds[event.name] += event.duration_ns
                    calls[event.name] += 1
    total = sum(nanoseconds.values())
    longest = sorted(nanoseconds, key=lambda name: -nanoseconds[name])[:TOP]
    return [
        {
            "operation": name[:200],
            "calls": calls[name],
            "microseconds_a_step": nanoseconds[name] / 1e3 / steps,
            "share": nanoseconds[name] / total,
        }
        for name in longest
    ]
