"""Runs a sweep: trains the missing chunks, then collects the results of all finished ones."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from lenet_jax import config as configs
from lenet_jax import data, machine
from lenet_jax.data.arrays import given
from lenet_jax.data.dataset import SECTION
from lenet_jax.errors import IF_DIVERGED, ExitCode, UserError, counted, is_url
from lenet_jax.machine import ASSUMED_MEMORY, next_command, what_changed
from lenet_jax.network_name import NetworkName
from lenet_jax.plots.corruptions import plot_error_map
from lenet_jax.plots.output import draw
from lenet_jax.plots.sweeps import plot_sweep
from lenet_jax.storage.sweep_dir import ERROR_MAP, FIGURE, PAGE, SweepDir
from lenet_jax.storage.sweep_url import find_sweep
from lenet_jax.sweeps import (
    config_text,
    estimate,
    figure_data,
    plan,
    results,
    results_table,
    webpage,
)
from lenet_jax.sweeps.collected import read_chunks
from lenet_jax.sweeps.dispatch import Failure, missing_chunks, train_elsewhere, train_here
from lenet_jax.sweeps.job import make_job, sums_of_code
from lenet_jax.sweeps.members import Members
from lenet_jax.sweeps.options import Options
from lenet_jax.sweeps.plan import Chunk, Group
from lenet_jax.sweeps.recording import check_space
from lenet_jax.sweeps.starts import check_starts, own_weights
from lenet_jax.sweeps.table import result_lines, share
from lenet_jax.terminal.console import Console, starting
from lenet_jax.terminal.interrupt import Interrupt
from lenet_jax.training.environment import remark_on_device, training_environment
from lenet_jax.training.population import choose_strategy

MOST_NAMED = 12  # chunks in one message
MOST_IN_CSV = 10_000  # members without results.parquet beside results.csv
LoadData = Callable[[configs.Config], data.Dataset]


def _load(config: configs.Config) -> data.Dataset:
    return data.load_section(config.data)


def load_with(arrays: Any, members: Members) -> LoadData:
    """What loads the data of a config: those that it names, or arrays in their place.

    Args:
      arrays: what `lenet_jax.train` takes as `data`; None: a config names its data.
      members: of the sweep.

    Raises:
      UserError: members vary what the arrays have already.
    """
    if arrays is None:
        return _load
    fixed = [f"data.{key}" for key in (SECTION if isinstance(arrays, data.Dataset) else ["name"])]
    if swept := [key for key in members.columns.by_key if key in fixed]:
        raise UserError(f"{swept[0]} cannot vary in a sweep whose data are given in Python")
    return lambda config: given(arrays, **config.data)


def run(
    config: configs.Config,
    members: Members,
    options: Options,
    command: Sequence[str],
    load_data: LoadData = _load,
    executor: Executor | None = None,
) -> int:
    """Plans, trains the missing chunks, and collects the finished ones.

    Args:
      config: the base config.
      members: which override it.
      options: see `Options`.
      command: resumes the sweep; for messages.
      load_data: from `load_with`.
      executor: trains the chunks; None: this process does.

    Returns:
      The exit code: 0 if done, 3 if every member diverged, 5 if chunks failed too often, 129, 130,
      141 or 143 if stopped, see `Interrupt`.

    Raises:
      UserError: the data, the available memory or the directory does not fit the sweep.
      OSError: the results cannot be written; the finished chunks stay intact.
    """
    console = Console()
    with find_sweep(options.workdir) as store:
        with starting():
            store.pull()
            groups, chunks = make_plan(store, config, members, options, console.warn, load_data)
        if options.dry_run:
            missing = missing_chunks(store, chunks)
            console.lines(estimate.describe(groups, chunks, missing, options))
            return ExitCode.DONE
        if options.plan_only:  # with which the jobs of an array compare themselves
            _record(console, store, config, members, chunks, options, command)
            return ExitCode.DONE
        if options.collect:
            store.lock()
            store.push()
            return _collect(store, members, chunks, console, options, command)
        _print_header(console, store, groups, chunks, options, executor)
        _print_remarks(console, store, config, groups, executor)
        _record(console, store, config, members, chunks, options, command)
        with Interrupt(console.release, console.is_closed) as interrupt:

            def say_stopped() -> None:
                console.note("a chunk that is not finished begins again when the sweep is resumed")
                console.warn(f"{interrupt.reason}; to resume: {shlex.join(command)}")

            interrupt.before_exit = say_stopped  # where an epoch takes longer than it waits
            failures = _train(store, members, groups, chunks, options, console, interrupt, executor)
            if failures is None:
                say_stopped()
                return interrupt.exit_code
        store.push()
        if options.worker is not None:  # the others may not have ended
            return ExitCode.DONE
        code = _collect(store, members, chunks, console, options, command)
        if failures:
            named = ", ".join(str(failure.chunk.number) for failure in failures[:MOST_NAMED])
            more = "" if len(failures) <= MOST_NAMED else ", …"
            console.warn(
                f"{counted(len(failures), 'chunk')} failed {options.attempts} times: {named}{more};"
                " the same command tries again"
            )
        return ExitCode.LOST if failures else code


def _train(
    store: SweepDir,
    members: Members,
    groups: Sequence[Group],
    chunks: Sequence[Chunk],
    options: Options,
    console: Console,
    interrupt: Interrupt,
    executor: Executor | None,
) -> list[Failure] | None:
    """Trains the missing chunks; returns those that failed, or None if stopped by a signal."""
    if options.worker is not None:
        index, count = options.worker
        chunks = chunks[index - 1 :: count]
        if not chunks:
            console.note(f"worker {index} of {count} has nothing to do: there are fewer chunks")
    missing = missing_chunks(store, chunks)
    if len(missing) < len(chunks):
        rest = "" if missing else ": nothing to train"
        console.note(f"{share(len(chunks) - len(missing), len(chunks))} already done{rest}")
    if executor is None or not missing:
        return train_here(store, missing, options, console, interrupt)
    job = make_job(members, groups, missing, options, store.plan_sum)
    return train_elsewhere(store, missing, job, executor, options, console, interrupt)


def make_plan(
    store: SweepDir,
    config: configs.Config,
    members: Members,
    options: Options,
    warn: Callable[[str], None],
    load_data: LoadData = _load,
) -> tuple[list[Group], list[Chunk]]:
    """The groups and chunks of a sweep: as its directory has them, or new ones, written there.

    The directory is locked then. A dry run, `--collect` and a process of a job array write nothing.
    `warn` is called if the free memory is not known.

    Raises:
      UserError: as for `run`.
    """
    groups = plan.make_groups(members, load_data, options.shared_data_order)
    settings = {name: getattr(options, name) for name in ("shared_data_order", "strategy")}
    settings = {"save": options.saved, **settings}
    if options.record is not None:
        settings |= options.record.to_json()
    if options.corruptions:
        settings["corruptions"] = True
    requested = plan.to_json(members, groups, **settings)
    resumes = store.plan() is not None
    written, writes = store.plan(), not (options.dry_run or options.collect or options.worker)
    if written is None and (options.collect or options.worker):
        raise UserError(
            f"{store.name} holds no sweep yet: nothing to collect"
            if options.collect
            else f"{store.name} holds no plan yet: --print_sbatch in place of --worker writes it"
        )
    if written is None:
        chunks = _plan_chunks(groups, options, warn)
        if options.record is not None:
            check_space(options.record, chunks, store.path)
        check_starts(chunks, warn)
        if not writes:
            return groups, chunks
        planned = requested | {"chunks": plan.chunks_to_json(chunks)}
        written = store.open(planned, configs.to_dict(config))  # or of a process that was faster
    _check_config(store, config)
    chunks = plan.from_json(written, requested, groups, store.name)
    if options.record is not None and not options.collect:
        check_space(options.record, missing_chunks(store, chunks), store.path)
    if not options.collect:  # which checks what it reads
        for chunk in sorted(store.done() & set(range(len(chunks)))):
            store.check(chunk)
    if resumes and not options.collect:
        check_starts(missing_chunks(store, chunks), warn)
    if writes:
        store.open(written, configs.to_dict(config))
    return groups, chunks


def _print_remarks(
    console: Console,
    store: SweepDir,
    config: configs.Config,
    groups: Sequence[Group],
    executor: Executor | None,
) -> None:
    """Prints what a user should know of the data, the devices and the file system."""
    for remark in dict.fromkeys(r for group in groups for r in group.dataset.remarks):
        console.note(remark)
    if executor is None and (remark := remark_on_device(config)):
        console.note(remark)
    if store.lock_note:
        console.warn(store.lock_note)


def _record(
    console: Console,
    store: SweepDir,
    config: configs.Config,
    members: Members,
    chunks: Sequence[Chunk],
    options: Options,
    command: Sequence[str],
) -> None:
    """Compares what the bits depend on with what is recorded, and records it.

    Raises:
      UserError: a file of the user's code changed since chunks were trained.
    """
    record = training_environment(config, command) | sums_of_code(members)
    if missing_chunks(store, chunks):
        record |= own_weights(members)
    elif (kept := store.environment().get("weights_sha256")) is not None:  # they may be gone
        record["weights_sha256"] = kept
    _check_code(store, record)
    if changed := what_changed(store.environment(), record):
        console.warn(f"results may differ in the last bits from the chunks already done: {changed}")
    if options.worker is None:
        store.write_environment(record)


def _check_config(store: SweepDir, config: configs.Config) -> None:
    """Raises UserError if the sweep in a directory has another base config."""
    different = configs.differing_keys(configs.from_dict(store.config()), config)
    if different:
        raise UserError(
            f"{store.name} holds a sweep of another config: {'; '.join(different)}\n"
            "Use the same config to resume it, or choose another --workdir to start over."
        )


def _check_code(store: SweepDir, record: Mapping[str, Any]) -> None:
    """Raises UserError if a file of the user's changed since chunks were trained."""
    before = store.environment()
    for what in ("network", "loss", "measurement", "subset", "weights"):
        was, now = before.get(f"{what}_sha256"), record.get(f"{what}_sha256")
        if was is not None and was != now and store.done():
            file = f"the file of the {what}"
            if what == "weights":
                file = "a file of weights that members start from, or are pruned by,"
            raise UserError(
                f"{file} changed since {store.name} was started, and members are trained\n"
                "Restore it, or choose another --workdir to start over."
            )


