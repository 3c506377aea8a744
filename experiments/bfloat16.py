"""What `train.precision=bfloat16` gives on a CPU that multiplies bfloat16 (AVX-512 BF16).

    python -m experiments.bfloat16 --seeds=50

Trains the seeds of `configs/notes.py` in both precisions as one sweep, and compares their accuracy.
Times training and evaluation of LeNet and LeNet-5 in both, in turns, a network on each core.
Nothing else should run. The sweep in `--workdir` is not trained again. Writes
`results/bfloat16.json` and `.md`.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import lenet_jax
from experiments import study
from lenet_jax import config as configs
from lenet_jax import data, machine
from lenet_jax.errors import UserError
from lenet_jax.nn import native
from lenet_jax.statistics import FEWEST, p_value, summarise
from lenet_jax.sweeps.file import product, sweep

QUESTION = "What does bfloat16 give on a CPU that multiplies it?"
PRECISIONS = "float32", "bfloat16"
CONFIG = "configs/notes.py"  # whose accuracy is compared
TIMED = {"LeNet": CONFIG, "LeNet-5": "configs/lenet5.py"}
WORK = "training", "evaluation"


def train(seeds: int, changes: Mapping[str, Any], workdir: Path) -> dict[str, list[float]]:
    """The test accuracy of each seed, in each precision.

    Raises:
      UserError: a member diverged.
    """
    members = product(sweep("train.precision", PRECISIONS), sweep("seed", range(seeds)))
    rows = lenet_jax.train_sweep(configs.load(CONFIG, changes.items()), members, workdir).rows
    if any(row["status"] != "done" for row in rows):
        raise UserError("a member diverged, so it has no accuracy")
    return {
        precision: [row["test_accuracy"] for row in rows if row["train.precision"] == precision]
        for precision in PRECISIONS
    }


def time_both(file: str, turns: int, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Times an epoch and an evaluation in both precisions, in turns.

    Args:
      file: the config.
      turns: how often, after one that compiles.
      changes: of the config.
    """
    work = {name: _prepare(file, {**changes, "train.precision": name}) for name in PRECISIONS}
    seconds: dict[str, dict[str, list[float]]] = {
        kind: {name: [] for name in PRECISIONS} for kind in WORK
    }
    for _ in range(turns + 1):
        for name, tasks in work.items():
            for kind, task in zip(WORK, tasks, strict=True):
                started = time.perf_counter()
                images = task()
                seconds[kind][name].append((time.perf_counter() - started) / images)
    return {kind: _speeds(own) for kind, own in seconds.items()}


def _prepare(file: str, changes: Mapping[str, Any]) -> list[Callable[[], int]]:
    """What trains an epoch, and what evaluates: each gives the images it went through."""
    import jax  # late: `main` says first how many cores there are

    from lenet_jax.training.population import Population
    from lenet_jax.training.spec import make_spec

    config = configs.load(file, changes.items())
    dataset, count = data.load_section(config.data), machine.cores()
    population = Population(make_spec(config, dataset), count)
    training, validation, tested = map(population.put, (dataset.train, dataset.valid, dataset.test))
    members, settings = population.start([config] * count)
    epoch = 0

    def advance() -> int:
        nonlocal members, epoch
        members, _ = population.train_epoch(members, settings, training, validation, epoch)
        jax.block_until_ready(members)
        epoch += 1
        return count * len(dataset.train)

    def test() -> int:
        jax.block_until_ready(population.test(members, tested))
        return count * len(dataset.test)

    return [advance, test]


def _speeds(seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Images per second of each, and how many times as fast the second is; the first turn apart."""
    first, second = (np.asarray(own[1:]) for own in seconds.values())
    ratios = first / second
    return {
        "images_per_second": {
            name: round(1 / statistics.median(own[1:])) for name, own in seconds.items()
        },
        "ratio_median": float(np.median(ratios)),
        "ratio_min": float(ratios.min()),
        "ratio_max": float(ratios.max()),
    }


def to_markdown(answer: dict[str, Any]) -> str:
    """The tables."""
    lines = [
        "# bfloat16 on a CPU",
        "",
        f"`python -m experiments.bfloat16 --seeds={answer['seeds']}`: images per second of a"
        f" network on each of {answer['environment']['cores']} cores, and how many times as fast,"
        f" the median (least–most) of {answer['turns']} turns; training with its validation.",
        "",
        "| | float32 | bfloat16 | times as fast |",
        "|---|---|---|---|",
    ]
    for network, speeds in answer["speeds"].items():
        for kind, own in speeds.items():
            first, second = own["images_per_second"].values()
            ratio = f"{own['ratio_median']:.2f} ({own['ratio_min']:.2f}–{own['ratio_max']:.2f})"
            lines.append(f"| {network}, {kind} | {first:,} | {second:,} | {ratio} |")
    accuracy = " and ".join(
        f"{100 * own['mean']:.3f} ± {100 * own['sd']:.3f} % ({name})"
        for name, own in answer["test_accuracy"].items()
    )
    lines += [
        "",
        f"Test accuracy of {CONFIG}, mean ± sd over {answer['seeds']} seeds: {accuracy};"
        f" p = {answer['p']:.2g} (Welch).",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Times, trains what is missing, and writes the results."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--seeds", type=int, default=50, help=f"from 0; at least {FEWEST}")
    parser.add_argument("--turns", type=int, default=7, help="of an epoch and an evaluation")
    parser.add_argument("--epochs", type=int, help="other than the config's, to try it")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder to write to")
    parser.add_argument("--workdir", type=Path, default=Path("runs/bfloat16"))
    arguments = parser.parse_args()
    if arguments.seeds < FEWEST or arguments.turns < 1:
        parser.error(f"at least {FEWEST} --seeds, and one of the --turns")
    machine.use_compilation_cache()
    machine.use_cores()
    if not native.has_bfloat16():
        parser.error("this processor does not multiply bfloat16, or there is no C++ compiler")
    changes = {"train.num_epochs": arguments.epochs} if arguments.epochs else {}
    speeds = {name: time_both(file, arguments.turns, changes) for name, file in TIMED.items()}
    accuracy = train(arguments.seeds, changes, arguments.workdir)
    answer = {
        "question": QUESTION,
        "config": CONFIG,
        "changes": changes,
        "seeds": arguments.seeds,
        "turns": arguments.turns,
        "speeds": speeds,
        "test_accuracy": {
            name: summarise(own, 1.0).to_json() | {"values": own} for name, own in accuracy.items()
        },
        "p": p_value(*accuracy.values()),
        "environment": machine.environment(),
    }
    study.write(arguments.results / "bfloat16.json", answer, None, to_markdown)


if __name__ == "__main__":
    main()
