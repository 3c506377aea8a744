"""How robust LeNet and LeNet-5 are to the fifteen corruptions of MNIST-C.

    python -m experiments.robustness --seeds=20

Trains both as one sweep with seeds 0 to 19, and tests each network on the test images as they are
and under each corruption. Times a part of the same loop in PyTorch, on a machine that does nothing
else; else give `--untimed`.

What is in `--workdir` is not computed again. Writes `results/robustness.json`, `.md` and `.png`.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import lenet_jax
from experiments import pytorch_loop, study
from lenet_jax import config as configs
from lenet_jax import data, machine
from lenet_jax.analysis.robustness import Robustness
from lenet_jax.corruptions.mnist_c import CORRUPTIONS, corrupt
from lenet_jax.errors import UserError
from lenet_jax.plots.corruptions import CLEAN, MEAN, plot_error_map
from lenet_jax.plots.style import Figure
from lenet_jax.statistics import FEWEST, p_value, shortest, summarise
from lenet_jax.sweeps.file import product, sweep

QUESTION = "How robust are LeNet and LeNet-5 to the corruptions of MNIST-C?"
CONFIG = "configs/notes.py"
NETWORKS = {"LeNet": (6, 12), "LeNet-5": (6, 16)}  # feature maps, all that they differ in
EXAMPLE = 0  # the test image in the figure


def measure(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The errors of one network's seeds, clean and under each corruption, and their means.

    Raises:
      UserError: a member diverged.
    """
    if any(row["status"] != "done" for row in rows):
        raise UserError("a member diverged, so it has no errors")
    robustness = [
        Robustness(
            1 - row["test_accuracy"],
            {name: 1 - row[f"test_accuracy/{name}"] for name in CORRUPTIONS},
        )
        for row in rows
    ]
    values = {CLEAN: [own.clean for own in robustness]}
    values |= {name: [own.corrupted[name] for own in robustness] for name in CORRUPTIONS}
    values[MEAN] = [own.mean_error for own in robustness]
    return {
        "n": len(rows),
        "errors": {
            name: summarise(own, 1.0).to_json() | {"values": list(map(shortest, own))}
            for name, own in values.items()
        },
        "excess": summarise([own.excess for own in robustness], lower=-np.inf).to_json(),
    }


def compare(networks: Mapping[str, Any]) -> dict[str, Any]:
    """The second network against the first: Welch's test of each error, and the relative error."""
    first, second = (own["errors"] for own in networks.values())
    means = [
        Robustness(own[CLEAN]["mean"], {name: own[name]["mean"] for name in CORRUPTIONS})
        for own in (first, second)
    ]
    return {
        "p": {name: p_value(first[name]["values"], second[name]["values"]) for name in first},
        "relative_mean_corruption_error": means[1].relative_to(means[0]),
    }


def to_markdown(answer: dict[str, Any]) -> str:
    """The table."""
    first, second = answer["networks"]
    errors = {name: own["errors"] for name, own in answer["networks"].items()}
    lines = [
        "# Corruptions",
        "",
        f"`python -m experiments.robustness --seeds={answer['seeds']}`"
        + "".join(f", {key}={value}" for key, value in answer["changes"].items())
        + ": error on the 10,000 test images of MNIST in %, mean ± sd over the seeds; p: how likely"
        " a difference this large would be of equal networks (Welch), each corruption by itself.",
        "",
        f"| test images | {first} | {second} | p |",
        "|---|---|---|---|",
    ]
    names = {CLEAN: "clean", MEAN: "mean corruption error"}
    for name, p in answer["comparison"]["p"].items():
        cells = [_cell(own[name]) for own in errors.values()]
        chance = "–" if p is None else f"{p:.1g}" if p < 0.01 else f"{p:.2f}"
        shown = names.get(name, name.replace("_", " "))
        lines.append(f"| {shown} | {' | '.join(cells)} | {chance} |")
    cells = [_cell(own["excess"]) for own in answer["networks"].values()]
    lines.append(f"| mean corruption error − clean | {' | '.join(cells)} | – |")
    relative = answer["comparison"]["relative_mean_corruption_error"]
    lines += [
        "",
        "Mean corruption error: the mean of the fifteen errors. Relative to that of"
        f" {first}, corruption by corruption (the mean of the fifteen ratios), {second} has"
        f" {100 * relative:.1f} %. Of equal networks, one such table in twenty has a p below"
        " 0.003 somewhere (Bonferroni).",
    ]
    if text := pytorch_loop.sentence(answer["seconds"], answer["pytorch"]):
        lines += ["", text]
    return "\n".join(lines) + "\n"


