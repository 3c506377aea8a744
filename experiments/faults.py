"""Does a run that is killed again and again end in the same bits? Is all damage found? It counts.

    python -m experiments.faults --chains=5

A chain is one run directory whose process is killed at seven kinds of moments, one after the other
(see `killed.py`), and then allowed to end; its weights, metrics and last checkpoint are held
against those of a run that nobody disturbed. Then each file of that run's checkpoint is damaged in
each of six ways, and restored. The answer is `results/faults.json`.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lenet_jax.machine import environment
from lenet_jax.runs.run import PACKAGES
from lenet_jax.storage.checkpoint import ARRAYS, find_damage

QUESTION = "Does a run that is killed again and again end in the same bits? Is all damage found?"
EPOCHS = 16  # more than a chain's kills can wear out
FLIPS = 16  # of single bits in each file, evenly from its first byte to its last

# The latest event of a process at which each kind of moment may come, and the latest delay in ms.
LATEST = {
    "compile": (4, 300),
    "step": (2, 40),
    "write": (2, 30),
    "save": (30, 0),
    "delete": (15, 0),
    "log": (9, 0),
    "finish": (4, 0),
}


def draw_moments(seed: int) -> list[str]:
    """A moment of every kind, in an order of its own; `finish`, which needs an end, comes last."""
    rng = random.Random(seed)
    kinds = [kind for kind in LATEST if kind != "finish"]
    rng.shuffle(kinds)
    return [
        f"{kind}:{rng.randint(1, nth)}:{rng.uniform(0, delay):.1f}"
        for kind in [*kinds, "finish"]
        for nth, delay in [LATEST[kind]]
    ]


def run_until(moment: str, arguments: Sequence[str], workdir: Path) -> bool:
    """Runs, or goes on with, a run until it is killed; whether it was.

    Raises:
      RuntimeError: it ended in another way.
    """
    done = subprocess.run(
        [sys.executable, "-m", "experiments.killed", moment, *arguments, f"--workdir={workdir}"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    if done.returncode not in (0, -signal.SIGKILL) or done.stderr:
        raise RuntimeError(f"{moment}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.returncode != 0


def fingerprint(workdir: Path) -> dict[str, Any]:
    """What two equal runs have in common; times and speeds are left out."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((workdir / "summary.json").read_text())
    (last,) = (workdir / "checkpoints").iterdir()
    return {
        "weights": hashlib.sha256((workdir / "model.safetensors").read_bytes()).hexdigest(),
        "arrays": hashlib.sha256((last / ARRAYS).read_bytes()).hexdigest(),
        "epochs": [row["epoch"] for row in rows],
        "rows": [row | {"images_per_second": None} for row in rows],
        "best": [summary["best_epoch"], summary["valid_accuracy"], summary["test_loss"]],
    }


def flip(nth: int, file: Path) -> None:
    """Flips one bit."""
    content = bytearray(file.read_bytes())
    content[nth * (len(content) - 1) // (FLIPS - 1)] ^= 1
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    **{f"bit flip {nth + 1} of {FLIPS}": partial(flip, nth) for nth in range(FLIPS)},
    "its last byte cut off": lambda file: os.truncate(file, file.stat().st_size - 1),
    "emptied": lambda file: os.truncate(file, 0),
    "a byte more": lambda file: file.write_bytes(file.read_bytes() + b"\n"),
    "reversed": lambda file: file.write_bytes(file.read_bytes()[::-1]),
    "missing": lambda file: file.unlink(),
}


def damaged_copies(step: Path, scratch: Path) -> Iterator[tuple[str, Path]]:
    """A checkpoint's folder with each of its files damaged in each way, one at a time."""
    for file in sorted(path.relative_to(step) for path in step.rglob("*") if path.is_file()):
        for name, damage in DAMAGES.items():
            shutil.rmtree(scratch, ignore_errors=True)
            shutil.copytree(step, scratch)
            damage(scratch / file)
            yield f"{file}: {name}", scratch


def main() -> None:
    """Kills, damages, compares, and writes the results."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--config", default="configs/notes.py:smoke", help="FILE.py[:ARG]")
    parser.add_argument("--chains", type=int, default=5, help="run directories, seven kills each")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder to write to")
    options = parser.parse_args()

    arguments = [
        f"--config={options.config}",
        f"--config.train.num_epochs={EPOCHS}",
        "--config.checkpoint.keep=1",
    ]
    kills, different = dict.fromkeys(LATEST, 0), []
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Path(folder, "undisturbed")
        run_until("never:0:0", arguments, undisturbed)
        expected = fingerprint(undisturbed)
        for seed in range(options.chains):
            chain = Path(folder, f"chain{seed}")
            for moment in draw_moments(seed):
                if run_until(moment, arguments, chain):
                    kills[moment.partition(":")[0]] += 1
            run_until("never:0:0", arguments, chain)
            found = fingerprint(chain)
            different += [f"chain {seed}: {key}" for key in expected if found[key] != expected[key]]
            print(f"chain {seed}: {sum(kills.values())} kills so far, different: {different}")
        (step,) = (undisturbed / "checkpoints").iterdir()
        found = [find_damage(copy) for _, copy in damaged_copies(step, Path(folder, "damaged"))]

    answer = {
        "question": QUESTION,
        "arguments": arguments,
        "kills": sum(kills.values()),
        "kills_by_kind": kills,
        "chains": options.chains,
        "different_from_the_undisturbed_run": different,
        "damages": len(found),
        "damages_not_found": found.count(None),
        "environment": environment(PACKAGES),
    }
    options.results.mkdir(exist_ok=True)
    file = options.results / "faults.json"
    file.write_text(json.dumps(answer, indent=2) + "\n")
    print(f"{answer['kills']} kills, {len(found)} damages: {file}")


if __name__ == "__main__":
    main()
