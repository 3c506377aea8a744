"""Whether sparse networks with the weights that they were drawn with learn as well as dense ones.

    python -m experiments.lottery_ticket

Iterative magnitude pruning of LeNet-300-100 (`configs/mlp.py`) and of LeNet (`configs/notes.py`): a
round trains a network, prunes a fifth of the weights that it has left, and starts again. `rewound`
starts at the initial weights, `rewound late` at those after an epoch. Beside them, as sparse:
`redrawn` has the masks of `rewound` and other initial weights, `random` the initial weights and
random masks. All seeds of a round and all four are members of one sweep, and train in one program.

The rounds are sweeps in `--workdir`, which are not trained again. Times a part of the same loop in
PyTorch, pruned too, on a machine that does nothing else; else give `--untimed`. Writes
`results/lottery_ticket.json`, `.md` and `.png`.

Source: Frankle and Carbin, "The lottery ticket hypothesis: finding sparse, trainable neural
networks" (2019), figures 1 and 4; rewinding to an epoch: Frankle et al., "Stabilizing the lottery
ticket hypothesis" (2019). Other than there, training is short, on part of MNIST, and the last layer
is pruned as fast as the others.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import lenet_jax
from experiments import pytorch_loop, study
from lenet_jax import config as configs
from lenet_jax import data, machine
from lenet_jax.errors import UserError
from lenet_jax.plots.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    VERMILION,
    WIDTH,
    Figure,
    chart,
    label_ends,
    line_look,
    styled,
)
from lenet_jax.sweeps.collected import SweepResults
from lenet_jax.sweeps.file import Sweep, chain, sweep, zipit

QUESTION = "Do sparse networks with their own initial weights learn as well as dense ones?"
AMOUNT = 0.2  # of the weights left, pruned in each round
REDRAWN = 1000  # added to the seed that draws other initial weights


class Network(NamedTuple):
    """A network that is pruned.

    Attributes:
      title: its name.
      config: its file.
      scope: a fifth of each layer is pruned, or of all weights together, as conv1 has few.
    """

    title: str
    config: str
    scope: str


NETWORKS = {
    "mlp": Network("LeNet-300-100", "configs/mlp.py", "layer"),
    "lenet": Network("LeNet", "configs/notes.py", "global"),
}
# Of each treatment, how the figure names it and draws it.
TREATMENTS = {
    "rewound": ("rewound to the start", BLUE, "-"),
    "rewound late": ("rewound to epoch {rewind}", GREEN, "-."),
    "redrawn": ("the same masks, redrawn weights", VERMILION, "--"),
    "random": ("random masks", FAINT, ":"),
}
MEASURES = {
    "test_accuracy": "test error, %",
    "first_epoch": "validation error after an epoch, %",
}


def plan_round(folder: Path, number: int, seeds: Sequence[int], scope: str, rewind: int) -> Sweep:
    """The members of a round: of each treatment, one of each seed.

    Args:
      folder: of the rounds.
      number: of the round, from 1; round 0 is that of the dense networks.
      seeds: of the networks.
      scope: see `Network`.
      rewind: the epoch to which `rewound late` goes back.
    """
    count, dense, before = len(seeds), folder_of(folder, 0), folder_of(folder, number - 1)

    def last(treatment: str) -> list[str]:
        """The networks of the round before, by whose weights this one prunes."""
        place = 0 if number == 1 else list(TREATMENTS).index(treatment)
        return [f"{before}:{place * count + index}" for index in range(count)]

    def begin(epoch: int) -> list[str]:
        return [f"{dense}:{index}@{epoch}" for index in range(count)]

    def treat(
        masks: str, weights: Sequence[str | None], method: str = "magnitude", shift: int = 0
    ) -> Sweep:
        return zipit(
            sweep("seed", seeds),
            sweep("train.initial_weights", weights),
            sweep("prune.weights", last(masks)),
            sweep("prune.method", [method] * count),
            sweep("seeds.init", [seed + shift for seed in seeds]),
            sweep("prune.amount", [AMOUNT] * count),
            sweep("prune.scope", [scope] * count),
        )

    return chain(
        treat("rewound", begin(0)),
        treat("rewound late", begin(rewind)),
        treat("rewound", [None] * count, shift=REDRAWN),
        treat("random", begin(0), method="random"),
    )


def folder_of(folder: Path, number: int) -> Path:
    """The sweep of a round."""
    return folder / f"round_{number:02d}"


def train(
    config: configs.Config, folder: Path, rounds: int, seeds: Sequence[int], scope: str, rewind: int
) -> list[dict[str, Any]]:
    """Trains what is missing of all rounds, and gives the results of each."""
    dense = lenet_jax.train_sweep(
        config, sweep("seed", seeds), folder_of(folder, 0), record="weights", record_every=1
    )
    _require_done(dense)
    total = _count_kernels(dense)
    measured = [{"left": 1.0, "seconds": _seconds(dense)} | {"dense": _measure(dense, seeds, 0)}]
    for number in range(1, rounds + 1):
        plan = plan_round(folder, number, seeds, scope, rewind)
        results = lenet_jax.train_sweep(config, plan, folder_of(folder, number), save="all")
        _require_done(results)
        left = 1 - float(results.rows[0]["pruned_weights"]) / total
        row: dict[str, Any] = {"left": round(left, 6), "seconds": _seconds(results)}
        for place, name in enumerate(TREATMENTS):
            row[name] = _measure(results, seeds, place)
        measured.append(row)
    return measured


def _require_done(results: SweepResults) -> None:
    if failed := [row["member"] for row in results.rows if row["status"] != "done"]:
        raise UserError(
            f"{results.path}: member {failed[0]} diverged, and cannot be pruned further"
        )


def _seconds(results: SweepResults) -> float:
    return pytorch_loop.training_seconds(results.rows)


def _count_kernels(results: SweepResults) -> int:
    """The weights of a network that can be pruned."""
    return sum(a.size for a in results.network(0).state_dict.values() if a.ndim > 1)


def _measure(results: SweepResults, seeds: Sequence[int], place: int) -> dict[str, list[float]]:
    """The measures of each seed, in percent, of the members at a place among the treatments."""
    members = range(place * len(seeds), (place + 1) * len(seeds))
    first = [float(results.curves[member]["valid_accuracy"][0]) for member in members]
    test = [float(results.rows[member]["test_accuracy"]) for member in members]
    values = {"test_accuracy": test, "first_epoch": first}
    return {name: [round(100 * each, 4) for each in own] for name, own in values.items()}


def curve(rounds: Sequence[dict[str, Any]], treatment: str, measure: str) -> list[list[float]]:
    """The values of each seed in each round; those of round 0 are the dense networks'."""
    return [row[treatment if treatment in row else "dense"][measure] for row in rounds]


