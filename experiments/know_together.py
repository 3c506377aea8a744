"""What many seeds of one network know together, and how far apart they are.

    python -m experiments.know_together --seeds=64

Trains `configs/notes.py` with seeds 0 to 63 as one sweep that records logits and weights. Measures
ensembles of 1, 2, 4, … members on the test images: accuracy, likelihood and calibration, also after
temperature scaling on the validation images. Ensembles of one size share no member. Then the loss
barrier on the line between two networks, for disjoint pairs, before and after the hidden units of
one are permuted like those of the other. If PyTorch is installed, a part of the same trainings is
timed as a loop.

What is in `--workdir` is not computed again. Writes `results/know_together.json`, `.md` and `.png`.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import lenet_jax
from experiments import pytorch_loop, study
from lenet_jax import config as configs
from lenet_jax import machine
from lenet_jax.analysis.alignment import align
from lenet_jax.analysis.barrier import barrier, losses_between
from lenet_jax.analysis.ensemble import Scores, size_curve
from lenet_jax.analysis.loss import mean_loss
from lenet_jax.data import Dataset
from lenet_jax.errors import UserError
from lenet_jax.plots.style import BLUE, VERMILION, WIDTH, Figure, chart, label_ends, styled
from lenet_jax.statistics import FEWEST, shortest, summarise
from lenet_jax.sweeps.collected import SweepResults
from lenet_jax.sweeps.file import sweep

QUESTION = "What do many seeds of one network know together, and are they one basin?"
CONFIG = "configs/notes.py"
SHARES = np.linspace(0, 1, 11, dtype=np.float32)  # of the second network, on the line
SCORES = {
    "accuracy": ("test accuracy, %", 100.0),
    "loss": ("negative log-likelihood, nats", 1.0),
    "calibration_error": ("expected calibration error, %", 100.0),
}
CURVES = {"raw": "as trained", "scaled": "temperature-scaled"}
KINDS = {"before": "as trained", "after": "hidden units aligned"}


def measure_ensembles(population: SweepResults, dataset: Dataset) -> dict[str, dict[int, Any]]:
    """The scores of disjoint ensembles by size, of the logits and with a temperature."""
    test = np.asarray(population.logits)
    valid = np.asarray(population.logits_of("valid"))
    sizes = [2**power for power in range(len(test).bit_length())]
    labels = dataset.test.labels
    curves = {
        "raw": size_curve(test, labels, sizes),
        "scaled": size_curve(test, labels, sizes, valid, dataset.valid.labels),
    }
    return {
        name: {size: _statistics(ensembles) for size, ensembles in curve.items()}
        for name, curve in curves.items()
    }


def _statistics(ensembles: list[Scores]) -> dict[str, Any]:
    entry: dict[str, Any] = {"n": len(ensembles)}
    for name in SCORES:
        values = [getattr(scores, name) for scores in ensembles]
        upper = np.inf if name == "loss" else 1.0
        entry[name] = summarise(values, upper).to_json() | {"values": list(map(shortest, values))}
    return entry


def measure_barriers(
    population: SweepResults, dataset: Dataset, file: Path
) -> list[dict[str, float]]:
    """The barrier of each disjoint pair in nats, before and after alignment.

    Pairs that are in `file` are not measured again; the others are appended to it.
    """
    lines = file.read_text().splitlines() if file.exists() else []
    done = {row["pair"]: row for row in map(json.loads, lines)}
    first = population.network(0)
    graphdef, _ = nnx.split(first.model)
    images, labels = jnp.asarray(dataset.test.images), jnp.asarray(dataset.test.labels)
    loss = mean_loss(graphdef, images, labels, first.mean, first.std)
    shares = jnp.asarray(SHARES)

    @jax.jit
    def measure(start: nnx.State, end: nnx.State) -> jax.Array:
        return barrier(losses_between(loss, start, end, shares), shares)

    count = len(population.rows) // 2
    for pair in range(count):
        if pair not in done:
            started = time.perf_counter()
            start, end = (
                nnx.state(population.network(member).model) for member in (2 * pair, 2 * pair + 1)
            )
            before, after = measure(start, end), measure(start, align(end, start))
            done[pair] = {"pair": pair, "before": shortest(before), "after": shortest(after)}
            done[pair]["seconds"] = round(time.perf_counter() - started, 3)
            with file.open("a") as stream:
                stream.write(json.dumps(done[pair]) + "\n")
            print(f"pair {pair}: {before:.3f} nats, aligned {after:.3f}", flush=True)
    return [done[pair] for pair in range(count)]


@styled
def plot(answer: dict[str, Any]) -> Figure:
    """Draws the scores against the size of ensembles, and the distribution of the barriers."""
    epochs = configs.load(CONFIG, answer["changes"].items()).train.num_epochs
    looks = ((VERMILION, "--", "s"), (BLUE, "-", "o"))
    figure = chart(
        WIDTH,
        760,
        f"What networks know together: {answer['config']} on MNIST, {epochs} epochs,"
        f" n = {answer['seeds']} seeds",
        "dots: ensembles that share no member; lines: their mean; all on the test images",
    )
    *panels, last = figure.subplots(2, 2).flat
    sizes = list(map(int, answer["ensembles"]["raw"]))
    for axes, (score, (label, factor)) in zip(panels, SCORES.items(), strict=True):
        ends = []
        for (curve, name), (colour, line, marker) in zip(CURVES.items(), looks, strict=True):
            if score == "accuracy" and curve == "scaled":
                continue  # a temperature leaves the answers as they are
            entries = [entry[score] for entry in answer["ensembles"][curve].values()]
            beside = 1.06 if curve == "scaled" else 1 / 1.06
            for size, entry in zip(sizes, entries, strict=True):
                values = factor * np.array(entry["values"])
                look = {"color": colour, "alpha": 0.3, "markersize": 2.5}
                axes.plot([size * beside] * len(values), values, marker, **look)
            means = np.array([factor * entry["mean"] for entry in entries])
            axes.plot(sizes, means, line, color=colour)
            ends.append((np.array(sizes), means, name, colour))
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, list(map(str, sizes)))
        axes.set(xlabel="members of an ensemble (log scale)", title=label)
        label_ends(axes, ends)
    sides = (-6, "right"), (8, "left")  # on which the names stand
    for (kind, name), (colour, line, _), (by, side) in zip(
        KINDS.items(), looks, sides, strict=True
    ):
        values = np.sort([row[kind] for row in answer["barriers"]])
        share = 100 * np.arange(len(values) + 1) / len(values)
        last.step([values[0], *values], share, line, where="post", color=colour)
        middle = float(np.median(values)), 50
        place = {"xytext": (by, 0), "textcoords": "offset points", "ha": side, "size": 8}
        last.annotate(name, middle, color=colour, **place)
    pairs = f"{len(answer['barriers'])} disjoint pairs"
    last.set(xlabel="loss barrier, nats", title=f"{pairs} up to a loss barrier, %", ylim=(0, 100))
    return figure


def to_markdown(answer: dict[str, Any]) -> str:
    """The tables."""
    lines = [
        "# What many seeds know together",
        "",
        f"`python -m experiments.know_together --seeds={answer['seeds']}`"
        + "".join(f", {key}={value}" for key, value in answer["changes"].items())
        + ": mean ± standard deviation over ensembles that share no member; n: their number.",
        "",
        "| members | n | accuracy, % | likelihood, nats | calibration, % | likelihood, scaled |"
        " calibration, scaled |",
        "|---|---|---|---|---|---|---|",
    ]
    raw, scaled = (answer["ensembles"][name] for name in CURVES)
    for size, entry in raw.items():
        cells = [
            _cell(entry["accuracy"], 100, 2),
            *(
                _cell(e["loss"], 1, 4) + " | " + _cell(e["calibration_error"], 100, 2)
                for e in (entry, scaled[size])
            ),
        ]
        lines.append(f"| {size} | {entry['n']} | {' | '.join(cells)} |")
    lines += [
        "",
        "| loss barrier, nats | pairs | mean ± sd | smallest | largest |",
        "|---|---|---|---|---|",
    ]
    for kind, name in KINDS.items():
        values = np.array([row[kind] for row in answer["barriers"]])
        spread = f" ± {values.std(ddof=1):.3f}" if len(values) >= FEWEST else ""
        ends = f"{values.min():.3f} | {values.max():.3f}"
        lines.append(f"| {name} | {len(values)} | {values.mean():.3f}{spread} | {ends} |")
    if seconds := answer.get("seconds"):  # which earlier results lack
        measured = " and ".join(f"{seconds[key]:,.0f} s" for key in ("ensembles", "barriers"))
        lines += [
            "",
            pytorch_loop.sentence(seconds["training"], answer["pytorch"]),
            f"Ensembles and barriers took {measured}.",
        ]
    return "\n".join(lines) + "\n"


def _cell(entry: dict[str, Any], factor: float, digits: int) -> str:
    text = f"{factor * entry['mean']:.{digits}f}"
    if len(entry["values"]) < FEWEST:
        return text
    return f"{text} ± {factor * entry['sd']:.{digits}f}"


def main() -> None:
    """Trains what is missing, measures, and writes the results."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--seeds", type=int, default=64, help="from 0; at least 2")
    parser.add_argument("--epochs", type=int, help="other than the config's, to try it")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder to write to")
    parser.add_argument("--workdir", type=Path, default=Path("runs/know_together"))
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("--seeds: two networks at least have a barrier between them")
    changes = {"train.num_epochs": arguments.epochs} if arguments.epochs else {}
    config = configs.load(CONFIG, changes.items())
    population = lenet_jax.train_sweep(
        config,
        sweep("seed", range(arguments.seeds)),
        arguments.workdir / "sweep",
        record="logits,weights",
        record_split="test,valid",
    )
    if any(row["status"] != "done" for row in population.rows):
        raise UserError("a member diverged, so it has no logits")
    dataset = population.network(0).load_data(print)
    started = time.perf_counter()
    ensembles = measure_ensembles(population, dataset)
    seconds = {
        "training": pytorch_loop.training_seconds(population.rows),
        "ensembles": round(time.perf_counter() - started, 1),
    }
    barriers = measure_barriers(population, dataset, arguments.workdir / "barriers.jsonl")
    seconds["barriers"] = round(sum(row["seconds"] for row in barriers), 1)
    answer = {
        "question": QUESTION,
        "config": CONFIG,
        "changes": changes,
        "seeds": arguments.seeds,
        "ensembles": ensembles,
        "barriers": barriers,
        "seconds": seconds,
        "pytorch": pytorch_loop.time_loop(config, arguments.seeds, dataset),
        "environment": machine.environment((*machine.PACKAGES, "scipy")),
    }
    study.write(arguments.results / "know_together.json", answer, plot, to_markdown)


if __name__ == "__main__":
    main()
