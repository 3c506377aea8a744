r"""Trains and compares many networks, with error bars, from a sweep file and one command.

    python -m lenet_jax.sweep --config=configs/lenet5.py \
        --sweep=configs/sweeps/seeds.py --workdir=runs/seeds

The same command resumes a sweep with the missing chunks. `--dry_run` shows the plan.
`--executor=ray` and `--executor=slurm` train on many machines, see docs/many_machines.md;
`--print_sbatch` prints a script for Slurm alone, whose jobs have `--worker=i/n`, and `--collect`
writes the results of the finished chunks. How to write a sweep file: `lenet_jax.sweeps.file`.
"""

import contextlib
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from lenet_jax import machine
from lenet_jax.config.flags import make_flags, overrides, parse
from lenet_jax.config.unused import unused
from lenet_jax.device import require_device
from lenet_jax.errors import UserError, is_url, print_remarks, run_program, show, writing
from lenet_jax.executors import choice
from lenet_jax.sweeps import file
from lenet_jax.terminal.console import starting

PROGRAM = "python -m lenet_jax.sweep"


def main(argv: Sequence[str], program: str = PROGRAM) -> int:
    """Parses the flags, runs the sweep, and returns the exit code.

    Args:
      argv: the arguments.
      program: the program's name, for the help and the command to resume with.
    """
    flag_values = make_sweep_flags()
    config = parse(argv, flag_values, program)
    given = [path for path, _ in overrides(flag_values)]
    if not flag_values.sweep:
        raise UserError("missing --sweep=FILE.py, for example --sweep=configs/sweeps/seeds.py")
    worker = _parse_worker(flag_values.worker)
    if worker is not None and flag_values.executor != "local":
        raise UserError("--worker trains in this process: it cannot be combined with --executor")
    if flag_values.shared_data_order:
        config = file.share_order(config)
    members = file.load(flag_values.sweep, config, given)
    print_remarks(unused(config, given, members.columns.by_key))
    if flag_values.deterministic:
        machine.use_deterministic_kernels()
    machine.use_compilation_cache()
    machine.use_cores()
    with starting():
        require_device()
        from lenet_jax.plots.output import parse_formats
        from lenet_jax.sweeps.options import Options
        from lenet_jax.sweeps.recording import make_recording
        from lenet_jax.sweeps.run import run  # late: JAX counts its devices on import

    record = make_recording(
        flag_values.record,
        flag_values.record_every,
        flag_values.record_split,
        flag_values.record_dtype,
        flag="--",
    )
    options = Options(
        workdir=flag_values.workdir,
        save=flag_values.save,
        shared_data_order=flag_values.shared_data_order,
        strategy=flag_values.strategy,
        chunk_size=flag_values.chunk_size,
        worker=worker,
        collect=flag_values.collect,
        dry_run=flag_values.dry_run,
        plan_only=flag_values.print_sbatch,
        attempts=flag_values.attempts,
        record=record,
        corruptions=flag_values.corruptions,
        formats=parse_formats(flag_values.format),
    )
    command = machine.command_line(program, argv)
    with writing(options.workdir), contextlib.ExitStack() as ending:
        if options.trains_here:
            code = run(config, members, options, command)
            if flag_values.print_sbatch:
                print(_sbatch_script(flag_values, program, argv), end="")
            return code
        if flag_values.executor == "slurm" and is_url(options.workdir):
            raise UserError(
                "--executor=slurm needs a --workdir that is a folder, which all nodes see\n"
                "The jobs of --print_sbatch need none, and write to the URL themselves."
            )
        executor = choice.make_executor(flag_values, str(Path(options.workdir, "slurm")))
        if executor is not None:
            ending.callback(executor.shutdown, cancel_futures=True)
        return run(config, members, options, command, executor=executor)


