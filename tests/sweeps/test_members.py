"""Members in columns: as valid, as equal and as grouped as their configs are one by one."""

import dataclasses
import json

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lenet_jax.config import replace
from lenet_jax.errors import UserError
from lenet_jax.reading import convert
from lenet_jax.storage.columns import Columns
from lenet_jax.storage.formats import Plan
from lenet_jax.sweeps import members as sweep_members
from lenet_jax.sweeps import plan
from lenet_jax.sweeps.file import chain, product, sweep
from lenet_jax.sweeps.members import Members
from lenet_jax.training.hyperparameters import hyperparameters
from lenet_jax.training.spec import make_spec
from tests.support import tiny

VALUES = {
    "seed": (0, 3, 3.0, "3", -1, 2**31, None, True),
    "seeds.order": (None, 0, "None", "x"),
    "train.batch_size": (16, 24, "1e1", 1.5, (16,)),
    "train.max_grad_norm": (None, 1, 1.0, 0),
    "optimizer.learning_rate": (0.1, 1, 1.0, "0.1", float("nan"), float("inf"), 10**400, {}),
    "optimizer.momentum": (0, 0.0, 0.9, 1),
    "optimizer.nesterov": (True, "true", False, 1),
    "optimizer.name": ("sgd", "adam", "lion", ""),
    "augment.shift": (0, 1.5, 100),
    "model.channels": ((2, 3), [2, 3], "2,3", (2,), (2, 3.0), 2),
}
OVERRIDES = st.fixed_dictionaries(
    {}, optional={key: st.sampled_from(values) for key, values in VALUES.items()}
)


def built(changes):
    """The config of each member, or None where it is refused."""
    configs = []
    for overrides in changes:
        try:
            configs.append(replace(tiny.config(), overrides).to_json())
        except UserError:
            configs.append(None)
    return configs


@settings(max_examples=30, deadline=None)
@given(st.lists(OVERRIDES, min_size=1, max_size=12))
def test_members_are_wrong_and_twins_where_their_configs_are(changes):
    configs = built(changes)
    members = Members(tiny.config(), Columns.of(changes))
    assert members.find_wrong().tolist() == [config is None for config in configs]
    right = [place for place, config in enumerate(configs) if config is not None]
    valid = Members(tiny.config(), Columns.of([changes[place] for place in right]))
    expected = [right.index(configs.index(configs[place])) for place in right]
    assert valid.find_twins().tolist() == expected
    assert [member.config.to_json() for member in valid] == [configs[place] for place in right]


@settings(max_examples=30, deadline=None)
@given(st.lists(OVERRIDES, max_size=12))
def test_columns_keep_the_overrides(changes):
    columns = Columns.of(changes)
    plain = [{k: tuple(v) if v == [2, 3] else v for k, v in each.items()} for each in changes]
    assert repr([columns[m] for m in range(len(columns))]) == repr(
        [{key: each[key] for key in columns.by_key if key in each} for each in plain]
    )
    text = json.dumps(columns.to_json())
    assert json.dumps(Columns.from_json(json.loads(text), "it").to_json()) == text


@pytest.mark.parametrize(
    "members",
    [
        [{"member": 1, "overrides": {}}],
        {"count": 3, "columns": {"seed": {"values": [7], "members": [0, -1]}}},
        {"count": 2, "columns": {"seed": {"values": [7], "members": [0, 1]}}},
        {"count": 10**15, "columns": {"seed": {"values": [7]}}},
    ],
)
def test_columns_that_lack_members_are_refused(members):
    with pytest.raises(UserError, match="it is damaged: it does not have each member once"):
        Columns.from_json(members, "it")


def test_groups_are_those_of_the_specs():
    changes = chain(
        product(
            sweep("train.max_grad_norm", (None, 1.0)),
            sweep("train.batch_size", (16, 8)),
            sweep("optimizer.learning_rate", (0.1, 0.2)),
        ),
        [{"optimizer.nesterov": True}, {"augment.shift": 1.0}, {"optimizer.name": "adam"}],
        sweep("seed", (5, 6)),
    )
    members, dataset = Members(tiny.config(), Columns.of(changes)), tiny.dataset()
    expected = {}
    for member in members:
        spec = dataclasses.replace(make_spec(member.config, dataset), augments=False)
        shape = jax.tree.structure(hyperparameters(member.config))
        expected.setdefault((spec, shape), []).append(member.number)
    groups = plan.make_groups(members, lambda _: dataset, shared_data_order=False)
    assert [group.members.numbers.tolist() for group in groups] == list(expected.values())
    assert [group.spec.augments for group in groups] == [True, *[False] * (len(groups) - 1)]


def test_a_plan_builds_a_config_per_group(monkeypatch):
    built = []

    def note(config, overrides):
        built.append(overrides)
        return replace(config, overrides)

    monkeypatch.setattr(sweep_members, "replace", note)
    rates = sweep("optimizer.learning_rate", [i / 1000 for i in range(1, 101)])
    changes = product(sweep("train.batch_size", (8, 16)), rates, sweep("seed", range(20)))
    members = Members(tiny.config(), Columns.of(changes))
    assert not members.find_wrong().any()
    groups = plan.make_groups(members, lambda _: tiny.dataset(), shared_data_order=False)
    chunks = plan.make_chunks(groups, 2, [8, 8])
    written = plan.to_json(members, groups) | {"chunks": plan.chunks_to_json(chunks)}
    again = plan.from_json(
        convert(written, Plan, "it"), plan.to_json(members, groups), groups, "it"
    )
    assert len(again) == 500 and len(built) == 2
    assert all(
        (a.members.numbers == b.members.numbers).all() for a, b in zip(again, chunks, strict=True)
    )
