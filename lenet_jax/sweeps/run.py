"""Runs a sweep: trains the missing chunks, then collects the results of all finished ones."""

import math
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lenet_jax import config as configs
from lenet_jax import data, machine
from lenet_jax.data.form import measure_form
from lenet_jax.errors import ExitCode, UserError, counted, printable
from lenet_jax.inference.description import architecture_metadata
from lenet_jax.inference.state_dict import form_metadata, make_metadata, to_state_dict
from lenet_jax.machine import ASSUMED_MEMORY, environment, what_changed
from lenet_jax.nn import native, ops
from lenet_jax.plots.output import draw
from lenet_jax.plots.sweeps import plot_sweep
from lenet_jax.statistics import FEWEST, chance, shortest
from lenet_jax.storage.files import write_atomically
from lenet_jax.storage.sweep_dir import Row, SweepDir, write_chunk, write_weights
from lenet_jax.sweeps import estimate, plan, results
from lenet_jax.sweeps.members import Members
from lenet_jax.sweeps.plan import Chunk, Group
from lenet_jax.terminal.console import Console
from lenet_jax.terminal.interrupt import Interrupt
from lenet_jax.terminal.progress import MemberEpochs, clock
from lenet_jax.training import population as populations
from lenet_jax.training.population import Population, Strategy, choose_strategy

MOST_LINES = 50  # of chunks
MOST_NAME = 60  # letters of a setting
MOST_SETTINGS, SHOWN_FIRST, SHOWN_BEST = 24, 3, 10  # of settings
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


class Options(NamedTuple):
    """The options of a sweep, besides its config and sweep file."""

    workdir: str
    save: str = "best"
    shared_data_order: bool = False
    strategy: Strategy = "auto"
    chunk_size: int | None = None
    worker: tuple[int, int] = (1, 1)
    collect: bool = False
    dry_run: bool = False


def run(config: configs.Config, members: Members, options: Options, command: Sequence[str]) -> int:
    """Plans, trains the missing chunks of this worker's share, and collects the finished ones.

    Returns:
      The exit code: 0 if done, 3 if every member diverged, 129, 130, 141 or 143 if stopped, see
      `Interrupt`.

    Raises:
      UserError: the data, the available memory or the directory does not fit the sweep.
      OSError: the results cannot be written; the finished chunks stay intact.
    """
    if config.train.initial_weights is not None:
        raise UserError("a sweep draws its members' weights: do not set train.initial_weights")
    console, store = Console(), SweepDir(options.workdir)
    groups, chunks = make_plan(store, config, members, options, console.warn)
    if options.dry_run:
        missing = _missing(store, chunks)
        lines = estimate.describe(
            groups, chunks, missing, options.strategy, options.shared_data_order
        )
        console.lines(lines)
        return ExitCode.DONE
    if options.collect:
        if store.plan() is None:
            raise UserError(f"{store.path} holds no sweep yet: nothing to collect")
        with store.lock("collect"):
            return _collect(store, members, chunks, console)
    for remark in dict.fromkeys(r for group in groups for r in group.dataset.remarks):
        console.note(remark)
    if store.lock_note:
        console.warn(store.lock_note)
    backend, devices = ops.choose_backend(config.model.backend), machine.devices()
    record = environment(PACKAGES) | {
        "command": shlex.join(command),
        "working_directory": str(Path.cwd()),
        "jax_backend": devices[0].platform,
        "devices": [device.device_kind for device in devices],
        "backend": backend,
        "native_code": native.key() if backend == "native" else None,
    }
    if changed := what_changed(store.environment(), record):
        console.warn(f"results may differ in the last bits from the chunks already done: {changed}")
    store.write_environment(record)
    index, count = options.worker
    with Interrupt(console.release, console.is_closed) as interrupt:
        if not _train(store, chunks[index - 1 :: count], options, console, interrupt):
            console.warn(f"{interrupt.reason}; to resume: {shlex.join(command)}")
            return interrupt.exit_code
    with store.lock("collect"):
        return _collect(store, members, chunks, console)


