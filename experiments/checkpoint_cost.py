"""Measures how much writing a checkpoint slows down an epoch.

    python -m experiments.checkpoint_cost --turns=60

Alternates, in one process, between a fifth of an epoch of `configs/notes.py` alone and a fifth of
an epoch while a checkpoint is written. The cost of a checkpoint is the median difference between
the two. Writes `results/checkpoint_cost.json`.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from lenet_jax import machine
from lenet_jax.machine import environment
from lenet_jax.storage.files import write_json

QUESTION = "How much does writing a checkpoint slow down an epoch?"
SEGMENTS = 5  # per epoch: each should take little longer than a checkpoint


def measure(turns: int) -> dict[str, Any]:
    """Times `turns` segments of an epoch with a checkpoint, and as many without."""
    machine.use_compilation_cache()
    machine.use_cores()
    import jax  # late: it reads the environment

    from lenet_jax import config as configs
    from lenet_jax import data
    from lenet_jax.runs.resume import RunState
    from lenet_jax.storage.checkpoint import Checkpoints
    from lenet_jax.training.batches import EpochSlice
    from lenet_jax.training.evaluation import no_metrics
    from lenet_jax.training.loop import Trainer

    config = configs.load("configs/notes.py")
    trainer = Trainer(config, data.load_section(config.data))
    trainer.compile()
    state, sums = trainer.init(), trainer.place(no_metrics())
    steps = EpochSlice(trainer.order(state, 0), 0, trainer.spec.steps_per_epoch // SEGMENTS)

    seconds: dict[bool, list[float]] = {False: [], True: []}
    alone = []
    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder), keep=2) as checkpoints:
        for turn in range(turns + 1):
            for saves in (False, True) if turn % 2 else (True, False):
                started = time.perf_counter()
                if saves:
                    checkpoints.save(2 * turn, RunState(state, sums, state.params), {"epoch": turn})
                state, _, rate = trainer.take_steps(state, sums, steps)
                jax.block_until_ready(rate)
                seconds[saves].append(time.perf_counter() - started)
                checkpoints.latest()
            started = time.perf_counter()
            checkpoints.save(2 * turn + 1, RunState(state, sums, state.params), {"epoch": turn})
            checkpoints.latest()
            alone.append(time.perf_counter() - started)

    without, beside = (seconds[saves][1:] for saves in (False, True))  # the first of each warms up
    longer = [b - a for a, b in zip(without, beside, strict=True)]
    low, middle, high = statistics.quantiles(longer, n=4, method="inclusive")
    epoch = SEGMENTS * statistics.median(without)
    return {
        "epoch_seconds": epoch,
        "checkpoint_seconds_beside_training": middle,
        "checkpoint_seconds_quartiles": (low, high),
        "checkpoint_seconds_alone": statistics.median(alone[1:]),
        "cost": middle / epoch,
        "turns": turns,
    }


def main() -> None:
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--turns", type=int, default=60, help="pairs of segments")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder to write to")
    arguments = parser.parse_args()
    answer = {"question": QUESTION, **measure(arguments.turns)}

    answer["environment"] = environment()
    arguments.results.mkdir(exist_ok=True)
    file = arguments.results / "checkpoint_cost.json"
    write_json(file, answer)
    print(
        f"a checkpoint lengthens an epoch of {answer['epoch_seconds']:.2f} s by"
        f" {100 * answer['cost']:.1f} %; alone it takes"
        f" {1000 * answer['checkpoint_seconds_alone']:.0f} ms; written to {file}"
    )


if __name__ == "__main__":
    main()
