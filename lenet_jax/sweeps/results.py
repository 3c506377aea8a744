"""The results of a sweep: a table of its members, statistics over seeds, and the winner."""

import json
import math
import re
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lenet_jax.config import base
from lenet_jax.config.file import Config, replace
from lenet_jax.config.networks import LENET
from lenet_jax.config.schema import keys
from lenet_jax.errors import counted
from lenet_jax.plots import settings as plots
from lenet_jax.plots.corruptions import CLEAN, MEAN
from lenet_jax.statistics import FEWEST, Summary, is_stuck, p_value
from lenet_jax.statistics import summarise as describe
from lenet_jax.storage.chunk import CORRUPTED, MEAN_CORRUPTION_ERROR, Curves, Row, is_corrupted
from lenet_jax.storage.tables import Table
from lenet_jax.sweeps.members import Overrides

SEEDS = (
    *("seed", "seeds.init", "seeds.order", "seeds.augment"),
    *("seeds.subset", "seeds.label_noise", "seeds.prune"),
)
# Which member of a sweep one starts from, or is pruned by, is chance, as a seed is.
SOURCES = "train.initial_weights", "prune.weights"
ONE_OF = re.compile(r":\d{1,9}(?=(@\d{1,9})?$)")  # `:7` of `SWEEP:7@3`
# Those that no member has are left out: of averaged or pruned weights, of epochs that may differ.
# `seconds` comes last: repeated sweeps give identical tables except for the last column.
COLUMNS = (
    "status",
    "valid_loss",
    "valid_accuracy",
    "test_loss",
    "test_accuracy",
    "valid_ema_accuracy",
    "test_ema_accuracy",
    "pruned_weights",
    "best_epoch",
    "epochs",
    "stopped_early",
    "diverged_step",
    "seconds",
)

MOST_MAPPED = 40  # settings in the heat map of corruptions

STATISTICS = (
    *("valid_accuracy", "test_accuracy", "valid_loss", "test_loss"),
    *("valid_ema_accuracy", "test_ema_accuracy"),
)


class Setting(NamedTuple):
    """Members that differ only by chance: what they have in common, see `by_setting`, and rows."""

    overrides: Overrides
    rows: list[Row]
    chance: float = 0.0  # the accuracy of always answering the most frequent class

    @property
    def done(self) -> list[Row]:
        """The rows of the members that did not diverge."""
        return [row for row in self.rows if row["status"] == "done"]

    @property
    def validated(self) -> bool:
        """Whether there were validation images, and a member that did not diverge."""
        return any(row["valid_accuracy"] is not None for row in self.done)

    @property
    def stuck(self) -> int:
        """How many of those are hardly better than chance on validation."""
        if not self.validated:
            return 0
        return sum(is_stuck(row["valid_accuracy"], self.chance) for row in self.done)

    @property
    def name(self) -> str:
        """The overrides in short, such as `learning_rate=0.1`."""
        if not self.overrides:
            return "the config"
        return ", ".join(f"{key.rpartition('.')[2]}={v}" for key, v in self.overrides.items())


def by_setting(
    rows: Sequence[Row],
    overrides: Mapping[int, Overrides],
    chances: Mapping[int, float] | None = None,
) -> list[Setting]:
    """Groups rows by all overrides except seeds, in the order of the first members.

    Members that start from members of one sweep, or are pruned by them, are of one setting, whose
    override is the sweep.

    Args:
      rows: of all members.
      overrides: by member.
      chances: by member, see `Setting.chance`; None: 0.
    """
    settings: dict[str, Setting] = {}
    for row in rows:
        member = row["member"]
        changed = {k: v for k, v in overrides[member].items() if k not in SEEDS}
        for key in SOURCES:
            if isinstance(name := changed.get(key), str):
                changed[key] = ONE_OF.sub("", name)
        new = Setting(changed, [], chances[member] if chances else 0.0)
        setting = settings.setdefault(json.dumps(changed, default=list), new)
        setting.rows.append(row)
    return list(settings.values())


