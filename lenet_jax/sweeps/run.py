"""The work of a sweep: trains the chunks that are missing, and joins those that are there."""

import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lenet_jax import config as configs
from lenet_jax import data
from lenet_jax.errors import UserError
from lenet_jax.inference import state_dict as torch_bridge
from lenet_jax.machine import environment
from lenet_jax.plots import sweeps as sweep_figure
from lenet_jax.runs.figures import DRAWING_ERRORS
from lenet_jax.storage import weights as state_file
from lenet_jax.storage.run_dir import write_atomically
from lenet_jax.storage.sweep_dir import Row, SweepDir
from lenet_jax.sweeps import estimate as sweep_preview
from lenet_jax.sweeps import plan as sweep_plan
from lenet_jax.sweeps import results as sweep_results
from lenet_jax.sweeps.file import Member
from lenet_jax.sweeps.plan import Chunk, Group
from lenet_jax.terminal.console import Console, MemberEpochs, clock
from lenet_jax.terminal.interrupt import Interrupt
from lenet_jax.training.population import Members, Population, Strategy, choose_strategy

DONE = 0
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


class Options(NamedTuple):
    """What the command line says beside the config and the sweep."""

    workdir: str
    save: str = "best"
    shared_data_order: bool = False
    strategy: Strategy = "auto"
    chunk_size: int | None = None
    worker: tuple[int, int] = (1, 1)
    collect: bool = False
    dry_run: bool = False


def run(
    config: configs.Config, members: Sequence[Member], options: Options, command: Sequence[str]
) -> int:
    """Plans, trains what is missing of this worker's part, and joins what is there.

    Returns:
      The exit code: 0 done, 130 or 143 stopped by a signal.

    Raises:
      UserError: the data, the memory or the directory is not what it should be.
    """
    if config.train.initial_weights is not None:
        raise UserError("a sweep draws its members' weights: leave train.initial_weights out")
    console, store = Console(), SweepDir(options.workdir)
    groups = sweep_plan.make_groups(members, _load, options.shared_data_order)
    chunks = _plan_chunks(groups, options)
    settings = {name: getattr(options, name) for name in ("save", "shared_data_order", "strategy")}
    asked = sweep_plan.to_json(members, chunks, **settings)
    written = store.plan()
    if written is not None:
        chunks = sweep_plan.from_json(written, asked, groups, str(store.path))
    if options.dry_run:
        missing = [chunk for chunk in chunks if not store.is_done(chunk.number)]
        how = options.strategy, options.shared_data_order
        console.lines(sweep_preview.describe(groups, chunks, missing, *how))
        return DONE
    if options.collect:
        if written is None:
            raise UserError(f"{store.path} holds no sweep yet: nothing to collect")
        _collect(store, members, chunks, console)
        return DONE
    written = store.open(asked, configs.to_dict(config))
    chunks = sweep_plan.from_json(written, asked, groups, str(store.path))
    record = environment(PACKAGES) | {
        "command": shlex.join(command),
        "devices": [device.device_kind for device in jax.devices()],
    }
    write_atomically(store.path / "environment.json", json.dumps(record, indent=1) + "\n")
    index, count = options.worker
    with Interrupt(console.release) as interrupt:
        if not _train(store, chunks[index - 1 :: count], options, console, interrupt):
            console.warn(f"{interrupt.reason}; go on with: {shlex.join(command)}")
            return interrupt.exit_code
    _collect(store, members, chunks, console)
    return DONE


def _load(config: configs.Config) -> data.Dataset:
    return data.load(**config.data)


def _plan_chunks(groups: Sequence[Group], options: Options) -> list[Chunk]:
    devices = jax.devices()
    strategy = choose_strategy(options.strategy, devices[0])
    memory = sweep_plan.available_memory(devices[0])
    sizes = [sweep_plan.chunk_size(group, devices, strategy, memory) for group in groups]
    if options.chunk_size is not None:
        sizes = [min(size, options.chunk_size) for size in sizes]
    return sweep_plan.make_chunks(groups, len(devices), sizes)


