"""Measures how time and memory grow with the sizes of network, image, batch, population, machine.

    python -m experiments.scaling

Changes one thing of `configs/notes.py` at a time: the channels, the side of the images, the batch,
the networks that are trained together, the cores. Each point is a process of its own, which
compiles, and trains for some seconds. Memory is what XLA plans for the state after a step and for
temporary arrays, so beside the images and the scratch of the C++ kernels. The points are measured
in turns, `--turns` times; the fastest counts. The slope between two points is
that of logarithms: 1 is in proportion. Beside the time of an image is that of a multiplication,
which would be the same at every size if nothing but arithmetic took time. Needs a machine that does
nothing else. Writes `results/scaling.json`, `.md` and `.png`.
"""

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from experiments import study
from lenet_jax import machine
from lenet_jax.plots.style import BLUE, FAINT, Figure, chart, styled

QUESTION = "How do time and memory grow with the size of the network, image, batch and population?"
CONFIG = "configs/notes.py"
SECONDS, MOST_IMAGES = 3.0, 25_600


class Axis(NamedTuple):
    """What is changed, and how.

    Attributes:
      title: what it is.
      values: of the points.
      changes: to the config, from a value.
    """

    title: str
    values: tuple[int, ...]
    changes: Callable[[int], dict[str, Any]]


def make_axes() -> dict[str, Axis]:
    """The axes by name; that of the cores ends with as many as there are."""
    cores = machine.cores()
    counts = tuple(sorted({*(2**n for n in range(cores.bit_length()) if 2**n <= cores), cores}))
    powers = (1, 4, 16, 64, 256, 1024, 4096)

    def batches(size: int) -> dict[str, Any]:
        return {"train.batch_size": size, "train.micro_batch_size": min(size, 32)}

    return {
        "channels": Axis(
            "channels of the first convolution, half of those of the second",
            (6, 12, 24, 48, 96),
            lambda n: {"model.channels": (n, 2 * n)},
        ),
        "image": Axis(
            "side of the images, in pixels", (28, 32, 40, 48, 64), lambda n: {"data.image_size": n}
        ),
        "batch": Axis("images in a batch", powers, batches),
        "members": Axis("networks trained together", powers[:-1], lambda _: {}),
        "cores": Axis("cores", counts, lambda _: {}),
    }


