"""Members that start from the weights of others, and pruned ones: `SWEEP:MEMBER@EPOCH`."""

import contextlib
import io
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

import lenet_jax
from lenet_jax import config as configs
from lenet_jax.errors import UserError
from lenet_jax.inference.sources import sum_of_weights
from lenet_jax.storage.columns import Columns
from lenet_jax.sweeps.file import chain, product, sweep, zipit
from lenet_jax.sweeps.members import Members
from lenet_jax.sweeps.options import make_options
from lenet_jax.sweeps.plan import make_groups
from lenet_jax.sweeps.run import run
from lenet_jax.terminal.interrupt import Interrupt
from tests.support import runs, tiny

pytestmark = pytest.mark.slow

COMMAND = ["python", "-m", "lenet_jax.sweep"]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tiny.write_idx_folder(tmp_path_factory.mktemp("data") / "bars")
    changes = {"data.name": str(folder), "optimizer.learning_rate": 0.3}
    changes["schedule.name"] = "constant"
    return configs.load("configs/notes.py", (tiny.MLP | changes).items())


def start(path, config, overrides, **options):
    """Runs a sweep in chunks of two: its exit code, and what it printed."""
    members = Members(config, Columns.of(overrides))
    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = run(config, members, make_options(str(path), chunk_size=2, **options), COMMAND)
    return code, output.getvalue()


@pytest.fixture(scope="module")
def parents(tmp_path_factory, config):
    """Three networks with their weights after every epoch."""
    path = tmp_path_factory.mktemp("sweeps") / "parents"
    code, _ = start(path, config, sweep("seed", range(3)), record="weights", record_every=1)
    assert code == 0
    return path


def children_of(parents):
    """Of two parents, from the start or rewound, pruned or not; one is drawn again."""
    return chain(
        product(
            sweep("prune.amount", [0.0, 0.3]),
            sweep("train.initial_weights", [f"{parents}:0@0", f"{parents}:2@1", f"{parents}:1"]),
        ),
        zipit(
            sweep("prune.weights", [f"{parents}:{member}@3" for member in (1, 2)]),
            sweep("train.initial_weights", [f"{parents}:1@0", None]),
            sweep("prune.amount", [0.2, 0.4]),
            sweep("prune.scope", ["global", "layer"]),
        ),
    )


@pytest.fixture(scope="module")
def children(tmp_path_factory, config, parents):
    path = tmp_path_factory.mktemp("sweeps") / "children"
    assert start(path, config, children_of(parents), save="all")[0] == 0
    return path


def weights_of(path, member, epoch=None):
    stacked = lenet_jax.load_sweep(path).weights(epoch)
    return {name: array[member] for name, array in stacked.items()}


def test_the_initial_weights_are_recorded_as_those_of_epoch_0(config, parents):
    assert lenet_jax.load_sweep(parents).epochs() == [0, 1, 2, 3]
    drawn = weights_of(parents, 1, 0)
    for name, array in drawn.items():
        assert (array != weights_of(parents, 0, 0)[name]).any()
    again = configs.replace(config, {"seed": 1, "optimizer.learning_rate": 1e-30})
    with contextlib.redirect_stdout(io.StringIO()):
        network = lenet_jax.train(again, parents.parent / "drawn")
    for name, array in network.state_dict.items():
        np.testing.assert_array_equal(drawn[name], array)


def test_children_of_many_parents_are_two_programs_and_single_runs(
    config, parents, children, tmp_path, no_figures
):
    """To the bit, pruned or not."""
    overrides = children_of(parents)
    groups = make_groups(Members(config, Columns.of(overrides)), lambda _: tiny.dataset(), False)
    assert [group.members.numbers.tolist() for group in groups] == [[0, 1, 2], [3, 4, 5, 6, 7]]
    rows = lenet_jax.load_sweep(children).rows
    for member in (1, 5, 6, 7):
        alone = runs.start(tmp_path / f"{member}", configs.replace(config, overrides[member]))
        stored = load_file(alone.path / "model.safetensors")
        for name, array in weights_of(children, member).items():
            np.testing.assert_array_equal(stored[name], array)
        pruned = alone.read("summary.json").get("pruned_weights")
        assert pruned == rows[member].get("pruned_weights")
        assert pruned == (None if member < 3 else sum((a == 0).sum() for a in stored.values()))


def test_what_the_ranking_has_lost_stays_lost(config, parents, children, tmp_path):
    total = sum(a.size for n, a in weights_of(parents, 0).items() if n.endswith("kernel"))
    overrides = zipit(
        sweep("prune.weights", [f"{children}:{member}" for member in (6, 7)]),
        sweep("prune.amount", [0.5, 0.0]),
    )
    assert start(tmp_path, config, overrides, save="all")[0] == 0
    before = [row["pruned_weights"] for row in lenet_jax.load_sweep(children).rows[6:]]
    after = [row["pruned_weights"] for row in lenet_jax.load_sweep(tmp_path).rows]
    assert after == [before[0] + round(0.5 * (total - before[0])), before[1]]
    for member in range(2):
        for name, array in weights_of(tmp_path, member).items():
            lost = weights_of(children, 6 + member)[name] == 0
            assert not array[lost].any()


