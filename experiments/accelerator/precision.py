"""Stage `precision`: the test accuracy of 256 seeds in each precision of the matrix products.

The seeds are the same in all, so that differences are between pairs. The config is
`configs/fast.py`, three epochs; `default` is TF32 on a GPU of NVIDIA's.
"""

import dataclasses
import time
from typing import Any

import numpy as np

from experiments.accelerator.populations import (
    Variant,
    compile_population,
    few_images,
    load_data,
    make_variant_spec,
)
from experiments.accelerator.record import Stage, log
from lenet_jax.statistics import summarise

CONFIG, MEMBERS = "configs/fast.py", 256
PRECISIONS = ("highest", "default", "BF16_BF16_F32")


def measure(stage: Stage) -> None:
    """Trains the seeds in each precision that there is time for."""
    rows: list[dict[str, Any]] = []
    accuracies: list[np.ndarray] = []
    for precision in PRECISIONS[: 1 if stage.short else None]:
        if rows and stage.seconds_left < rows[0]["seconds"]:
            break
        started = time.perf_counter()
        accuracies.append(train(precision, stage))
        difference = accuracies[-1] - accuracies[0]
        test = summarise(accuracies[-1].tolist(), 1.0)
        error = difference.std(ddof=1) / len(difference) ** 0.5
        rows.append(
            {
                "precision": precision,
                "seeds": len(difference),
                "seconds": time.perf_counter() - started,
                "test_accuracy_mean": test.mean,
                "test_accuracy_sd": test.sd,
                "difference_from_highest_mean": float(difference.mean()),
                "difference_from_highest_standard_error": float(error),
            }
        )
        stage.save(config=CONFIG, precisions=rows)
        log(f"{precision}: {100 * rows[-1]['test_accuracy_mean']:.3f} % of the test images")


def train(precision: str, stage: Stage) -> np.ndarray:
    """The test accuracy of each seed, with the weights of its best epoch."""
    variant = Variant(2 if stage.short else MEMBERS, strategy="auto", precision=precision)
    spec, test = make_variant_spec(variant, CONFIG), load_data().test
    if stage.short:
        spec, test = dataclasses.replace(spec, num_examples=256), few_images()
    valid = few_images() if stage.short else load_data().valid
    compiled = compile_population(variant, spec, valid, CONFIG)
    population, members = compiled.population, compiled.members
    for epoch in range(spec.num_epochs):
        members, _ = compiled.train_epoch(members, *compiled.arguments, np.int32(epoch))
    sums = population.test(members, population.put(test))
    return np.asarray(population.pick(sums, variant.members).accuracy)
