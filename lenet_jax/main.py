"""Trains a network: `python -m lenet_jax.main --config=FILE.py[:ARG] --workdir=DIR`."""

import contextlib
import functools
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from absl import flags

from lenet_jax import machine, timeline
from lenet_jax.config import Config, saved_config
from lenet_jax.config.flags import make_flags, overrides, parse
from lenet_jax.config.networks import LENET
from lenet_jax.config.unused import unused
from lenet_jax.device import require_device
from lenet_jax.errors import UserError, expand, print_remarks, printable, run_program
from lenet_jax.nn import native
from lenet_jax.terminal.console import Console, starting
from lenet_jax.terminal.interrupt import Interrupt

if TYPE_CHECKING:
    from lenet_jax.data import Dataset

PROGRAM = "python -m lenet_jax.main"


def main(argv: Sequence[str], program: str = PROGRAM) -> int:
    """Parses the flags, runs the training, and returns the exit code.

    Args:
      argv: the arguments.
      program: the program's name, for the help and the command to resume with.
    """
    started = timeline.process_start()
    flag_values = make_flags()
    flags.DEFINE_enum(
        "extend",
        None,
        ["continue"],
        "`continue`: more epochs than the run in DIR was planned for keep its last learning rate",
        flag_values,
    )
    flags.DEFINE_bool("profile", False, "trace the last epoch into DIR/profile", flag_values)
    _define_processes(flag_values)
    config = parse(argv, flag_values, program)
    print_remarks(unused(config, [path for path, _ in overrides(flag_values)]))
    if flag_values.deterministic:
        machine.use_deterministic_kernels()
    machine.use_compilation_cache()
    machine.use_cores()
    if config.model.name == LENET and config.model.backend in ("auto", "native"):
        units = native.LENET
        if config.train.precision == "bfloat16":
            units += native.BFLOAT16
        native.start(units)  # beside what follows
    timeline.record("start of Python, flags", started)
    options = {
        "profile": flag_values.profile,
        "extend": flag_values.extend is not None,
        "repeats": saved_config(flag_values["config"].value or ""),
    }
    command = machine.command_line(program, argv)
    run = functools.partial(_run, config, flag_values.workdir, command, started)
    if flag_values.coordinator is None:
        if flag_values.num_processes is not None or flag_values.process_id is not None:
            raise UserError("--num_processes and --process_id need --coordinator=HOST:PORT")
        console = _begin(flag_values)
        dataset = _load_beside(config)
        with starting(), _importing("JAX"):
            require_device()
        return run(**options, dataset=dataset, console=console)
    from lenet_jax.processes.meeting import join
    from lenet_jax.training import replicas

    address = flag_values.coordinator
    numbers = flag_values.num_processes, flag_values.process_id
    with join(address, *numbers, flag_values.process_timeout) as joined:
        dataset = replicas.meet(joined, address, config)
        if joined.index:
            with Interrupt() as interrupt:
                joined.received_signal = lambda: interrupt.signal if interrupt.notice() else None
                code = replicas.follow(joined, config, dataset)
            if code:
                print(f"process {joined.index} ends as process 0 does: {code}", file=sys.stderr)
            return code
        console = _begin(flag_values)
        code = run(**options, dataset=dataset, processes=joined, console=console)
        joined.end(code)
        return code


def _begin(flag_values: flags.FlagValues) -> Console:
    """Begins the header: on a terminal it says at once what is to run."""
    config, workdir = flag_values.config, flag_values.workdir
    with timeline.span("header"):
        console = Console()
        console.begin({"config": printable(config)}, expand(workdir, "--workdir=").absolute())
    return console


def _run(
    config: Config, workdir: str, command: Sequence[str], started: float, **options: Any
) -> int:
    with starting(), _importing("the rest"):
        from lenet_jax.runs.run import run  # late: an error in the arguments is reported at once

    return run(config, workdir, command, started, **options)


def _load_beside(config: Config) -> "Callable[[], Dataset]":
    """Begins to load the data; returns what waits for them, and raises what loading them did.

    Those that come with the package are read on a thread. Others may import modules, which two
    threads at once cannot do safely: either may find the other's half done.
    """
    with starting(), _importing("the data's code"):
        import numpy.ma
        import numpy.random  # noqa: F401  # which NumPy itself imports late

        from lenet_jax import data
        from lenet_jax.data.dataset import EMBEDDED

    def load() -> "Dataset":
        with timeline.span("data"):
            return data.load_section(config.data)

    if config.data.name != EMBEDDED or config.data.fit != "pad":
        return load
    return ThreadPoolExecutor(1, "data").submit(load).result


@contextlib.contextmanager
def _importing(what: str) -> Iterator[None]:
    """Imports without collecting garbage, of which there is little; what is imported stays."""
    gc.disable()
    try:
        with timeline.span(f"import of {what}"):
            yield
    finally:
        gc.enable()
        gc.freeze()


def _define_processes(flag_values: flags.FlagValues) -> None:
    """Defines the flags of a run by several processes."""
    silent = "seconds until a process that is silent, or does not come, counts as lost"
    for name, default, meaning, least, most in (
        ("num_processes", None, "how many; default: as Slurm or Open MPI say", 2, 65_536),
        ("process_id", None, "the number of this one, from 0; default: likewise", 0, 65_535),
        ("process_timeout", 60, silent, 1, 86_400),
    ):
        flags.DEFINE_integer(name, default, meaning, least, most, flag_values=flag_values)
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT of process 0, to train in several processes",
        flag_values=flag_values,
    )


if __name__ == "__main__":
    run_program(main, sys.argv[1:])