def _plan_chunks(
    groups: Sequence[Group], options: Options, warn: Callable[[str], None]
) -> list[Chunk]:
    devices = machine.devices()
    strategy = choose_strategy(options.strategy, devices[0])
    memory = machine.available_memory(devices[0])
    if memory is None and options.chunk_size is not None:
        return plan.make_chunks(groups, len(devices), [options.chunk_size] * len(groups))
    if memory is None:
        memory = ASSUMED_MEMORY
        warn(
            f"{devices[0].device_kind} does not say how much memory is free:"
            f" {memory / 1e9:.1f} GB are assumed; --chunk_size=N trains N members at once"
        )
    asked = options.chunk_size
    sizes = [plan.chunk_size(group, devices, strategy, memory, asked) for group in groups]
    return plan.make_chunks(groups, len(devices), sizes)


def _print_header(
    console: Console,
    store: SweepDir,
    groups: Sequence[Group],
    chunks: Sequence[Chunk],
    options: Options,
    executor: Executor | None,
) -> None:
    """Prints where what is trained, and in how many parts."""
    devices = machine.devices()
    device = f"{len(devices)} × {devices[0].device_kind}"
    if executor is not None:
        device = getattr(executor, "describe", lambda: type(executor).__name__)()
    kept = {"best": "of each setting's best member", "all": "of all members", "none": "not"}
    epochs = sum(chunk.member_epochs for chunk in chunks)
    count = sum(len(group.members) for group in groups)
    datasets = {id(group.dataset): group for group in groups}.values()
    console.sweep_header(
        device=device,
        datasets=[each.dataset.describe(each.spec.num_examples) for each in datasets],
        workdir=options.workdir,
        plan=f"{counted(count, 'member')} in {counted(len(groups), 'group')} and"
        f" {counted(len(chunks), 'chunk')}, {epochs:,} epochs in all; weights saved:"
        f" {kept[options.saved]}",
    )