def summarise(settings: Sequence[Setting]) -> list[dict[str, Any]]:
    """The statistics of each setting, over the members that did not diverge."""
    table = []
    for setting in settings:
        done = setting.done
        entry: dict[str, Any] = {
            "overrides": setting.overrides,
            "n": len(done),
            "diverged": len(setting.rows) - len(done),
            "stuck": setting.stuck,
            "chance": setting.chance,
        }
        for name in (name for name in STATISTICS if name in setting.rows[0]):
            upper = 1.0 if name.endswith("accuracy") else math.inf
            values = [row[name] for row in done if row[name] is not None]
            entry[name] = describe(values, upper).to_json()
        for name in measured(setting.rows[0]):
            values = [row[name] for row in done if row[name] is not None]
            bounds = (1.0, 0.0) if is_corrupted(name) else (math.inf, -math.inf)
            entry[name] = describe(values, *bounds).to_json()
        best = max(done, key=rank, default=None) if setting.validated else None
        entry["best"] = best and {"member": best["member"], "test_accuracy": best["test_accuracy"]}
        table.append(entry)
    return table


def measured(row: Row) -> list[str]:
    """The columns of corruptions and of extra measurements in a row of results."""
    return [name for name in row if name not in ("member", *COLUMNS)]


def choose(settings: Sequence[Setting]) -> tuple[int, Row] | None:
    """The winning setting, and in it the winning member; None if there is none.

    There is none if every member diverged, or none was validated.

    The setting with the highest mean validation accuracy wins, so that no lucky seed decides; one
    with a diverged member wins only if there is no other. Ties are broken by the loss.
    """
    ranked = ranking(settings)
    return (ranked[0], max(settings[ranked[0]].done, key=rank)) if ranked else None


def ranking(settings: Sequence[Setting]) -> list[int]:
    """The settings with validated members that did not diverge, the best first, see `choose`."""

    def key(index: int) -> tuple[bool, float, float, int]:
        done = settings[index].done
        accuracy = statistics.fmean(row["valid_accuracy"] for row in done)
        loss = statistics.fmean(row["valid_loss"] for row in done)
        return len(done) == len(settings[index].rows), accuracy, -loss, -index

    return sorted((i for i, s in enumerate(settings) if s.validated), key=key, reverse=True)


def lead(settings: Sequence[Setting], index: int) -> dict[str, Any] | None:
    """How far a setting is ahead of the next best on validation; None if it is the only one.

    The next best is that of `ranking`: one with diverged members comes last, though its mean may be
    higher, and the lead over it negative.

    Returns:
      `over` and `name`, the other's overrides; `valid_accuracy`, the difference of the means; `p`,
      how likely one at least as large is between settings that are equal, see `statistics.p_value`;
      and `untested`, why there is no `p`, or None.
    """
    second = next((i for i in ranking(settings) if i != index), None)
    if second is None:
        return None
    ours, theirs = ([row["valid_accuracy"] for row in settings[i].done] for i in (index, second))
    p, untested = None, None
    if min(len(ours), len(theirs)) < FEWEST:
        untested = f"fewer than {FEWEST} members"
    elif settings[index].stuck or settings[second].stuck:
        untested = "members are stuck"
    else:
        p = p_value(ours, theirs)
    return {
        "over": settings[second].overrides,
        "name": settings[second].name,
        "valid_accuracy": statistics.fmean(ours) - statistics.fmean(theirs),
        "p": p,
        "untested": untested,
    }


def for_plot(
    settings: Sequence[Setting], curves: Mapping[int, Mapping[str, np.ndarray]]
) -> list[plots.Setting]:
    """The data of the figure for each setting.

    Args:
      settings: from `by_setting`.
      curves: the metrics of each member by name, one value per epoch; or none at all.
    """
    winner, shown = choose(settings), []
    for index, setting in enumerate(settings):
        test = [100 * (1 - row["test_accuracy"]) for row in setting.done]
        split = "valid" if setting.validated else "train"
        errors = [
            100 * (1 - _held(curves[row["member"]][f"{split}_accuracy"]))
            for row in setting.done
            if curves
        ]
        shown.append(
            plots.Setting(
                name=setting.name,
                overrides=setting.overrides,
                diverged=len(setting.rows) - len(setting.done),
                stuck=setting.stuck,
                errors=np.array(errors),
                test_errors=test,
                test=describe(test, 100.0),
                best=winner is not None and winner[0] == index,
                validated=setting.validated or not setting.done,
                chance=100 * (1 - setting.chance) if setting.chance else None,
            )
        )
    return shown


