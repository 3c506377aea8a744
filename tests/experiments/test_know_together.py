import numpy as np
import pytest

import lenet_jax
from experiments import know_together
from lenet_jax import machine
from lenet_jax.plots.output import png
from lenet_jax.sweeps.file import sweep
from tests.support import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def population(tmp_path_factory):
    path = tmp_path_factory.mktemp("know_together")
    folder = tiny.write_idx_folder(path / "bars")
    config = tiny.config(data={"name": str(folder)}, model={"backend": "plain"})
    seeds, kinds = sweep("seed", range(4)), "logits,weights"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("use_compilation_cache", "use_cores"):
            patch.setattr(machine, name, lambda: None)
        return lenet_jax.train_sweep(
            config, seeds, path / "sweep", record=kinds, record_split="test,valid"
        )


def test_ensembles_and_barriers_of_a_population_are_measured_once(population, tmp_path):
    dataset = population.network(0).load_data(print)
    ensembles = know_together.measure_ensembles(population, dataset)
    assert [entry["n"] for entry in ensembles["raw"].values()] == [4, 2, 1]
    single, accuracies = ensembles["raw"][1], [row["test_accuracy"] for row in population.rows]
    np.testing.assert_allclose(single["accuracy"]["values"], accuracies, rtol=1e-6)
    assert ensembles["scaled"][1]["accuracy"] == single["accuracy"]
    assert ensembles["scaled"][4]["loss"] != ensembles["raw"][4]["loss"]

    file = tmp_path / "barriers.jsonl"
    barriers = know_together.measure_barriers(population, dataset, file)
    assert [row["pair"] for row in barriers] == [0, 1]
    assert all(row[kind] >= 0 for row in barriers for kind in ("before", "after"))
    content = file.read_text()
    file.write_text(content.splitlines(keepends=True)[0])
    again = know_together.measure_barriers(population, dataset, file)
    assert again[0] == barriers[0]  # in full: it was not measured again
    assert {**again[1], "seconds": None} == {**barriers[1], "seconds": None}
    assert file.read_text().startswith(content.splitlines(keepends=True)[0])

    seconds = {"training": 100, "ensembles": 5.1, "barriers": 6.4}
    loop = {"seconds": 620, "timed_seconds": 12.3}
    answer = {
        "config": know_together.CONFIG,
        "seeds": 4,
        "changes": {},
        "ensembles": ensembles,
        "barriers": barriers,
        "seconds": seconds,
        "pytorch": loop,
    }
    text = know_together.to_markdown(answer)
    assert text.count("\n| ") == 3 + 2 + 2  # with the headers
    assert f"{100 * np.mean(accuracies):.2f} ±" in text
    assert "PyTorch would take 620 s, 6.2 times as long" in text
    assert text.endswith("took 5 s and 6 s.\n")
    assert png(know_together.plot(answer)).startswith(b"\x89PNG")
