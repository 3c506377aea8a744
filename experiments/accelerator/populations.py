"""Stage `populations`: images a second and memory by size, strategy and form of the layers.

Each variant trains a population for a few steps of an epoch, from compiled code, on one device.
Variants come in the order of what they decide; what does not fit the stage's time is left out and
listed. `best` is the fastest variant that trains what a sweep trains by default, each member in an
order of its own.
"""

import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.accelerator import forms
from experiments.accelerator.record import REFUSALS, Stage, log, memory
from lenet_jax import config as configs
from lenet_jax import data
from lenet_jax.data.dataset import Dataset, Split
from lenet_jax.training.population import Population, Strategy
from lenet_jax.training.sizes import population_memory
from lenet_jax.training.spec import Spec, make_spec

CONFIG = "configs/notes.py"
STEPS, MAX_CALLS, ENOUGH_SECONDS = 64, 3, 2.0
BACKENDS = ("phase", "plain", "pallas")
ZERO = np.int32(0)


@dataclasses.dataclass(frozen=True)
class Variant:
    """A way to train a population.

    Attributes:
      members: how many.
      form: of the convolutions: one of BACKENDS, or of `forms`.
      strategy: `vmap`, `map`, or `auto`, what suits the device.
      micro_batch_size: images a gradient, of a batch of 64.
      shared_data_order: whether all members see the same batches.
      precision: of matrix products, by JAX's names.
    """

    members: int
    form: str = "phase"
    strategy: Strategy = "vmap"
    micro_batch_size: int = 64
    shared_data_order: bool = False
    precision: str = "default"

    def __str__(self) -> str:
        """What differs from the defaults."""
        words = [f"{self.members:,} members", self.form, self.strategy]
        if self.micro_batch_size != 64:
            words.append(f"{self.micro_batch_size} images a gradient")
        words += ["shared order"] * self.shared_data_order
        return ", ".join(words + [self.precision] * (self.precision != "default"))


VARIANTS = (
    Variant(1),
    *(Variant(members, form) for members in (64, 1024) for form in ("phase", "pallas")),
    *(Variant(1024, form, shared_data_order=True) for form in ("phase", "pallas")),
    Variant(1024, "pallas", precision="highest"),
    Variant(64, "im2col"),
    Variant(64, "convolution"),
    Variant(4096),
    Variant(256),
    Variant(1024, precision="highest"),
    Variant(64, "plain"),
    Variant(8),
    Variant(8, strategy="map"),
    Variant(1024, micro_batch_size=32),
    Variant(1024, "convolution"),
    Variant(1024, "im2col"),
    Variant(512),
    Variant(1024, precision="BF16_BF16_F32"),
    Variant(2048),
    Variant(1024, "plain"),
)
SHORT_VARIANTS = (Variant(1, strategy="map"), Variant(2, "im2col", "map"))


def measure(stage: Stage) -> None:
    """Measures the variants, as many as there is time for."""
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    longest = 0.0
    for variant in SHORT_VARIANTS if stage.short else VARIANTS:
        if stage.seconds_left < longest:
            left_out.append(str(variant))
            continue
        started = time.perf_counter()
        row = dataclasses.asdict(variant)
        try:
            row |= measure_variant(variant, 2 if stage.short else STEPS)
            log(f"{variant}: {row['images_per_second']:,.0f} model-images/s")
        except REFUSALS as error:
            row["error"] = str(error)[:2000]
            log(f"{variant}: {str(error)[:200]}")
        rows.append(row)
        longest = max(longest, time.perf_counter() - started)
        stage.save(variants=rows, best=best(rows), best_shared=best(rows, shared=True))
    stage.save(config=CONFIG, left_out=left_out)


def best(rows: list[dict[str, Any]], shared: bool = False) -> dict[str, Any] | None:
    """The fastest of the variants of a backend in the default precision, or None."""
    fit = [
        row
        for row in rows
        if "error" not in row
        and row["form"] in BACKENDS
        and row["precision"] == "default"
        and row["shared_data_order"] == shared
    ]
    return max(fit, key=lambda row: row["images_per_second"], default=None)


