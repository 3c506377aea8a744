"""A sweep from its plan to its tables, on tiny data."""

import contextlib
import csv
import io
import json
import shutil
import sys

import jax
import numpy as np
import pytest
import scipy.special
from safetensors.numpy import load_file

import lenet_jax
from lenet_jax import config as configs
from lenet_jax import data, machine, torch_bridge
from lenet_jax.errors import UserError
from lenet_jax.inference.load import load
from lenet_jax.runs import figures as report
from lenet_jax.runs.run import run as train_one
from lenet_jax.statistics import chance, is_stuck
from lenet_jax.storage.columns import Columns
from lenet_jax.storage.sweep_dir import SweepDir
from lenet_jax.sweeps import plan
from lenet_jax.sweeps import run as sweep_run
from lenet_jax.sweeps.config_text import winner_file
from lenet_jax.sweeps.file import chain, product, share_order, sweep, zipit
from lenet_jax.sweeps.members import Members, Overrides
from lenet_jax.sweeps.options import Options
from lenet_jax.sweeps.recording import make_recording
from lenet_jax.sweeps.results_table import history
from lenet_jax.sweeps.run import run
from lenet_jax.sweeps.train import ChunkTrainer
from lenet_jax.terminal.interrupt import Interrupt
from lenet_jax.training.population import Population
from lenet_jax.training.sizes import num_params
from tests.support import tiny
from tests.support.runs import make_config
from tests.support.runs import start as start_one

pytestmark = pytest.mark.slow