def _collect(
    store: SweepDir,
    members: Members,
    chunks: Sequence[Chunk],
    console: Console,
    options: Options,
    command: Sequence[str],
) -> int:
    """Writes the sweep's tables and figure from the finished chunks; returns the exit code."""
    finished = store.done()
    done = [chunk for chunk in chunks if chunk.number in finished]
    rows, curves = read_chunks(store, [chunk.number for chunk in done])
    complete = len(done) == len(chunks)
    if complete:
        store.remove_shared_drafts()
    else:
        console.warn(
            f"{share(len(chunks) - len(done), len(chunks))} missing;"
            " run --collect when all are done"
        )
    if not rows:
        if kept := store.results():
            names = ", ".join(path.name for path in kept)
            console.warn(f"there is nothing to collect; of an earlier time are {names}")
        return ExitCode.DONE
    overrides = {row["member"]: members.columns[row["member"]] for row in rows}
    chances = {}
    for group in {id(chunk.group): chunk.group for chunk in done}.values():
        chances |= dict.fromkeys(group.members.numbers.tolist(), group.chance)
    settings = results.by_setting(rows, overrides, chances)
    winner = results.choose(settings)
    about = config_text.describe_config(members.config, members.columns.by_key)
    summary = results.summary(settings, winner, overrides, complete=complete, about=about)
    winner_file = None
    if complete and winner:
        member = winner[1]["member"]
        winner_file = config_text.winner_file(members[member].config, winner[1], overrides[member])
    name = Path(store.name).name
    figures, title = dict[str, bytes](), figure_data.title(name, summary)
    finished_any = any(setting.done for setting in settings)
    if finished_any:
        shown = figure_data.for_plot(settings, curves)
        figures |= draw(
            lambda: plot_sweep(shown, title=title), FIGURE, console.warn, options.formats
        )
    if errors := figure_data.errors_by_corruption(settings):
        stuck = sum(setting.stuck for setting in settings)
        figures |= draw(
            lambda: plot_error_map(errors, title=f"Sweep {title}", stuck=stuck),
            ERROR_MAP,
            console.warn,
            options.formats,
        )
    has_parquet = store.write_results(
        results_table.table(rows, overrides),
        results_table.history([row["member"] for row in rows], curves),
        summary,
        winner=winner_file,
        figures=figures,
        page=webpage.render(rows, overrides, name, title),
        parquet=len(rows) > MOST_IN_CSV,
    )
    if not has_parquet and len(rows) > MOST_IN_CSV:
        console.note("results.parquet needs pyarrow: pip install '.[parquet]' in the repository")
    console.lines(result_lines(settings, summary, rows, console.width))
    console.note(f"members to sort, filter and compare: {options.workdir}/{PAGE}")
    if winner and options.saved != "none":
        member = str(NetworkName(store.name, winner[1]["member"]))
        out = ["--out=inspect"] if is_url(store.name) else []
        console.next([next_command(command, "inspect", f"--workdir={member}", *out)])
    if finished_any:
        return ExitCode.DONE
    console.warn(
        f"every member{'' if complete else ' so far'} diverged: there is no winner and no figure;"
        f" {IF_DIVERGED}"
    )
    return ExitCode.DIVERGED if complete else ExitCode.DONE