def measure(name: str, value: int) -> dict[str, Any]:
    """Measures a point, in a process of its own."""
    answer = subprocess.run(
        [sys.executable, "-m", "experiments.scaling", f"--point={name}={value}"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(answer.stdout.splitlines()[-1])


def measure_here(name: str, value: int) -> dict[str, Any]:
    """The time of an image and a network, its multiplications, and the memory of training."""
    if name == "cores":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:value])
    machine.use_compilation_cache()
    machine.use_cores()
    from lenet_jax import config as configs
    from lenet_jax import data
    from lenet_jax.training import sizes
    from lenet_jax.training.spec import make_spec

    changes = make_axes()[name].changes(value)
    config = configs.load(CONFIG, changes.items())
    batch = config.train.batch_size
    members = value if name == "members" else 1
    # Whole batches; of many networks fewer, so that a pass takes no minutes.
    images = max(MOST_IMAGES // (batch * members), 1) * batch
    config = configs.replace(config, {"data.train_examples": max(images, 640)})
    dataset = data.load_section(config.data)
    spec = make_spec(config, dataset)
    make_pass = _pass_of_members(members) if name == "members" else _pass_of_one
    train, memory = make_pass(config, dataset)
    train()  # compiles
    took: list[float] = []
    while sum(took) < SECONDS or len(took) < 3:
        begun = time.perf_counter()
        train()
        took.append(time.perf_counter() - begun)
    work = 3 * sum(sizes.multiplications(spec))
    each = min(took) / (members * (spec.num_examples // batch) * batch)
    return {
        "microseconds_per_image": 1e6 * each,
        "nanoseconds_per_multiplication": 1e9 * each / work,
        "memory_mb": memory / 1e6,
    }


def _pass_of_one(config: Any, dataset: Any) -> tuple[Callable[[], None], int]:
    """A pass of a run's own loop over its training images, and the bytes that it holds."""
    import jax

    from lenet_jax.training import evaluation
    from lenet_jax.training.batches import EpochSlice
    from lenet_jax.training.loop import Trainer

    trainer = Trainer(config, dataset)
    trainer.compile()
    held, sums = {"state": trainer.init()}, trainer.place(evaluation.no_metrics())

    def train() -> None:
        steps = EpochSlice(trainer.order(held["state"], 0), 0, trainer.spec.steps_per_epoch)
        held["state"], *_ = jax.block_until_ready(trainer.take_steps(held["state"], sums, steps))

    return train, trainer.memory()


def _pass_of_members(count: int) -> Callable[[Any, Any], tuple[Callable[[], None], int]]:
    """A pass of a population over its training images, and the bytes that it holds."""

    def make(config: Any, dataset: Any) -> tuple[Callable[[], None], int]:
        import jax

        from lenet_jax import config as configs
        from lenet_jax.data.dataset import Split
        from lenet_jax.training import sizes
        from lenet_jax.training.population import Population
        from lenet_jax.training.spec import make_spec

        population = Population(make_spec(config, dataset), count)
        valid = population.put(Split(dataset.valid.images[:1], dataset.valid.labels[:1]))
        split = population.put(dataset.train)
        members, settings = population.start(
            [configs.replace(config, {"seed": seed}) for seed in range(count)]
        )
        program = population.compile_epoch(members, settings, split, valid)
        held = {"members": members}

        def train() -> None:
            held["members"], metrics = population.train_epoch(
                held["members"], settings, split, valid, 0
            )
            jax.block_until_ready(metrics)

        return train, sizes.memory_of(program)

    return make


def slopes(points: dict[str, dict[str, float]]) -> list[float]:
    """Of the logarithms of time, from each point to the next."""
    logs = [
        (math.log(int(value)), math.log(point["microseconds_per_image"]))
        for value, point in points.items()
    ]
    return [round((b[1] - a[1]) / (b[0] - a[0]), 2) for a, b in itertools.pairwise(logs)]


def to_markdown(answer: dict[str, Any]) -> str:
    """The tables."""
    lines = ["# Time and memory against sizes", "", f"`{CONFIG}`, one thing changed at a time."]
    for axis in answer["axes"].values():
        lines += [
            "",
            f"| {axis['title']} | µs per image and network | slope | ns per multiplication"
            " | memory, MB |",
            "|---|---|---|---|---|",
        ]
        own = ["", *(f"{slope:.2f}" for slope in axis["slopes"])]
        for (value, point), slope in zip(axis["points"].items(), own, strict=True):
            lines.append(
                f"| {int(value):,} | {point['microseconds_per_image']:.2f} | {slope} |"
                f" {point['nanoseconds_per_multiplication']:.4f} | {point['memory_mb']:,.0f} |"
            )
    environment = answer["environment"]
    lines += ["", f"{environment['processor']}, {environment['cores']} cores."]
    return "\n".join(lines) + "\n"


@styled
def plot(answer: dict[str, Any]) -> Figure:
    """Draws time and memory against each size, both in logarithms."""
    environment = answer["environment"]
    figure = chart(
        1250,
        620,
        f"Time and memory of training {CONFIG}, one thing changed at a time",
        f"{environment['processor']}, {environment['cores']} cores; both scales logarithmic;"
        " small numbers: slope between points; grey: as many multiplications as at the first"
        " point, at its speed",
    )
    axes = figure.subplots(2, len(answer["axes"]), squeeze=False, sharey="row")
    for column, axis in enumerate(answer["axes"].values()):
        values = [int(value) for value in axis["points"]]
        points = list(axis["points"].values())
        times = [point["microseconds_per_image"] for point in points]
        first = points[0]
        work = [p["microseconds_per_image"] / p["nanoseconds_per_multiplication"] for p in points]
        upper, lower = axes[:, column]
        ideal = [each * first["nanoseconds_per_multiplication"] for each in work]
        if axis["name"] == "cores":
            ideal = [times[0] * values[0] / value for value in values]
        upper.plot(values, ideal, color=FAINT, linewidth=1)
        upper.plot(values, times, "o-", color=BLUE, markersize=4)
        lower.plot(values, [max(p["memory_mb"], 1) for p in points], "o-", color=BLUE, markersize=4)
        for place, slope in enumerate(axis["slopes"]):
            middle = math.sqrt(values[place] * values[place + 1])
            height = math.sqrt(times[place] * times[place + 1])
            note = f"{slope:.1f}".replace("-0.0", "0.0").replace("-", "−")
            beside = {"xytext": (4, -8), "ha": "left"}
            if slope < 0:
                beside = {"xytext": (-4, -8), "ha": "right"}
            above = {"xytext": (0, 6), "ha": "center"}
            upper.annotate(
                note,
                (middle, height),
                textcoords="offset points",
                size=7,
                **(beside if abs(slope) > 0.2 else above),
            )
        for own in (upper, lower):
            own.set(xscale="log", yscale="log")
            own.margins(x=0.15)  # for the notes
            own.yaxis.set_major_formatter("{x:,g}")
            own.set_xticks(values, [f"{value:,}" for value in values], size=7, rotation=45)
            own.minorticks_off()
        lower.set_xlabel(axis["title"].split(",")[0])
    axes[0, 0].set_ylabel("µs per image and network")
    axes[1, 0].set_ylabel("memory of training, MB")
    return figure


def main() -> None:
    """Measures every point in turns, and writes the results."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--turns", type=int, default=3, help="of which the fastest counts")
    parser.add_argument("--axes", nargs="+", default=list(make_axes()), choices=list(make_axes()))
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder to write to")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point:
        name, value = arguments.point.split("=")
        print(json.dumps(measure_here(name, int(value))))
        return
    axes = {name: axis for name, axis in make_axes().items() if name in arguments.axes}
    taken: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for turn in range(arguments.turns):
        for name, axis in axes.items():
            for value in axis.values:
                taken.setdefault((name, value), []).append(measure(name, value))
                last = taken[name, value][-1]["microseconds_per_image"]
                print(f"turn {turn + 1}, {name} {value}: {last:.2f} µs per image", flush=True)
    answer: dict[str, Any] = {"question": QUESTION, "turns": arguments.turns, "axes": {}}
    for name, axis in axes.items():
        points = {
            str(value): min(taken[name, value], key=lambda own: own["microseconds_per_image"])
            for value in axis.values
        }
        answer["axes"][name] = {
            "name": name,
            "title": axis.title,
            "points": points,
            "slopes": slopes(points),
        }
    answer["environment"] = machine.environment()
    study.write(arguments.results / "scaling.json", answer, plot, to_markdown)


if __name__ == "__main__":
    main()