@styled
def plot(answer: dict[str, Any]) -> Figure:
    """Draws each measure against the share of weights that are left, with bands."""
    networks = answer["networks"]
    figure = chart(
        WIDTH + 100,
        820,
        f"Pruned networks on MNIST ({answer['train_examples']:,} images,"
        f" {answer['epochs']} epochs), n = {answer['seeds']} seeds",
        "lines: mean; bands: all seeds; horizontal: the mean of the dense networks",
    )
    panels = figure.subplots(len(MEASURES), len(networks), sharex="col", squeeze=False)
    for row, (measure, label) in zip(panels, MEASURES.items(), strict=True):
        for axes, network in zip(row, networks.values(), strict=True):
            rounds, ends = network["rounds"], []
            left = np.array([100 * each["left"] for each in rounds])
            for place, (treatment, (words, colour, line)) in enumerate(TREATMENTS.items()):
                errors = 100 - np.array(curve(rounds, treatment, measure))
                means, marker = errors.mean(axis=1), line_look(place)[1]
                axes.plot(left, means, line, color=colour, marker=marker)
                band = {"color": colour, "alpha": 0.18, "linewidth": 0}
                axes.fill_between(left, errors.min(axis=1), errors.max(axis=1), **band)
                ends.append((left, means, words.format(rewind=answer["rewind"]), colour))
            axes.axhline(100 - np.mean(rounds[0]["dense"][measure]), color=INK, linewidth=0.8)
            axes.set(xscale="log", yscale="log", xlim=(105, min(left) / 1.05))
            ticks = [tick for tick in (100, 50, 20, 10, 5, 2, 1) if tick >= min(left)]
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            low, high = axes.get_ylim()
            ticks = [tick for tick in (1, 2, 3, 5, 10, 20, 50, 90) if low <= tick <= high]
            axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
            axes.set_ylabel(f"{label} (log scale)")
            if network is list(networks.values())[-1]:
                label_ends(axes, ends)
    for top, bottom, name in zip(panels[0], panels[-1], networks, strict=True):
        of = "of each layer" if NETWORKS[name].scope == "layer" else "of all weights"
        top.set_title(f"{NETWORKS[name].title}, a fifth {of} each round")
        bottom.set_xlabel("weights left, % (log scale)")
    return figure