def test_a_resumed_sweep_is_exact_and_refuses_changed_weights(
    config, parents, children, tmp_path, monkeypatch
):
    source = shutil.copytree(parents, tmp_path / "parents")
    overrides = children_of(source)
    asked = iter([False] * 4)  # stopped in the second chunk
    with monkeypatch.context() as patch:
        patch.setattr(Interrupt, "notice", lambda _: next(asked, True))
        patch.setattr(Interrupt, "exit_code", 130)
        patch.setattr(Interrupt, "reason", "stopped by SIGINT")
        assert start(tmp_path / "sweep", config, overrides, save="all")[0] == 130
    done = len(list((tmp_path / "sweep" / "chunks").glob("0*")))
    assert 0 < done < 5
    before = sum_of_weights([f"{source}:1@0"])
    assert before == sum_of_weights([f"{source}:1@0"] * 2) != sum_of_weights([f"{source}:2@0"])
    with monkeypatch.context() as patch, pytest.raises(UserError) as caught:
        patch.setattr("lenet_jax.sweeps.starts.sum_of_weights", lambda _: "0")
        start(tmp_path / "sweep", config, overrides, save="all")
    said = "a file of weights that members start from, or are pruned by, changed since"
    assert said in str(caught.value)
    assert start(tmp_path / "sweep", config, overrides, save="all")[0] == 0
    whole, resumed = (lenet_jax.load_sweep(p) for p in (children, tmp_path / "sweep"))
    for name, array in whole.weights().items():
        np.testing.assert_array_equal(array[:], resumed.weights()[name][:])
    shutil.rmtree(source)  # a finished sweep needs it no longer
    assert start(tmp_path / "sweep", config, overrides, save="all")[0] == 0


def test_a_single_run_resumes_with_its_masks(config, parents, tmp_path, monkeypatch, no_figures):
    """Though the weights that it started from are gone."""
    source = shutil.copytree(parents, tmp_path / "parents")
    changes = {"prune.amount": 0.5, "train.initial_weights": f"{source}:1@0"}
    config = configs.replace(config, changes)
    whole = runs.start(tmp_path / "whole", config)
    with monkeypatch.context() as patch:
        runs.send_in_epoch(patch, 2, 15)
        assert runs.start(tmp_path / "resumed", config).code == 143
    shutil.rmtree(source)
    resumed = runs.start(tmp_path / "resumed", config)
    assert resumed.code == 0
    sums = [run.read("run.json")["weights_sha256"] for run in (whole, resumed)]
    assert sums[0] == sums[1] != sum_of_weights([f"{parents}:2@0"])
    for name, array in load_file(whole.path / "model.safetensors").items():
        np.testing.assert_array_equal(load_file(resumed.path / "model.safetensors")[name], array)
    assert resumed.read("summary.json")["pruned_weights"] > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}:3@0", "has no member 3; it has 0 to 2"),
        ("{}:1@4", "has no weights of member 1 after epoch 4\nIt has those after epochs: 0, 1, 2"),
        ("{}", "is a sweep of 3 networks; choose one"),
        ("{}/chunks:1@2", "is not a sweep's directory"),
        ("{}x:1", "does not exist"),
        ("{}@1", "is 1 a member or an epoch"),
        ("{}/chunks@1", "does not exist|is not a sweep, so it has no member 1"),
        ("{}:01@04", "has no weights of member 1 after epoch 4"),
    ],
)
@pytest.mark.parametrize("key", ["train.initial_weights", "prune.weights"])
def test_wrong_names_are_short_errors(config, parents, tmp_path, key, name, message):
    overrides = product(sweep(key, [name.format(parents)]), sweep("seed", range(2)))
    with pytest.raises(UserError, match=message) as caught:
        start(tmp_path / "sweep", config, overrides)
    assert len(str(caught.value).splitlines()) <= 3
    with pytest.raises(UserError, match=message):
        runs.start(tmp_path / "run", configs.replace(config, overrides[0]))
    assert not list(tmp_path.iterdir())


def test_a_member_that_diverged_is_no_start(config, tmp_path):
    apart = {"optimizer.learning_rate": 1e30, "schedule.name": "constant"}
    flags = {"record": "weights", "record_every": 3}
    start(tmp_path / "apart", configs.replace(config, apart), [{"seed": 0}], **flags)
    for key in ("train.initial_weights", "prune.weights"):
        with pytest.raises(UserError, match="member 0 diverged, so that its weights are of no use"):
            start(tmp_path / "sweep", config, [{key: f"{tmp_path}/apart:0"}])
    assert start(tmp_path / "sweep", config, [{key: f"{tmp_path}/apart:0@0"}])[0] == 0


def test_weights_of_another_network_and_rounded_ones_are_refused(config, parents, tmp_path):
    other = configs.replace(config, {"model.features": (6, 4)})
    with pytest.raises(UserError, match="does not fit the network"):
        start(tmp_path / "sweep", other, [{"train.initial_weights": f"{parents}:0@1"}])
    assert not list(tmp_path.iterdir())
    flags = {"record": "weights", "record_every": 3, "record_dtype": "float16"}
    assert start(tmp_path / "halves", config, [{"seed": 0}], **flags)[0] == 0
    for epoch in ("@0", "@3"):
        with pytest.raises(UserError, match=r"in float16, which rounds the weights\n.*=float32"):
            start(tmp_path / "sweep", config, [{"prune.weights": f"{tmp_path}/halves:0{epoch}"}])
    assert start(tmp_path / "sweep", config, [{"prune.weights": f"{tmp_path}/halves:0"}])[0] == 0
