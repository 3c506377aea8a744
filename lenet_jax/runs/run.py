"""One run, from its config to its finished directory: checks, opens, starts and records it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lenet_jax import config as configs
from lenet_jax import data, machine, timeline
from lenet_jax.config.networks import source_of
from lenet_jax.device_defaults import defaults_of
from lenet_jax.errors import ExitCode, UserError, expand, writing
from lenet_jax.nn import native
from lenet_jax.nn.lenet import LeNet
from lenet_jax.processes.group import Processes
from lenet_jax.runs.hooks import Hooks
from lenet_jax.runs.job import Job
from lenet_jax.runs.record import Record, next_commands
from lenet_jax.runs.resume import (
    RunState,
    extended_config,
    last_rate,
    look_back,
    low_rate,
    repeated_config,
    restore,
)
from lenet_jax.runs.trackers import make_trackers
from lenet_jax.storage.checkpoint import Checkpoints
from lenet_jax.storage.files import make_folder, write_atomically
from lenet_jax.storage.run_dir import (
    CHECKPOINTS,
    CONFIG,
    NETWORK,
    SUMMARY,
    RunDir,
    check,
)
from lenet_jax.storage.sweep_dir import is_sweep
from lenet_jax.terminal.console import Console
from lenet_jax.terminal.interrupt import Interrupt
from lenet_jax.training import sizes
from lenet_jax.training.environment import remark_on_device
from lenet_jax.training.evaluation import no_metrics
from lenet_jax.training.loop import Trainer
from lenet_jax.training.start import Start, is_pruned


def run(
    config: configs.Config,
    workdir: str,
    command: Sequence[str],
    started: float,
    *,
    profile: bool = False,
    extend: bool = False,
    repeats: Path | None = None,
    dataset: data.Dataset | Callable[[], data.Dataset] | None = None,
    hooks: Any = (),
    processes: Processes | None = None,
    console: Console | None = None,
) -> int:
    """Trains, evaluates and writes the run directory; resumes what it already holds.

    Args:
      config: validated.
      workdir: the run directory.
      command: resumes this run; for messages.
      started: when the process began, on `time.perf_counter`'s clock.
      profile: whether to trace the last epoch, for TensorBoard or Perfetto, into `profile/`.
      repeats: the `config.json` of the run to repeat; what may make a difference is reported.
      dataset: the data, or a function that returns them; None: those that the config names.
      extend: whether epochs beyond those of the run in `workdir` keep its last learning rate.
      hooks: see `lenet_jax.train`.
      processes: that train it, of which this one leads; None: only this one.
      console: where the header has begun; None: it begins here.

    Returns:
      The exit code: 0 done, 3 diverged, 129, 130, 141 or 143 stopped, see `Interrupt`.

    Raises:
      UserError: the data or the directory is not as required, or a hook failed; or the library of
        a tracker is not installed.
      WriteError: the disk is full, or has failed; earlier checkpoints stay intact.
    """
    if console is None:
        console = Console()
        console.begin({}, expand(workdir, "--workdir=").absolute())
    called = Hooks(hooks, make_trackers(config.log.trackers, console.warn))
    if is_sweep(expand(workdir, "--workdir=")):
        raise UserError(f"--workdir={workdir} holds a sweep; choose another folder for a run")
    if repeats is not None and (remark := check(repeats.parent)):
        console.warn(remark)
    change = extended_config if extend else repeated_config
    config = change(expand(workdir, "--workdir="), config)
    if dataset is None:
        dataset = data.load_section(config.data)
    elif not isinstance(dataset, data.Dataset):
        dataset = dataset()
    with timeline.span("network"):
        trainer = _make_trainer(config, dataset, processes)
    sizes.check_memory(trainer.spec)
    checkpoints = expand(workdir, "--workdir=") / CHECKPOINTS
    # Once there is a checkpoint, the weights to start from are no longer needed, and may be gone.
    has_checkpoint = any(checkpoints.glob("[0-9]*"))
    start, weights_sum = (None, None) if has_checkpoint else _load_start(trainer, console.warn)
    with (
        writing(workdir),
        Interrupt(console.release, console.is_closed) as interrupt,
        RunDir(workdir) as directory,
    ):
        extended_from, summary = look_back(directory, config, trainer.dataset, console.warn)
        if summary is not None:
            epochs = summary.get("epochs", 0)
            longer = epochs > config.train.num_epochs
            extended = f", and extended to {epochs} epochs" if longer else ""
            console.note(f"this run is already finished{extended}")
            console.result(summary, next_commands(command, directory.path), trainer.spec.measured)
            return ExitCode.DONE
        with Checkpoints(directory.checkpoints, config.checkpoint.keep) as checkpoints:
            # May raise; nothing is written before.
            saved, progress, rows = restore(trainer, directory, checkpoints, console.warn)
            record = Record(directory, trainer, command, console.warn, weights_sum, started)
            if saved is not None and (changed := record.differences()):
                console.warn(
                    f"results may differ in the last bits from an uninterrupted run: {changed}"
                )
            if repeats is not None and (changed := record.changes_since(repeats)):
                console.warn(
                    f"results may differ from those of the run in {repeats.parent}: {changed}"
                )
            if directory.lock_note:
                console.warn(directory.lock_note)
            record.values["has_checkpoint"] = saved is not None
            if extended_from is not None:
                rate = last_rate(trainer.spec, config)
                console.note(record.note_extension(extended_from, trainer.spec, rate))
                if remark := low_rate(trainer.spec, config, directory.path):
                    console.warn(remark)
            interrupt.before_exit = lambda: record.close("interrupted", interrupt.reason)
            if processes is not None:
                _end_with(processes, record, interrupt, console)
            with record:  # first: an extended run is no longer done
                directory.restart_rows(rows)
                directory.write_json(CONFIG, configs.to_dict(config))
                if source := source_of(config.model.name):
                    write_atomically(directory.path / NETWORK, source)
                _print_header(console, trainer, record)
                with console.compiling():
                    trainer.compile()
                    with timeline.span("first state"):
                        state = _place(trainer, saved, start)
                job = Job(trainer, directory, checkpoints, record, console, interrupt, called)
                trace = make_folder(directory.path / "profile") if profile else None
                outcome = job.train(state, progress, started, trace)
                checkpoints.close()
                record.values["has_checkpoint"] |= checkpoints.saved is not None
                record.close(outcome.status, outcome.reason)
            done = outcome.code == ExitCode.DONE
            called.end(outcome.status, directory.read_json(SUMMARY, dict) or {} if done else {})
            return outcome.code


def _make_trainer(
    config: configs.Config, dataset: data.Dataset, processes: Processes | None
) -> Trainer:
    if processes is None:
        return Trainer(config, dataset)
    from lenet_jax.training.replicas import Leader  # late: a run in one process needs none

    return Leader(config, dataset, processes)


def _end_with(processes: Processes, record: Record, interrupt: Interrupt, console: Console) -> None:
    """Has the other processes stop and end with this one, and this one with them."""

    def interrupted() -> None:
        record.close("interrupted", interrupt.reason)
        processes.end(interrupt.exit_code)

    def failed(reason: str) -> None:
        console.release()
        record.close("failed", reason)

    interrupt.before_exit, processes.before_exit = interrupted, failed
    processes.on_stop = interrupt.request


def _load_start(trainer: Trainer, warn: Callable[[str], None]) -> tuple[Start | None, str | None]:
    """The weights that the config names, and their sum; None if it names none, and prunes none.

    Raises:
      UserError: they do not exist, or are of another network.
    """
    config = trainer.config
    names = config.train.initial_weights, config.prune.weights
    if names == (None, None) and not is_pruned(config):
        return None, None
    from lenet_jax.inference.sources import Receiver, load_weights, sum_of_weights  # few need it

    given = [name for name in names if name is not None]
    found = load_weights(given, Receiver.of(trainer.spec, config), warn)
    start = Start(*(None if name is None else found[name] for name in names))
    return start, sum_of_weights(given)


def _place(trainer: Trainer, saved: RunState | None, start: Start | None) -> RunState:
    """The state to train from, on the devices: the saved one, or a new one."""
    if saved is not None:
        return trainer.place(saved)
    state = trainer.init(start)
    return RunState(state, trainer.place(no_metrics()), state.params)


def _print_header(console: Console, trainer: Trainer, record: Record) -> None:
    values, dataset = record.values, trainer.dataset
    console.header(
        device=f"{values['devices'][0]}: {values['processor']}, {values['cores']} cores;"
        f" backend {values['backend']}",
        dataset=dataset.describe(trainer.spec.num_examples),
        layers=sizes.layers(trainer.spec),
        num_params=sizes.num_params(trainer.spec),
    )
    for remark in dataset.remarks:
        console.note(remark)
    defaults = defaults_of(machine.devices()[0])
    if remark := remark_on_device(trainer.config):
        console.note(remark)
    auto = trainer.config.model.get("backend") == "auto" and trainer.spec.network is LeNet
    if auto and "native" in defaults.backends and native.missing():
        console.note(f"training is slower than it could be: {native.missing()}")
