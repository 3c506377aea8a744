r"""What does a GPU or TPU compute, how fast, and how far from float64? Minutes, one command.

    python -m experiments.accelerator
    python -m experiments.accelerator --stages=populations,thousand --minutes=4 --again
    python -m experiments.accelerator --decide=results/accelerator_nvidia_h200.json

The stages, each a process of its own, the most valuable first:

- `device`: what the device is, and which versions run on it;
- `correctness`: layers and network against float64, ties included, by backend and precision;
- `single`: one network of `configs/notes.py` trained to its end;
- `populations`: speed and memory by size, strategy and form of the layers;
- `thousand`: 1,024 networks × 10 epochs by the clock;
- `profile`: what a step of a population costs, against what the device can do;
- `determinism`: the same bits twice, with XLA's flags and without;
- `precision`: the accuracy of 256 seeds in float32, TF32 and bfloat16;
- `modules`: populations of other networks, as written and in fast forms;
- `resume`: a sweep that is killed and started again.

Each writes its results into `results/accelerator_DEVICE.json` as soon as it has them. A stage that
is done is left out when the command runs again; one that failed is recorded, with its error, and
the others run. At the end, and with `--decide` from results that are there, it prints the row of
`lenet_jax.device_defaults` that the results imply. It needs the package, with JAX, Flax, optax,
ml_collections and jaxtyping: neither TFDS, nor figures, nor a network connection; `resume` is left
out without matplotlib. Exit code: 0, 1 if a stage failed, 2 if the command is wrong.
"""

import argparse
import datetime
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.accelerator import decide, device, record, table
from experiments.accelerator.record import Stage, log
from lenet_jax import machine

QUESTION = "What does this accelerator compute, how fast, and how far from float64?"
# Seconds that a stage may take, together seven minutes; what one leaves over is the next one's. A
# stage plans for them, and is ended half a minute later.
SECONDS = {
    "correctness": 70,
    "single": 25,
    "populations": 80,
    "thousand": 75,
    "profile": 25,
    "determinism": 35,
    "precision": 60,
    "modules": 30,
    "resume": 20,
}
GRACE = 30
DONE, FAILED, WRONG = 0, 1, 2


def main(argv: list[str] | None = None) -> int:
    """Runs the stages that are asked for and not done; the exit code."""
    arguments = parse(argv)
    if arguments.decide:
        results = record.read(arguments.decide)
        if not {"stages", "environment"} <= results.keys():
            log(f"--decide={arguments.decide} has no results of this script")
            return WRONG
        print("\n".join(decide.lines(results, arguments.decide)))
        return DONE
    if arguments.run_stage:
        run_stage(arguments)
        return DONE
    # A stage leaves to the others what it does not use, and compiles what no stage has compiled.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    machine.use_compilation_cache()
    deadline = time.monotonic() + 60 * arguments.minutes
    arguments.results.mkdir(parents=True, exist_ok=True)
    name = device.find_name() + "_short" * arguments.short
    file = arguments.results / f"accelerator_{name}.json"
    stages = record.read(file)["stages"]
    done = [name for name in arguments.stages if stages.get(name, {}).get("status") == "done"]
    if done and not arguments.again:
        log(f"{', '.join(done)}: done already; --again repeats it")
    missing = [name for name in arguments.stages if arguments.again or name not in done]
    for number, name in enumerate(missing):
        left = deadline - time.monotonic()
        if left < 15:
            log(f"{name}: left out, the {arguments.minutes:g} minutes are over")
            continue
        spare = left - sum(SECONDS[later] for later in missing[number + 1 :])
        budget = left if arguments.short else min(left, max(SECONDS[name], spare))
        run_in_process(name, file, budget, left, arguments.short)
    log("")
    results = record.read(file)
    for line in table.lines(results):
        log(line)
    if not arguments.short:
        log("\n".join(decide.lines(results, file)))
    log(f"written: {file}")
    asked = [results["stages"].get(name, {}).get("status") for name in arguments.stages]
    return FAILED if set(asked) & {"failed", "out of time"} else DONE


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parses the command line; exits with code 2 on a mistake."""
    parser = argparse.ArgumentParser(prog="python -m experiments.accelerator", description=QUESTION)
    parser.add_argument(
        "--stages",
        type=lambda text: text.split(","),
        default=list(SECONDS),
        help=f"some of {','.join(SECONDS)}",
    )
    parser.add_argument("--minutes", type=float, default=7.0, help="for all stages together")
    parser.add_argument("--again", action="store_true", help="repeat stages that are done")
    parser.add_argument("--short", action="store_true", help="sizes that a CPU can train")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder to write to")
    parser.add_argument(
        "--decide", type=Path, metavar="FILE", help="only say what the results in a file imply"
    )
    # How the command starts a stage in a process of its own.
    parser.add_argument("--run_stage", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, default=0.0, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.decide and not arguments.decide.is_file():
        parser.error(f"there is no file {arguments.decide}")
    unknown = [name for name in arguments.stages if name not in SECONDS]
    if unknown:
        parser.error(f"no stage {', '.join(unknown)}; there are {', '.join(SECONDS)}")
    return arguments


def run_in_process(name: str, file: Path, budget: float, left: float, short: bool) -> None:
    """Runs a stage in a process of its own, and records how it ended.

    Args:
      name: of the stage.
      file: the results.
      budget: seconds that the stage plans for.
      left: seconds until the process is killed at the latest.
      short: sizes for a CPU.
    """
    log(f"--- {name}")
    started = time.monotonic()
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record.update_stage(file, name, status="running", date=date, error=None, results={})
    command = [sys.executable, "-m", "experiments.accelerator", f"--run_stage={name}"]
    command += [f"--file={file}", f"--deadline={started + budget}", *["--short"] * short]
    with tempfile.TemporaryFile("w+") as errors:
        # A session of its own, so that what the stage has started ends with it.
        process = subprocess.Popen(command, stderr=errors, start_new_session=True)
        try:
            code = process.wait(min(budget + GRACE, left))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        errors.seek(0)
        text = errors.read()
    status = {0: "done", None: "out of time"}.get(code, "failed")
    error = None if status == "done" else f"exit code {code}\n{text[-6000:]}"
    seconds = time.monotonic() - started
    record.update_stage(file, name, status=status, seconds=seconds, error=error)
    if error is not None:
        log(f"{name}: {status}, {error}")
    log(f"--- {name}: {status} after {seconds:.0f} s")


def run_stage(arguments: argparse.Namespace) -> None:
    """Runs a stage in this process, which has been started for it."""
    stage = Stage(arguments.run_stage, arguments.file, arguments.deadline, arguments.short)
    module = importlib.import_module(f"experiments.accelerator.{stage.name}")
    device.describe(stage.file)
    module.measure(stage)


if __name__ == "__main__":
    sys.exit(main())
