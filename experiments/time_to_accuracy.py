"""Measures how long a network takes to train to a target test accuracy.

    python -m experiments.time_to_accuracy --config=configs/fast.py

For each seed, trains a network, then evaluates the weights of every epoch on all test images and
records the first epoch that reaches the target and the training time up to it. Training time
excludes compilation, validation and testing. If any seed misses the target, there is no mean time.
Writes `results/time_to_accuracy.json`.
"""

import argparse
from pathlib import Path
from typing import Any

from lenet_jax import machine
from lenet_jax.machine import environment
from lenet_jax.statistics import shortest, summarise
from lenet_jax.storage.files import write_json

QUESTION = "How long does a network take to train to a target test accuracy?"


def measure(config_file: str, seeds: range, target: float) -> dict[str, Any]:
    """Trains the seeds one after the other; prints one line per seed."""
    machine.use_compilation_cache()
    machine.use_cores()
    from lenet_jax import config as configs  # imported here: JAX reads the environment
    from lenet_jax import data
    from lenet_jax.training.evaluation import no_metrics
    from lenet_jax.training.loop import Trainer, train_in_segments

    runs = []
    for seed in seeds:
        config = configs.load(config_file, [("seed", seed)])
        trainer = Trainer(config, data.load_section(config.data))
        trainer.compile()
        seconds, epochs = 0.0, []
        for segment in train_in_segments(trainer, trainer.init(), trainer.place(no_metrics())):
            seconds += segment.seconds
            if segment.valid is not None:
                epochs.append((segment.state.params, seconds))
        # Only now: during training, evaluation would compete for the cores.
        accuracy = [shortest(trainer.evaluate(params, "test")[0].accuracy) for params, _ in epochs]
        run = {"seed": seed, "epochs": None, "seconds": None}
        for epoch, (_, then) in enumerate(epochs):
            if accuracy[epoch] >= target:
                run |= {"epochs": epoch + 1, "seconds": then}
                break
        runs.append(run | {"test_accuracy": accuracy, "all_seconds": seconds})
        print(
            f"seed {seed}: test accuracy {100 * accuracy[-1]:.2f} % after {seconds:.2f} s of"
            f" training; {100 * target:.1f} % after"
            f" {run['seconds'] and round(run['seconds'], 2)} s",
            flush=True,
        )
    reached = [run["seconds"] for run in runs if run["seconds"] is not None]
    last = [run["test_accuracy"][-1] for run in runs]
    return {
        "question": QUESTION,
        "config": config_file,
        "target": target,
        "seeds": len(runs),
        "seeds_that_reach_it": len(reached),
        "seconds": summarise(reached).to_json() if len(reached) == len(runs) else None,
        "last_test_accuracy": summarise(last, upper=1.0).to_json(),
        "runs": runs,
        "environment": environment(),
    }


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--config", default="configs/fast.py", help="FILE.py[:ARG]")
    parser.add_argument("--seeds", type=int, default=20, help="number of seeds")
    parser.add_argument("--first_seed", type=int, default=10, help="first of the consecutive seeds")
    parser.add_argument("--target", type=float, default=0.99, help="test accuracy, in [0, 1]")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder to write to")
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    answer = measure(arguments.config, seeds, arguments.target)
    arguments.results.mkdir(exist_ok=True)
    file = arguments.results / "time_to_accuracy.json"
    write_json(file, answer)
    print(f"written to {file}")


if __name__ == "__main__":
    main()
