"""How much longer is an epoch of the main job while a checkpoint is written? It takes turns.

    python -m experiments.checkpoint_cost --turns=10

One epoch of `configs/notes.py` alone, one beside the writing of a checkpoint, and so on in turns,
in one process. A cost compares the two epochs of a turn; the median of the turns is quoted. The
answer is `results/checkpoint_cost.json`.
"""

import argparse
import functools
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lenet_jax import config as configs
from lenet_jax import data, ops, train
from lenet_jax.checkpoint import Checkpoints
from lenet_jax.recipe import hyperparameters, make_recipe, seeds
from lenet_jax.run import PACKAGES, Arrays
from lenet_jax.workdir import environment

QUESTION = "How much longer is an epoch of the main job while a checkpoint is written?"


def measure(turns: int) -> dict[str, Any]:
    """Times `turns` epochs with a checkpoint, and as many without."""
    config = configs.load("configs/notes.py")
    dataset = data.load(**config.data)
    recipe, numbers = make_recipe(config, dataset), hyperparameters(config)
    images, labels = jnp.asarray(dataset.train.images), jnp.asarray(dataset.train.labels)
    state = jax.jit(functools.partial(train.init_state, recipe))(seeds(config), numbers)
    train_epoch = jax.jit(
        functools.partial(train.train_epoch, recipe),
        donate_argnums=0,
        compiler_options=ops.compiler_options(),
    )

    plain, saving, whole = [], [], []
    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder), keep=2) as checkpoints:
        for turn in range(-1, turns):  # the first one warms up
            seconds = {}
            for save in (False, True) if turn % 2 else (True, False):
                begun = time.perf_counter()
                if save:
                    checkpoints.save(turn + 2, Arrays(state, state.params), {"epoch": turn})
                state, metrics = train_epoch(state, images, labels, np.int32(turn + 1), numbers)
                jax.block_until_ready(metrics)
                seconds[save] = time.perf_counter() - begun
            checkpoints.latest()
            if turn >= 0:
                plain.append(seconds[False])
                saving.append(seconds[True])
                begun = time.perf_counter()
                checkpoints.save(turn + 2, Arrays(state, state.params), {"epoch": turn})
                checkpoints.latest()
                whole.append(time.perf_counter() - begun)
    costs = [b / a - 1 for a, b in zip(plain, saving, strict=True)]
    return {
        "epoch_seconds_median": statistics.median(plain),
        "epoch_with_checkpoint_seconds_median": statistics.median(saving),
        "cost_median": statistics.median(costs),
        "cost_quartiles": statistics.quantiles(costs, n=4)[::2] if turns > 1 else None,
        "save_alone_seconds_median": statistics.median(whole),
        "turns": turns,
    }


def main() -> None:
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--turns", type=int, default=10, help="pairs of epochs")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder to write to")
    arguments = parser.parse_args()
    answer = {
        "question": QUESTION,
        **measure(arguments.turns),
        "environment": environment(PACKAGES),
    }
    arguments.results.mkdir(exist_ok=True)
    file = arguments.results / "checkpoint_cost.json"
    file.write_text(json.dumps(answer, indent=2) + "\n")
    print(
        f"an epoch of {answer['epoch_seconds_median']:.2f} s is {100 * answer['cost_median']:.1f} %"
        f" longer beside a checkpoint, which alone takes"
        f" {1000 * answer['save_alone_seconds_median']:.0f} ms: {file}"
    )


if __name__ == "__main__":
    main()
