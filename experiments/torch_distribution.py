"""Compares the test accuracies of many seeds with those of a plain PyTorch script.

    python -m experiments.torch_distribution --seeds=100 --torch_seeds=40

Both train `configs/notes.py`: the same network, images and hyperparameters. PyTorch draws its own
initial weights, shuffles by its own generator and takes its own layers, optimiser and schedule:
nothing of lenet-jax but the images. Two accuracies of each seed are compared, by Welch's test of
the means, Levene's of the deviations and Kolmogorov and Smirnov's of the distributions: after the
last epoch, and with the weights of the epoch that is best on validation.

Needs torch; takes about a minute a PyTorch seed on one core, one process on each. What a process
has trained is in `--workdir` and is not trained again. Writes `results/torch_distribution.json` and
`.png`.
"""

import argparse
import dataclasses
import json
import multiprocessing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import study
from lenet_jax import config as configs
from lenet_jax import data, machine
from lenet_jax.plots.style import BLUE, VERMILION, WIDTH, Figure, chart, key, styled
from lenet_jax.statistics import shortest, summarise

QUESTION = "Are the accuracies of many seeds distributed as a plain PyTorch script's?"
CONFIG = "configs/notes.py"
PACKAGES = (*machine.PACKAGES, "torch", "scipy")
CHUNK = 20  # members of a population
OURS, THEIRS = "lenet-jax", "PyTorch"
WEIGHTS = {"last": "after the last epoch", "best": "of the epoch that is best on validation"}


class Accuracy(NamedTuple):
    """Of one seed on the test images.

    Attributes:
      last: after the last epoch.
      best: with the weights of the best epoch.
      best_epoch: the first of those that get most validation images right, from 1.
    """

    last: float
    best: float
    best_epoch: int