EPOCHS, SEEDS, MEMBERS = 3, 4, 16  # and one that diverges
COMMAND = ["python", "-m", "experiments.sweep"]
FILES = {"results.csv", "history.npz", "summary.json", "sweep.png", "sweep.html", "winner.py"}
# Two groups by the batch size; a member of the first diverges at once.
SWEEP = chain(
    product(
        sweep("train.batch_size", (16, 8)),
        sweep("optimizer.learning_rate", (0.05, 0.2)),
        sweep("seed", range(SEEDS)),
    ),
    [{"optimizer.learning_rate": 1e30, "seed": 0}],
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tiny.write_idx_folder(tmp_path_factory.mktemp("data") / "bars")
    own = folder.parent / "own.py"
    own.write_text("def peak(logits, labels):\n    return logits.max(axis=1) - 9\n")
    return tiny.config(
        data={"name": str(folder)},
        model={"backend": "plain"},
        train={"micro_batch_size": 8, "measurements": (f"{own}:peak",)},
        schedule={"name": "constant"},
    )


def make_members(config, overrides=SWEEP):
    return Members(config, Columns.of(overrides))


def start(path, config, overrides=SWEEP, **options):
    """Runs a sweep: its exit code, and what it printed."""
    all_options = Options(str(path), **{"save": "all", "chunk_size": 4} | options)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = run(config, make_members(config, overrides), all_options, COMMAND)
    return code, output.getvalue()


def table(path):
    with (path / "results.csv").open() as file:
        return list(csv.DictReader(file))


def without_seconds(path):
    return [line.rpartition(",")[0] for line in (path / "results.csv").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("sweeps") / "finished"
    code, output = start(path, config)
    assert code == 0
    return path, output


def test_the_table_has_one_row_per_member(finished):
    path, _ = finished
    rows = table(path)
    assert list(rows[0])[:4] == ["member", "train.batch_size", "optimizer.learning_rate", "seed"]
    assert list(rows[0])[-1] == "seconds"
    assert [int(row["member"]) for row in rows] == list(range(MEMBERS + 1))
    assert [row["status"] for row in rows] == ["done"] * MEMBERS + ["diverged"]
    assert rows[MEMBERS]["diverged_step"] == "2" and rows[MEMBERS]["test_accuracy"] == ""
    for row in rows[:MEMBERS]:
        assert 0 <= float(row["test_accuracy"]) <= 1
        assert np.isfinite(float(row["valid_loss"]))
        assert -9 < float(row["valid_peak"]) < 0
        assert 1 <= int(row["best_epoch"]) <= EPOCHS


def test_the_history_has_every_members_curves(finished):
    path, _ = finished
    with np.load(path / "history.npz") as history:
        assert history["member"].tolist() == list(range(MEMBERS + 1))
        names = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "valid_peak")
        assert history.keys() == {"member", *names}
        for name in names:
            assert history[name].shape == (MEMBERS + 1, EPOCHS)
            assert (
                np.isfinite(history[name][:MEMBERS]).all()
                and np.isnan(history[name][MEMBERS]).all()
            )
        best = history["valid_accuracy"][:MEMBERS].max(axis=1)
    np.testing.assert_allclose(
        [float(row["valid_accuracy"]) for row in table(path)[:MEMBERS]], best
    )


def test_a_member_without_averaged_weights_has_no_curve_of_them():
    own, plain = (
        {"valid_loss": np.ones(2), "valid_ema_loss": np.ones(2)},
        {"valid_loss": np.ones(1)},
    )
    for curves in ({0: own, 1: plain}, {1: plain, 0: own}):
        arrays = history([0, 1], curves)
        np.testing.assert_array_equal(arrays["valid_ema_loss"], [[1, 1], [np.nan, np.nan]])
        np.testing.assert_array_equal(arrays["valid_loss"], [[1, 1], [1, np.nan]])


def test_the_summary_has_statistics_over_seeds_per_setting(finished, config):
    path, output = finished
    summary = json.loads((path / "summary.json").read_text())
    assert (summary["status"], summary["members"], summary["diverged"]) == ("done", MEMBERS + 1, 1)
    rows = table(path)
    for index, entry in enumerate(summary["settings"][:4]):
        seeds = rows[SEEDS * index : SEEDS * index + SEEDS]
        accuracies = [float(row["test_accuracy"]) for row in seeds]
        assert entry["n"] == SEEDS
        assert entry["test_accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
        assert entry["test_accuracy"]["sd"] == pytest.approx(np.std(accuracies, ddof=1))
        half = 3.182446 * np.std(accuracies, ddof=1) / 2  # Student's t, 3 degrees
        mean = np.mean(accuracies)
        low, high = entry["test_accuracy"]["ci95"]
        step = half / (mean * (1 - mean))
        assert scipy.special.logit([low, high]) == pytest.approx(
            scipy.special.logit(mean) + np.array([-step, step]), rel=1e-4
        )
        peaks = [float(row["test_peak"]) for row in seeds]
        assert entry["test_peak"]["mean"] == pytest.approx(np.mean(peaks))
        assert entry["test_peak"]["sd"] == pytest.approx(np.std(peaks, ddof=1))
        base = chance(data.load_section(config.data).valid.labels)
        stuck = [is_stuck(float(row["valid_accuracy"]), base) for row in seeds]
        assert entry["stuck"] == sum(stuck)
    assert summary["settings"][4]["n"] == 0 and summary["settings"][4]["diverged"] == 1
    means = [entry["valid_accuracy"]["mean"] for entry in summary["settings"][:4]]
    assert summary["winner"]["setting"]["valid_accuracy"]["mean"] == max(means)
    assert {file.name for file in path.iterdir()} >= FILES
    assert "\\x1b" not in output and "17 members" in output


def test_the_winner_is_a_config_that_runs(finished, config):
    path, _ = finished
    winner = json.loads((path / "summary.json").read_text())["winner"]
    loaded = configs.load(str(path / "winner.py"))
    expected = configs.replace(config, SWEEP[winner["member"]])
    assert configs.differing_keys(loaded, expected) == []
    swept = {"seed": configs.load("configs/notes.py").seed}  # as in the defaults
    row = {"member": 0, "valid_accuracy": 0.5, "test_accuracy": 0.5}
    assert f"'seed': {swept['seed']}" in winner_file(configs.load("configs/notes.py"), row, swept)


def test_one_member_is_loaded_from_stacked_weights(finished):
    path, _ = finished
    row = table(path)[5]
    network = load(path, member=5)
    bars = tiny.dataset().test
    accuracy = np.mean(network.predict(bars.images) == bars.labels)
    assert accuracy == pytest.approx(float(row["test_accuracy"]))
    peaks = network.logits(bars.images).max(axis=1) - 9
    assert peaks.mean() == pytest.approx(float(row["test_peak"]), rel=1e-5)
    assert {"valid/accuracy", "valid/peak"} <= network.history[0].keys()


def test_python_has_the_table_the_figure_and_the_networks(finished, config, tmp_path, monkeypatch):
    path, output = finished
    loaded = lenet_jax.load_sweep(path)
    title, *lines = repr(loaded).splitlines()
    assert title == "Sweep finished, 17 networks"
    assert "\n".join(lines) in output and "  ★" in repr(loaded)
    assert [row["member"] for row in loaded.rows] == list(range(MEMBERS + 1))
    assert {"train.batch_size": 16, "seed": 1}.items() <= loaded.rows[5].items()
    assert loaded.plot(path=tmp_path / "a.png").axes
    assert (tmp_path / "a.png").read_bytes() == (path / "sweep.png").read_bytes()
    winner = json.loads((path / "summary.json").read_text())["winner"]["member"]
    assert loaded.network().source == f"{path}:{winner}"
    for name in ("use_compilation_cache", "use_cores"):
        monkeypatch.setattr(machine, name, lambda: None)
    again = lenet_jax.train_sweep(config, SWEEP, path, save="all")  # which is finished
    assert repr(again) == repr(loaded)


def test_results_that_are_not_there_are_a_short_error_and_some_are_not_collected(
    finished, tmp_path
):
    with pytest.raises(UserError, match="is not a sweep's directory"):
        lenet_jax.load_sweep(tmp_path)
    copy = shutil.copytree(finished[0], tmp_path / "copy")
    collected = json.loads((copy / "summary.json").read_text())
    for stale in ({}, {"members": MEMBERS + 1}):
        (copy / "summary.json").write_text(json.dumps(stale))
        assert json.loads(json.dumps(lenet_jax.load_sweep(copy).summary)) == collected
    shutil.rmtree(copy / "chunks" / "0000")
    partial = lenet_jax.load_sweep(copy)  # newer than what was collected
    summary = json.loads(json.dumps(partial.summary))
    assert (summary["status"], summary["members"]) == ("incomplete", len(partial.rows))
    assert len(partial.rows) < MEMBERS + 1 and "so far" in repr(partial)
    assert summary["settings"] == collected["settings"][1:]  # the first is that of the chunk


def test_results_are_loaded_whatever_keys_another_version_had(finished, monkeypatch):
    path, _ = finished
    expected = lenet_jax.load_sweep(path)
    config = SweepDir(path).config()
    other = config | {"train": {**config["train"], "of_another_version": 1}}
    monkeypatch.setattr(SweepDir, "config", lambda _: other)
    results = lenet_jax.load_sweep(path)
    assert results.rows == expected.rows


def test_the_bridge_and_main_take_one_member(finished, config, tmp_path, monkeypatch):
    path, _ = finished
    out = tmp_path / "member.safetensors"
    assert torch_bridge.main(["convert", str(path), str(out), "--member=5"]) == 0
    weights = load(path, member=5).state_dict
    for name, array in load_file(out).items():
        np.testing.assert_array_equal(array, weights[name])
    with pytest.raises(UserError, match="choose one"):
        torch_bridge.main(["inspect", str(path)])

    monkeypatch.setattr(report, "draw_figures", lambda *_: [])
    begin = {"train.initial_weights": f"{path}:5", "optimizer.learning_rate": 1e-30}
    changes = SWEEP[5] | begin | {"train.num_epochs": 1}
    with contextlib.redirect_stdout(io.StringIO()):
        code = train_one(configs.replace(config, changes), str(tmp_path / "run"), COMMAND, 0.0)
    assert code == 0
    for name, array in load_file(tmp_path / "run" / "model.safetensors").items():
        np.testing.assert_array_equal(array, weights[name])
    other = configs.replace(config, changes | {"model.channels": (2, 4)})
    with pytest.raises(UserError, match="does not fit the network"):
        train_one(other, str(tmp_path / "other"), COMMAND, 0.0)
    assert not (tmp_path / "other").exists()


def test_finished_chunks_are_not_trained_again(finished, config, tmp_path, monkeypatch):
    """Killed after two chunks, with a third half written: the table is the same to the byte."""
    path, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    for name in FILES:
        (copy / name).unlink()
    for number in (1, 3, 4):
        shutil.rmtree(copy / "chunks" / f"{number:04d}")
    draft = copy / "chunks" / ".0003.draft"
    draft.mkdir()
    (draft / "results.json").write_text("{")
    trained_chunks = []
    train = ChunkTrainer.train

    def note(self, chunk, *args):
        trained_chunks.append(chunk.number)
        return train(self, chunk, *args)

    monkeypatch.setattr(ChunkTrainer, "train", note)
    code, output = start(copy, config, chunk_size=8)  # the plan that was written holds
    assert (code, trained_chunks) == (0, [1, 3, 4])
    assert "2 of 5 chunks are already done" in output
    assert without_seconds(copy) == without_seconds(path)
    assert not draft.exists()


def test_a_sweep_planned_with_a_former_key_name_resumes(config, tmp_path):
    overrides = sweep("model.backend", ["plain", "auto"])
    assert start(tmp_path / "new", config, overrides)[0] == 0
    written = json.loads((tmp_path / "new" / "sweep.json").read_text())
    written["members"] = [  # as it was written before there were columns
        {"member": member, "overrides": {"model.lowering": backend}}
        for member, backend in enumerate(["plain", "auto"])
    ]
    old = tmp_path / "old"
    with SweepDir(old) as store:
        store.open(written, written["config"])
    start(old, config, overrides)
    code, output = start(old, config, sweep("model.lowering", ["plain", "auto"]))
    assert code == 0
    assert "2 of 2 chunks are already done" in output
    assert without_seconds(old) == without_seconds(tmp_path / "new")
    assert load(old, 1).model.backend == "auto"
    other = sweep("model.backend", ["plain", "phase"])
    with pytest.raises(UserError, match="holds another sweep: its members differ"):
        start(old, config, other)


def test_a_job_array_shares_a_sweep_and_collect_writes_its_results(finished, config, tmp_path):
    path, _ = finished
    shared = shutil.copytree(path, tmp_path / "shared")
    for number in range(5):
        shutil.rmtree(shared / "chunks" / f"{number:04d}")
    for name in FILES:
        (shared / name).unlink()
    (shared / "chunks" / ".0001.0a1b2c3d.draft").mkdir()  # of a process that was killed
    code, output = start(shared, config, worker=(2, 2))
    assert code == 0 and "chunk 1: members 4–7" in output
    code, output = start(shared, config, collect=True)
    assert code == 0 and "3 of 5 chunks are missing" in output
    assert "on validation so far" in output and not (shared / "winner.py").exists()
    summary = json.loads((shared / "summary.json").read_text())
    assert (summary["status"], summary["members"]) == ("incomplete", 8)
    code, output = start(shared, config, worker=(9, 9))
    assert code == 0 and "worker 9 of 9 has nothing to do" in output
    before = (shared / "chunks/0001/results.json").read_bytes()
    assert start(shared, config, worker=(1, 1))[0] == 0
    assert before == (shared / "chunks/0001/results.json").read_bytes()
    code, output = start(shared, config, collect=True)
    assert code == 0 and "missing" not in output
    assert without_seconds(shared) == without_seconds(path)
    assert len(list((shared / "chunks").iterdir())) == 5
    with pytest.raises(UserError, match="holds no plan yet: --print_sbatch"):
        start(tmp_path / "new", config, worker=(1, 1))
    assert not (tmp_path / "new").exists()
    shutil.rmtree(shared / "chunks")
    (shared / "chunks").mkdir()
    code, output = start(shared, config, collect=True)
    assert code == 0 and "nothing to collect; of an earlier time are results.csv, " in output


def test_the_table_of_many_members_is_also_written_as_parquet(
    finished, config, tmp_path, monkeypatch, no_figures
):
    pandas, _ = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    shutil.copytree(finished[0], tmp_path / "sweep")
    monkeypatch.setattr(sweep_run, "MOST_IN_CSV", MEMBERS - 1)
    assert start(tmp_path / "sweep", config, collect=True)[0] == 0
    read = pandas.read_parquet(tmp_path / "sweep" / "results.parquet")
    table = pandas.read_csv(tmp_path / "sweep" / "results.csv")
    pandas.testing.assert_frame_equal(read, table, check_dtype=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, output = start(tmp_path / "sweep", config, collect=True)
    assert code == 0 and "results.parquet needs pyarrow: pip install" in output
    assert not (tmp_path / "sweep" / "results.parquet").exists()


def test_a_sweep_without_a_finished_member_has_no_winner(config, tmp_path):
    code, output = start(tmp_path, config, SWEEP[MEMBERS:], chunk_size=1)
    assert code == 3 and "0 of 1" in output and "★" not in output
    assert "every member diverged: there is no winner and no figure; lower optimizer" in output
    assert not (tmp_path / "winner.py").exists() and not (tmp_path / "sweep.png").exists()
    with pytest.raises(UserError, match=r"every member of .* diverged: there is no best"):
        lenet_jax.load_sweep(tmp_path).plot()
    code, output = start(tmp_path, config, SWEEP[MEMBERS:], chunk_size=1)
    assert code == 3 and "1 of 1 chunk is already done: nothing to train" in output
    with pytest.raises(UserError, match=r"a sweep of 1 network; choose one, for example .*:0"):
        load(tmp_path)


def test_members_that_stop_early_and_average_their_weights_are_their_single_runs(
    folder, no_figures, tmp_path, monkeypatch
):
    """Stopped by a signal in its second chunk, and resumed."""
    base, path = make_config(folder), tmp_path / "sweep"
    overrides = zipit(
        sweep("train.patience", [1, 1, 2, None]),
        sweep("train.ema_decay", [0.5, 0.9, 0.5, 0.99]),
    )
    calls, train_epoch = [], Population.train_epoch

    def count(*args):
        calls.append(1)
        return train_epoch(*args)

    monkeypatch.setattr(Population, "train_epoch", count)
    with monkeypatch.context() as patch:
        patch.setattr(Interrupt, "notice", lambda _: len(calls) > 2)
        patch.setattr(Interrupt, "exit_code", 130)
        patch.setattr(Interrupt, "reason", "stopped by SIGINT")
        assert start(path, base, overrides, chunk_size=2)[0] == 130
    assert start(path, base, overrides, chunk_size=2)[0] == 0
    assert len(calls) == 2 + 1 + 3  # the members of the first chunk had stopped
    rows = table(path)
    assert [row["epochs"] for row in rows] == ["2", "2", "3", "3"]
    assert [row["stopped_early"] for row in rows] == ["True", "True", "False", "False"]
    for member in (1, 2):
        config = configs.replace(base, overrides[member])
        alone = start_one(tmp_path / f"{member}", config)
        row, summary = rows[member], alone.read("summary.json")
        for name in ("epochs", "stopped_early", "best_epoch"):
            assert row[name] == str(summary[name])
        for name in ("test_accuracy", "test_ema_accuracy", "valid_accuracy"):
            assert np.float32(row[name]) == np.float32(summary[name])
        network = load(path, member=member)
        for name, array in load_file(alone.path / "model.safetensors").items():
            np.testing.assert_array_equal(array, network.state_dict[name])
        assert len(network.history) == summary["epochs"]
        for ours, theirs in zip(network.history, alone.rows(), strict=True):
            assert len(ours) == 7
            assert ours == pytest.approx({name: theirs[name] for name in ours}, rel=1e-6)


def test_without_validation_there_is_a_table_and_a_figure_but_no_winner(config, tmp_path):
    base = configs.replace(config, {"data.valid_examples": 0, "train.num_epochs": 2})
    overrides = product(sweep("optimizer.learning_rate", (0.01, 0.1)), sweep("seed", range(2)))
    code, output = start(tmp_path / "sweep", base, overrides, save="best")
    assert code == 0
    assert "member's last epoch: there is no validation" in output
    assert (tmp_path / "sweep" / "sweep.png").exists()
    rows = table(tmp_path / "sweep")
    assert {row["valid_accuracy"] + row["valid_peak"] for row in rows} == {""}
    assert {row["best_epoch"] for row in rows} == {"2"}
    member = configs.replace(base, {"optimizer.learning_rate": 0.1})
    alone = start_one(tmp_path / "alone", member).read("summary.json")
    assert np.float32(rows[2]["test_accuracy"]) == np.float32(alone["test_accuracy"])
    found = lenet_jax.load_sweep(tmp_path / "sweep")
    assert found.summary["winner"] is None
    base_rate = chance(data.load_section(base.data).test.labels)
    assert {entry["chance"] for entry in found.summary["settings"]} == {base_rate}
    with pytest.raises(UserError, match="no validation images to choose a member on"):
        found.network()
    assert found.plot().axes


OVERFLOWING = """
import jax.numpy as jnp
from flax import nnx

class Net(nnx.Module):
    def __init__(self, image_shape, num_classes, *, rngs: nnx.Rngs):
        bias = nnx.initializers.constant(9)
        self.linear = nnx.Linear(256, num_classes, bias_init=bias, rngs=rngs)

    def __call__(self, images):
        return self.linear(images.reshape(images.shape[0], -1)) * 1e38

def loss(logits, labels):
    return jnp.tanh(logits).mean(axis=1)
"""


def test_finite_weights_whose_logits_overflow_are_results_as_of_a_single_run(
    config, tmp_path, no_figures
):
    """With a loss of one's own that stays finite, and no validation that would end the training."""
    own = tmp_path / "own.py"
    own.write_text(OVERFLOWING)
    values = {key: value for key, value in tiny.CONFIG.items() if not key.startswith("model.")}
    values |= {"data.name": config.data.name, "data.valid_examples": 0, "train.num_epochs": 2}
    values |= {"model.name": f"{own}:Net", "train.loss": f"{own}:loss", "train.ema_decay": 0.9}
    base = configs.load("configs/notes.py", values.items())
    assert start_one(tmp_path / "alone", base).code == 0
    assert start(tmp_path / "sweep", base, sweep("seed", range(2)))[0] == 0
    assert {row["test_loss"] for row in table(tmp_path / "sweep")} == {"nan"}
    found = lenet_jax.load_sweep(tmp_path / "sweep")
    assert found.summary["settings"][0]["test_loss"]["mean"] is None
    assert found.plot().axes


def test_a_signal_ends_a_sweep_between_epochs(config, tmp_path, monkeypatch):
    calls = []

    def notice(self):
        calls.append(1)
        return len(calls) > EPOCHS

    monkeypatch.setattr(Interrupt, "notice", notice)
    monkeypatch.setattr(Interrupt, "exit_code", 130)
    monkeypatch.setattr(Interrupt, "reason", "stopped by SIGINT")
    code, output = start(tmp_path, config)
    assert code == 130
    assert "stopped by SIGINT; to resume: python -m experiments.sweep" in output
    store = SweepDir(tmp_path)
    assert store.is_done(0) and not store.is_done(1)
    assert not list((tmp_path / "chunks").glob(".*.draft"))


def test_a_dry_run_shows_the_plan_and_writes_nothing(config, tmp_path):
    recording = make_recording("weights", every=1)
    code, output = start(tmp_path / "sweep", config, dry_run=True, record=recording)
    assert code == 0 and "to record: 0.00 GB on the disk" in output
    assert "17 members in 2 groups and 5 chunks" in output
    assert "about 0:" in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("save", ["best", "none"])
def test_save_selects_the_members_whose_weights_are_saved(config, tmp_path, save):
    start(tmp_path, config, SWEEP[:4], save=save)
    files = list(tmp_path.glob("chunks/*/weights.safetensors"))
    assert len(files) == (save == "best")
    if save == "best":
        winner = json.loads((tmp_path / "summary.json").read_text())["winner"]
        assert load(tmp_path, member=winner["member"]).config is not None


def test_another_sweep_is_refused(finished, config):
    path, _ = finished
    with pytest.raises(UserError, match="holds another sweep: its members differ"):
        start(path, config, SWEEP[:4])
    with pytest.raises(UserError, match="holds another sweep: its settings differ"):
        start(path, config, save="none")


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer.momentum": 0.5},
        {"model.init": "flax"},
        {"train.batch_size": 4},
        {"schedule.name": "cosine"},
        {"augment.shift": 1.0},
        {"data.split_seed": 3},
        {"seeds.init": 7},
        {"model.backend": "phase"},
    ],
)
@pytest.mark.parametrize("options", [{}, {"collect": True}, {"dry_run": True}])
def test_a_sweep_of_another_config_is_refused_with_the_keys(finished, config, change, options):
    path, _ = finished
    (key,) = change
    with pytest.raises(UserError, match=f"holds a sweep of another config: {key}: .* → "):
        start(path, configs.replace(config, change), **options)


def test_other_data_are_refused(config, tmp_path):
    folder = tiny.write_idx_folder(tmp_path / "bars")
    config = configs.replace(config, {"data.name": str(folder)})
    assert start(tmp_path / "sweep", config, SWEEP[:2])[0] == 0
    images = folder / "train-images-idx3-ubyte"
    content = images.read_bytes()
    images.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match="holds another sweep: its data_fingerprints differ"):
        start(tmp_path / "sweep", config, SWEEP[:2])


