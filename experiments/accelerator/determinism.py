"""Stage `determinism`: does training give the same bits twice, with XLA's flags and without?

Each training is a process of its own, since the flags are read when XLA starts, with an empty
compilation cache, since what is compiled may depend on timings.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from typing import Any

from experiments.accelerator.record import Stage, log
from lenet_jax.main import DETERMINISTIC_FLAGS

STEPS, MEMBERS = 400, 16
TRAIN = "from experiments.accelerator.determinism import train_and_hash; train_and_hash({}, {})"


def measure(stage: Stage) -> None:
    """Trains four times, each a single network and a population, and compares their SHA-256."""
    for name, flags in (("deterministic", DETERMINISTIC_FLAGS), ("default", "")):
        results = [_hashes(flags, stage) for _ in range(2)]
        same = results[0] == results[1]
        stage.save(**{name: {"flags": flags, "same_bits": same, "sha256": results}})
        log(f"{name} flags: {'the same' if same else 'other'} bits")
        if stage.short or stage.seconds_left < 30:
            break


def _hashes(flags: str, stage: Stage) -> dict[str, Any]:
    arguments = (4, 2) if stage.short else (STEPS, MEMBERS)
    with tempfile.TemporaryDirectory() as folder:
        own = {
            "JAX_COMPILATION_CACHE_DIR": folder,
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip(),
        }
        if stage.short:
            own.pop("JAX_COMPILATION_CACHE_DIR")
        done = subprocess.run(
            [sys.executable, "-c", TRAIN.format(*arguments)],
            env=os.environ | own,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    single, population = done.stdout.split()[-2:]
    return {"single": single, "population": population}


def train_and_hash(steps: int, count: int) -> None:
    """Trains for some steps, and prints the hash of one network's weights and of a population's."""
    import dataclasses  # late: JAX reads the environment

    import jax
    import numpy as np

    from experiments.accelerator import populations
    from lenet_jax.nn import ops
    from lenet_jax.training import spec as specs
    from lenet_jax.training import step as train

    variant = populations.Variant(count)
    spec = dataclasses.replace(populations.make_variant_spec(variant), num_examples=64 * steps)
    (config, *_) = populations.seeded_configs(1)
    hyperparameters = specs.hyperparameters(config)
    split = populations.load_data().train
    options = ops.compiler_options()

    def train_single(images: jax.Array, labels: jax.Array) -> train.TrainState:
        state = train.init_state(spec, specs.seeds(config), hyperparameters)
        return train.train_epoch(spec, state, images, labels, jax.numpy.int32(0), hyperparameters)[
            0
        ]

    state = jax.jit(train_single, compiler_options=options)(split.images, split.labels)
    compiled = populations.compile_population(variant, spec, populations.load_data().valid)
    members, _ = compiled.train_epoch(compiled.members, *compiled.arguments, np.int32(0))
    for params in (state.params, members.state.params):
        leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params)]
        print(hashlib.sha256(b"".join(leaves)).hexdigest())
