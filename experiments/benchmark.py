"""Compares the speed of lenet-jax with that of PyTorch and Flax on the same machine.

    python -m experiments.benchmark
    python -m experiments.benchmark --turns=3 --cases=train --networks=lenet5

Each peer runs in its own worker process. The workers take turns: while one works, the others wait
on their standard input and leave the cores idle. Before anything is timed, all peers take a few
steps from the same weights, and their losses must agree. A ratio compares two peers within one
round; the median over the rounds is reported. The PyTorch peers need `pip install torch`; without
it the other peers still run. Writes `results/benchmark_DEVICE.json` and `.png`. The cases
`accuracy`, `checkpoint` and `whole_job` run other scripts, which write their own results.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from experiments import study
from experiments.module_peers import MODULE_PEERS, MODULES, multiplications
from experiments.peers import PEERS, POPULATIONS, Network
from experiments.worker import OURS, Worker
from lenet_jax.plots.style import BLUE, HEADER, WIDTH, Figure, chart, styled, write

QUESTION = "How fast is lenet-jax compared with PyTorch and Flax on the same machine?"
NETWORKS = {"notes": Network((6, 12)), "lenet5": Network((6, 16))}
IMAGES_PER_TURN = 12_800
OTHERS = "#b0b0b0"  # the bars of other libraries
TOLERANCE = 2e-4  # relative, for the losses of the first steps
CASES = ("train", "evaluate", "populations", "start", "accuracy", "checkpoint", "whole_job")
SCRIPTS = {
    "accuracy": ("experiments.time_to_accuracy", "--config=configs/fast.py"),
    "checkpoint": ("experiments.checkpoint_cost",),
    "whole_job": ("experiments.whole_job",),
}


def flops_per_image(name: str, *, training: bool) -> int:
    """Floating-point operations per image; a multiply-add counts as two.

    Training computes each layer's product three times: forward, for the weight gradient, and for
    the input gradient, which the first layer does not need. All products count as dense, although
    max-pooling sends back only one cotangent of four. Bias, pooling and ReLU are not counted.
    """
    first, *rest = _multiplications(name)
    return 2 * (2 * first + 3 * sum(rest) if training else first + sum(rest))


def _multiplications(name: str) -> list[int]:
    if name in MODULES:
        return multiplications(name)
    from flax import nnx  # late: the workers come first

    from lenet_jax.nn.lenet import LeNet

    model = nnx.eval_shape(lambda: LeNet(*NETWORKS[name], rngs=nnx.Rngs(0)))
    return [layer.multiplications for layer in model.layer_sizes().values()]


def compare(workers: list[Worker], name: str, turns: int, cases: list[str]) -> list[dict[str, Any]]:
    """Times all cases of one network; a record per case."""
    rng = np.random.default_rng(1)
    make = {"do": "make", "network": NETWORKS[name]} if name in NETWORKS else {"network": name}
    for worker in workers:  # at first without dropout, so that the losses must agree
        worker.ask(**{"do": "make module", "dropout": False} | make)
    # Batch normalisation amplifies rounding: after some steps every peer goes its own way.
    steps = 3 if name == "flax_mnist" else 10
    first = rng.integers(0, 55_000, (steps, 1, 64)).tolist()
    losses = {
        worker.peer: [worker.ask(do="train", indices=step)["answer"] for step in first]
        for worker in workers
    }
    for peer, actual in losses.items():
        if not np.allclose(actual, losses[OURS], rtol=TOLERANCE):
            raise SystemExit(f"{name}: the losses of {peer} differ: {actual} / {losses[OURS]}")
    print(f"{name}: the losses of {steps} steps agree", flush=True)
    if name in MODULES:
        for worker in workers:
            worker.ask(**{"do": "make module", "dropout": True} | make)

    requests: dict[str, tuple[dict[str, Any], int]] = {}
    if "train" in cases:
        for batch in (8, 64) if name == "lenet5_1998" else (8, 64, 512):
            indices = rng.integers(0, 55_000, (IMAGES_PER_TURN // batch, batch)).tolist()
            requests[f"train, batch {batch}"] = ({"do": "train", "indices": indices}, 1)
    if "evaluate" in cases:
        requests["evaluate 10,000"] = ({"do": "evaluate"}, 0)
    records = []
    for case, (request, training) in requests.items():
        images = IMAGES_PER_TURN if training else 10_000
        seconds: dict[str, list[float]] = {worker.peer: [] for worker in workers}
        for turn in range(turns + 1):
            for worker in workers:
                took = worker.ask(**request)["seconds"]
                if turn > 0:  # the first compiles and warms up
                    seconds[worker.peer].append(took)
        records.append(describe(name, case, images, seconds, bool(training)))
        print(line(records[-1]), flush=True)
    return records


def compare_populations(name: str, turns: int, peers: list[str]) -> list[dict[str, Any]]:
    """Compares populations with training one network after the other; a record per size.

    A peer's time for n networks is extrapolated as n times its measured time for one.
    """
    network, rng = NETWORKS[name], np.random.default_rng(1)
    indices = rng.integers(0, 55_000, (IMAGES_PER_TURN // 64, 64)).tolist()
    workers = [Worker(peer) for peer in (*peers, *POPULATIONS)]
    seconds: dict[str, list[float]] = {worker.peer: [] for worker in workers}
    for worker in workers:
        worker.ask(do="make", network=network)
    for turn in range(turns + 1):
        for worker in workers:
            took = worker.ask(do="train", indices=indices)["seconds"]
            if turn > 0:  # the first compiles and warms up
                seconds[worker.peer].append(took)
    for worker in workers:
        worker.close()
    records = []
    for population in POPULATIONS:
        size = int(population.rpartition(" ")[2])
        each = [took / size for took in seconds[population]]
        median = statistics.median(each)
        record = {
            "network": name,
            "members": size,
            "microseconds_per_model_image": 1e6 * median / IMAGES_PER_TURN,
            "model_images_per_second": IMAGES_PER_TURN / median,
            "ratio_median": {
                peer: statistics.median(
                    other / ours for other, ours in zip(seconds[peer], each, strict=True)
                )
                for peer in peers
            },
        }
        records.append(record)
        ratios = ", ".join(f"{v:.2f}× {peer}" for peer, v in record["ratio_median"].items())
        micro = record["microseconds_per_model_image"]
        print(f"{name}, {population}: {micro:.1f} µs per image and member; {ratios}", flush=True)
    return records


def describe(
    name: str, case: str, images: int, seconds: dict[str, list[float]], training: bool
) -> dict[str, Any]:
    """A case's record: the speed of each peer, and the ratio of ours to it over the rounds."""
    peers = {}
    for peer, took in seconds.items():
        ratios = [other / ours for other, ours in zip(took, seconds[OURS], strict=True)]
        peers[peer] = {
            "images_per_second": images / statistics.median(took),
            "microseconds_per_image": 1e6 * statistics.median(took) / images,
            "ratio_median": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
    flops = flops_per_image(name, training=training)
    rate = flops * peers[OURS]["images_per_second"]
    return {"network": name, "case": case, "flops_per_image": flops, "flops": rate, "peers": peers}


def line(record: dict[str, Any]) -> str:
    """A case's record as one line of text."""
    ours = record["peers"][OURS]["images_per_second"]
    phrases = [f"{record['network']}, {record['case']}: {ours:,.0f} images/s"]
    for peer, values in record["peers"].items():
        if peer != OURS:
            low, median, high = (values[f"ratio_{which}"] for which in ("min", "median", "max"))
            phrases.append(f"{median:.1f}× {peer} ({low:.1f}–{high:.1f})")
    return "; ".join(phrases)


def measure_start(repeats: int = 3) -> dict[str, Any]:
    """Times `main` over two epochs: once with an empty compilation cache, then with a warm one."""
    starts: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(Path(folder, "cache"))}
        for run in range(repeats + 1):
            workdir = Path(folder, f"run{run}")
            started = time.perf_counter()
            subprocess.run(
                [
                    *(sys.executable, "-m", "lenet_jax.main", "--config=configs/notes.py"),
                    *(f"--workdir={workdir}", "--config.train.num_epochs=2"),
                ],
                check=True,
                stdout=subprocess.DEVNULL,
                env=environment,
            )
            seconds = time.perf_counter() - started
            summary = json.loads((workdir / "summary.json").read_text())
            starts["warm" if run else "cold"].append(
                {
                    "seconds_to_first_step": summary["seconds_to_first_step"],
                    "seconds_beyond_training": seconds - summary["train_seconds"],
                }
            )
    medians = {
        cache: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for cache, runs in starts.items()
    }
    for cache, values in medians.items():
        print(
            f"main, {cache} cache: first step after {values['seconds_to_first_step']:.1f} s,"
            f" {values['seconds_beyond_training']:.1f} s beyond training",
            flush=True,
        )
    return medians