def measure_variant(variant: Variant, steps: int) -> dict[str, Any]:
    """Compiles and runs a few steps of a variant."""
    spec = dataclasses.replace(make_variant_spec(variant), num_examples=steps * 64)
    compiled = compile_population(variant, spec, few_images())
    calls: list[float] = []

    def train_steps(members: Any) -> tuple[Any, Any]:
        return jax.block_until_ready(compiled.train_epoch(members, *compiled.arguments, ZERO))

    members, metrics = train_steps(compiled.members)
    while len(calls) < MAX_CALLS and sum(calls) < ENOUGH_SECONDS:
        begun = time.perf_counter()
        members, metrics = train_steps(members)
        calls.append(time.perf_counter() - begun)
    analysis = compiled.train_epoch.memory_analysis()
    sizes = ("temp", "argument", "output", "alias", "generated_code")
    planned = {name: getattr(analysis, f"{name}_size_in_bytes") for name in sizes}
    return {
        "images_per_second": variant.members * steps * 64 / min(calls),
        "seconds": calls,
        "steps": steps,
        "batch_size": 64,
        "compile_seconds": compiled.seconds,
        "diverged": int(np.isnan(metrics.train_loss).sum()),
        "memory_planned_by_xla": planned,
        "memory_estimated_for_sweeps": estimated_memory(variant, spec),
        "memory_of_process": memory(),
    }


class Compiled(NamedTuple):
    """A population before its first step, and its compiled epoch.

    Attributes:
      population: of the members.
      members: before their first step; the epoch takes them away.
      arguments: of the epoch, between the members and its number: what the members differ in, the
        training split and the validation split.
      train_epoch: compiled.
      seconds: that compiling took.
    """

    population: Population
    members: Any
    arguments: tuple[Any, Any, Any]
    train_epoch: Any
    seconds: float


def compile_population(
    variant: Variant, spec: Spec, valid: Split, config: str = CONFIG
) -> Compiled:
    """Makes a population of a variant and compiles its epoch, on the first device."""
    population = Population(
        spec,
        variant.members,
        devices=jax.devices()[:1],
        strategy=variant.strategy,
        shared_data_order=variant.shared_data_order,
    )
    with forms.use(variant.form):
        members, settings = population.start(seeded_configs(variant.members, config))
        arguments = settings, population.put(load_data().train), population.put(valid)
        started = time.perf_counter()
        program = population.compile_epoch(members, *arguments)
    return Compiled(population, members, arguments, program, time.perf_counter() - started)


def make_variant_spec(variant: Variant, config: str = CONFIG, **train: Any) -> Spec:
    """The spec of a variant's members, with other values in the section `train` of the config."""
    changes = {"train.micro_batch_size": variant.micro_batch_size}
    changes |= {f"train.{key}": value for key, value in train.items()}
    if variant.form in BACKENDS:
        changes |= {"model.backend": variant.form}
    spec = make_spec(configs.load(config, changes.items()), load_data())
    # Not by the config: a dot algorithm of XLA's is no precision of a config.
    model = dict(spec.model) | {"precision": variant.precision}
    return dataclasses.replace(spec, model=tuple(model.items()))


@functools.cache
def load_data() -> Dataset:
    """MNIST, as the config has it."""
    return data.load("mnist")


def few_images() -> Split:
    """The first 80 images of the validation split: as many as one forward pass takes."""
    valid = load_data().valid
    return Split(valid.images[:80], valid.labels[:80])


def seeded_configs(count: int, config: str = CONFIG) -> list[configs.Config]:
    """The config with each of the seeds from 0."""
    return [_seeded_config(config, seed) for seed in range(count)]


@functools.cache
def _seeded_config(config: str, seed: int) -> configs.Config:
    return configs.load(config, [("seed", seed)])


def estimated_memory(variant: Variant, spec: Spec) -> int:
    """Bytes, by the estimate that decides how many members a sweep trains at once."""
    splits = load_data().train, load_data().valid, load_data().test
    data = sum(split.images.nbytes + split.labels.nbytes for split in splits)
    device = jax.devices()[0]
    return data + population_memory(spec, device, variant.members, variant.strategy)
