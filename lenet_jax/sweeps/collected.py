"""The collected results of a sweep, as Python has them: `lenet_jax.load_sweep`."""

import contextlib
import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lenet_jax import config as configs
from lenet_jax.errors import UserError, counted, expand, is_url, show
from lenet_jax.inference.description import Description
from lenet_jax.inference.figures import check_suffix, save
from lenet_jax.inference.load import load as load_network
from lenet_jax.inference.network import Network
from lenet_jax.network_name import whole
from lenet_jax.plots.output import settle
from lenet_jax.plots.style import Figure
from lenet_jax.plots.sweeps import plot_sweep
from lenet_jax.storage.chunk import Row
from lenet_jax.storage.recorded import (
    Folders,
    RecordedArray,
    load_logits,
    load_weights,
    recorded_epochs,
)
from lenet_jax.storage.sweep_dir import SweepDir, is_sweep
from lenet_jax.storage.sweep_url import find_sweep
from lenet_jax.sweeps import config_text, figure_data, results, results_table
from lenet_jax.sweeps.members import Overrides
from lenet_jax.sweeps.table import result_lines

if TYPE_CHECKING:
    import pandas

CurvesByMember = Mapping[int, Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True, eq=False)
class SweepResults:
    """What a sweep found: its table, its figure and its networks.

    Attributes:
      path: its folder.
      rows: of each member its number, its overrides by key, and its results as in results.csv.
      summary: the statistics of each setting and the winner, as in summary.json.
      settings: members that differ in their seeds alone.
      curves: the metrics of each member by name, a value an epoch.
      overrides: of each member, by key.
      folders: of the finished chunks, and their members.
    """

    path: Path
    rows: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any]
    settings: Sequence[results.Setting]
    curves: CurvesByMember
    overrides: Mapping[int, Overrides]
    folders: Folders

    def __repr__(self) -> str:
        """The table that the command prints."""
        rows = self._results()
        lines = result_lines(self.settings, dict(self.summary), rows)
        title = f"Sweep {show(self.path.name)}, {counted(len(rows), 'network')}"
        return "\n".join([title, *lines[1:]])

    @functools.cached_property
    def table(self) -> "pandas.DataFrame":
        """The rows of results.csv, one per member, of the finished ones.

        Raises:
          UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise UserError(
                "the table of a sweep is a DataFrame of pandas, which is not installed:"
                " pip install pandas, or '.[pandas]' in the repository\n"
                "Without it, .rows has the same as dicts."
            ) from error
        columns, lines = results_table.table(self._results(), self.overrides)
        return pandas.DataFrame(list(lines), columns=list(columns))

    @functools.cached_property
    def logits(self) -> RecordedArray:
        """The logits of the test images, (members, n, k), which stay on the disk.

        Each row is of the network that `network` loads, in the order of the table; NaN where the
        member diverged.

        Raises:
          UserError: they were not recorded, see `--record`, or are damaged.
        """
        return self.logits_of()

    def logits_of(self, split: str = "test", epoch: int | None = None) -> RecordedArray:
        """The logits of a split's images, (members, n, k), see `logits`.

        Args:
          split: `test`, `train` or `valid`.
          epoch: after which, counted from 1; NaN where a member had diverged or stopped before.
            None: of the networks that the results are of.

        Raises:
          UserError: they were not recorded, or are damaged.
        """
        return load_logits(self.folders, split, whole("epoch", epoch))

    def weights(self, epoch: int | None = None) -> dict[str, RecordedArray]:
        """The weights by name, each (members, …), under PyTorch's names and in its layouts.

        Args:
          epoch: as for `logits_of`; 0: before the first.

        Raises:
          UserError: they were not recorded, or are damaged; or networks differ in shape.
        """
        return load_weights(self.folders, whole("epoch", epoch))

    def epochs(self, kind: str = "weights") -> list[int]:
        """The epochs after which `weights` or `logits` were recorded; 0: before the first."""
        return recorded_epochs([folder for folder, _ in self.folders], kind)

    def network(
        self, member: int | None = None, model: str | None = None, *, epoch: int | None = None
    ) -> Network:
        """The network of a member, by default of the best on validation.

        Args:
          member: its number.
          model: the class of a network of one's own, whose file runs as code: `FILE.py:Class`.
          epoch: after which, if it is recorded; 0: before the first; None: the best on validation.

        Raises:
          UserError: its weights were not saved or recorded; or every member diverged.
        """
        if member is None:
            member = self._winner()["member"]
        return load_network(self.path, member, Description(model=model), epoch=epoch)

    def plot(self, *, path: str | Path | None = None) -> Figure:
        """Draws the figure of the sweep, see `plots.sweeps`; a notebook shows it.

        Args:
          path: where to write it as well, replacing what is there: FILE.png, FILE.svg or FILE.pdf.

        Raises:
          UserError: every member diverged, or the file cannot be written.
        """
        if path is not None:
            check_suffix(path)
        if not any(setting.done for setting in self.settings):
            self._winner()  # raises
        shown = figure_data.for_plot(self.settings, self.curves)
        title = figure_data.title(self.path.name, self.summary)
        figure = settle(plot_sweep(shown, title=title))
        if path is not None:
            save(figure, path)
        return figure

    def _results(self) -> list[Row]:
        """The results of each member, without its overrides."""
        rows = [row for setting in self.settings for row in setting.rows]
        return sorted(rows, key=lambda row: row["member"])

    def _winner(self) -> Mapping[str, Any]:
        winner = self.summary["winner"]
        if winner is None:
            if any(setting.done for setting in self.settings):
                reason = "has no validation images to choose a member on; give its number"
                raise UserError(f"{show(self.path)} {reason}, as network(member=0)")
            raise UserError(f"every member of {show(self.path)} diverged: there is no best")
        return winner


def load_results(path: str | Path) -> SweepResults:
    """Loads the results of a sweep; while it runs, or was stopped, those of the finished chunks.

    Raises:
      UserError: there are none, or they are damaged.
    """
    store = find_sweep(path)
    store.pull()
    if not is_sweep(store.path):
        what = "has no sweep" if is_url(path) else "is not a sweep's directory"
        raise UserError(f"{show(path)} {what}")
    done, members = store.done(), store.members()
    if not done:
        raise UserError(
            f"{show(path)} has no finished chunk yet\nRun its command again, or wait until it has."
        )
    rows, curves = read_chunks(store, done)
    overrides = {row["member"]: members[row["member"]] for row in rows}
    chances = {}
    for chunk in done:
        chances |= dict.fromkeys(store.members_of(chunk), store.read_chance(chunk))
    settings = results.by_setting(rows, overrides, chances)
    winner, complete = results.choose(settings), len(rows) == len(members)
    about = ""
    with contextlib.suppress(UserError):  # the config is of another version; results are not
        about = config_text.describe_config(configs.from_dict(store.config()), members.by_key)
    summary = results.summary(settings, winner, overrides, complete=complete, about=about)
    table = [{"member": row["member"], **overrides[row["member"]], **row} for row in rows]
    folders = store.folders(done)
    location = store.path if is_url(path) else expand(path)
    return SweepResults(location, table, summary, settings, curves, overrides, folders)


def read_chunks(
    store: SweepDir, chunks: Collection[int]
) -> tuple[list[Row], dict[int, dict[str, np.ndarray]]]:
    """The rows of the members of finished chunks, in their order, and the curves of each.

    Raises:
      UserError: a chunk is damaged.
    """
    rows, curves = [], {}
    for chunk in sorted(chunks):
        chunk_rows, arrays = store.read_chunk(chunk)
        rows += chunk_rows
        for index, row in enumerate(chunk_rows):
            curves[row["member"]] = {name: array[index] for name, array in arrays.items()}
    return sorted(rows, key=lambda row: row["member"]), curves