def make_sweep_flags() -> flags.FlagValues:
    """Returns the flags of a run and those specific to sweeps."""
    values = make_flags()
    values["workdir"].help = (
        "folder of the sweep, or a URL such as s3://bucket/folder; an unfinished sweep in it is"
        " resumed"
    )
    flags.DEFINE_string("sweep", None, "FILE.py[:ARG], a sweep file; it runs as code", values)
    flags.DEFINE_bool("dry_run", False, "show the plan, without training or writing", values)
    flags.DEFINE_string(
        "worker", None, "i/n: train only the i-th of n shares, as a job of an array does", values
    )
    flags.DEFINE_bool(
        "print_sbatch", False, "write the plan, and print a script for `sbatch`", values
    )
    choice.define_flags(values)
    flags.DEFINE_bool("collect", False, "only collect the results of finished chunks", values)
    flags.DEFINE_string(
        "format", "png", "of the figures: png, svg, pdf, or several of them: a,b", values
    )
    flags.DEFINE_enum(
        "save",
        "best",
        ["best", "all", "none"],
        "weights to save: best (the default), of the best member of each setting; all; or none",
        values,
    )
    flags.DEFINE_string(
        "record",
        None,
        "logits, weights, or logits,weights: write those of every member, as lenet_jax.load_sweep"
        " reads them while the sweep runs; weights: includes --save=all",
        values,
    )
    flags.DEFINE_integer(
        "record_every",
        None,
        "also after every n-th epoch and the last, beside those of the best epoch on validation",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_string(
        "record_split", "test", "images of the logits: test, train, valid, or several: a,b", values
    )
    flags.DEFINE_enum(
        "record_dtype",
        "float32",
        ["float32", "float16"],
        "of logits, and of weights after an epoch; those of the best epoch stay as they are",
        values,
    )
    flags.DEFINE_bool(
        "corruptions",
        False,
        "also test every member on corrupted images, the fifteen of MNIST-C: a column for each in"
        " results.csv, and a heat map",
        values,
    )
    flags.DEFINE_bool(
        "shared_data_order",
        False,
        "all members get the same batches, which are fetched and augmented once",
        values,
    )
    flags.DEFINE_enum(
        "strategy",
        "auto",
        ["auto", "map", "vmap"],
        "train a device's members sequentially (map: CPU) or in parallel (vmap: GPU, TPU)",
        values,
    )
    flags.DEFINE_integer(
        "chunk_size",
        None,
        "members trained at once, as far as memory allows; default: chosen by device and memory",
        lower_bound=1,
        flag_values=values,
    )
    return values


def _sbatch_script(values: flags.FlagValues, program: str, argv: Sequence[str]) -> str:
    """A script of a job array whose jobs train equal shares of the chunks."""
    jobs = values["slurm.jobs"].value
    options = choice.sbatch_options(values)
    setup = options.pop("setup", None)
    command = shlex.join(machine.command_line(program, _arguments_of_job(values, argv)))
    header = {"job-name": "lenet", "array": f"1-{jobs}", **options}
    lines = [f"#SBATCH --{key.replace('_', '-')}={shlex.quote(str(header[key]))}" for key in header]
    body = [
        "",
        *([setup] if setup else []),
        f"cd {shlex.quote(str(Path.cwd()))}",
        f'exec {command} --worker="$SLURM_ARRAY_TASK_ID/{jobs}"',
    ]
    after = [
        "#",
        "# Submit it with: sbatch FILE; again, for chunks of jobs that failed. At the end:",
        f"# {command} --collect",
    ]
    return "\n".join(["#!/bin/bash", *lines, *after, *body]) + "\n"


def _arguments_of_job(values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
    """The arguments without those that are about Slurm, whether their values are apart or not."""
    kept, arguments = [], iter(argv)
    for each in arguments:
        match = re.fullmatch(r"--?(?:no)?(print_sbatch|executor|slurm\.[^=]+)(=.*)?", each, re.S)
        if match is None:
            kept.append(each)
        elif match[2] is None and not values[match[1]].boolean:
            next(arguments)
    return kept


def _parse_worker(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--worker={show(text)}: must be i/n with i from 1 to n, such as 1/4")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    run_program(main, sys.argv[1:])
