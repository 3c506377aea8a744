"""Measures where the time of a training step on one core goes.

    python -m experiments.profile_step

Traces forty steps of lenet5 at batch size 64 on a single core, after eight hundred training steps:
the native gradients take less time the more ReLU cuts. Sums the time of each operation of the
compiled program: native calls by layer, matrix products by shape, and the rest. FLOPs are those of
the equivalent dense products. Writes `results/profile_step.json`; with `--precision=bfloat16`,
`profile_step_bfloat16.json`.
"""

import argparse
import collections
import gzip
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lenet_jax.machine import environment
from lenet_jax.storage.files import write_json

QUESTION = "Where does the time of a training step on one core go?"
STEPS, BATCH_SIZE, PASSES_BEFORE = 40, 64, 20
PRODUCT = re.compile(r"%(\S+) = f32\[([\d,]*)\]\S* dot\((.*?)\), .*lhs_contracting_dims=\{(\d)\}")
SHAPE = re.compile(r"%(\S+) = f32\[([\d,]*)\]")
CALL = re.compile(r'%(\S+) = .*custom_call_target="[a-z]+_(?:pool_)?(\w+)".*\((conv\d|fc\d)\)+/')


def measure(precision: str) -> dict[str, Any]:
    """Traces the steps; returns microseconds per image for each counted operation and in total."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import jax  # imported here: the number of its threads depends on the affinity

    from experiments.worker import matmul_peak
    from lenet_jax import config as configs
    from lenet_jax import data
    from lenet_jax.training import parallel
    from lenet_jax.training.batches import DeviceSplit
    from lenet_jax.training.hyperparameters import hyperparameters, seeds
    from lenet_jax.training.spec import make_spec
    from lenet_jax.training.step import TrainState, init_state, train_epoch

    changes = {"data.train_examples": STEPS * BATCH_SIZE, "train.batch_size": BATCH_SIZE}
    changes |= {"train.precision": precision}
    config = configs.load("configs/lenet5.py", changes.items())
    dataset = data.load_section(config.data)
    spec, settings = make_spec(config, dataset), hyperparameters(config)
    state = init_state(spec, seeds(config), settings)
    # Of a dense product: forward, and for either gradient.
    layers = spec.abstract_model.layer_sizes()
    flops = {name: 2 * layer.multiplications for name, layer in layers.items()}
    split = jax.device_put(DeviceSplit.of(dataset.train))

    def epoch(state: TrainState, split: DeviceSplit) -> Any:
        return train_epoch(spec, state, split, jax.numpy.int32(0), settings)

    program = parallel.compile_shared(epoch, 1).lower(state, split).compile()
    for _ in range(PASSES_BEFORE):
        state = jax.block_until_ready(program(state, split))[0]
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(program(state, split))
        (file,) = Path(folder).rglob("*.trace.json.gz")
        with gzip.open(file) as stream:
            events = json.load(stream)["traceEvents"]
    micro: dict[str, float] = collections.defaultdict(float)
    for event in events:
        if event.get("ph") == "X":
            micro[event["name"]] += event["dur"] / (STEPS * BATCH_SIZE)
    text = program.as_text()
    total = sum(time for name, time in micro.items() if name.startswith("while"))
    return {
        "question": QUESTION,
        "network": "lenet5",
        "precision": precision,
        "batch_size": BATCH_SIZE,
        "micro_batch_size": spec.micro_batch_size,
        "microseconds_per_image": total,
        "matmul_peak_flops": matmul_peak(),
        "operations": sorted(
            (
                {
                    "operation": name,
                    "microseconds_per_image": micro[event],
                    "flops_per_second": 1e6 * done / micro[event],
                }
                for event, name, done in _operations(text, spec.micro_batch_size, flops)
                if event in micro
            ),
            key=lambda operation: -operation["microseconds_per_image"],
        ),
        "environment": environment(),
    }


def _operations(
    text: str, images: int, flops_of_calls: Mapping[str, int]
) -> Iterator[tuple[str, str, float]]:
    """For each counted operation: its name in the trace, a description, and FLOPs per image."""
    shapes = {name: _sizes(dims) for name, dims in SHAPE.findall(text)}
    for event, call, layer in CALL.findall(text):
        yield event, f"{layer}, {call.replace('_', ' ')}", flops_of_calls[layer]
    for event, dims, operands, contracted in PRODUCT.findall(text):
        left = operands.split(",")[0].strip().lstrip("%")
        if left in shapes:
            (rows, columns), inner = _sizes(dims), shapes[left][int(contracted)]
            if columns > 1:  # otherwise it checks that the weights are finite
                description = f"{rows}×{inner} @ {inner}×{columns}"
                yield event, description, 2 * rows * inner * columns / images


def _sizes(dims: str) -> list[int]:
    return [int(n) for n in dims.split(",") if n]


def main() -> None:
    """Measures, prints the operations, and writes the results."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder to write to")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    arguments = parser.parse_args()
    answer = measure(arguments.precision)
    for operation in answer["operations"]:
        print(
            f"{operation['operation']:>24}:"
            f" {operation['microseconds_per_image']:5.2f} µs per image,"
            f" {operation['flops_per_second'] / 1e9:4.0f} GFLOP/s"
        )
    counted = sum(operation["microseconds_per_image"] for operation in answer["operations"])
    whole = answer["microseconds_per_image"]
    print(f"counted {counted:.1f} of {whole:.1f} µs per image", flush=True)
    arguments.results.mkdir(exist_ok=True)
    ending = "" if arguments.precision == "float32" else f"_{arguments.precision}"
    file = arguments.results / f"profile_step{ending}.json"
    write_json(file, answer)
    print(f"written to {file}")


if __name__ == "__main__":
    main()
