"""Stage `determinism`: whether training gives the same bits twice, with XLA's flags and without.

Each training is a process of its own, since the flags are read when XLA starts, with a
compilation cache of its own, since what is compiled may depend on timings. Two run at once.
"""

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile

from experiments.accelerator.record import Stage, log
from lenet_jax.machine import DETERMINISTIC_FLAGS

STEPS, MEMBERS = 400, 16
TRAIN = "from experiments.accelerator.determinism import train_and_hash; train_and_hash({}, {})"


def measure(stage: Stage) -> None:
    """Trains four times, each a single network and a population, and compares their SHA-256."""
    for name, flags in (("deterministic", DETERMINISTIC_FLAGS), ("default", "")):
        begun = stage.seconds_left
        results = _train_twice(flags, stage)
        same = results[0] == results[1]
        stage.save(**{name: {"flags": flags, "same_bits": same, "sha256": results}})
        log(f"{name} flags: {'the same' if same else 'other'} bits")
        if stage.short or stage.seconds_left < begun - stage.seconds_left:
            break


def _train_twice(flags: str, stage: Stage) -> list[dict[str, str]]:
    code = TRAIN.format(*((4, 2) if stage.short else (STEPS, MEMBERS)))
    environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()}
    with contextlib.ExitStack() as stack:
        processes = []
        for _ in range(2):
            if not stage.short:
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                environment = environment | {"JAX_COMPILATION_CACHE_DIR": folder}
            command = [sys.executable, "-c", code]
            processes.append(
                subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
            )
        outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError(f"exit codes {[process.returncode for process in processes]}")
    pairs = [output.split()[-2:] for output in outputs]
    return [{"single": single, "population": population} for single, population in pairs]


def train_and_hash(steps: int, count: int) -> None:
    """Trains for some steps, and prints the hash of one network's weights and of a population's."""
    import dataclasses  # late: JAX reads the environment

    import jax
    import numpy as np

    from experiments.accelerator import populations
    from lenet_jax.nn import ops
    from lenet_jax.training.batches import DeviceSplit
    from lenet_jax.training.hyperparameters import hyperparameters, seeds
    from lenet_jax.training.step import TrainState, init_state, train_epoch

    variant = populations.Variant(count)
    spec = dataclasses.replace(populations.make_variant_spec(variant), num_examples=64 * steps)
    (config, *_) = populations.seeded_configs(1)
    settings = hyperparameters(config)
    options = ops.compiler_options()

    def train_single(split: DeviceSplit) -> TrainState:
        state = init_state(spec, seeds(config), settings)
        return train_epoch(spec, state, split, jax.numpy.int32(0), settings)[0]

    split = DeviceSplit.of(populations.load_data().train)
    state = jax.jit(train_single, compiler_options=options)(split)
    compiled = populations.compile_population(variant, spec, populations.load_data().valid)
    members, _ = compiled.train_epoch(compiled.members, *compiled.arguments, np.int32(0))
    for params in (state.params, members.state.params):
        leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params)]
        print(hashlib.sha256(b"".join(leaves)).hexdigest())
