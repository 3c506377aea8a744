import dataclasses

import numpy as np
import pytest

import lenet_jax
from experiments import influence
from lenet_jax import config as configs
from lenet_jax import machine
from lenet_jax.errors import UserError
from lenet_jax.plots.output import png
from lenet_jax.sweeps.file import sweep
from lenet_jax.training.training_set import make_training_set
from tests.support import tiny

pytestmark = [pytest.mark.slow, pytest.mark.optimized(False)]

MEMBERS, IMAGES, HALF = 24, 70, 35


@pytest.fixture(scope="module")
def population(tmp_path_factory):
    path = tmp_path_factory.mktemp("influence")
    folder = tiny.write_idx_folder(path / "bars")
    config = configs.replace(
        configs.load("configs/notes.py", tiny.MLP.items()),
        {"data.name": str(folder), "data.subset": HALF, "train.num_epochs": 8},
    )
    seeds = sweep("seed", range(MEMBERS))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("use_compilation_cache", "use_cores"):
            patch.setattr(machine, name, lambda: None)
        return lenet_jax.train_sweep(config, seeds, path / "sweep", record="logits"), config


def test_networks_that_learned_nothing_are_left_out(population):
    results, _ = population
    bars = results.network().load_data(print)
    rows = [dict(row) for row in results.rows]
    rows[0]["status"], rows[1]["valid_accuracy"] = "diverged", 0.0
    kept = influence.usable(dataclasses.replace(results, rows=rows), bars)
    assert set(kept) <= set(range(2, MEMBERS))


def test_the_masks_are_of_the_members_training_sets(population):
    results, config = population
    bars = results.network().load_data(print)
    masks = influence.find_masks(config, range(MEMBERS), bars)
    assert masks.shape == (MEMBERS, IMAGES) and (masks.sum(axis=1) == HALF).all()
    own = make_training_set(configs.replace(config, {"seed": 5}), bars)
    np.testing.assert_array_equal(np.flatnonzero(masks[5]), own.indices)


def test_a_population_is_analysed(population, monkeypatch):
    results, _ = population
    bars = results.network().load_data(print)
    monkeypatch.setattr(influence, "usable", lambda *_: np.arange(1, MEMBERS))
    answer = influence.analyse(results, bars)
    assert (answer["members"], answer["left_out"], answer["subset"]) == (MEMBERS, 1, HALF)
    statistics = answer["statistics"]
    assert list(statistics["by_members"]) == [23]
    assert len(statistics["correlations"]) == len(bars.test)
    assert len(answer["shown"]) == influence.SHOWN
    best = answer["shown"][0]
    assert best["correlation"] == max(statistics["correlations"])
    helpful, harmful = ([one["weight"] for one in best[end]] for end in ("helpful", "harmful"))
    assert helpful == sorted(helpful, reverse=True) and harmful == sorted(harmful)
    assert min(helpful, default=1) > 0 > max(harmful, default=-1)
    assert max(len(helpful), len(harmful)) <= influence.BESIDE

    answer |= {"changes": {}, "seconds": 600.0, "pytorch": None}
    text = influence.to_markdown(answer)
    assert f"24 networks, each on {HALF} of {IMAGES} training images, 1 of them left out" in text
    assert text.count("\n| ") == 1 + 2
    assert png(influence.plot(answer)).startswith(b"\x89PNG")
    monkeypatch.setattr(influence, "usable", lambda *_: np.arange(3))
    with pytest.raises(UserError, match="3 networks learned something; needed are 20"):
        influence.analyse(results, bars)


def test_the_best_predicted_test_image_of_each_class_is_shown():
    correlations, labels = np.array([0.1, 0.9, 0.8, 0.7, 0.2]), np.array([0, 1, 1, 2, 0])
    assert influence.best_of_classes(correlations, labels).tolist() == [1, 3, 4]
