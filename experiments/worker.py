"""A peer of the benchmark in its own process, idle between requests.

    python -m experiments.worker PEER

Reads one JSON request per line on standard input and answers each with one line of JSON.
"""

import json
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np

from experiments.module_peers import MODULE_PEERS, load_data
from experiments.peers import PEERS, POPULATIONS, Network
from lenet_jax import data
from lenet_jax.machine import cores

OURS = "lenet-jax"
# As `lenet_jax.main` sets it before JAX starts.
ENVIRONMENTS = {peer: {"JAX_NUM_CPU_DEVICES": str(cores())} for peer in (OURS, *POPULATIONS)}


class Worker:
    """Starts a peer in its own process and sends it requests."""

    def __init__(self, peer: str):
        self.peer = peer
        self._process = subprocess.Popen(
            [sys.executable, "-m", "experiments.worker", peer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ENVIRONMENTS.get(peer, {}),
        )

    def ask(self, **request: Any) -> Any:
        """Sends a request and waits for its answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"the worker of {self.peer} exited with {self._process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def work(peer: str) -> None:
    """The worker's loop: one JSON request per line on stdin, one JSON answer per line on stdout."""
    answers, sys.stdout = sys.stdout, sys.stderr
    dataset = data.load("mnist")
    running = None
    for line in sys.stdin:
        request = json.loads(line)
        started = time.perf_counter()
        match request["do"]:
            case "make module":
                make = MODULE_PEERS[peer]
                running = make(
                    request["network"], load_data(request["network"]), dropout=request["dropout"]
                )
                answer: Any = None
            case "make":
                network = Network(*map(tuple, request["network"]))
                running = (PEERS | POPULATIONS)[peer](network, first_weights(network), dataset)
                answer = None
            case "train":
                assert running is not None
                answer = running.train(np.asarray(request["indices"]))
            case "evaluate":
                assert running is not None
                answer = running.evaluate()
            case "prune":
                assert running is not None and running.prune is not None
                answer = running.prune(request["amount"])
            case "matmul":
                answer = matmul_peak()
            case other:
                raise ValueError(f"unknown request {other!r}")
        seconds = time.perf_counter() - started
        print(json.dumps({"answer": answer, "seconds": seconds}), file=answers, flush=True)


def first_weights(network: Network) -> dict[str, np.ndarray]:
    """The initial weights of every peer, uniform in ±1/√fan_in, as a PyTorch state_dict."""
    rng = np.random.default_rng(0)
    (c1, c2), (f1, f2) = network
    shapes = {
        "conv1": (c1, 1, 5, 5),
        "conv2": (c2, c1, 5, 5),
        "fc1": (f1, 25 * c2),
        "fc2": (f2, f1),
        "fc3": (10, f2),
    }
    weights = {}
    for name, shape in shapes.items():
        bound = np.prod(shape[1:]) ** -0.5
        weights[f"{name}.weight"] = rng.uniform(-bound, bound, shape).astype(np.float32)
        weights[f"{name}.bias"] = rng.uniform(-bound, bound, shape[0]).astype(np.float32)
    return weights


def matmul_peak(size: int = 2048, repeats: int = 10) -> float:
    """The best measured rate of a square float32 matrix product, in FLOP/s."""
    import jax
    import jax.numpy as jnp

    product = jax.jit(jnp.matmul)  # on all cores, with the library that XLA chooses
    a = jax.random.normal(jax.random.key(0), (size, size))
    best = np.inf
    for _ in range(repeats + 1):
        started = time.perf_counter()
        product(a, a).block_until_ready()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


if __name__ == "__main__":
    work(sys.argv[1])