def test_a_run_does_not_start_in_a_sweeps_folder(finished, config):
    path, _ = finished
    before = (path / "config.json").read_bytes(), (path / "summary.json").read_bytes()
    with pytest.raises(UserError, match="holds a sweep; choose another folder for a run"):
        train_one(config, str(path), [], 0.0)
    assert before == ((path / "config.json").read_bytes(), (path / "summary.json").read_bytes())


def flip_digit(chunks):
    file = chunks / "0001" / "results.json"
    text = file.read_text()
    file.write_text(text.replace("0.", "1.", 1))


def copy_over(chunks):
    shutil.rmtree(chunks / "0001")
    shutil.copytree(chunks / "0000", chunks / "0001")


def flip_weight(chunks):
    file = chunks / "0001" / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 16
    file.write_bytes(content)


def drop_member(chunks):
    file = chunks.parent / "sweep.json"
    written = json.loads(file.read_text())
    written["chunks"][1]["members"] = written["chunks"][0]["members"]
    file.write_text(json.dumps(written))


def unseal(chunks):
    (chunks / "0001" / "SHA256SUMS").unlink()


@pytest.mark.parametrize("damage", [flip_digit, copy_over, flip_weight, drop_member, unseal])
@pytest.mark.parametrize("options", [{}, {"collect": True}])
def test_a_chunk_that_is_not_the_plans_is_refused(finished, config, tmp_path, damage, options):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    damage(tmp_path / "chunks")
    message = r"000[01] is damaged: .*\n.*run the same command"
    if damage is drop_member:
        message = r"the plan of .* is damaged: its chunks do not have each member once"
    with pytest.raises(UserError, match=message):
        start(tmp_path, config, **options)
    with pytest.raises(UserError, match=r"is damaged|no weights of member 5"):
        load(tmp_path, member=5)


