"""Tests that killed runs end bit-identically, and that damaged checkpoints are detected.

    python -m experiments.faults --chains=5

A chain is one run directory whose process is killed at eight kinds of moments, one after the other
(see `killed.py`), and then runs to its end. Its weights, metrics and last checkpoint are compared
with those of an uninterrupted run. Then each file of that run's checkpoint is damaged in each of
the ways in `DAMAGES`. With `--operations=1`, each operation of every command that changes a file
fails instead, see `failing.py`. Writes `results/faults.json`.
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

from experiments import failing
from lenet_jax.machine import environment
from lenet_jax.storage.checkpoint import ARRAYS, find_damage
from lenet_jax.storage.files import write_json

QUESTION = "Is a run bit-identical after repeated kills, and is all damage to checkpoints detected?"
EPOCHS = 16  # more than the kills of one chain can interrupt
FLIPS = 16  # single-bit flips per file, evenly from its first byte to its last

# Per kind of moment: the last event of a process at which to kill, and the largest delay in ms.
LATEST = {
    "compile": (4, 300),
    "step": (2, 40),
    "write": (2, 30),
    "save": (30, 0),
    "delete": (15, 0),
    "log": (9, 0),
    "unsynced": (16, 0),
    "finish": (4, 0),
}


def draw_moments(seed: int) -> list[str]:
    """One moment of every kind in random order.

    But `unsynced` comes first, before any checkpoint, and `finish` last: it needs a finished run.
    """
    rng = random.Random(seed)
    kinds = [kind for kind in LATEST if kind not in ("unsynced", "finish")]
    rng.shuffle(kinds)
    return [
        f"{kind}:{rng.randint(1, nth)}:{rng.uniform(0, delay):.1f}"
        for kind in ["unsynced", *kinds, "finish"]
        for nth, delay in [LATEST[kind]]
    ]


def run_until(moment: str, arguments: Sequence[str], workdir: Path) -> bool:
    """Starts or resumes a run and kills it at a moment; returns whether it was killed.

    Raises:
      RuntimeError: the run neither finished nor was killed.
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
    """What bit-identical runs have in common; times and speeds are excluded."""
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
    "last byte cut off": lambda file: os.truncate(file, file.stat().st_size - 1),
    "emptied": lambda file: os.truncate(file, 0),
    "one byte appended": lambda file: file.write_bytes(file.read_bytes() + b"\n"),
    "reversed": lambda file: file.write_bytes(file.read_bytes()[::-1]),
    "missing": lambda file: file.unlink(),
}


def damaged_copies(step: Path, scratch: Path) -> Iterator[tuple[str, Path]]:
    """Copies of a checkpoint, each with one of its files damaged in one way."""
    for file in sorted(path.relative_to(step) for path in step.rglob("*") if path.is_file()):
        for name, damage in DAMAGES.items():
            shutil.rmtree(scratch, ignore_errors=True)
            shutil.copytree(step, scratch)
            damage(scratch / file)
            yield f"{file}: {name}", scratch


def main() -> None:
    """Kills, damages and compares, and writes the results."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--config", default="configs/notes.py:smoke", help="FILE.py[:ARG]")
    parser.add_argument("--chains", type=int, default=5, help="run directories, eight kills each")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder to write to")
    parser.add_argument(
        "--operations",
        type=int,
        metavar="N",
        help="instead, fail each Nth operation of every command, and add that to the results",
    )
    options = parser.parse_args()
    options.results.mkdir(exist_ok=True)
    file = options.results / "faults.json"
    if options.operations:
        answer = json.loads(file.read_text()) if file.exists() else {}
        answer["failing_disk"] = {
            "every": options.operations,
            **failing.try_all(options.operations),
            "environment": environment(),
        }
        write_json(file, answer)
        return

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
            actual = fingerprint(chain)
            different += [
                f"chain {seed}: {key}" for key in expected if actual[key] != expected[key]
            ]
            print(f"chain {seed}: {sum(kills.values())} kills so far, differences: {different}")
        (step,) = (undisturbed / "checkpoints").iterdir()
        detected = [find_damage(copy) for _, copy in damaged_copies(step, Path(folder, "damaged"))]

    answer = json.loads(file.read_text()) if file.exists() else {}
    answer |= {
        "question": QUESTION,
        "arguments": arguments,
        "kills": sum(kills.values()),
        "kills_by_kind": kills,
        "chains": options.chains,
        "different_from_the_undisturbed_run": different,
        "damages": len(detected),
        "damages_not_found": detected.count(None),
        "environment": environment(),
    }
    write_json(file, answer)
    print(f"{answer['kills']} kills, {len(detected)} damages; written to {file}")


if __name__ == "__main__":
    main()