def errors_by_corruption(settings: Sequence[Setting]) -> dict[str, dict[str, Summary]]:
    """The errors of each setting on clean and corrupted test images, and their mean, in %, by name.

    Nothing if the sweep did not test on them; of many settings the `MOST_MAPPED` best.
    """
    names = [name for name in settings[0].rows[0] if name.startswith(CORRUPTED)]
    if not names:
        return {}
    shown = range(len(settings))
    if len(settings) > MOST_MAPPED:
        shown = ranking(settings)[:MOST_MAPPED] or shown[:MOST_MAPPED]
    errors = {}
    for setting in (settings[index] for index in shown):
        columns = {CLEAN: "test_accuracy"} | {name.removeprefix(CORRUPTED): name for name in names}
        values = {
            name: [100 * (1 - row[column]) for row in setting.done]
            for name, column in columns.items()
        }
        values[MEAN] = [100 * row[MEAN_CORRUPTION_ERROR] for row in setting.done]
        errors[setting.name] = {name: describe(own, 100.0) for name, own in values.items()}
    return errors


def describe_config(config: Config, swept: Collection[str]) -> str:
    """What the members of a sweep have in common: the network, the data and the epochs.

    Args:
      config: which they override.
      swept: the keys that they override, which are left out.
    """
    model, sizes = config.model, {"model.channels", "model.features"}
    network = "networks" if "model.name" in swept else model.name
    if network == LENET and not sizes & set(swept):
        network = f"LeNet {'–'.join(map(str, (*model.channels, *model.features)))}"
    data = "" if "data.name" in swept else f" on {config.data.name}"
    about = f"{network}{data}"
    if config.data.train_examples is not None and "data.train_examples" not in swept:
        about += f", {counted(config.data.train_examples, 'image')}"
    if "train.num_epochs" not in swept:
        about += f", {counted(config.train.num_epochs, 'epoch')}"
    return about


def title(name: str, summary: Mapping[str, Any]) -> str:
    """The title of a sweep's picture and page: its name, what it trained, and if all is there."""
    about = summary.get("about")
    so_far = "" if summary["status"] == "done" else ", so far"
    return name + (f", {about}" if about else "") + so_far


def _held(curve: Float[np.ndarray, " epochs"]) -> Float[np.ndarray, " epochs"]:
    """A curve whose last value stays where a member had stopped, as its network does."""
    missing = np.isnan(curve)
    if not missing.any():
        return curve
    trained = curve[~missing]
    return np.pad(trained, (0, len(curve) - len(trained)), "edge")


def summary(
    settings: Sequence[Setting],
    winner: tuple[int, Row] | None,
    overrides: Mapping[int, Overrides],
    *,
    complete: bool,
    about: str = "",
) -> dict[str, Any]:
    """The content of summary.json.

    Args:
      settings: the members by setting.
      winner: from `choose`.
      overrides: those of each member.
      complete: whether every member of the sweep is trained.
      about: see `describe_config`.
    """
    rows = [row for setting in settings for row in setting.rows]
    entries = summarise(settings)
    averaged = ""
    if any("test_ema_accuracy" in row for row in rows):
        averaged = "; …_ema_… are of the average of the weights after the last epoch"
    return {
        "status": "done" if complete else "incomplete",
        "about": about,
        "members": len(rows),
        "diverged": sum(row["status"] == "diverged" for row in rows),
        "winner": winner
        and {
            "member": winner[1]["member"],
            "overrides": overrides[winner[1]["member"]],
            **{k: winner[1][k] for k in ("valid_accuracy", "test_accuracy")},
            "lead": lead(settings, winner[0]),
            "setting": entries[winner[0]],
        },
        "settings": entries,
        "statistics": (
            "valid_… and test_… are of each member's best epoch on validation, or, where there is"
            " none (data.valid_examples=0), test_… of its last epoch, over the members"
            " that did not diverge; sd: standard deviation; ci95: ends of the 95 % interval of the"
            " mean, Student's on the logit's scale (losses: logarithm); stuck: hardly above chance"
            + averaged
        ),
    }


