"""Where does the time of a training step go, on one core? Each matrix product, and the rest.

    python -m experiments.profile_step

It traces forty steps of lenet5 at batch 64 on a single core, and adds up the time of each
operation of the compiled program: matrix products by their shapes, and the rest. The answer is
`results/profile_step.json`.
"""

import argparse
import collections
import gzip
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from lenet_jax.machine import environment

QUESTION = "Where does the time of a training step go, on one core?"
STEPS, BATCH_SIZE = 40, 64
PRODUCT = re.compile(r"%(\S+) = f32\[([\d,]*)\]\S* dot\((.*?)\), .*lhs_contracting_dims=\{(\d)\}")
SHAPE = re.compile(r"%(\S+) = f32\[([\d,]*)\]")


def measure() -> dict[str, Any]:
    """Traces the steps; microseconds per image of each matrix product, and of all else."""
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
        "products": _products(program.as_text(), micro, made.micro_batch_size),
        "environment": environment(PACKAGES),
    }


def _products(text: str, micro: dict[str, float], images: int) -> list[dict[str, Any]]:
    """Each matrix product that was traced: its shape m×k @ k×n, its time, and its rate."""
    shapes = {name: [int(n) for n in dims.split(",") if n] for name, dims in SHAPE.findall(text)}
    found = []
    for name, dims, operands, contracted in PRODUCT.findall(text):
        left = operands.split(",")[0].strip().lstrip("%")
        if name in micro and left in shapes:
            rows, columns = (int(n) for n in dims.split(","))
            inner = shapes[left][int(contracted)]
            found.append(
                {
                    "shape": f"{rows}×{inner} @ {inner}×{columns}",
                    "microseconds_per_image": micro[name],
                    "flops_per_second": 2e6 * rows * inner * columns / images / micro[name],
                }
            )
    return sorted(found, key=lambda product: -product["microseconds_per_image"])


def main() -> None:
    """Measures, prints the largest, and writes the answer."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder to write to")
    arguments = parser.parse_args()
    answer = measure()
    for product in answer["products"]:
        print(
            f"{product['shape']:>24}: {product['microseconds_per_image']:5.2f} µs an image,"
            f" {product['flops_per_second'] / 1e9:4.0f} GFLOP/s"
        )
    products = sum(product["microseconds_per_image"] for product in answer["products"])
    whole = answer["microseconds_per_image"]
    print(f"products {products:.1f} of {whole:.1f} µs an image", flush=True)
    arguments.results.mkdir(exist_ok=True)
    file = arguments.results / "profile_step.json"
    file.write_text(json.dumps(answer, indent=2) + "\n")
    print(f"written: {file}")


if __name__ == "__main__":
    main()
