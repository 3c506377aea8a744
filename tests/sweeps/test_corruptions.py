"""A sweep tests its members on corrupted images on request."""

import contextlib
import csv
import io
import json

import numpy as np
import pytest

import lenet_jax
from lenet_jax.corruptions.mnist_c import CORRUPTIONS, corrupt
from lenet_jax.errors import UserError
from lenet_jax.inference import forward
from lenet_jax.storage.columns import Columns
from lenet_jax.storage.sums import write_manifest
from lenet_jax.sweeps import train
from lenet_jax.sweeps.file import chain, product, sweep
from lenet_jax.sweeps.members import Members
from lenet_jax.sweeps.options import make_options
from lenet_jax.sweeps.run import run
from tests.support import tiny

pytestmark = [pytest.mark.slow, pytest.mark.optimized(False)]

FEW = ("impulse_noise", "stripe")
RATES, DIVERGED = [0.3, 0.2], 6
SWEEP = chain(
    product(sweep("optimizer.learning_rate", RATES), sweep("seed", range(3))),
    [{"optimizer.learning_rate": 1e30, "seed": 0}],
)


@pytest.fixture(scope="module")
def patched():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "CORRUPTIONS", {name: CORRUPTIONS[name] for name in FEW})
        yield


@pytest.fixture(scope="module")
def swept(tmp_path_factory, patched):
    """A finished sweep, what it printed, and how to start it again."""
    path = tmp_path_factory.mktemp("sweeps")
    folder = tiny.write_idx_folder(path / "bars")
    changes = {"data": {"name": str(folder)}, "model": {"backend": "plain"}}
    config = tiny.config(**changes, schedule={"name": "constant"})
    members = Members(config, Columns.of(SWEEP))

    def start(formats=(".png",), **flags):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            options = make_options(str(path / "sweep"), save="all", **flags)
            options = options._replace(formats=formats)
            assert run(config, members, options, ["python"]) == 0
        return out.getvalue()

    return path / "sweep", start(corruptions=True), start


def test_the_accuracies_are_those_of_the_members_networks(swept):
    path, _, _ = swept
    results = lenet_jax.load_sweep(path)
    bars = tiny.dataset().test
    for row in results.rows[:3]:
        network, errors = results.network(row["member"]), []
        for name in FEW:
            logits = network.run(forward.logits, corrupt(bars.images, name))
            accuracy = np.mean(logits.argmax(axis=-1) == bars.labels)
            assert row[f"test_accuracy/{name}"] == pytest.approx(accuracy)
            errors.append(1 - accuracy)
        assert row["mean_corruption_error"] == pytest.approx(np.mean(errors), rel=1e-6)
    diverged = results.rows[DIVERGED]
    assert diverged["mean_corruption_error"] is diverged["test_accuracy/stripe"] is None


def test_they_are_in_the_table_the_statistics_and_a_heat_map(swept):
    path, out, _ = swept
    with (path / "results.csv").open() as file:
        columns = next(csv.reader(file))
    where = columns.index("test_accuracy/impulse_noise")
    assert columns[where + 1 : where + 3] == ["test_accuracy/stripe", "mean_corruption_error"]
    first, *_, last = json.loads((path / "summary.json").read_text())["settings"]
    low, high = first["mean_corruption_error"]["ci95"]
    assert 0 < low < first["mean_corruption_error"]["mean"] < high < 1
    assert last["mean_corruption_error"]["mean"] is None
    assert (path / "corruptions.png").read_bytes().startswith(b"\x89PNG")
    assert "mean_corruption_error" in (path / "sweep.html").read_text()
    said = " ".join(out.split())
    assert "lowest mean corruption error: " in said and ", of learning_rate=0." in said


def test_a_sweep_without_them_is_another(swept):
    _, _, start = swept
    with pytest.raises(UserError, match="holds another sweep: its settings differ"):
        start()
    with pytest.raises(UserError, match="corruptions=1: must be True or False"):
        start(corruptions=1)


def test_impossible_accuracies_are_damage(swept):
    path, _, _ = swept
    chunk = path / "chunks" / "0000"
    before = (chunk / "results.json").read_text()
    results = json.loads(before)
    results["rows"][0]["test_accuracy/stripe"] = 1.5
    (chunk / "results.json").write_text(json.dumps(results))
    write_manifest(chunk)
    with pytest.raises(UserError, match="impossible results for member 0"):
        lenet_jax.load_sweep(path)
    (chunk / "results.json").write_text(before)
    write_manifest(chunk)


def test_figures_are_drawn_in_the_formats_that_are_asked_for(swept):
    path, _, start = swept

    def figures():
        return sorted(f.name for f in path.iterdir() if f.stem in ("sweep", "corruptions"))

    others = ["sweep.html", "sweep.json"]
    assert figures() == sorted(["corruptions.png", "sweep.png", *others])
    start(formats=(".svg", ".pdf"), corruptions=True)
    vectors = [f"{name}{end}" for name in ("corruptions", "sweep") for end in (".pdf", ".svg")]
    assert figures() == sorted([*vectors, *others])
    assert (path / "sweep.svg").read_bytes().startswith(b"<?xml")
    assert (path / "corruptions.pdf").read_bytes().startswith(b"%PDF")
    start(corruptions=True)
    assert figures() == sorted(["corruptions.png", "sweep.png", *others])
