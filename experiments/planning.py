"""Measures how long it takes to plan a sweep of a million members, and how much memory.

    python -m experiments.planning

Each case is a sweep file, planned by a process of its own as `lenet_jax.sweep` does: the file is
run, its members are checked, grouped and cut into chunks, the plan is written, and read again as a
second start does. Training is left out. Writes `results/planning.json`.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from lenet_jax import machine
from lenet_jax.storage.files import write_json

RESULTS = Path("results/planning.json")
MEMBERS = 1_000_000
RATES = "[i / 2000 for i in range(1, 1001)]"
CASES = {
    "a million seeds": "sweep('seed', range(1_000_000))",
    "1,000 learning rates × 1,000 seeds": (
        f"product(sweep('optimizer.learning_rate', {RATES}), sweep('seed', range(1000)))"
    ),
    "a million learning rates": (
        "sweep('optimizer.learning_rate', [i / 2e6 for i in range(1, 1_000_001)])"
    ),
    "a chain of 100 products of 100 rates and 100 seeds": (
        "chain(*(product(sweep('optimizer.momentum', [i / 100]), sweep('optimizer.learning_rate',"
        f" {RATES}[:100]), sweep('seed', range(100))) for i in range(100)))"
    ),
    "six keys of ten values": (
        "product(*(sweep(key, [i / 20 for i in range(1, 11)]) for key in ('optimizer.momentum',"
        " 'optimizer.learning_rate', 'optimizer.weight_decay', 'train.label_smoothing',"
        " 'augment.shift')), sweep('seed', range(10)))"
    ),
    "10,000 networks of other sizes × 100 seeds": (
        "product(sweep('model.features', [(i, j) for i in range(20, 120) for j in range(20, 120)]),"
        " sweep('seed', range(100)))"
    ),
}


def main() -> None:
    """Measures every case and writes the results."""
    cases = {}
    for name, text in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "sweep.py"
            file.write_text(
                "from lenet_jax.sweeps.file import chain, product, sweep\n\n\n"
                f"def get_sweep():\n    return {text}\n"
            )
            command = [sys.executable, "-m", "experiments.planning", str(file), folder]
            started = time.perf_counter()
            process = os.posix_spawn(sys.executable, command, os.environ)
            _, status, usage = os.wait4(process, 0)
            seconds = time.perf_counter() - started
            if status:
                sys.exit(f"{name}: failed")
            plan_bytes = (Path(folder) / "plan" / "sweep.json").stat().st_size
        cases[name] = {
            "seconds": round(seconds, 2),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
            "peak_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            "plan_bytes": plan_bytes,
        }
        print(f"{name}: {seconds:.1f} s, {cases[name]['peak_bytes'] / 1e9:.2f} GB", flush=True)
    record = machine.environment(("jax", "numpy", "ml_collections"))
    write_json(RESULTS, {"members": MEMBERS, "cases": cases, "environment": record})
    print(f"written to {RESULTS}")


def plan(file: str, folder: str) -> None:
    """Plans one sweep and writes the plan, then reads it as a second start does."""
    from lenet_jax import config as configs
    from lenet_jax.sweeps.file import load

    config = configs.load("configs/notes.py")
    members = load(file, config)
    assert len(members) == MEMBERS
    machine.use_cores()
    from lenet_jax.storage.sweep_dir import SweepDir
    from lenet_jax.sweeps.options import Options
    from lenet_jax.sweeps.run import make_plan

    options = Options(str(Path(folder) / "plan"))
    for _ in range(2):
        make_plan(SweepDir(options.workdir), config, members, options, print)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        plan(*sys.argv[1:])
    else:
        main()