def to_markdown(answer: dict[str, Any]) -> str:
    """The table of each network, and the times."""
    lines = [
        "# Lottery tickets",
        "",
        f"`python -m experiments.lottery_ticket --seeds={answer['seeds']}"
        f" --rounds={answer['rounds']}`: test accuracy, %, mean ± standard deviation over"
        f" {answer['seeds']} seeds, {answer['epochs']} epochs on {answer['train_examples']:,}"
        " images of MNIST. Each row is one sweep.",
    ]
    names = [words.format(rewind=answer["rewind"]) for words, *_ in TREATMENTS.values()]
    for network_name, network in answer["networks"].items():
        rounds = network["rounds"]
        lines += [
            "",
            f"## {NETWORKS[network_name].title}",
            "",
            f"| weights left, % | {' | '.join(names)} |",
            f"|---{'|---' * len(names)}|",
        ]
        for row in rounds:
            cells = [_cell(*curve([row], name, "test_accuracy")) for name in TREATMENTS]
            lines.append(f"| {100 * row['left']:.1f} | {' | '.join(cells)} |")
        seconds = sum(row["seconds"] for row in rounds)
        if text := pytorch_loop.sentence(seconds, network["pytorch"]):
            lines += ["", text]
    loops = [network["pytorch"] for network in answer["networks"].values()]
    if len(loops) > 1 and None not in loops:
        all_rounds = (row for own in answer["networks"].values() for row in own["rounds"])
        ours, theirs = (sum(row["seconds"] for row in each) for each in (all_rounds, loops))
        lines += [
            "",
            f"All networks together: {ours:,.0f} s of training, and {theirs:,.0f} s of such loops,"
            f" {theirs / ours:.1f} times as long.",
        ]
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


def make_config(network: Network, epochs: int, train_examples: int) -> configs.Config:
    """Plain SGD at a constant rate, so that rewinding weights rewinds all but the momentum."""
    changes = {
        "train.num_epochs": epochs,
        "data.train_examples": train_examples,
        "optimizer.name": "sgd",
        "optimizer.learning_rate": 0.02,
        "optimizer.momentum": 0.9,
        "optimizer.weight_decay": 0.0,
        "schedule.name": "constant",
    }
    return configs.load(network.config, changes.items())


def main() -> None:
    """Trains what is missing, and writes the results after each network."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="of mlp, lenet")
    parser.add_argument("--seeds", type=int, default=20, help="from 0; at least 2")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rewind", type=int, default=1, help="the epoch to go back to")
    parser.add_argument("--train_examples", type=int, default=10_000, help="of MNIST")
    parser.add_argument("--untimed", action="store_true", help="say no times: of a busy machine")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder to write to")
    parser.add_argument("--workdir", type=Path, default=Path("runs/lottery_ticket"))
    arguments = parser.parse_args()
    chosen = arguments.networks.split(",")
    if not set(chosen) <= NETWORKS.keys():
        parser.error(f"--networks={arguments.networks}: one or more of {','.join(NETWORKS)}")
    if arguments.seeds < 2 or not 1 <= arguments.rewind <= arguments.epochs:
        parser.error("at least two --seeds, and --rewind to one of the --epochs")
    answer = {
        "question": QUESTION,
        "amount": AMOUNT,
        **{name: getattr(arguments, name) for name in ("seeds", "rounds", "epochs", "rewind")},
        "train_examples": arguments.train_examples,
        "networks": {},
    }
    for name in chosen:
        network = NETWORKS[name]
        config = make_config(network, arguments.epochs, arguments.train_examples)
        seeds = range(arguments.seeds)
        folder = arguments.workdir / name
        rounds = train(config, folder, arguments.rounds, seeds, network.scope, arguments.rewind)
        trained = len(seeds) * (1 + arguments.rounds * len(TREATMENTS))
        loop = None
        if not arguments.untimed:
            dataset = data.load_section(config.data)
            loop = pytorch_loop.time_loop(config, trained, dataset, pruned=AMOUNT)
        answer["networks"][name] = {
            "config": configs.to_dict(config),
            "scope": network.scope,
            "rounds": rounds,
            "trained": trained,
            "pytorch": loop,
        }
        answer["environment"] = machine.environment(machine.PACKAGES)
        study.write(arguments.results / "lottery_ticket.json", answer, plot, to_markdown)


if __name__ == "__main__":
    main()