def test_the_chunks_of_another_sweep_are_refused(finished, config, tmp_path):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "sweep.json").unlink()
    with pytest.raises(UserError, match="0000 is damaged: it is not chunk 0 of the plan"):
        start(tmp_path, config, SWEEP[:8])


def test_too_large_for_the_memory_even_one_at_a_time(config, tmp_path):
    huge = [{"model.features": (45_000, 45_000)}]
    with pytest.raises(UserError, match="member 0 is too large for the memory"):
        start(tmp_path / "sweep", config, huge)
    assert list(tmp_path.iterdir()) == []


def test_members_that_share_batches_must_agree_on_them(config, tmp_path):
    for changes in (sweep("seeds.order", (1, 2)), sweep("augment.shift", (0.0, 1.0))):
        with pytest.raises(UserError, match="--shared_data_order: members 0 and 1 differ in"):
            start(tmp_path / "sweep", share_order(config), changes, shared_data_order=True)
    assert list(tmp_path.iterdir()) == []


def test_the_winner_has_the_best_mean_and_no_diverged_member():
    from lenet_jax.sweeps.results import by_setting, choose, lead, summarise

    def row(member, accuracy):
        done = accuracy is not None
        status = "done" if done else "diverged"
        return {"member": member, "status": status, "valid_accuracy": accuracy, "valid_loss": 1.0}

    accuracies = [0.95, 0.80, 0.90, 0.89, 0.99, None]
    overrides = {i: {"optimizer.learning_rate": r, "seed": i} for i, r in enumerate("aabbccdd")}
    settings = by_setting([row(i, a) for i, a in enumerate(accuracies)], overrides)
    winner = choose(settings)
    assert winner is not None and (winner[0], winner[1]["member"]) == (1, 2)
    assert choose(by_setting([row(5, None)], overrides)) is None
    diverged = [row(6, 0.97), row(7, None)]
    settings = by_setting([row(2, 0.9), row(0, 0.8), *diverged], overrides)
    second = lead(settings, 0)
    assert second is not None and second["over"] == {"optimizer.learning_rate": "a"}
    tested = row(0, 0.9) | {"test_accuracy": 0.9, "test_loss": float("inf")}
    (entry,) = summarise(by_setting([tested], overrides))
    assert entry["test_loss"]["mean"] is None and entry["test_accuracy"]["mean"] == 0.9


