"""What a sweep prints of its results."""

import itertools
from collections.abc import Sequence
from typing import Any

from lenet_jax.errors import counted, printable, wrap
from lenet_jax.statistics import FEWEST
from lenet_jax.storage.chunk import MEAN_CORRUPTION_ERROR, Row
from lenet_jax.sweeps import results
from lenet_jax.terminal.progress import clock

MOST_NAME, LONGEST_NAME = 60, 400  # letters of a setting, in a row, and on lines of its own
MOST_SETTINGS, SHOWN_FIRST, SHOWN_BEST = 24, 3, 10  # of settings


def share(part: int, whole: int) -> str:
    """`1 of 5 chunks is`, `2 of 5 chunks are`, as the subject of a sentence."""
    return f"{part:,} of {counted(whole, 'chunk')} {'is' if part == 1 else 'are'}"


def result_lines(
    settings: Sequence[results.Setting],
    summary: dict[str, Any],
    rows: Sequence[Row],
    columns: int | None = None,
) -> list[str]:
    """The printed table: a line per setting, the winner marked; of many the first and the best.

    Args:
      settings: the members by setting.
      summary: see `results.summary`.
      rows: of all members.
      columns: of the terminal, in which names are cut, unless they would be alike, and sentences
        broken to fit; None: no limit.
    """
    entries, winner = summary["settings"], summary["winner"]
    robust = any(entry["stuck"] for entry in entries)
    shown, best = range(len(entries)), []
    if len(entries) > MOST_SETTINGS:
        shown, best = range(SHOWN_FIRST), results.ranking(settings)[:SHOWN_BEST]
    counts = [name for name in ("diverged", "stuck") if any(entry[name] for entry in entries)]
    room = MOST_NAME if columns is None else columns - 48 - sum(len(name) + 2 for name in counts)
    limit = max(16, min(MOST_NAME, room))
    name_of = {place: settings[place].name for place in [*shown, *best]}
    names = {printable(name, limit) for name in name_of.values()}
    alike = len(names) < len(name_of)  # once they are cut: then each has a line of its own
    most = LONGEST_NAME if alike else MOST_NAME  # of a name in a sentence
    width = max(map(len, ["setting", *(() if alike else names)]))
    what = "median" if robust else "mean"
    if any(entry["n"] >= FEWEST for entry in entries):
        what += " [25–75 %]" if robust else " [95 % interval]"
    so_far = "" if summary["status"] == "done" else " so far"
    heading = f"{'setting':<{width}}  {'finished':>9}  {'  '.join([*counts, '  best'])}"
    lines = ["", f"{heading}   test accuracy, %"]

    def lines_of(place: int) -> list[str]:
        entry = entries[place]
        finished = f"{entry['n']} of {entry['n'] + entry['diverged']}"
        best = entry["best"]["member"] if entry["best"] else "–"
        star = "  ★" if winner and winner["setting"] == entry and len(entries) > 1 else ""
        cells = [f"{finished:>9}", *(f"{entry[name]:>{len(name)}}" for name in counts)]
        cells = "  ".join([*cells, f"{best:>6}"])
        values = f"{cells}   {_accuracy(entry, robust)}{star}"
        if alike:
            return [
                *wrap(printable(name_of[place], LONGEST_NAME), columns),
                f"{'':{width}}  {values}",
            ]
        return [f"{printable(name_of[place], limit):<{width}}  {values}"]

    lines += itertools.chain(*map(lines_of, shown))
    remarks = [f"test accuracy{so_far}: {what} over the finished members; best: a member"]
    if best:
        lines += [f"… of {len(entries):,} settings, all in summary.json; the best on validation:"]
        lines += itertools.chain(*map(lines_of, best))
    if winner:
        if len(entries) > 1:
            remarks.append(
                f"★ highest mean accuracy on validation{so_far}{_lead(winner['lead'], most)}"
            )
        whose = " of that setting" if len(entries) > 1 else ""
        remarks.append(
            f"best member{whose} on validation{so_far}: {winner['member']},"
            f" test {100 * winner['test_accuracy']:.2f} %"
        )
        remarks.append("every accuracy is that of the member's best epoch on validation")
    elif any(setting.done for setting in settings):
        remarks.append("every accuracy is that of the member's last epoch: there is no validation")
    remarks += _robustness(settings, entries, most)
    seconds = sum(row["seconds"] for row in rows)
    remarks.append(f"{counted(len(rows), 'member')}, {clock(seconds)} of compiling and training")
    return [*lines, *(line for remark in remarks for line in wrap(remark, columns))]


def _robustness(
    settings: Sequence[results.Setting], entries: Sequence[dict[str, Any]], most: int
) -> list[str]:
    """Which setting has the lowest mean corruption error, if the sweep tested on corruptions."""
    tested = [(entry.get(MEAN_CORRUPTION_ERROR), place) for place, entry in enumerate(entries)]
    means = [(own["mean"], place) for own, place in tested if own and own["mean"] is not None]
    if not means:
        return []
    mean, place = min(means)
    ends = entries[place][MEAN_CORRUPTION_ERROR]["ci95"]
    interval = f" [{100 * ends[0]:.2f}, {100 * ends[1]:.2f}]" if ends else ""
    whose = f", of {printable(settings[place].name, most)}" if len(entries) > 1 else ""
    lowest = "lowest mean" if len(entries) > 1 else "mean"
    return [f"{lowest} corruption error: {100 * mean:.2f} %{interval}{whose}"]


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


def _lead(lead: dict[str, Any] | None, most: int) -> str:
    """How far the winner is ahead, and how sure that is."""
    if lead is None:
        return ", of the only setting with finished members"
    points, p = 100 * lead["valid_accuracy"], lead["p"]
    sure = f"not tested: {lead['untested']}" if p is None else f"Welch's t-test: p = {p:.2g}"
    ahead = f"{points:.2f} points above" if points >= 0.005 else "as good as"
    return f", {ahead} {printable(lead['name'], most)} ({sure})"
