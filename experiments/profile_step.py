"""Where does the time of a training step go, on one core? Convolutions, matrix products, the rest.

    python -m experiments.profile_step

It traces forty steps of lenet5 at batch 64 on a single core, and adds up the time of each
operation of the compiled program: the calls of the native convolution by layer, matrix products by
their shapes, and the rest. The answer is `results/profile_step.json`.
"""

import argparse
import collections
import gzip
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lenet_jax.machine import environment

QUESTION = "Where does the time of a training step go, on one core?"
STEPS, BATCH_SIZE = 40, 64
PRODUCT = re.compile(r"%(\S+) = f32\[([\d,]*)\]\S* dot\((.*?)\), .*lhs_contracting_dims=\{(\d)\}")
SHAPE = re.compile(r"%(\S+) = f32\[([\d,]*)\]")
# Each call has the kernel, (5, 5, c, k), and the winners, int8 of (k, h2, w2, b), in its line.
CALL = re.compile(r'%(\S+) = .*custom_call_target="conv_pool_(\w+)".*op_name=".*\((conv\d)\)')
KERNEL, WINNERS = re.compile(r"f32\[(5,5,\d+,\d+)\]"), re.compile(r"s8\[(\d+,\d+,\d+,\d+)\]")


def measure() -> dict[str, Any]:
    """Traces the steps; microseconds per image of each operation that is counted, and of all."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import jax  # late: its threads are counted by the cores

    from experiments.worker import matmul_peak
    from lenet_jax import config as configs
    from lenet_jax import data, parallel, recipe, train
    from lenet_jax.run import PACKAGES

    changes = {"data.train_examples": STEPS * BATCH_SIZE, "train.batch_size": BATCH_SIZE}
    config = configs.load("configs/lenet5.py", changes.items())
    dataset = data.load(**config.data)
    made, numbers = recipe.make_recipe(config, dataset), recipe.hyperparameters(config)
    state = train.init_state(made, recipe.seeds(config), numbers)
    arrays = jax.device_put((dataset.train.images, dataset.train.labels))

    def epoch(state: train.TrainState, images: jax.Array, labels: jax.Array) -> Any:
        return train.train_epoch(made, state, images, labels, jax.numpy.int32(0), numbers)

    program = parallel.compile_shared(epoch, 1).lower(state, *arrays).compile()
    jax.block_until_ready(program(state, *arrays))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(program(state, *arrays))
        (file,) = Path(folder).rglob("*.trace.json.gz")
        with gzip.open(file) as stream:
            events = json.load(stream)["traceEvents"]
    micro: dict[str, float] = collections.defaultdict(float)
    for event in events:
        if event.get("ph") == "X":
            micro[event["name"]] += event["dur"] / (STEPS * BATCH_SIZE)
    total = sum(time for name, time in micro.items() if name.startswith("while"))
    return {
        "question": QUESTION,
        "network": "lenet5",
        "batch_size": BATCH_SIZE,
        "micro_batch_size": made.micro_batch_size,
        "microseconds_per_image": total,
        "matmul_peak_flops": matmul_peak(),
        "operations": sorted(
            (
                {
                    "operation": name,
                    "microseconds_per_image": micro[event],
                    "flops_per_second": 1e6 * flops / micro[event],
                }
                for event, name, flops in _operations(program.as_text(), made.micro_batch_size)
                if event in micro
            ),
            key=lambda operation: -operation["microseconds_per_image"],
        ),
        "environment": environment(PACKAGES),
    }


def _operations(text: str, images: int) -> Iterator[tuple[str, str, float]]:
    """Of each operation that is counted: its name in the trace and in words, and FLOPs an image."""
    shapes = {name: _numbers(dims) for name, dims in SHAPE.findall(text)}
    for event, dims, operands, contracted in PRODUCT.findall(text):
        left = operands.split(",")[0].strip().lstrip("%")
        if left in shapes:
            (rows, columns), inner = _numbers(dims), shapes[left][int(contracted)]
            words = f"{rows}×{inner} @ {inner}×{columns}"
            yield event, words, 2 * rows * inner * columns / images
    for line in text.splitlines():
        call, kernel, winners = CALL.search(line), KERNEL.search(line), WINNERS.search(line)
        if call and kernel and winners:
            _, h2, w2, _ = _numbers(winners[1])
            words = f"{call[3]}, {call[2].replace('_', ' ')}"
            yield call[1], words, 2 * math.prod(_numbers(kernel[1])) * 4 * h2 * w2


def _numbers(dims: str) -> list[int]:
    return [int(n) for n in dims.split(",") if n]


def main() -> None:
    """Measures, prints the largest, and writes the answer."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder to write to")
    arguments = parser.parse_args()
    answer = measure()
    for operation in answer["operations"]:
        print(
            f"{operation['operation']:>24}: {operation['microseconds_per_image']:5.2f} µs an image,"
            f" {operation['flops_per_second'] / 1e9:4.0f} GFLOP/s"
        )
    counted = sum(operation["microseconds_per_image"] for operation in answer["operations"])
    whole = answer["microseconds_per_image"]
    print(f"counted {counted:.1f} of {whole:.1f} µs an image", flush=True)
    arguments.results.mkdir(exist_ok=True)
    file = arguments.results / "profile_step.json"
    file.write_text(json.dumps(answer, indent=2) + "\n")
    print(f"written: {file}")


if __name__ == "__main__":
    main()
