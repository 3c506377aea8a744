"""The settings of a sweep: its members, grouped by what they have in common."""

from typing import Any

from lenet_jax.sweeps.results import by_setting


def test_members_of_one_sweep_to_start_from_are_one_setting():
    names = ["runs/a:0@0", "runs/a:12@0", "runs/a:0@3", "runs/a:1", "runs/b:0@0", "runs/c", None]
    overrides: Any = {n: {"seed": 5, "train.initial_weights": s} for n, s in enumerate(names)}
    settings = by_setting([{"member": member} for member in overrides], overrides)
    grouped = [[row["member"] for row in setting.rows] for setting in settings]
    assert grouped == [[0, 1], [2], [3], [4], [5], [6]]
    assert settings[0].overrides == {"train.initial_weights": "runs/a@0"}
    assert settings[2].name == "initial_weights=runs/a"


def test_what_members_are_pruned_by_is_grouped_likewise():
    amounts = enumerate((0.0, 0.0, 0.1, 0.1))
    overrides: Any = {n: {"prune.weights": f"a:{n}", "prune.amount": a} for n, a in amounts}
    settings = by_setting([{"member": member} for member in overrides], overrides)
    assert [len(setting.rows) for setting in settings] == [2, 2]