def test_chunks_have_equal_sizes_where_possible(config):
    members = make_members(config, sweep("seed", range(9)))
    groups = plan.make_groups(members, lambda _: tiny.dataset(), False)
    chunks = plan.make_chunks(groups, 2, [8])
    assert [(len(chunk.members), chunk.size) for chunk in chunks] == [(6, 6), (3, 6)]


def test_memory_is_estimated_within_reason(config):
    """Two devices; float32; parameters, the best ones and momentum; thrice."""
    group = plan.make_groups(make_members(config, SWEEP[:2]), lambda _: tiny.dataset(), False)[0]
    small = plan.memory_needed(group, jax.devices(), 1, "map")
    many = plan.memory_needed(group, jax.devices(), 1001, "map")
    params = num_params(group.spec)
    assert (many - small) / 1000 == pytest.approx(2 * 4 * 3 * 3 * params, rel=0.1)
    side_by_side, in_turn = (
        plan.memory_needed(group, jax.devices(), 100, strategy) for strategy in ("vmap", "map")
    )
    assert side_by_side > in_turn


def test_settings_that_are_alike_when_they_are_cut_have_lines_of_their_own():
    from lenet_jax.sweeps.results import by_setting, choose, summary
    from lenet_jax.sweeps.table import result_lines

    same = {"status": "done", "valid_loss": 1.0, "test_loss": 1.0, "seconds": 1.0}
    rows = [{"member": i, "valid_accuracy": 0.9, "test_accuracy": 0.9} | same for i in (0, 1)]
    long = "runs/a_long_name_of_a_run/model.safetensors"
    overrides: dict[int, Overrides] = {
        i: {"train.initial_weights": long, "optimizer.momentum": i / 2} for i in (0, 1)
    }
    settings = by_setting(rows, overrides, dict.fromkeys(overrides, 0.1))
    found = summary(settings, choose(settings), overrides, complete=True)
    lines = result_lines(settings, found, rows, 80)
    assert all(len(line) <= 80 for line in lines)
    assert any("momentum=0.0" in line for line in lines)
    assert sum("momentum=0.5" in line for line in lines) == 2  # also as what the winner leads


