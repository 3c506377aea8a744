"""Stage `thousand`: 1,024 LeNets × 10 epochs of MNIST by the clock.

They train as the fastest variant of stage `populations` does, in chunks of its size, once with an
order of the examples for each member, and once, if there is time, with one for all. Where ten
epochs would take longer than the stage may, fewer are trained, and `seconds_extrapolated` says what
ten would take.
"""

import dataclasses
import time
from typing import Any

import jax
import numpy as np

from experiments.accelerator.populations import (
    CONFIG,
    Variant,
    compile_population,
    few_images,
    load_data,
    make_variant_spec,
    seeded_configs,
)
from experiments.accelerator.record import Stage, log, memory
from lenet_jax.statistics import summarise

MEMBERS, EPOCHS = 1024, 10
DEFAULT = Variant(MEMBERS, strategy="auto")  # without the results of stage `populations`
FIELDS = ("members", "form", "strategy", "micro_batch_size", "shared_data_order", "precision")


def measure(stage: Stage) -> None:
    """Trains the thousand in the best way with orders of their own, then with one order."""
    measured = stage.results_of("populations")
    for name, key in (("own_orders", "best"), ("shared_order", "best_shared")):
        row = measured.get(key)
        if name == "shared_order" and (row is None or stage.seconds_left < 30):
            break
        variant = Variant(**{field: row[field] for field in FIELDS}) if row else DEFAULT
        result = train(variant, stage)
        stage.save(**{name: result})
        log(
            f"{variant}: {result['networks']:,} networks × {result['epochs']} epochs in"
            f" {result['seconds']:.1f} s, compiling {result['compile_seconds']:.1f} s beside;"
            f" {result['images_per_second']:,.0f} model-images/s; test accuracy"
            f" {100 * result['test_accuracy_mean']:.2f} ± {100 * result['test_accuracy_sd']:.2f} %"
            " (mean ± sd, best epochs on validation)"
        )


def train(variant: Variant, stage: Stage) -> dict[str, Any]:
    """Trains all networks in chunks, and tests each with the weights of its best epoch."""
    started = time.perf_counter()
    count = 4 if stage.short else MEMBERS
    variant = dataclasses.replace(variant, members=min(variant.members, count))
    spec = make_variant_spec(variant, num_epochs=EPOCHS)
    valid, test = load_data().valid, load_data().test
    if stage.short:
        spec = dataclasses.replace(spec, num_examples=256)
        valid = test = few_images()
    compiled = compile_population(variant, spec, valid)
    population, (_, *splits) = compiled.population, compiled.arguments
    test_split = population.put(test)
    jax.block_until_ready(population.test(compiled.members, test_split))
    seeds = seeded_configs(count)
    chunks = [seeds[i : i + variant.members] for i in range(0, count, variant.members)]
    prepared = time.perf_counter()
    epochs, accuracy, epoch_seconds, best = EPOCHS, [], [], []
    for chunk in chunks:
        members, settings = population.start(chunk)
        epoch = 0
        while epoch < epochs:
            begun = time.perf_counter()
            members, metrics = compiled.train_epoch(members, settings, *splits, np.int32(epoch))
            jax.block_until_ready(metrics)
            epoch_seconds.append(time.perf_counter() - begun)
            if len(epoch_seconds) == 1:  # what the time allows
                affordable = int(0.9 * stage.seconds_left / (epoch_seconds[0] * len(chunks)))
                epochs = max(1, min(EPOCHS, affordable))
            epoch += 1
        sums = population.pick(population.test(members, test_split), len(chunk))
        accuracy.append(sums.accuracy)
        best.append(population.pick(members.best_epoch, len(chunk)))
    seconds = time.perf_counter() - prepared
    accuracies = np.concatenate(accuracy)
    test = summarise(accuracies.tolist(), upper=1.0)
    images = count * epochs * spec.num_examples
    return {
        "variant": dataclasses.asdict(variant),
        "config": CONFIG,
        "networks": count,
        "chunks": len(chunks),
        "epochs": epochs,
        "epochs_asked_for": EPOCHS,
        "seconds": seconds,
        "seconds_extrapolated": seconds * EPOCHS / epochs,
        "seconds_of_training": sum(epoch_seconds),
        "seconds_an_epoch": epoch_seconds,
        "compile_seconds": compiled.seconds,
        "seconds_before": prepared - started,
        "images_per_second": images / sum(epoch_seconds),
        "test_accuracy_mean": test.mean,
        "test_accuracy_sd": test.sd,
        "test_accuracy_min": float(accuracies.min()),
        "test_accuracy_max": float(accuracies.max()),
        "diverged": int((np.concatenate(best) == 0).sum()),
        "memory_of_process": memory(),
    }
