"""One network trained by several processes: process 0 leads, the others repeat what it dispatches.

Process 0 alone decides: how long a segment is, when to stop, what to evaluate. Before it calls a
compiled function it announces the call, and the others call the same function with their copies of
the arrays, since all devices must take part. Gradients are summed in the order of the devices, so
the bits are those of one process with as many devices.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int32, PyTree

from lenet_jax import config as configs
from lenet_jax import data, machine
from lenet_jax.config.file import Config
from lenet_jax.data.dataset import Dataset
from lenet_jax.device import require_device
from lenet_jax.processes.group import Processes
from lenet_jax.processes.meeting import start_jax
from lenet_jax.training import parallel
from lenet_jax.training.batches import EpochSlice
from lenet_jax.training.environment import own_code, own_subsets, training_environment
from lenet_jax.training.evaluation import Metrics, no_metrics
from lenet_jax.training.loop import Trainer
from lenet_jax.training.step import TrainState


def meet(processes: Processes, address: str, config: Config) -> Dataset:
    """Loads the data, and connects the devices of processes that agree on what they train.

    Args:
      processes: entered.
      address: `HOST:PORT` of process 0.
      config: this process's.

    Raises:
      UserError: they do not agree, or cannot share a batch equally; in every process.
    """
    dataset = data.load_section(config.data)  # before JAX starts: it may take long, or fail
    environment = machine.environment()
    processes.agree(
        configs.flatten(configs.to_dict(config), "config.")
        | own_code([config.model.name], [config.train.loss], config.train.measurements)
        | own_subsets([config.data.subset_file])
        | environment["versions"]
        | {
            "data": dataset.fingerprint,
            "code of lenet_jax": machine.sum_of_package(),
            "XLA_FLAGS": environment["xla_flags"],
        }
    )
    start_jax(processes, address)
    require_device()
    own = jax.local_devices()
    on_cpu = own[0].platform == "cpu"
    chosen = training_environment(config, ())
    facts = {
        "number of devices": len(own),
        "device": own[0].device_kind,
        "processor": environment["processor"] if on_cpu else None,
        "backend": chosen["backend"],
        "native code": chosen["native_code"],
    }
    try:
        processes.agree(facts)
        micro_batch_size = min(config.train.micro_batch_size, config.train.batch_size)
        _connect(parallel.count_sharing(config.train.batch_size, micro_batch_size))
    finally:
        if on_cpu:  # JAX's service has served; it would abort all processes that outlive process 0
            jax.distributed.shutdown()
    return dataset


class Leader(Trainer):
    """The trainer of process 0, which announces every call to the other processes."""

    def __init__(self, config: Config, dataset: Dataset, processes: Processes):
        """As `Trainer`; the others take over what only the directory of a run says."""
        super().__init__(config, dataset)
        self._processes = processes
        self._epoch, self._state = 0, None  # after the last steps
        processes.send({"kind": "config", "schedule_epochs": config.train.schedule_epochs})

    def order(self, state: TrainState, epoch: int) -> Int32[Array, "steps b"]:
        """As `Trainer.order`; every process has its own."""
        self._epoch = epoch
        return super().order(state, epoch)

    def evaluate(self, params: nnx.State, split: str) -> tuple[Metrics, Float[Array, "n k"]]:
        """As `Trainer.evaluate`."""
        of, payload = "sent", b""
        for name in ("params", "averaged"):
            if _is_same(params, getattr(self._state, name, None)):
                of = name
        if of == "sent":  # the best parameters, of an earlier epoch
            payload = _pack(params)
        self._processes.send({"kind": "evaluate", "split": split, "of": of}, payload)
        return super().evaluate(params, split)

    def take_steps(
        self, state: TrainState, sums: Metrics, steps: EpochSlice, rate: float | None = None
    ) -> tuple[TrainState, Metrics, Float[Array, ""]]:
        """As `Trainer.take_steps`."""
        message = {"kind": "steps", "epoch": self._epoch, "first": steps.first, "last": steps.last}
        start = _pack((state, sums)) if self._state is None else b""
        self._processes.send(message, start)
        results = super().take_steps(state, sums, steps, rate)
        self._state = results[0]
        return results


def follow(processes: Processes, config: Config, dataset: Dataset) -> int:
    """Takes part in the run of process 0, as another process; writes nothing.

    Args:
      processes: entered, and connected by `meet`.
      config: this process's.
      dataset: its data.

    Returns:
      The exit code of process 0.

    Raises:
      UserError: as `Trainer` does.
    """
    change = {"train.schedule_epochs": processes.receive()[0]["schedule_epochs"]}
    trainer = Trainer(configs.replace(config, change), dataset)
    trainer.compile()
    none = trainer.place(no_metrics())
    like = trainer.abstract_state(), jax.eval_shape(no_metrics)
    state: Any = None
    sums: Any = None
    order: Any = None
    while True:
        message, payload = processes.receive()
        match message:
            case {"kind": "end", "code": code}:
                return code
            case {"kind": "steps", "epoch": epoch, "first": first, "last": last}:
                if payload:  # the state to start from
                    state, sums = trainer.place(_unpack(payload, like))
                if order is None or first == 0:
                    order = trainer.order(state, epoch)
                steps = EpochSlice(order, first, last)
                state, sums, _ = trainer.take_steps(state, sums if first else none, steps)
                jax.block_until_ready(sums)  # raises here if a process is gone
            case {"kind": "evaluate", "of": of, "split": split}:
                sent = of == "sent"
                params = (
                    trainer.place(_unpack(payload, like[0].params)) if sent else getattr(state, of)
                )
                jax.block_until_ready(trainer.evaluate(params, split))


def _connect(num_devices: int) -> None:
    """Runs a first collective, for which the processes connect their devices."""
    one = parallel.replicate(np.zeros(1, np.float32), num_devices)
    gather = parallel.compile_shared(lambda x: lax.all_gather(x, parallel.AXIS), num_devices)
    with _quiet():
        jax.block_until_ready(gather(one))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drops what C++ prints to standard output: Gloo tells of its connections."""
    sys.stdout.flush()
    saved, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(null)


def _is_same(one: PyTree, other: PyTree) -> bool:
    """Whether two trees hold the very same arrays."""
    pair = jax.tree.leaves(one), jax.tree.leaves(other)
    return len(pair[0]) == len(pair[1]) and all(a is b for a, b in zip(*pair, strict=True))


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _pack(tree: PyTree) -> bytes:
    """The bytes of a tree's arrays, one after the other."""
    leaves = (jax.random.key_data(x) if _is_key(x) else x for x in jax.tree.leaves(tree))
    return b"".join(np.asarray(leaf).tobytes() for leaf in leaves)


def _unpack(data: bytes, like: PyTree) -> Any:
    """Inverts `_pack`, for a tree of the shapes and dtypes of `like`."""
    leaves, at = [], 0
    for leaf in jax.tree.leaves(like):
        entry = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
        array = np.frombuffer(data, entry.dtype, entry.size, at).reshape(entry.shape)
        at += array.nbytes
        leaves.append(jax.random.wrap_key_data(jnp.asarray(array)) if _is_key(leaf) else array)
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