def test_of_many_settings_the_first_and_the_best_are_printed():
    from lenet_jax.sweeps.results import by_setting, choose, summary
    from lenet_jax.sweeps.table import result_lines

    same = {"status": "done", "valid_loss": 1.0, "test_loss": 1.0, "seconds": 1.0}
    rates = [0.5 + (7 * member % 100) / 1000 for member in range(100)]
    rows = [
        {"member": i, "valid_accuracy": r, "test_accuracy": r} | same for i, r in enumerate(rates)
    ]
    overrides: dict[int, Overrides] = {i: {"optimizer.learning_rate": i} for i in range(100)}

    def lines(rows):
        settings = by_setting(rows, overrides, dict.fromkeys(overrides, 0.1))
        winner = choose(settings)
        return result_lines(settings, summary(settings, winner, overrides, complete=True), rows)

    many = lines(rows)
    assert len(many) < 24 and "… of 100 settings, all in summary.json" in "\n".join(many)
    shown = [line.split()[0] for line in many if line.startswith("learning_rate")]
    best = sorted(range(100), key=lambda i: -rates[i])[:10]
    assert shown == [f"learning_rate={i}" for i in [0, 1, 2, *best]]
    assert sum("★" in line for line in many) == 2
    few = lines(rows[:24])
    assert "interval" not in few[1] and "not tested: fewer than 3 members" in "\n".join(few)
    assert not any("★" in line for line in lines(rows[:1]))
    assert [line.split()[0] for line in few if line.startswith("learn")] == [
        f"learning_rate={i}" for i in range(24)
    ]
