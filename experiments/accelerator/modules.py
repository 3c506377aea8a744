"""Stage `modules`: populations of other networks than LeNet, as written and in fast forms.

The fast forms are those of `lenet_jax.nn.rewrite`: convolutions as products of windows, the batch
last. Whether they are the faster ones on this kind of device is `rewrites` in its row of
`lenet_jax.device_defaults`.
"""

import dataclasses
import time
from typing import Any
from unittest import mock

import jax
import numpy as np

from experiments.accelerator.record import REFUSALS, Stage, log
from lenet_jax import config as configs
from lenet_jax import data
from lenet_jax.device_defaults import defaults_of
from lenet_jax.training import forward
from lenet_jax.training.population import Population
from lenet_jax.training.spec import make_spec

CONFIGS = ("configs/lenet_1998.py:lenet5", "configs/lenet_1998.py:lenet1", "configs/flax_mnist.py")
MEMBERS, STEPS, CALLS = 64, 32, 3


def measure(stage: Stage) -> None:
    """Measures each network, as many as there is time for."""
    rows: list[dict[str, Any]] = []
    longest = 0.0
    members, steps = (2, 2) if stage.short else (MEMBERS, STEPS)
    for config in CONFIGS[: 1 if stage.short else None]:
        for rewrites in (False, True):
            if stage.seconds_left < longest:
                return
            started = time.perf_counter()
            row: dict[str, Any] = {"config": config, "members": members, "rewrites": rewrites}
            try:
                row["images_per_second"] = speed(config, members, steps, rewrites)
                what = f"{row['images_per_second']:,.0f} model-images/s"
            except REFUSALS as error:
                row["error"] = what = str(error)[:2000]
            log(f"{config}, {'fast forms' if rewrites else 'as written'}: {what[:200]}")
            rows.append(row)
            longest = max(longest, time.perf_counter() - started)
            stage.save(rows=rows)


def speed(config: str, members: int, steps: int, rewrites: bool) -> float:
    """Images a second of all members, side by side, in compiled steps of training."""
    first = configs.load(config, [("train.micro_batch_size", 64), ("train.batch_size", 64)])
    dataset = data.load_section(first.data)
    spec = dataclasses.replace(make_spec(first, dataset), num_examples=64 * steps)

    def forms_of(device: Any) -> Any:
        return dataclasses.replace(defaults_of(device), rewrites=rewrites)

    with mock.patch.object(forward, "defaults_of", forms_of):
        population = Population(spec, members, devices=jax.devices()[:1], strategy="vmap")
        states, settings = population.start(
            [configs.replace(first, {"seed": seed}) for seed in range(members)]
        )
        valid = data.Split(dataset.valid.images[:80], dataset.valid.labels[:80])
        splits = population.put(dataset.train), population.put(valid)
        train_epoch = population.compile_epoch(states, settings, *splits)
    seconds = []
    for _ in range(1 + CALLS):
        begun = time.perf_counter()
        states, metrics = train_epoch(states, settings, *splits, np.int32(0))
        jax.block_until_ready((states, metrics))
        seconds.append(time.perf_counter() - begun)
    return members * steps * 64 / min(seconds[1:])
