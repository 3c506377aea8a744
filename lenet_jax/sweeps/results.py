"""The results of a sweep: its settings, their statistics over seeds, and the winner."""

import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lenet_jax.statistics import FEWEST, is_stuck, p_value
from lenet_jax.statistics import summarise as describe
from lenet_jax.storage.chunk import Row, is_corrupted
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
      about: see `config_text.describe_config`.
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


def rank(row: Row) -> tuple[float, float, int]:
    """Sort key of members: validation accuracy, then lower loss, then the first member.

    Without validation only the last counts.
    """
    if row["valid_accuracy"] is None:
        return 0.0, 0.0, -row["member"]
    return row["valid_accuracy"], -row["valid_loss"], -row["member"]
