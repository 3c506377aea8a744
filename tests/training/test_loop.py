import jax
import numpy as np
import pytest

from lenet_jax.training import loop
from lenet_jax.training.evaluation import no_metrics
from tests.support import tiny

CONFIG = tiny.config(model={"backend": "plain"}, train={"num_epochs": 2})
DATASET = tiny.dataset()
STEPS = 5


@pytest.fixture(scope="module")
def trainer():
    trainer = loop.Trainer(CONFIG, DATASET)
    trainer.compile()
    return trainer


def read(trainer, state=None, sums=None):
    state = trainer.init() if state is None else state
    sums = trainer.place(no_metrics()) if sums is None else sums
    return list(loop.train_in_segments(trainer, state, sums))


@pytest.mark.parametrize("pace", [1, 2, 3, 100])
def test_the_split_into_segments_changes_no_bit(trainer, monkeypatch, pace):
    (whole, end) = read(trainer)
    assert (whole.step, end.step) == (STEPS, 2 * STEPS)
    monkeypatch.setattr(loop, "FIRST_IMAGES", pace * trainer.spec.batch_size)
    monkeypatch.setattr(loop, "SECONDS", 1e9 if pace == 100 else 0.0)
    segments = read(trainer)
    steps = [segment.step for segment in segments]
    assert steps == sorted(set(steps)) and {STEPS, 2 * STEPS} <= set(steps)
    assert [segment.step for segment in segments if segment.valid is not None] == [STEPS, 2 * STEPS]
    assert all(segment.seconds > 0 for segment in segments)
    for one in (whole, end):
        (other,) = (segment for segment in segments if segment.step == one.step)
        leaves = [
            jax.tree.leaves((s.state.params, s.sums, s.valid, s.learning_rate))
            for s in (one, other)
        ]
        for a, b in zip(*leaves, strict=True):
            np.testing.assert_array_equal(a, b)


def test_training_resumes_from_any_segment(trainer, monkeypatch):
    monkeypatch.setattr(loop, "FIRST_IMAGES", 1)
    monkeypatch.setattr(loop, "SECONDS", 0.0)
    segments = read(trainer)
    assert [segment.step for segment in segments] == list(range(1, 2 * STEPS + 1))
    for segment in segments:
        rest = read(trainer, segment.state, segment.sums)
        assert [other.step for other in rest] == list(range(segment.step + 1, 2 * STEPS + 1))
        end = rest[-1] if rest else segment
        for a, b in zip(
            *map(jax.tree.leaves, (end.state.params, segments[-1].state.params)), strict=True
        ):
            np.testing.assert_array_equal(a, b)
