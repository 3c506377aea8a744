r"""Finds a learning rate: trains one epoch at rates that grow from step to step.

    python -m lenet_jax.find_rate --config=configs/notes.py --workdir=runs/rate

Writes `rates.csv` and `rates.png`, and suggests a value of `optimizer.learning_rate`: a third of
the rate at which the loss is lowest, before it grows. The schedule of the config does not count.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from lenet_jax import config as configs
from lenet_jax import machine
from lenet_jax.config.flags import make_flags, parse
from lenet_jax.device import require_device
from lenet_jax.errors import ExitCode, UserError, expand, run_program, writing
from lenet_jax.storage.files import check_replaceable, refuse_link, table, write_atomically

if TYPE_CHECKING:
    from lenet_jax.runs.rate_test import RateTest

PROGRAM = "python -m lenet_jax.find_rate"
TABLE, FIGURE = "rates.csv", "rates.png"
COLUMNS = ("step", "learning_rate", "loss", "average_loss")
LOWEST, HIGHEST = 1e-5, 10.0


def main(argv: Sequence[str], program: str = PROGRAM) -> int:
    """Runs the test and returns the exit code.

    Args:
      argv: the arguments.
      program: the program's name, for the help.
    """
    flag_values = _make_flags()
    config = parse(argv, flag_values, program)
    lowest, highest, steps = flag_values.lowest, flag_values.highest, flag_values.steps
    if not 0 < lowest < highest < float("inf"):
        raise UserError(f"--lowest={lowest:g} must be above 0 and below --highest={highest:g}")
    fixed = {"schedule.name": "constant", "schedule.warmup_epochs": 0.0}
    # Of the network as it is drawn: no weights are loaded.
    fixed |= {"train.initial_weights": None, "prune.amount": 0.0, "prune.weights": None}
    config = configs.replace(config, fixed)
    folder = expand(flag_values.workdir, "--workdir=")
    if flag_values.deterministic:
        machine.use_deterministic_kernels()
    machine.use_compilation_cache()
    machine.use_cores()
    require_device()
    from lenet_jax import data  # late: an error in the arguments is reported at once
    from lenet_jax.plots.curves import plot_rate_test
    from lenet_jax.plots.output import png
    from lenet_jax.runs.rate_test import run_test
    from lenet_jax.training import sizes
    from lenet_jax.training.loop import Trainer

    trainer = Trainer(config, data.load_section(config.data))
    sizes.check_memory(trainer.spec)
    whole = trainer.spec.steps_per_epoch
    if whole < 2:
        raise UserError("an epoch has a single step: take a smaller train.batch_size")
    if (steps or whole) > whole:
        raise UserError(f"--steps={steps}: an epoch has {whole:,} steps")
    with writing(folder):
        _make_folder(folder, force=flag_values.force)  # before what takes minutes
    trainer.compile()
    test = run_test(trainer, lowest, highest, steps or whole)
    rows = zip(range(1, len(test.rates) + 1), *test[:3], strict=True)
    figure = plot_rate_test(
        test.rates,
        test.losses,
        test.averages,
        lowest=test.lowest,
        suggestion=test.suggestion,
        title=f"{config.model.name} on {trainer.dataset.name}, {config.optimizer.name}",
    )
    contents: dict[str, str | bytes] = {
        TABLE: table([COLUMNS, *rows]),
        FIGURE: png(figure, PROGRAM),
    }
    _print(test, steps or whole)  # first: it is not lost if the files cannot be written
    with writing(folder):
        for name, content in contents.items():
            write_atomically(folder / name, content)
    for name in contents:
        print(f"  {folder / name}")
    return ExitCode.DONE


def _make_flags() -> flags.FlagValues:
    values = make_flags()
    values["workdir"].help = f"folder for {TABLE} and {FIGURE}"
    flags.DEFINE_float(
        "lowest", LOWEST, f"the first learning rate (default: {LOWEST:g})", flag_values=values
    )
    flags.DEFINE_float(
        "highest", HIGHEST, f"the last one (default: {HIGHEST:g})", flag_values=values
    )
    flags.DEFINE_integer(
        "steps",
        None,
        "steps over which the rate grows; default: an epoch's; fewer are less exact",
        lower_bound=2,
        flag_values=values,
    )
    flags.DEFINE_bool("force", False, "replace files that this command did not write", values)
    return values


def _make_folder(folder: Path, *, force: bool) -> None:
    """Creates the folder, unless a file of somebody else is in the place of one to write."""
    refuse_link(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, mark in ((TABLE, ",".join(COLUMNS).encode()), (FIGURE, PROGRAM.encode())):
        check_replaceable(folder / name, force=force, mark=mark)


def _print(test: "RateTest", steps: int) -> None:
    taken = len(test.rates)
    end = "" if taken == steps else f", stopped at {test.rates[-1]:.2g}, where the loss grows"
    print(f"{taken:,} of {steps:,} steps from {test.rates[0]:.2g} on{end}")
    if test.suggestion is None or test.steepest is None:
        print("the loss falls at none of these rates: try others with --lowest and --highest")
        return
    rates = test.rates[test.lowest], test.rates[test.steepest]
    print("average loss: lowest at {:.2g}, falls fastest at {:.2g}".format(*rates))
    print(f"suggestion: --config.optimizer.learning_rate={test.suggestion:.1g}")


if __name__ == "__main__":
    run_program(main, sys.argv[1:])
