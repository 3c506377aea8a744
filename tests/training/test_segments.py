import jax
import numpy as np
import pytest

from lenet_jax.training import segments as parts
from lenet_jax.training import spec as specs
from lenet_jax.training import step as train
from lenet_jax.training.loop import Programs
from tests.support import tiny

CONFIG = tiny.config(model={"backend": "plain"}, train={"num_epochs": 2})
DATASET = tiny.dataset()
STEPS = 5


@pytest.fixture(scope="module")
def programs():
    programs = Programs(CONFIG, specs.make_spec(CONFIG, DATASET), DATASET)
    programs.compile()
    return programs


def read(programs, state=None, sums=None):
    state = programs.init() if state is None else state
    sums = programs.place(train.no_metrics()) if sums is None else sums
    return list(parts.train_in_parts(programs, state, sums))


@pytest.mark.parametrize("pace", [1, 2, 3, 100])
def test_into_which_parts_an_epoch_falls_changes_no_bit(programs, monkeypatch, pace):
    (whole, end) = read(programs)
    assert (whole.step, end.step) == (STEPS, 2 * STEPS)
    monkeypatch.setattr(parts, "FIRST_IMAGES", pace * programs.spec.batch_size)
    monkeypatch.setattr(parts, "SECONDS", 1e9 if pace == 100 else 0.0)
    found = read(programs)
    steps = [part.step for part in found]
    assert steps == sorted(set(steps)) and {STEPS, 2 * STEPS} <= set(steps)
    assert [part.step for part in found if part.valid is not None] == [STEPS, 2 * STEPS]
    assert all(part.seconds > 0 for part in found)
    for one in (whole, end):
        (other,) = (part for part in found if part.step == one.step)
        told = [
            jax.tree.leaves((p.state.params, p.sums, p.valid, p.learning_rate))
            for p in (one, other)
        ]
        for a, b in zip(*told, strict=True):
            np.testing.assert_array_equal(a, b)


def test_training_goes_on_from_any_part(programs, monkeypatch):
    monkeypatch.setattr(parts, "FIRST_IMAGES", 1)
    monkeypatch.setattr(parts, "SECONDS", 0.0)
    found = read(programs)
    assert [part.step for part in found] == list(range(1, 2 * STEPS + 1))
    for part in found:
        rest = read(programs, part.state, part.sums)
        assert [other.step for other in rest] == list(range(part.step + 1, 2 * STEPS + 1))
        end = rest[-1] if rest else part
        for a, b in zip(
            *map(jax.tree.leaves, (end.state.params, found[-1].state.params)), strict=True
        ):
            np.testing.assert_array_equal(a, b)