def _train(
    store: SweepDir,
    chunks: Sequence[Chunk],
    options: Options,
    console: Console,
    interrupt: Interrupt,
) -> bool:
    """Trains the chunks that nobody has done or is at; False if a signal came before the end."""
    missing = [chunk for chunk in chunks if not store.is_done(chunk.number)]
    if len(missing) < len(chunks):
        console.note(f"{len(chunks) - len(missing)} of {len(chunks)} chunks are done already")
    trainer = Trainer(store, options)
    with console.member_epochs(sum(chunk.member_epochs for chunk in missing)) as progress:
        for chunk in missing:
            with store.claim(chunk.number) as folder:
                if folder is None:
                    progress.advance(chunk.member_epochs, 0)
                    continue
                rows = trainer.train(chunk, folder, progress, interrupt)
                if rows is None:
                    return False
            progress.finish(_line(chunk, rows))
    return True


class Trainer:
    """Trains chunks, and keeps what those of one group have in common: the program, the data."""

    def __init__(self, store: SweepDir, options: Options):
        self._store, self._options = store, options
        self._group: Group | None = None

    def train(
        self, chunk: Chunk, folder: Path, progress: MemberEpochs, interrupt: Interrupt
    ) -> list[Row] | None:
        """Trains a chunk and writes it into `folder`; None if a signal came before the end."""
        if self._group is not chunk.group:
            self._prepare(chunk)
        population, count, spec = self._population, len(chunk.members), chunk.group.spec
        started = time.perf_counter()
        members, numbers = population.start([member.config for member in chunk.members])
        epochs = []
        for epoch in range(spec.num_epochs):
            members, metrics = population.train_epoch(
                members, numbers, self._train_split, self._valid_split, epoch
            )
            epochs.append(population.pick(metrics, count))
            if interrupt.notice():
                return None
            progress.advance(count, count * spec.num_examples)
        test = population.test(members, self._test_split)
        found = members.state.step, members.best_epoch, members.best_valid, test
        found = population.pick(found, count)
        rows = _rows(chunk, *found, seconds=time.perf_counter() - started)
        curves = {
            name: np.stack(values, axis=1)
            for name, values in zip(epochs[0]._fields, zip(*epochs, strict=True), strict=True)
        }
        self._store.write(folder, rows, curves)
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
        self, chunk: Chunk, folder: Path, members: Members, rows: Sequence[Row]
    ) -> None:
        """Writes the best parameters of all members, or of the best one of each setting here."""
        kept = range(len(rows))
        if self._options.save == "best":
            settings = sweep_results.by_setting(rows, sweep_plan.overrides(chunk.members))
            best = [max(s.done, key=sweep_results.rank)["member"] for s in settings if s.done]
            kept = [index for index in kept if rows[index]["member"] in best]
        if self._options.save == "none" or not kept:
            return
        params = self._population.pick(members.best_params, len(rows))
        saved = [
            torch_bridge.to_state_dict(jax.tree.map(lambda leaf, i=index: leaf[i], params))
            for index in kept
        ]
        spec, dataset = chunk.group.spec, chunk.group.dataset
        notes = torch_bridge.pixel_notes(spec.mean, spec.std) | {
            "classes": "\n".join(dataset.class_names),
            "members": " ".join(str(rows[index]["member"]) for index in kept),
        }
        stacked = {name: np.stack([arrays[name] for arrays in saved]) for name in saved[0]}
        state_file.write(folder / "weights.safetensors", stacked, notes)


