"""Remarks on keys that do nothing."""

import pytest

from lenet_jax import config as configs
from lenet_jax.config.schema import keys
from lenet_jax.config.unused import NEEDS, USED_BY, unused

NOTES = "configs/notes.py"


def test_the_keys_exist_and_so_do_what_decides_and_its_values():
    for key, (by, values) in USED_BY.items():
        assert key in keys()
        for value in values:
            changes = {by: value}
            if value == "piecewise":
                changes |= {"schedule.boundaries": (1.0,), "schedule.factors": (0.5,)}
            assert not unused(configs.load(NOTES, changes.items()), [key])


def test_what_others_need_exists():
    assert {*NEEDS, *NEEDS.values()} <= set(keys())


@pytest.mark.parametrize(
    ("changes", "swept", "remarks"),
    [
        (
            {"optimizer.name": "adam", "optimizer.momentum": 0.5},
            (),
            ["optimizer.momentum does nothing with optimizer.name=adam: it is for sgd"],
        ),
        (
            {"schedule.step_scale": 0.5},
            ("optimizer.b1",),
            [
                "optimizer.b1 does nothing with optimizer.name=sgd: it is for adam and adamw",
                "schedule.step_scale does nothing with schedule.name=one_cycle: it is for step",
            ],
        ),
        (
            {
                "schedule.name": "piecewise",
                "schedule.boundaries": (2.0, 500.0),
                "schedule.factors": (0.5, 0.1),
            },
            (),
            ["schedule.boundaries: 500 lie beyond the run's 12 epochs"],
        ),
        ({"optimizer.momentum": 0.5}, ("optimizer.name", "optimizer.b1"), []),
        ({"optimizer.momentum": 0.5}, (), []),
        ({"prune.scope": "layer"}, (), ["prune.scope does nothing with prune.amount=0.0"]),
        ({"seeds.subset": 3}, (), ["seeds.subset does nothing with data.subset=None"]),
        ({"seeds.subset": 3}, ("data.subset",), []),
        ({"prune.scope": "layer", "prune.amount": 0.5}, (), []),
    ],
)
def test_a_key_without_effect_is_named(changes, swept, remarks):
    config = configs.load(NOTES, changes.items())
    assert unused(config, list(changes), swept) == remarks
