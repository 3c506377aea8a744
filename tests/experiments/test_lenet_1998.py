import json
from pathlib import Path
from typing import Any

import pytest

from experiments.lenet_1998 import table, training
from experiments.lenet_1998.cells import CELLS, Cell
from lenet_jax.plots.output import png
from tests.support import tiny

PLAIN = Cell("lenet5", "then", "plain")


def finished(folder: Path, seeds: range) -> None:
    """What a sweep over seeds leaves, the last of them diverged."""
    folder.mkdir(parents=True)
    rows = [f"{seed},done,{0.99 - seed / 1000},2.5" for seed in seeds[:-1]]
    rows.append(f"{seeds[-1]},diverged,,2.5")
    text = "\n".join(["seed,status,test_accuracy,seconds", *rows])
    (folder / "results.csv").write_text(text)
    (folder / "summary.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps(tiny.config().to_dict()))
    environment = {"python": "3", "command": "secret", "working_directory": "secret"}
    (folder / "environment.json").write_text(json.dumps(environment))


@pytest.fixture
def result(tmp_path):
    for seeds in (range(20), range(20, 30)):
        finished(tmp_path / f"{PLAIN}_{seeds.start}-{seeds[-1]}", seeds)
    *_, result = training.train(PLAIN, {}, 30, 20, tmp_path)
    return json.loads(json.dumps(result))


def test_sweeps_of_a_cell_are_one_result(result):
    errors = result["parts"]["0-19"]["errors"] | result["parts"]["20-29"]["errors"]
    assert [*map(int, errors)] == [*range(19), *range(20, 29)]
    assert errors["3"] == pytest.approx(1.3)
    assert (result["seeds"], result["diverged"], result["seconds"]) == (28, 2, 75)
    assert result["best"] == pytest.approx(1.0)
    assert result["published"] == 0.95
    assert result["share_at_or_below_published"] == 0
    assert "secret" not in json.dumps(result)


def test_what_is_known_is_not_trained_again(result, tmp_path, monkeypatch):
    def sweep(command: list[str], folder: Path) -> dict[str, Any]:
        trained.append(command[4].rpartition(":")[2])
        return {"errors": {}, "diverged": 0, "seconds": 1}

    trained: list[str] = []
    monkeypatch.setattr(training, "sweep", sweep)
    (again,) = training.train(PLAIN, result, 30, 20, tmp_path)
    assert json.loads(json.dumps(again)) == result
    assert not trained
    more = [*training.train(PLAIN, result, 100, 50, tmp_path)][-1]
    assert trained == ["30-79", "80-99"]
    assert [*more["parts"]] == ["0-19", "20-29", "30-79", "80-99"]
    trained.clear()
    del result["config"]["data"]["class_weights"]  # as if recorded before there was such a key
    list(training.train(PLAIN, result, 30, 20, tmp_path))
    assert not trained
    other = result["config"] | {"seed": 3}
    list(training.train(PLAIN, result | {"config": other}, 30, 50, tmp_path))
    assert trained == ["0-29"]
    del result["parts"]["0-19"]
    list(training.train(PLAIN, result, 40, 50, tmp_path))
    assert trained == ["0-29", "0-19", "30-39"]


def test_table_and_figure_have_what_is_finished(result):
    cells = {str(PLAIN): result}
    header, _, row = table.table(cells).splitlines()
    assert row.startswith("| LeNet-5 | then | plain | 0.95 | 2.")
    assert row.count("|") == header.count("|")
    *_, last = table.overview(cells).splitlines()
    assert (
        last == f"| LeNet-5 | 0.95 | {result['mean']:.2f} ± {result['sd']:.2f} | – | 0.8 | – | – |"
    )
    assert png(table.plot({"cells": cells})).startswith(b"\x89PNG")


def test_every_network_has_its_cells():
    commands = Cell("lenet1", "now", "distorted").command(range(5), Path("runs/x"))
    assert "--config.augment.shift=2.0" in commands
    every = {str(cell) for cell in CELLS}
    assert len(every) == 27
    assert "boosted_lenet4_then_plain" not in every
    assert Cell("lenet1", "single", "plain").changes["train.batch_size"] == 1


def test_the_documentation_has_the_results():
    cells = json.loads(Path("results/lenet_1998.json").read_text())["cells"]
    assert table.overview(cells) in Path("README.md").read_text()
    assert table.table(cells) in Path("docs/lenet_1998.md").read_text()