@styled
def plot(answer: dict[str, Any]) -> Figure:
    """Draws the speed of every peer in every case."""
    from matplotlib.transforms import blended_transform_factory

    records = answer["cases"]
    rows = sum(len(record["peers"]) + 1.4 for record in records)
    machine = f"{answer['environment']['processor']}, {answer['environment']['cores']} cores"
    figure = chart(
        WIDTH,
        HEADER + 70 + round(20 * rows),
        f"Speed on MNIST, images per second: {machine}, median of n = {answer['turns']} rounds",
        f"in brackets: as a fraction of {OURS}'s, median of the ratios within each round",
        margins=(150, 20, 50, 0),
    )
    axes, row, names = figure.subplots(), 0.0, {}
    at = blended_transform_factory(figure.transFigure, axes.transData)
    for record in records:
        case = f"{record['network']}, {record['case']}"
        write(axes, 16 / WIDTH, row, case, weight="bold", transform=at)
        for peer, speed in record["peers"].items():
            row += 1
            names[row], rate = peer, speed["images_per_second"]
            axes.barh(row, rate, 0.8, color=BLUE if peer == OURS else OTHERS)
            text = f"{rate:,.0f}"
            text += "" if peer == OURS else f"  (1/{speed['ratio_median']:.1f})"
            place = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
            axes.annotate(text, (rate, row), size=8, **place)
        row += 1.4
    axes.set_yticks(list(names), list(names.values()), size=8)
    axes.set_ylim(row - 0.8, -0.6)
    axes.margins(x=0.16)
    axes.set_xlabel("images per second")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params("y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    return figure


def main() -> None:
    """Runs the cases and writes the results."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--turns", type=int, default=7, help="rounds to time")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    names = [*NETWORKS, *MODULES]
    parser.add_argument("--networks", nargs="+", default=names, choices=names)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder to write to")
    arguments = parser.parse_args()
    peers = list(PEERS)
    if find_spec("torch") is None:
        print("PyTorch is not installed: `pip install torch` adds it to the comparison")
        peers = [peer for peer in peers if not peer.startswith("torch")]
    workers = [Worker(peer) for peer in peers]
    peak = workers[peers.index(OURS)].ask(do="matmul")["answer"]
    print(f"peak of a float32 matrix product: {peak / 1e9:.0f} GFLOP/s", flush=True)
    records = []
    for name in arguments.networks:
        own = [worker for worker in workers if name in NETWORKS or worker.peer in MODULE_PEERS]
        records += compare(own, name, arguments.turns, arguments.cases)
    for worker in workers:
        worker.close()
    for record in records:
        record["share_of_peak"] = record["flops"] / peak
    populations = []
    if "populations" in arguments.cases:
        sequential = [peer for peer in (OURS, "torch") if peer in peers]
        populations = compare_populations("lenet5", arguments.turns, sequential)
    start = measure_start() if "start" in arguments.cases else None
    for case, script in SCRIPTS.items():
        if case in arguments.cases:
            command = [sys.executable, "-m", *script, f"--results={arguments.results}"]
            subprocess.run(command, check=True)

    import jax

    from lenet_jax.machine import PACKAGES, environment

    versions = (*PACKAGES, "torch") if "torch" in peers else PACKAGES
    answer = {
        "question": QUESTION,
        "turns": arguments.turns,
        "matmul_peak_flops": peak,
        "cases": records,
        "populations": populations,
        "start": start,
        "environment": environment(versions),
    }
    device = jax.devices()[0].device_kind.lower().replace(" ", "_")
    study.write(arguments.results / f"benchmark_{device}.json", answer, plot if records else None)


if __name__ == "__main__":
    main()