def make_plan(
    store: SweepDir,
    config: configs.Config,
    members: Members,
    options: Options,
    warn: Callable[[str], None],
) -> tuple[list[Group], list[Chunk]]:
    """The groups and chunks of a sweep: as its directory has them, or new ones, written there.

    A dry run and `--collect` write nothing. `warn` is called if the free memory is not known.

    Raises:
      UserError: as for `run`.
    """
    groups = plan.make_groups(members, _load, options.shared_data_order)
    chunks = _plan_chunks(groups, options, warn)
    settings = {name: getattr(options, name) for name in ("save", "shared_data_order", "strategy")}
    requested = plan.to_json(members, groups, **settings)
    written = store.plan()
    if written is not None:
        _check_config(store, config)
        chunks = plan.from_json(written, requested, groups, str(store.path))
        if not options.collect:  # which checks what it reads
            for chunk in sorted(store.done() & set(range(len(chunks)))):
                store.check(chunk)
    if options.dry_run or options.collect:
        return groups, chunks
    new = {} if written else {**requested, "chunks": plan.chunks_to_json(chunks)}
    store.open(new, configs.to_dict(config))
    if written is None:
        _check_config(store, config)  # of a worker that was faster
        written = store.plan()
        assert written is not None
        chunks = plan.from_json(written, requested, groups, str(store.path))
    return groups, chunks


def _check_config(store: SweepDir, config: configs.Config) -> None:
    """Raises UserError if the sweep in a directory has another base config."""
    different = configs.differing_keys(configs.from_dict(store.config()), config)
    if different:
        raise UserError(
            f"{store.path} holds a sweep of another config: {'; '.join(different)}\n"
            "Use the same config to resume it, or choose another --workdir to start over."
        )


def _load(config: configs.Config) -> data.Dataset:
    return data.load(**config.data)


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
    sizes = [plan.chunk_size(group, devices, strategy, memory) for group in groups]
    if options.chunk_size is not None:
        sizes = [min(size, options.chunk_size) for size in sizes]
    return plan.make_chunks(groups, len(devices), sizes)


def _missing(store: SweepDir, chunks: Sequence[Chunk]) -> list[Chunk]:
    done = store.done()
    return [chunk for chunk in chunks if chunk.number not in done]


def _train(
    store: SweepDir,
    chunks: Sequence[Chunk],
    options: Options,
    console: Console,
    interrupt: Interrupt,
) -> bool:
    """Trains the chunks that no process has claimed; False if stopped by a signal."""
    missing, (worker, workers) = _missing(store, chunks), options.worker
    if not chunks:
        console.note(f"worker {worker} of {workers} has nothing to do: there are fewer chunks")
    elif len(missing) < len(chunks):
        rest = "" if missing else ": nothing to train"
        console.note(f"{_share(len(chunks) - len(missing), len(chunks))} already done{rest}")
    trainer = Trainer(options)
    with console.member_epochs(sum(chunk.member_epochs for chunk in missing)) as progress:
        every = math.ceil(len(missing) / MOST_LINES)
        for place, chunk in enumerate(missing):
            with store.claim(chunk.number) as folder:
                if folder is None:
                    console.note(f"chunk {chunk.number}: left to another process")
                    progress.advance(chunk.member_epochs, 0)
                    continue
                rows = trainer.train(chunk, folder, progress, interrupt)
                if rows is None:
                    return False
            if place % every == 0 or chunk is missing[-1]:
                progress.finish(_line(chunk, rows))
    return True


