"""Stage `resume`: a sweep that is killed and started again ends in the same table.

`results.csv` must be the same, but for its last column, as that of a sweep that ran through. The
sweeps are processes of their own, with XLA's deterministic flags.
"""

import os
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from experiments.accelerator.record import Stage, log
from lenet_jax.machine import DETERMINISTIC_FLAGS

NEEDED = ("filelock", "matplotlib", "msgspec", "safetensors")  # by a sweep, beside JAX and Flax


def measure(stage: Stage) -> None:
    """Kills a sweep after its first chunk, starts it again, and beside it one that runs through."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        stage.save(left_out=f"a sweep needs {', '.join(missing)}")
        return
    command = [
        *(sys.executable, "-m", "lenet_jax.sweep", "--config=configs/notes.py:smoke"),
        *("--sweep=configs/sweeps/seeds.py:6", "--chunk_size=2", "--config.train.num_epochs=4"),
    ]
    flags = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC_FLAGS}".strip()

    with tempfile.TemporaryDirectory() as folder:

        def start(name: str) -> subprocess.Popen[str]:
            return subprocess.Popen(
                [*command, f"--workdir={folder}/{name}"],
                env=os.environ | {"XLA_FLAGS": flags},
                stdout=subprocess.PIPE,
                text=True,
            )

        killed = start("killed")
        assert killed.stdout is not None
        first = next((line for line in killed.stdout if line.startswith("chunk 0")), "")
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        chunks = Path(folder, "killed", "chunks")
        done = sorted(path.name for path in chunks.glob("[0-9]*"))
        if not done:
            raise RuntimeError(f"the sweep was killed before a chunk was done: {first!r}")
        both = [start("killed"), start("whole")]
        outputs = [process.communicate()[0] for process in both]
        codes = [process.returncode for process in both]
        if any(codes):
            raise RuntimeError(f"exit codes {codes}: {outputs}")
        tables = [
            [
                line.rpartition(",")[0]
                for line in Path(folder, name, "results.csv").read_text().splitlines()
            ]
            for name in ("killed", "whole")
        ]
    same = tables[0] == tables[1]
    stage.save(
        command=" ".join(command[1:]),
        first_line=first,
        chunks_when_killed=done,
        resumed=outputs[0].splitlines()[0],
        rows=len(tables[0]) - 1,
        same_table=same,
    )
    log(f"killed after {len(done)} of 3 chunks: {'the same' if same else 'another'} table")