def train_in_torch(seed: int) -> Accuracy:
    """Trains a network as a PyTorch user writes it, on one core."""
    import torch
    from torch import nn
    from torch.nn import functional

    config = configs.load(CONFIG)
    sgd, schedule, train = config.optimizer, config.schedule, config.train
    dataset = data.load_section(config.data)
    mean, std = (getattr(dataset.train.images, name)().item() for name in ("mean", "std"))
    torch.set_num_threads(1)
    torch.manual_seed(seed)

    def tensors(split: data.Split) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.from_numpy(split.images).permute(0, 3, 1, 2).float()
        return (images - mean) / std, torch.from_numpy(split.labels).long()

    images, labels = tensors(dataset.train)
    valid, test = tensors(dataset.valid), tensors(dataset.test)
    (c1, c2), (f1, f2) = config.model.channels, config.model.features
    network = nn.Sequential(
        *(nn.Conv2d(1, c1, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(c1, c2, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(c2 * 5 * 5, f1), nn.ReLU(), nn.Linear(f1, f2), nn.ReLU(), nn.Linear(f2, 10)),
    )
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=sgd.learning_rate,
        momentum=sgd.momentum,
        weight_decay=sgd.weight_decay,
    )
    steps = -(-len(images) // train.batch_size)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=sgd.learning_rate,
        total_steps=train.num_epochs * steps,
        pct_start=schedule.pct_start,
        div_factor=schedule.div_factor,
        final_div_factor=schedule.final_div_factor,
        cycle_momentum=False,
    )

    def hits(images: torch.Tensor, labels: torch.Tensor) -> int:
        with torch.no_grad():
            guesses = [network(part).argmax(dim=1) for part in images.split(500)]
        return int((torch.cat(guesses) == labels).sum())

    most, best, best_epoch, last = -1, 0, 0, 0
    for epoch in range(1, train.num_epochs + 1):
        for indices in torch.randperm(len(images)).split(train.batch_size):
            optimizer.zero_grad()
            functional.cross_entropy(network(images[indices]), labels[indices]).backward()
            optimizer.step()
            scheduler.step()
        last = hits(*test)
        if (right := hits(*valid)) > most:
            most, best, best_epoch = right, last, epoch
    return Accuracy(last / len(test[1]), best / len(test[1]), best_epoch)


def train_here(seeds: range) -> list[Accuracy]:
    """Trains the networks of the seeds as populations, as a sweep does."""
    machine.use_compilation_cache()
    machine.use_cores()
    from lenet_jax.training.population import Population  # JAX reads the environment
    from lenet_jax.training.spec import make_spec

    config = configs.load(CONFIG)
    dataset = data.load_section(config.data)
    population = Population(make_spec(config, dataset), len(seeds))
    train_split, valid_split, test_split = (
        population.put(split) for split in (dataset.train, dataset.valid, dataset.test)
    )
    members, settings = population.start([configs.load(CONFIG, [("seed", n)]) for n in seeds])
    for epoch in range(config.train.num_epochs):
        members, _ = population.train_epoch(members, settings, train_split, valid_split, epoch)
    best = population.test(members, test_split).accuracy
    at_the_end = dataclasses.replace(members, best_params=members.state.params)
    last = population.test(at_the_end, test_split).accuracy
    columns = population.pick((last, best, members.best_epoch), len(seeds))
    rows = zip(*columns, strict=True)
    return [Accuracy(shortest(last), shortest(best), int(epoch)) for last, best, epoch in rows]


def train_missing(file: Path, count: int, where: str) -> list[Accuracy]:
    """The accuracies of the seeds from 0; those that are in a file are not trained again.

    The file gets each line as soon as its networks are trained.
    """
    lines = file.read_text().splitlines() if file.exists() else []
    done = {row.pop("seed"): Accuracy(**row) for row in map(json.loads, lines)}
    missing = [seed for seed in range(count) if seed not in done]
    context = multiprocessing.get_context("spawn")  # a process that has started JAX cannot fork
    if where == THEIRS:
        with context.Pool(machine.cores()) as pool:
            for seed, accuracy in zip(missing, pool.imap(train_in_torch, missing), strict=True):
                done[seed] = _append(file, seed, accuracy)
    else:
        for first in range(0, count, CHUNK):
            seeds = range(first, min(first + CHUNK, count))
            if any(seed in missing for seed in seeds):
                for seed, accuracy in zip(seeds, train_here(seeds), strict=True):
                    done[seed] = _append(file, seed, accuracy)
    return [done[seed] for seed in range(count)]


def _append(file: Path, seed: int, accuracy: Accuracy) -> Accuracy:
    with file.open("a") as lines:
        lines.write(json.dumps({"seed": seed} | accuracy._asdict()) + "\n")
    print(f"{file.stem}, seed {seed}: {100 * accuracy.last:.2f} %", flush=True)
    return accuracy


def compare(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """The statistics of both, and how likely such differences are if there is none."""
    from scipy import stats

    first, second = np.asarray(ours), np.asarray(theirs)
    difference: Any = stats.ttest_ind(first, second, equal_var=False)
    deviations: Any = stats.levene(first, second)
    distributions: Any = stats.ks_2samp(first, second)
    low, high = difference.confidence_interval()
    return {
        OURS: summarise(ours, upper=1.0).to_json() | {"n": len(ours)},
        THEIRS: summarise(theirs, upper=1.0).to_json() | {"n": len(theirs)},
        "difference_of_means": float(first.mean() - second.mean()),
        "difference_ci95": [float(low), float(high)],
        "p_means_welch": float(difference.pvalue),
        "p_deviations_levene": float(deviations.pvalue),
        "p_distributions_kolmogorov_smirnov": float(distributions.pvalue),
    }


@styled
def plot(answer: dict[str, Any]) -> Figure:
    """Draws the share of seeds up to each accuracy."""
    counts = {library: len(rows) for library, rows in answer["runs"].items()}
    numbers = ", ".join(f"n = {count} seeds of {library}" for library, count in counts.items())
    figure = chart(
        WIDTH,
        440,
        f"Test accuracies of {answer['config']} on MNIST, and of a plain PyTorch script",
        f"{numbers}; mean ± sd",
    )
    looks = {THEIRS: (BLUE, "--", "dashed: "), OURS: (VERMILION, "-", "")}
    for axes, (name, text) in zip(figure.subplots(1, 2), WEIGHTS.items(), strict=True):
        labels = []
        for library, (colour, line, how) in looks.items():
            values = 100 * np.sort([row[name] for row in answer["runs"][library]])
            share = 100 * np.arange(1, len(values) + 1) / len(values)
            axes.step(values, share, line, where="post", color=colour)
            spread = f"{values.mean():.3f} ± {values.std(ddof=1):.3f} %"
            labels.append((f"{how}{library}, {spread}", colour))
        key(axes, labels, "upper left")
        axes.set(title=f"weights {text}", xlabel="test accuracy, %", ylim=(0, 100))
        axes.set_ylabel("seeds up to this accuracy, %")
    return figure


def main() -> None:
    """Trains what is missing, compares, and writes the results."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--seeds", type=int, default=100, help="of lenet-jax, from 0")
    parser.add_argument("--torch_seeds", type=int, default=40, help="of PyTorch, from 0")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder to write to")
    parser.add_argument("--workdir", type=Path, default=Path("runs/torch_distribution"))
    arguments = parser.parse_args()
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    counts = {OURS: arguments.seeds, THEIRS: arguments.torch_seeds}
    seeds = {
        library: train_missing(arguments.workdir / f"{library}.jsonl", count, library)
        for library, count in counts.items()
    }
    answer = {
        "question": QUESTION,
        "config": CONFIG,
        **{
            name: {"weights": text}
            | compare(*([getattr(row, name) for row in rows] for rows in seeds.values()))
            for name, text in WEIGHTS.items()
        },
        "runs": {library: [row._asdict() for row in rows] for library, rows in seeds.items()},
        "environment": machine.environment(PACKAGES),
    }
    for name, text in WEIGHTS.items():
        result = answer[name]
        print(
            f"{text}: {100 * result['difference_of_means']:+.3f} points, p ="
            f" {result['p_means_welch']:.2g} (means), {result['p_deviations_levene']:.2g}"
            f" (deviations), {result['p_distributions_kolmogorov_smirnov']:.2g} (distributions)"
        )
    study.write(arguments.results / "torch_distribution.json", answer, plot)


if __name__ == "__main__":
    main()