def _rows(
    chunk: Chunk, steps: Any, best_epochs: Any, valid: Any, test: Any, *, seconds: float
) -> list[Row]:
    """A row a member; what a diverged one never had is None."""
    rows = []
    for index, member in enumerate(chunk.members):
        step = int(steps[index])
        row: Row = {"member": member.number, "status": "diverged" if step < 0 else "done"}
        for name, sums in (("valid", valid), ("test", test)):
            loss, correct, count = (
                float(getattr(sums, field)[index]) for field in ("loss", "correct", "count")
            )
            row[f"{name}_loss"] = loss / count if step >= 0 else None
            row[f"{name}_accuracy"] = correct / count if step >= 0 else None
        row["best_epoch"] = int(best_epochs[index]) if step >= 0 else None
        row["diverged_step"] = -step if step < 0 else None
        row["seconds"] = round(seconds / len(chunk.members), 3)
        rows.append(row)
    return rows


def _line(chunk: Chunk, rows: Sequence[Row]) -> str:
    first, last = chunk.members[0].number, chunk.members[-1].number
    done = [row for row in rows if row["status"] == "done"]
    told = f"chunk {chunk.number}: members {first}–{last}"
    if done:
        best = max(done, key=sweep_results.rank)
        told += f", best valid acc {100 * best['valid_accuracy']:.2f} % (member {best['member']})"
    if len(done) < len(rows):
        told += f", {len(rows) - len(done)} diverged"
    return told


def _collect(
    store: SweepDir, members: Sequence[Member], chunks: Sequence[Chunk], console: Console
) -> None:
    """Joins the chunks that are there into the sweep's tables and picture."""
    there = [chunk for chunk in chunks if store.is_done(chunk.number)]
    rows, curves = [], {}
    for chunk in there:
        found, arrays = store.read(chunk.number)
        rows += found
        for index, row in enumerate(found):
            curves[row["member"]] = {name: array[index] for name, array in arrays.items()}
    rows.sort(key=lambda row: row["member"])
    if len(there) < len(chunks):
        console.warn(
            f"{len(chunks) - len(there)} of {len(chunks)} chunks are missing;"
            " --collect joins them when they are there"
        )
    if not rows:
        return
    with store.lock("collect"):
        summary = sweep_results.write_results(
            store.path,
            rows,
            curves,
            sweep_plan.overrides(members),
            {member.number: member.config for member in members},
            len(there) == len(chunks),
        )
        settings = sweep_results.by_setting(rows, sweep_plan.overrides(members))
        try:
            sweep_figure.plot_sweep(
                settings, curves, store.path / "sweep.png", title=store.path.name
            )
        except DRAWING_ERRORS as error:
            told = f"{type(error).__name__}: {configs.one_line(error)}"
            console.warn(f"sweep.png was not drawn: {told}")
    console.lines(_result_lines(settings, summary, rows))
    for name in ("results.csv", "history.npz", "summary.json", "sweep.png", "winner.py"):
        if (store.path / name).exists():
            console.note(f"  {store.path / name}")


def _result_lines(
    settings: Sequence[sweep_results.Setting], summary: dict[str, Any], rows: Sequence[Row]
) -> list[str]:
    """The table for people: a line a setting, the winner marked."""
    names = [setting.name for setting in settings]
    wide = max(map(len, [*names, "setting"]))
    lines = ["", f"{'setting':<{wide}}    n  diverged  test accuracy, %"]
    winner = summary["winner"]
    for name, entry in zip(names, summary["settings"], strict=True):
        mean, ci = entry["test_accuracy"]["mean"], entry["test_accuracy"]["ci95"]
        told = "–" if mean is None else f"{100 * mean:.2f}"
        told += "" if ci is None else f" ± {100 * ci:.2f}"
        star = "  ★" if winner and winner["setting"] is entry else ""
        lines.append(f"{name:<{wide}} {entry['n']:>4}  {entry['diverged']:>8}  {told}{star}")
    if winner:
        lines.append(
            f"★ best mean on validation; its best member on validation is {winner['member']}:"
            f" test {100 * winner['test_accuracy']:.2f} %"
        )
    seconds = sum(row["seconds"] for row in rows)
    lines.append(f"{len(rows)} members, {clock(seconds)} of training")
    return lines