def _cell(entry: Mapping[str, Any]) -> str:
    text = f"{100 * entry['mean']:.2f}"
    return text if entry["ci95"] is None else f"{text} ± {100 * entry['sd']:.2f}"


def plot(answer: dict[str, Any]) -> Figure:
    """Draws the heat map, with a test image under each corruption above it."""
    image = data.load("mnist", image_size=28).test.images[EXAMPLE : EXAMPLE + 1]
    pictures = {CLEAN: image[0]} | {name: corrupt(image, name)[0] for name in CORRUPTIONS}
    errors = {
        name: {
            column: summarise([100 * value for value in entry["values"]], 100.0)
            for column, entry in own["errors"].items()
        }
        for name, own in answer["networks"].items()
    }
    epochs = configs.load(CONFIG, answer["changes"].items()).train.num_epochs
    title = (
        f"LeNet and LeNet-5 on corrupted MNIST, {epochs} epochs, n = {answer['seeds']} seeds each"
    )
    return plot_error_map(errors, title=title, pictures=pictures, index=EXAMPLE)


def train(
    seeds: int, changes: Mapping[str, Any], workdir: Path
) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of each network's members."""
    members = product(sweep("model.channels", list(NETWORKS.values())), sweep("seed", range(seeds)))
    results = lenet_jax.train_sweep(
        configs.load(CONFIG, changes.items()), members, workdir, corruptions=True
    )
    return {
        name: [row for row in results.rows if tuple(row["model.channels"]) == channels]
        for name, channels in NETWORKS.items()
    }


def time_loops(config: configs.Config, seeds: int) -> dict[str, Any] | None:
    """The time of a loop in PyTorch over the seeds of both networks; None without PyTorch."""
    dataset, loops = data.load_section(config.data), []
    for channels in NETWORKS.values():
        own = configs.replace(config, {"model.channels": channels})
        loops.append(pytorch_loop.time_loop(own, seeds, dataset))
    if None in loops:
        return None
    sums = {key: sum(loop[key] for loop in loops) for key in ("seconds", "timed_seconds")}
    return sums | {"loops": dict(zip(NETWORKS, loops, strict=True))}


def main() -> None:
    """Trains what is missing, measures, and writes the results."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--seeds", type=int, default=20, help="from 0; at least 3")
    parser.add_argument("--epochs", type=int, help="other than the config's, to try it")
    parser.add_argument("--untimed", action="store_true", help="say no times: of a busy machine")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder to write to")
    parser.add_argument("--workdir", type=Path, default=Path("runs/robustness"))
    arguments = parser.parse_args()
    if arguments.seeds < FEWEST:
        parser.error(f"--seeds: an interval needs at least {FEWEST}")
    changes = {"train.num_epochs": arguments.epochs} if arguments.epochs else {}
    rows = train(arguments.seeds, changes, arguments.workdir)
    networks, loop = {name: measure(own) for name, own in rows.items()}, None
    if not arguments.untimed:
        loop = time_loops(configs.load(CONFIG, changes.items()), arguments.seeds)
    answer = {
        "question": QUESTION,
        "config": CONFIG,
        "changes": changes,
        "seeds": arguments.seeds,
        "networks": networks,
        "comparison": compare(networks),
        "seconds": pytorch_loop.training_seconds([row for own in rows.values() for row in own]),
        "pytorch": loop,
        "environment": machine.environment((*machine.PACKAGES, "scipy")),
    }
    study.write(arguments.results / "robustness.json", answer, plot, to_markdown)


if __name__ == "__main__":
    main()
