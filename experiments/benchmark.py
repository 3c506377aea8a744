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

from experiments.module_peers import MODULE_PEERS, MODULES, multiplications
from experiments.peers import PEERS, POPULATIONS, Network
from experiments.worker import OURS, Worker
from lenet_jax.storage.files import write_json

QUESTION = "How fast is lenet-jax compared with PyTorch and Flax on the same machine?"
NETWORKS = {"notes": Network((6, 12)), "lenet5": Network((6, 16))}
IMAGES_PER_TURN = 12_800
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
        for batch in (8, 64) if name == "lenet5_1998" else (64, 512):
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


def draw(records: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draws the speed of every peer in every case."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1 + 1.1 * len(records)), layout="constrained")
    axes = figure.subplots()
    peers = list(max((record["peers"] for record in records), key=len))
    colours = ("#7f7f7f", "#b0b0b0", "#d0a070", "#56b4e9", "#0072b2")
    height = 0.8 / len(peers)
    for i, peer in enumerate(peers):
        rates = [record["peers"][peer]["images_per_second"] for record in records]
        places = [row + (i - (len(peers) - 1) / 2) * height for row in range(len(records))]
        bars = axes.barh(places, rates, height * 0.9, color=colours[-len(peers) :][i], label=peer)
        ratios = [record["peers"][peer]["ratio_median"] for record in records]
        labels = [f"{rate:,.0f}" for rate in rates]
        if peer != OURS:
            labels = [f"{t}  (1/{ratio:.1f})" for t, ratio in zip(labels, ratios, strict=True)]
        axes.bar_label(bars, labels, padding=3, fontsize=8)
    names = [f"{record['network']}\n{record['case']}" for record in records]
    axes.set_yticks(range(len(records)), names)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set(xlabel="images per second (in brackets: fraction of lenet-jax's speed)", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=120)


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
    arguments.results.mkdir(exist_ok=True)
    file = arguments.results / f"benchmark_{device}.json"
    write_json(file, answer)
    if records:
        machine = f"{answer['environment']['processor']}, {answer['environment']['cores']} cores"
        what = "Networks" if set(arguments.networks) & set(MODULES) else "LeNet"
        title = f"{what} on MNIST, {machine}: median of {arguments.turns} rounds"
        draw(records, file.with_suffix(".png"), title)
    print(f"written to {file}")


if __name__ == "__main__":
    main()
