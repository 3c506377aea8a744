"""The collected results of a sweep, as Python has them: `lenet_jax.load_sweep`."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lenet_jax.errors import UserError, counted, expand, show
from lenet_jax.inference.description import Description
from lenet_jax.inference.figures import check_suffix, save
from lenet_jax.inference.load import load as load_network
from lenet_jax.inference.network import Network
from lenet_jax.plots.output import settle
from lenet_jax.plots.style import Figure
from lenet_jax.plots.sweeps import plot_sweep
from lenet_jax.reading import read_json
from lenet_jax.storage.sweep_dir import SUMMARY, Row, SweepDir, is_sweep
from lenet_jax.sweeps import results
from lenet_jax.sweeps.table import result_lines

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
    """

    path: Path
    rows: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any]
    settings: Sequence[results.Setting]
    curves: CurvesByMember

    def __repr__(self) -> str:
        """The table that the command prints."""
        rows = [row for setting in self.settings for row in setting.rows]
        lines = result_lines(self.settings, dict(self.summary), rows)
        title = f"Sweep {show(self.path.name)}, {counted(len(rows), 'network')}"
        return "\n".join([title, *lines[1:]])

    def network(self, member: int | None = None, model: str | None = None) -> Network:
        """The network of a member, by default of the best on validation.

        Args:
          member: its number.
          model: the class of a network of one's own, whose file runs as code: `FILE.py:Class`.

        Raises:
          UserError: its weights were not saved; or every member diverged.
        """
        if member is None:
            member = self._winner()["member"]
        return load_network(self.path, member, Description(model=model))

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
        entries = self.summary["settings"]
        settings = [
            setting._replace(chance=entry.get("chance", 0.0))
            for setting, entry in zip(self.settings, entries, strict=True)
        ]
        shown = [
            setting._replace(stuck=entry["stuck"])
            for setting, entry in zip(results.for_plot(settings, self.curves), entries, strict=True)
        ]
        title = results.title(self.path.name, self.summary)
        figure = settle(plot_sweep(shown, title=title))
        if path is not None:
            save(figure, path)
        return figure

    def _winner(self) -> Mapping[str, Any]:
        winner = self.summary["winner"]
        if winner is None:
            if any(setting.done for setting in self.settings):
                reason = "has no validation images to choose a member on; give its number"
                raise UserError(f"{show(self.path)} {reason}, as network(member=0)")
            raise UserError(f"every member of {show(self.path)} diverged: there is no best")
        return winner


def load_results(path: str | Path) -> SweepResults:
    """Loads the results that a sweep collected last.

    Raises:
      UserError: there are none, or they are damaged or older than the chunks.
    """
    store = SweepDir(path)
    if not is_sweep(store.path):
        raise UserError(f"{show(path)} is not a sweep's directory")
    summary = read_json(store.path / SUMMARY, dict[str, Any])
    rows, curves = read_chunks(store, store.done())
    if summary is None or summary["members"] != len(rows):
        raise UserError(
            f"the results of {show(path)} are not collected yet\n"
            "Run its command again, or with --collect to see those of the finished chunks."
        )
    members = store.members()
    overrides = {row["member"]: members[row["member"]] for row in rows}
    table = [{"member": row["member"], **overrides[row["member"]], **row} for row in rows]
    settings = results.by_setting(rows, overrides)
    return SweepResults(expand(path), table, summary, settings, curves)


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