class Trainer:
    """Trains chunks; those of one group share the compiled functions and the data."""

    def __init__(self, options: Options):
        self._options = options
        self._group: Group | None = None

    def train(
        self, chunk: Chunk, folder: Path, progress: MemberEpochs, interrupt: Interrupt
    ) -> list[Row] | None:
        """Trains a chunk and writes it to `folder`; None if stopped by a signal."""
        if self._group is not chunk.group:
            self._prepare(chunk)
        population, count, spec = self._population, len(chunk.members), chunk.group.spec
        started = time.perf_counter()
        members, settings = population.start([member.config for member in chunk.members])
        epochs = []
        for epoch in range(spec.num_epochs):
            members, metrics = population.train_epoch(
                members, settings, self._train_split, self._valid_split, epoch
            )
            epochs.append(population.pick(metrics, count))
            if interrupt.notice():
                return None
            progress.advance(count, count * spec.num_examples)
        test = population.test(members, self._test_split)
        outcome = members.state.step, members.best_epoch, members.best_valid, test
        outcome = population.pick(outcome, count)
        rows = _rows(chunk, *outcome, seconds=time.perf_counter() - started)
        curves = {
            name: np.stack(values, axis=1)
            for name, values in zip(epochs[0]._fields, zip(*epochs, strict=True), strict=True)
        }
        write_chunk(folder, rows, curves)
        self._save_weights(chunk, folder, members, rows)
        return rows

    def _prepare(self, chunk: Chunk) -> None:
        self._group = chunk.group
        self._population = Population(
            chunk.group.spec,
            chunk.size,
            strategy=self._options.strategy,
            shared_data_order=self._options.shared_data_order,
        )
        dataset = chunk.group.dataset
        self._train_split, self._valid_split, self._test_split = map(
            self._population.put, (dataset.train, dataset.valid, dataset.test)
        )

    def _save_weights(
        self, chunk: Chunk, folder: Path, members: populations.Members, rows: Sequence[Row]
    ) -> None:
        """Writes the best parameters of all members, or of the best member of each setting."""
        kept = range(len(rows))
        if self._options.save == "best":
            settings = results.by_setting(rows, chunk.members.overrides())
            best = [max(s.done, key=results.rank)["member"] for s in settings if s.done]
            kept = [index for index in kept if rows[index]["member"] in best]
        if self._options.save == "none" or not kept:
            return
        params = self._population.pick(members.best_params, len(rows))
        saved = {
            rows[index]["member"]: to_state_dict(
                jax.tree.map(lambda leaf, i=index: leaf[i], params)
            )
            for index in kept
        }
        spec, dataset = chunk.group.spec, chunk.group.dataset
        fit = chunk.members[0].config.data.fit
        form = measure_form(dataset.train.images, fit, dataset.native_size)
        metadata = make_metadata(spec.mean, spec.std, dataset.class_names)
        metadata |= architecture_metadata(dict(spec.model)) | form_metadata(form, None)
        write_weights(folder, saved, metadata)


def _rows(
    chunk: Chunk, steps: Any, best_epochs: Any, valid: Any, test: Any, *, seconds: float
) -> list[Row]:
    """One row per member; results of a diverged member are None."""
    rows = []
    for index, member in enumerate(chunk.members.numbers.tolist()):
        step = int(steps[index])
        row: Row = {"member": member, "status": "diverged" if step < 0 else "done"}
        for name, sums in (("valid", valid), ("test", test)):
            loss, correct, count = (
                float(getattr(sums, field)[index]) for field in ("loss", "correct", "count")
            )
            row[f"{name}_loss"] = shortest(loss / count) if step >= 0 else None
            row[f"{name}_accuracy"] = correct / count if step >= 0 else None
        row["best_epoch"] = int(best_epochs[index]) if step >= 0 else None
        row["diverged_step"] = -step if step < 0 else None
        row["seconds"] = round(seconds / len(chunk.members), 3)
        rows.append(row)
    return rows


def _line(chunk: Chunk, rows: Sequence[Row]) -> str:
    first, last = chunk.members.numbers[[0, -1]]
    done = [row for row in rows if row["status"] == "done"]
    members = f"member {first}" if first == last else f"members {first}–{last}"
    line = f"chunk {chunk.number}: {members}"
    if done:
        best = max(done, key=results.rank)
        line += f", best valid acc {100 * best['valid_accuracy']:.2f} % (member {best['member']})"
    if len(done) < len(rows):
        line += f", {len(rows) - len(done)} diverged"
    return line


def _share(part: int, whole: int) -> str:
    """`1 of 5 chunks is`, `2 of 5 chunks are`, as the subject of a sentence."""
    return f"{part:,} of {counted(whole, 'chunk')} {'is' if part == 1 else 'are'}"


