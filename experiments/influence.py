"""Which training images move which test images: 2,000 LeNets, each on half of the data.

    python -m experiments.influence --members=2000

Trains `configs/notes.py` with seeds 0 to 1,999 as one sweep, each network on its own random half of
the training images, and records the logits of the test images. The margin of each test image (the
logit of its class less the largest other one) is regressed on which training images a network saw.
The fit is judged by its correlation with the margins of networks that were held out, beside that of
a fit to the same margins of other networks, which is chance.

With halves of all images, a single one changes little. `--pool=1000` takes halves of 1,000 training
images instead, for three times the epochs, and validates on 1,000.

What is in `--workdir` is not trained again. Times a part of the same loop in PyTorch, on a machine
that does nothing else; else give `--untimed`. Writes `results/influence.json`, or
`results/influence_pool_1000.json`, with `.md` and `.png`.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

import lenet_jax
from experiments import pytorch_loop, study
from lenet_jax import config as configs
from lenet_jax import data, machine
from lenet_jax.analysis.influence import (
    BLOCK,
    Design,
    choose_threshold,
    held_out_correlation,
    margins,
)
from lenet_jax.data import Dataset
from lenet_jax.errors import UserError
from lenet_jax.plots.style import (
    BLUE,
    FAINT,
    VERMILION,
    Figure,
    as_rgb,
    chart,
    key,
    styled,
)
from lenet_jax.statistics import chance, is_stuck, shortest, summarise
from lenet_jax.storage.sweep_dir import SweepDir
from lenet_jax.sweeps.collected import SweepResults
from lenet_jax.sweeps.file import sweep
from lenet_jax.training.training_set import find_indices, make_split

QUESTION = "Which training images move which test images?"
CONFIG = "configs/notes.py"
FEWEST_MEMBERS = 20
POOL = {"train.num_epochs": 36, "data.valid_examples": 1000}  # what `--pool` changes
SHOWN, BESIDE = 6, 5  # test images in the figure, and training images on either side of each


def train(members: int, changes: Mapping[str, Any], workdir: Path) -> SweepResults:
    """Trains what is missing: a network for each seed, on half of the images that may train."""
    base = configs.load(CONFIG, changes.items())
    half = len(data.load_section(base.data).train) // 2
    config = configs.replace(base, {"data.subset": half})
    return lenet_jax.train_sweep(config, sweep("seed", range(members)), workdir, record="logits")


def usable(results: SweepResults, dataset: Dataset) -> Int[np.ndarray, " m"]:
    """The rows of the networks that learned something: neither diverged nor stuck near chance."""
    level = chance(dataset.valid.labels)
    return np.flatnonzero(
        [
            row["status"] == "done" and not is_stuck(row["valid_accuracy"], level)
            for row in results.rows
        ]
    )


def find_masks(
    config: configs.Config, seeds: Sequence[int], dataset: Dataset
) -> Bool[np.ndarray, "m p"]:
    """Which training images the network of each seed saw."""
    masks = np.zeros((len(seeds), len(dataset.train)), bool)
    for mask, seed in zip(masks, seeds, strict=True):
        mask[find_indices(configs.replace(config, {"seed": seed}), dataset)] = True
    return masks


def measure(
    masks: Bool[np.ndarray, "m p"], targets: Float[np.ndarray, "m n"], dataset: Dataset
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The statistics of the regression, and test images of several classes with what moves them."""
    count, labels = len(masks), dataset.train.labels
    correlations = held_out_correlation(masks, targets)
    shuffled = np.random.default_rng(0).permutation(count)
    by_chance = held_out_correlation(masks, targets[shuffled])
    sizes = (count // 8, count // 4, count // 2)
    curve = {
        size: _spread(held_out_correlation(masks[:size], targets[:size]))
        for size in sizes
        if size >= FEWEST_MEMBERS
    } | {count: _spread(correlations)}
    threshold, design = choose_threshold(masks, targets), Design.of(masks)
    best = best_of_classes(correlations, dataset.test.labels)
    influential, same, shown = [], [], []
    for first in range(0, targets.shape[1], BLOCK):
        own = np.arange(first, min(first + BLOCK, targets.shape[1]))
        weights = design.weights(targets[:, own], threshold)
        influential.append(np.count_nonzero(weights, axis=0))
        strongest, raises = weights.argmax(axis=0), weights.max(axis=0) > 0
        same += (labels[strongest] == dataset.test.labels[own])[raises].tolist()
        shown += [_describe(weights[:, i - first], int(i)) for i in best if i in own]
    shown.sort(key=lambda one: -correlations[one["test_image"]])
    for one in shown:
        one["correlation"] = shortest(correlations[one["test_image"]])
    statistics = {
        "held_out_correlation": _spread(correlations),
        "by_chance": _spread(by_chance),
        "above_chance": float(np.mean(correlations > np.quantile(by_chance, 0.999))),
        "by_members": curve,
        "threshold": threshold,
        "influential": _spread(np.concatenate(influential).astype(float)),
        "same_class": sum(same) / max(len(same), 1),
        "margins": {"mean": float(targets.mean()), "sd": float(targets.std(axis=0).mean())},
        "correlations": list(map(shortest, correlations)),
        "correlations_by_chance": list(map(shortest, by_chance)),
    }
    return statistics, shown


def best_of_classes(
    correlations: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " shown"]:
    """The best predicted test image of each class, the best of them first."""
    order = np.argsort(-correlations, kind="stable")
    _, first = np.unique(labels[order], return_index=True)
    return order[np.sort(first)][:SHOWN]


def _spread(values: Float[np.ndarray, " n"]) -> dict[str, Any]:
    """Of the test images, which are not independent: no interval."""
    summary = summarise(values.tolist(), lower=-np.inf)
    kept = ("mean", "sd", "median", "quartiles")
    return {key: value for key, value in summary.to_json().items() if key in kept}


def _describe(weights: Float[np.ndarray, " p"], image: int) -> dict[str, Any]:
    """The training images that raise and that lower the margin of a test image most, if any do."""
    order = np.argsort(-weights, kind="stable")
    ends = {"helpful": order[:BESIDE], "harmful": order[::-1][:BESIDE]}
    signs = {"helpful": 1, "harmful": -1}
    return {
        "test_image": image,
        **{
            name: [
                {"train_image": int(i), "weight": shortest(weights[i])}
                for i in own
                if signs[name] * weights[i] > 0
            ]
            for name, own in ends.items()
        },
    }


@styled
def plot(answer: dict[str, Any]) -> Figure:
    """Draws the held-out correlations, and the images that move some test images most."""
    statistics, shown = answer["statistics"], answer["shown"]
    dataset = data.load_section(configs.load(CONFIG, answer["changes"].items()).data)
    members, images = answer["members"], len(statistics["correlations"])
    figure = chart(
        1200,
        640,
        f"Influence of training images: {CONFIG} on MNIST, n = {members:,} networks on halves of"
        f" {answer['train_images']:,} images",
        "left: margins of networks that were held out, against what the training images they"
        " saw predict; right: the best predicted test image of some classes",
    )
    (left, right), *_ = figure.subfigures(1, 2, squeeze=False, width_ratios=(2, 3))
    upper, lower = left.subplots(2, 1)
    for name, colour, line in (
        ("correlations", BLUE, "-"),
        ("correlations_by_chance", FAINT, "--"),
    ):
        look = {"histtype": "step", "color": colour, "linewidth": 1.5, "linestyle": line}
        upper.hist(statistics[name], 60, **look)
    upper.set(xlabel="correlation", ylabel=f"test images of {images:,}")
    counts, _ = np.histogram(statistics["correlations"], 60)
    upper.set_ylim(0, 1.6 * counts.max())  # chance has most of its own at 0
    names = ("held-out networks", BLUE), ("dashed: margins of other networks", FAINT)
    key(upper, names, "upper right")
    sizes = list(map(int, statistics["by_members"]))
    curve = statistics["by_members"].values()
    low, high = np.array([entry["quartiles"] for entry in curve]).T
    lower.fill_between(sizes, low, high, color=BLUE, alpha=0.2, linewidth=0)
    lower.plot(sizes, [entry["median"] for entry in curve], "o-", color=BLUE)
    lower.axhline(0, color=FAINT, linewidth=0.8)
    lower.set(xlabel="networks (log scale)", ylabel="held-out correlation", xscale="log")
    lower.set_xticks(sizes, [f"{size:,}" for size in sizes])
    lower.minorticks_off()
    lower.margins(y=0.3)
    key(lower, [("median test image; band: 25–75 %", BLUE)], "upper left")
    columns = 1 + 2 * BESIDE
    panels = right.subplots(len(shown), columns, squeeze=False)
    for axes in panels.ravel():
        axes.set_axis_off()
    for row, one in zip(panels, shown, strict=True):
        index = one["test_image"]
        _picture(row[0], as_rgb(dataset.test.images[index]), f"test {index}", FAINT)
        for name, colour, first in (("helpful", BLUE, 1), ("harmful", VERMILION, 1 + BESIDE)):
            for axes, each in zip(row[first:], one[name], strict=False):
                number, weight = each["train_image"], f"{each['weight']:+.2f}".replace("-", "−")
                pixels, label = as_rgb(dataset.train.images[number]), dataset.train.labels[number]
                name_of = dataset.class_names[label]
                _picture(axes, pixels, f"{number}\n{name_of}: {weight}", colour)
    note = f"test image | {BESIDE} that raise its margin | {BESIDE} that lower it:"
    right.suptitle(f"{note} training image, class: by (logits)", size=9)
    return figure


def _picture(axes: Any, pixels: np.ndarray, text: str, colour: str) -> None:
    axes.imshow(pixels)
    axes.set_title(text, size=7, color=colour, loc="center", pad=2)


def to_markdown(answer: dict[str, Any]) -> str:
    """The tables."""
    statistics = answer["statistics"]
    spread, by_chance = statistics["held_out_correlation"], statistics["by_chance"]
    lines = [
        "# Influence of training images",
        "",
        f"`python -m experiments.influence --members={answer['members']}`"
        + "".join(f", {key}={value}" for key, value in answer["changes"].items())
        + f": {answer['members']:,} networks, each on {answer['subset']:,} of"
        f" {answer['train_images']:,} training images, {answer['left_out']} of them left out"
        " (diverged, or stuck near chance).",
        "",
        "The margin of each test image is regressed (lasso) on which training images a network saw."
        " Correlation of prediction and margin over networks that were held out (five folds):",
        "",
        "| networks | mean over test images | median | 25 % | 75 % |",
        "|---|---|---|---|---|",
    ]
    rows = [(f"{int(size):,}", entry) for size, entry in statistics["by_members"].items()]
    rows.append(("margins of other networks (chance)", by_chance))
    for name, entry in rows:
        low, high = entry["quartiles"]
        cells = (entry["mean"], entry["median"], low, high)
        lines.append(f"| {name} | {' | '.join(f'{cell:.3f}' for cell in cells)} |")
    lines += [
        "",
        f"{100 * statistics['above_chance']:.1f} % of the test images are predicted better than"
        " 99.9 % are by chance. The training image that raises a test image's margin most is of its"
        f" class for {100 * statistics['same_class']:.1f} % of those that any raises (by chance"
        " about 10 %).",
        "",
        f"The best predicted test image, {answer['shown'][0]['test_image']}, has a correlation of"
        f" {answer['shown'][0]['correlation']:.2f}; the mean over all is {spread['mean']:.3f}.",
    ]
    if text := pytorch_loop.sentence(answer["seconds"], answer["pytorch"]):
        lines += ["", text]
    return "\n".join(lines) + "\n"


def analyse(results: SweepResults, dataset: Dataset) -> dict[str, Any]:
    """What is measured of a trained sweep.

    Raises:
      UserError: too few networks learned anything.
    """
    kept = usable(results, dataset)
    if len(kept) < FEWEST_MEMBERS:
        raise UserError(f"{len(kept)} networks learned something; needed are {FEWEST_MEMBERS}")
    config = configs.from_dict(SweepDir(results.path).config())
    seeds = [results.rows[row]["seed"] for row in kept]
    masks = find_masks(config, seeds, dataset)
    labels, logits = dataset.test.labels, results.logits
    targets = np.stack([margins(logits[int(row)], labels) for row in kept]).astype(np.float64)
    statistics, shown = measure(masks, targets, dataset)
    return {
        "members": len(results.rows),
        "left_out": len(results.rows) - len(kept),
        "subset": config.data.subset,
        "train_images": len(dataset.train),
        "statistics": statistics,
        "shown": shown,
    }


def main() -> None:
    """Trains what is missing, measures, and writes the results."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--members", type=int, default=2000, help="seeds, from 0")
    parser.add_argument("--epochs", type=int, help="other than the config's, to try it")
    parser.add_argument(
        "--pool", type=int, help="of so many training images each network sees half; default: all"
    )
    parser.add_argument("--untimed", action="store_true", help="say no times: of a busy machine")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder to write to")
    parser.add_argument("--workdir", type=Path, help="default: runs/ and the results' name")
    arguments = parser.parse_args()
    if arguments.members < FEWEST_MEMBERS:
        parser.error(f"--members: a regression needs at least {FEWEST_MEMBERS}")
    changes = {"data.train_examples": arguments.pool, **POOL} if arguments.pool else {}
    changes |= {"train.num_epochs": arguments.epochs} if arguments.epochs else {}
    name = f"influence_pool_{arguments.pool}" if arguments.pool else "influence"
    results = train(arguments.members, changes, arguments.workdir or Path("runs", name))
    config = configs.load(CONFIG, changes.items())
    answer = {"question": QUESTION, "config": CONFIG, "changes": changes}
    dataset = data.load_section(config.data)
    answer |= analyse(results, dataset)
    answer["seconds"] = pytorch_loop.training_seconds(results.rows)
    answer["pytorch"] = None
    if not arguments.untimed:
        half = configs.replace(config, {"data.subset": answer["subset"]})
        own = dataclasses.replace(dataset, train=make_split(half, dataset))
        answer["pytorch"] = pytorch_loop.time_loop(half, len(results.rows), own)
    answer["environment"] = machine.environment((*machine.PACKAGES, "scipy"))
    study.write(arguments.results / f"{name}.json", answer, plot, to_markdown)


if __name__ == "__main__":
    main()