def winner_file(config: Config, row: Row, overrides: Overrides) -> str:
    """The content of a config file that returns the winner's config.

    Args:
      config: the winner's.
      row: its results.
      overrides: its values of the swept keys, which are written even where they are the defaults.
    """
    network = config.model.name
    known = keys(network)
    required = {path: attrgetter(path)(config) for path, key in known.items() if key.required}
    default: Config = replace(base.get_config(), {"model.name": network} | required)
    different = {}
    for path in known:
        section, _, name = path.rpartition(".")
        ours, theirs = (c[section][name] if section else c[name] for c in (config, default))
        written = path in overrides or path in required
        if ours != theirs or written or (path == "model.name" and network != LENET):
            different[path] = ours
    lines = "".join(f"            {path!r}: {value!r},\n" for path, value in different.items())
    return (
        f'"""The winner of a sweep, member {row["member"]}, chosen on validation.\n\n'
        f"Validation accuracy {row['valid_accuracy']:.4f}, test accuracy"
        f' {row["test_accuracy"]:.4f}.\n"""\n\n'
        "from lenet_jax.config import base\n\n\n"
        "def get_config():\n"
        '    """Returns the config."""\n'
        "    config = base.get_config()\n"
        "    config.update_from_flattened_dict(\n        {\n"
        f"{lines}        }}\n    )\n    return config\n"
    )


def rank(row: Row) -> tuple[float, float, int]:
    """Sort key of members: validation accuracy, then lower loss, then the first member.

    Without validation only the last counts.
    """
    if row["valid_accuracy"] is None:
        return 0.0, 0.0, -row["member"]
    return row["valid_accuracy"], -row["valid_loss"], -row["member"]


class Lines:
    """The lines of results.csv, made as they are read: a member's overrides and results each."""

    def __init__(
        self,
        rows: Sequence[Row],
        overrides: Mapping[int, Overrides],
        swept: Sequence[str],
        columns: Sequence[str],
    ):
        self._rows, self._overrides, self._swept, self._columns = rows, overrides, swept, columns

    def __iter__(self) -> Iterator[list[Any]]:
        for row in self._rows:
            values = map(self._overrides[row["member"]].get, self._swept)
            shown = [" ".join(map(str, v)) if isinstance(v, list | tuple) else v for v in values]
            yield [row["member"], *shown, *map(row.get, self._columns)]


def table(rows: Sequence[Row], overrides: Mapping[int, Overrides]) -> Table:
    """The columns of results.csv, and its lines: one per member, its overrides and results."""
    swept = list(dict.fromkeys(key for row in rows for key in overrides[row["member"]]))
    columns = [name for name in COLUMNS if any(name in row for row in rows)]
    columns[columns.index("best_epoch") : columns.index("best_epoch")] = measured(rows[0])
    return Table(["member", *swept, *columns], Lines(rows, overrides, swept, columns))


def history(members: Sequence[int], curves: Mapping[int, Mapping[str, np.ndarray]]) -> Curves:
    """Member numbers, and curves (members, epochs), padded with NaN to the longest.

    Those that only some members have, of averaged weights, are NaN for the others.
    """
    names = dict.fromkeys(name for own in curves.values() for name in own)
    longest = max((len(curve) for own in curves.values() for curve in own.values()), default=0)
    arrays: Curves = {"member": np.asarray(members, np.int32)}
    for name in names:
        arrays[name] = np.full((len(members), longest), np.nan, np.float32)
        for index, member in enumerate(members):
            values = curves[member].get(name, ())
            arrays[name][index, : len(values)] = values
    return arrays