def _collect(store: SweepDir, members: Members, chunks: Sequence[Chunk], console: Console) -> int:
    """Writes the sweep's tables and figure from the finished chunks; returns the exit code.

    The caller holds the lock `collect`: of workers that end together, the last writes all.
    """
    finished = store.done()
    done = [chunk for chunk in chunks if chunk.number in finished]
    rows, curves = [], {}
    for chunk in done:
        chunk_rows, arrays = store.read_chunk(chunk.number)
        rows += chunk_rows
        for index, row in enumerate(chunk_rows):
            curves[row["member"]] = {name: array[index] for name, array in arrays.items()}
    rows.sort(key=lambda row: row["member"])
    complete = len(done) == len(chunks)
    if not complete:
        console.warn(
            f"{_share(len(chunks) - len(done), len(chunks))} missing;"
            " run --collect when all are done"
        )
    if not rows:
        return ExitCode.DONE
    overrides = {row["member"]: members.columns[row["member"]] for row in rows}
    chances = {}
    for group in {id(chunk.group): chunk.group for chunk in done}.values():
        rate = chance(group.dataset.valid.labels)
        chances |= dict.fromkeys(group.members.numbers.tolist(), rate)
    settings = results.by_setting(rows, overrides, chances)
    winner = results.choose(settings)
    summary = results.summary(settings, winner, overrides, complete=complete)
    winner_file = None
    if complete and winner:
        member = winner[1]["member"]
        winner_file = results.winner_file(members[member].config, winner[1], overrides[member])
    store.write_results(
        results.table(rows, overrides),
        results.history([row["member"] for row in rows], curves),
        summary,
        winner_file,
    )
    if winner:
        shown, title = results.for_plot(settings, curves), store.path.name
        title += "" if complete else ", so far"
        figure = draw(lambda: plot_sweep(shown, title=title), store.figure.name, console.warn)
        if figure is not None:
            write_atomically(store.figure, figure)
    console.lines(_result_lines(settings, summary, rows))
    for file in store.results():
        console.note(f"  {file}")
    if winner:
        return ExitCode.DONE
    console.warn(
        f"every member{'' if complete else ' so far'} diverged: there is no winner and no figure;"
        " use a lower optimizer.learning_rate"
    )
    return ExitCode.DIVERGED if complete else ExitCode.DONE


def _result_lines(
    settings: Sequence[results.Setting], summary: dict[str, Any], rows: Sequence[Row]
) -> list[str]:
    """The printed table: a line per setting, the winner marked; of many the first and the best."""
    entries, winner = summary["settings"], summary["winner"]
    robust = any(entry["stuck"] for entry in entries)
    shown, best = range(len(entries)), []
    if len(entries) > MOST_SETTINGS:
        shown, best = range(SHOWN_FIRST), results.ranking(settings)[:SHOWN_BEST]
    name_of = {place: printable(settings[place].name, MOST_NAME) for place in [*shown, *best]}
    width = max(map(len, [*name_of.values(), "setting"]))
    what = "median" if robust else "mean"
    if any(entry["n"] >= FEWEST for entry in entries):
        what += " [25–75 %]" if robust else " [95 % interval]"
    so_far = "" if summary["status"] == "done" else " so far"
    heading = f"{'setting':<{width}}  {'finished':>9}  diverged  stuck    best"
    lines = ["", f"{heading}   test accuracy{so_far}, %: {what}"]

    def line(place: int) -> str:
        entry = entries[place]
        finished = f"{entry['n']} of {entry['n'] + entry['diverged']}"
        best = entry["best"]["member"] if entry["best"] else "–"
        star = "  ★" if winner and winner["setting"] is entry and len(entries) > 1 else ""
        counts = f"{finished:>9}  {entry['diverged']:>8}  {entry['stuck']:>5}  {best:>6}"
        return f"{name_of[place]:<{width}}  {counts}   {_accuracy(entry, robust)}{star}"

    lines += map(line, shown)
    if best:
        lines += [f"… of {len(entries):,} settings, all in summary.json; the best on validation:"]
        lines += map(line, best)
    if winner:
        if len(entries) > 1:
            lines.append(f"★ highest mean accuracy on validation{so_far}{_lead(winner['lead'])}")
        lines.append(
            f"best member on validation{so_far}: {winner['member']},"
            f" test {100 * winner['test_accuracy']:.2f} %"
        )
        lines.append("every accuracy is that of the member's best epoch on validation")
    seconds = sum(row["seconds"] for row in rows)
    lines.append(f"{counted(len(rows), 'member')}, {clock(seconds)} of training")
    return lines


def _accuracy(entry: dict[str, Any], robust: bool) -> str:
    """The test accuracy of a setting's members, in percent."""
    statistics = entry["test_accuracy"]
    centre, ends = ("median", "quartiles") if robust else ("mean", "ci95")
    if statistics[centre] is None:
        return f"{'–':>6}"
    text = f"{100 * statistics[centre]:6.2f}"
    if entry["n"] < FEWEST:
        return text
    low, high = statistics[ends]
    return f"{text} [{100 * low:.2f}, {100 * high:.2f}]"


def _lead(lead: dict[str, Any] | None) -> str:
    """How far the winner is ahead, and how sure that is."""
    if lead is None:
        return ", of the only setting with finished members"
    points, p = 100 * lead["valid_accuracy"], lead["p"]
    sure = f"not tested: {lead['untested']}" if p is None else f"Welch's t-test: p = {p:.2g}"
    return f", {points:.2f} points above {printable(lead['name'], MOST_NAME)} ({sure})"
