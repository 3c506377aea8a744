"""What a sweep records of its members, and how it is read and exported."""

import contextlib
import csv
import functools
import inspect
import io
import runpy
import shutil
import sys

import numpy as np
import pandas
import pytest

import lenet_jax
from lenet_jax import config as configs
from lenet_jax import data, export
from lenet_jax.errors import UserError
from lenet_jax.storage.columns import Columns
from lenet_jax.storage.sweep_dir import SweepDir
from lenet_jax.sweeps import recorder
from lenet_jax.sweeps.collected import SweepResults
from lenet_jax.sweeps.file import chain, product, sweep, zipit
from lenet_jax.sweeps.members import Members
from lenet_jax.sweeps.options import make_options
from lenet_jax.sweeps.recording import Recording, check_space, make_recording
from lenet_jax.sweeps.run import run
from lenet_jax.terminal.interrupt import Interrupt
from tests.support import tiny

pytestmark = pytest.mark.slow

# Two groups, of which the first has two chunks, whose members are not consecutive; one diverges.
SWEEP = chain(
    [{"optimizer.learning_rate": 1e30, "seed": 9}],
    zipit(sweep("train.batch_size", (16, 8, 16, 16)), sweep("seed", range(4))),
)
MEMBERS, DIVERGED, EPOCHS = 5, 0, 3
FLAGS = {"record": "logits,weights", "record_every": 1, "record_split": "test,train"}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tiny.write_idx_folder(tmp_path_factory.mktemp("data") / "bars")
    changes = {"data": {"name": str(folder)}, "model": {"backend": "plain"}}
    return tiny.config(**changes, schedule={"name": "constant"}, optimizer={"learning_rate": 0.3})


def start(path, config, overrides=SWEEP, **options):
    """Runs a sweep, and returns its exit code."""
    all_options = make_options(str(path), **{"chunk_size": 2} | options)
    members = Members(config, Columns.of(overrides))
    with contextlib.redirect_stdout(io.StringIO()):
        return run(config, members, all_options, ["python", "-m", "lenet_jax.sweep"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("sweeps") / "finished"
    assert start(path, config, **FLAGS) == 0
    return path


@pytest.fixture(scope="module")
def results(finished):
    return lenet_jax.load_sweep(finished)


def test_the_table_is_that_of_the_file(finished, results):
    pandas.testing.assert_frame_equal(results.table, pandas.read_csv(finished / "results.csv"))
    assert results.table.status.tolist() == ["diverged"] + ["done"] * 4


def test_without_pandas_there_are_the_rows(finished, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    loaded = lenet_jax.load_sweep(finished)
    with pytest.raises(UserError, match=r"pip install pandas, .*\nWithout it, \.rows has"):
        loaded.table  # noqa: B018
    assert len(loaded.rows) == MEMBERS


def test_the_logits_are_those_of_each_members_network(results, config):
    bars = data.load_section(config.data)
    assert results.logits.shape == (MEMBERS, len(bars.test), 6)
    assert np.isnan(results.logits[DIVERGED]).all()
    for member in range(1, MEMBERS):
        network = results.network(member)
        for split in ("test", "train"):
            expected = network.logits(getattr(bars, split).images)
            np.testing.assert_allclose(results.logits_of(split)[member], expected, atol=1e-6)
    done = results.table.status == "done"
    accuracies = (results.logits[done.to_numpy()].argmax(-1) == bars.test.labels).mean(axis=1)
    np.testing.assert_allclose(accuracies, results.table.test_accuracy[done], rtol=1e-6)


def test_the_weights_are_those_of_each_epoch(results):
    assert results.epochs() == [0, *results.epochs("logits")] == [0, 1, 2, 3]
    with pytest.raises(UserError, match=r"has no weights_0004\.safetensors: it has logits_test"):
        results.weights(4)
    for read in (SweepResults.weights, SweepResults.logits_of):
        with pytest.raises(UserError, match="epoch must be a whole number, not '3'"):
            inspect.unwrap(read)(results, epoch="3")  # without the tests' own checks of types
    final, best = results.weights(), results.table.best_epoch
    assert final["conv2.weight"].shape == (MEMBERS, 3, 2, 5, 5)
    for member in range(1, MEMBERS):
        epoch = int(best[member])
        for name, array in results.network(member).state_dict.items():
            np.testing.assert_array_equal(final[name][member], array)
            np.testing.assert_array_equal(results.weights(epoch)[name][member], array)
        logits = results.logits_of(epoch=epoch)[member]
        np.testing.assert_array_equal(logits, results.logits[member])
        others = {1, 2, 3} - {epoch}
        assert all((results.logits_of(epoch=e)[member] != logits).any() for e in others)
    assert len(set(best[1:])) > 1
    assert np.isnan(results.weights(3)["fc1.bias"][DIVERGED]).all()
    assert np.isnan(results.logits_of("train", 2)[DIVERGED]).all()


def test_epochs_are_recorded_every_few_and_the_last():
    recording = make_recording("weights", 3)
    assert recording is not None
    assert [e for e in range(1, 9) if recording.is_due(e, 8)] == [3, 6, 8]
    assert not Recording(logits=True, weights=False).is_due(8, 8)


def test_large_sets_are_taken_in_blocks_of_batches(finished, config, tmp_path, monkeypatch):
    """Also in half precision."""
    monkeypatch.setattr(recorder, "BLOCK", 4 * 2 * 6 * 25)  # 20 of 33 images
    flags = {"record": "logits", "record_dtype": "float16", "save": "none"}
    assert start(tmp_path, config, SWEEP[1:], **flags) == 0
    halves, whole = (lenet_jax.load_sweep(p) for p in (tmp_path, finished))
    assert halves.logits.dtype == np.float16
    np.testing.assert_array_equal(halves.logits[:], whole.logits[1:].astype(np.float16))
    with pytest.raises(UserError, match=r"no weights\.safetensors: it has logits_test"):
        halves.weights()


def test_members_that_stop_early_have_no_later_epochs(config, tmp_path):
    overrides = product(sweep("train.patience", [1]), sweep("seed", range(4)))
    overrides = product(overrides, sweep("optimizer.learning_rate", [1e-9]))
    flags = {"record": "logits,weights", "record_every": 1}
    assert start(tmp_path, config, overrides, **flags) == 0
    results = lenet_jax.load_sweep(tmp_path)
    ended = results.table.epochs.to_numpy()
    assert ended.max() == 2
    for epoch in range(1, EPOCHS + 1):
        kept = ~np.isnan(results.logits_of(epoch=epoch)[:]).any(axis=(1, 2))
        np.testing.assert_array_equal(kept, epoch <= ended)
        weights = results.weights(epoch)["fc3.bias"][:]
        np.testing.assert_array_equal(np.isfinite(weights).all(axis=1), epoch <= ended)


def test_whole_members_are_read_while_the_sweep_runs(finished, results, tmp_path):
    """In the state of a sweep that is at its second chunk, or was killed there."""
    copy = shutil.copytree(finished, tmp_path / "copy")
    for name in ("results.csv", "summary.json", "history.npz"):
        (copy / name).unlink()
    draft = copy / "chunks" / ".0001.draft"
    (copy / "chunks" / "0001").rename(draft)
    (draft / "results.json").unlink()
    running = lenet_jax.load_sweep(copy)
    members = running.table.member.tolist()
    assert 0 < len(members) < MEMBERS and running.summary["status"] == "incomplete"
    np.testing.assert_array_equal(running.logits[:], results.logits[members])
    np.testing.assert_array_equal(
        running.weights(2)["fc2.bias"], results.weights(2)["fc2.bias"][members]
    )
    assert running.network(members[-1]).source.startswith(str(copy))
    for chunk in (copy / "chunks").glob("[0-9]*"):
        shutil.rmtree(chunk)
    with pytest.raises(UserError, match="has no finished chunk yet"):
        lenet_jax.load_sweep(copy)


def test_a_chunk_that_is_stopped_leaves_nothing(config, tmp_path, monkeypatch):
    monkeypatch.setattr(Interrupt, "notice", lambda _: True)
    monkeypatch.setattr(Interrupt, "exit_code", 130)
    monkeypatch.setattr(Interrupt, "reason", "stopped by SIGINT")
    assert start(tmp_path, config, **FLAGS) == 130
    assert not SweepDir(tmp_path).done() and not list((tmp_path / "chunks").glob(".*.draft"))


def test_what_is_recorded_may_not_change(finished, config):
    for other in (FLAGS | {"record_every": 2}, {"save": "all"}, {"record": "weights"}):
        with pytest.raises(UserError, match="holds another sweep: its settings differ"):
            start(finished, config, **other)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"record": "logit"}, "record=logit: must be one or more of logits, weights, such as"),
        ({"record": ""}, "record='': must be one or more of"),
        ({"record": "logits,logits"}, "record=logits,logits: must be"),
        ({"record": "logits", "record_split": "dev"}, "record_split=dev: must be one or more of"),
        ({"record": "logits", "record_dtype": "int8"}, "must be float32 or float16"),
        ({"record": "logits", "record_every": 0}, "record_every=0: must be an integer"),
        ({"record_every": 2}, "record_every needs record=logits, weights, or logits,weights"),
        ({"record_split": "train"}, "record_split needs record="),
        ({"record_dtype": "float16"}, "record_dtype needs record="),
        ({"record": "weights", "record_split": "train"}, "record_split is of logits, which"),
    ],
)
def test_wrong_flags_are_short_errors(flags, message):
    with pytest.raises(UserError, match=message):
        make_options("runs/a", **flags)


def test_the_disk_space_is_checked_before_training(config, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"takes 0\.0 GB, and .* has 0\.0 GB free\nRecord less"):
        start(tmp_path / "sweep", config, **FLAGS)
    assert list(tmp_path.iterdir()) == []


def test_the_disk_space_is_that_of_the_files(finished, config, results):
    from lenet_jax.sweeps.plan import make_chunks, make_groups

    members = Members(config, Columns.of(SWEEP))
    groups = make_groups(members, lambda _: tiny.dataset(), False)
    chunks = make_chunks(groups, 1, [2, 2])
    recording = make_recording("logits,weights", 1, "test,train")
    assert recording is not None
    files = [*finished.glob("chunks/*/logits*"), *finished.glob("chunks/*/weights*")]
    headers = sum(file.stat().st_size for file in files) - recording.bytes_of_chunks(chunks)
    assert 0 < headers < 3000 * len(files)
    no_images = Recording(logits=True, weights=False, splits=("valid",))
    groups = make_groups(members, lambda _: tiny.dataset(valid=0), False)
    with pytest.raises(UserError, match="record_split=valid: the data have no valid images"):
        check_space(no_images, make_chunks(groups, 1, [2, 2]), finished)


def test_a_zoo_has_every_network_once(finished, results, tmp_path, run_command):
    command = functools.partial(run_command, export.main, f"--workdir={finished}", "--format=zoo")
    out = tmp_path / "new" / "zoo"
    code, said, error = command(f"--out={out}")
    assert (code, error) == (0, "") and "of 5 members" in said
    with (out / "index.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(list(out.glob("*.safetensors")))
    best = results.table.best_epoch
    expected = [(m, e) for m in range(1, MEMBERS) for e in range(EPOCHS + 1)]
    initial = [(str(DIVERGED), "0", "")]
    assert [tuple(lines[0][k] for k in ("member", "epoch", "valid_loss"))] == initial
    lines = lines[1:]
    assert [(int(line["member"]), int(line["epoch"])) for line in lines] == expected
    bars = tiny.dataset().test
    for line in lines:
        member, epoch = int(line["member"]), int(line["epoch"])
        assert line["train.batch_size"] == str(SWEEP[member]["train.batch_size"])
        is_best = epoch == best[member]
        assert line["selected"] == str(int(is_best)) and (line["test_accuracy"] != "") == is_best
        if not epoch:
            assert line["valid_accuracy"] == ""
            continue
        network = lenet_jax.load(out / line["file"])
        logits = results.logits[member] if is_best else results.logits_of(epoch=epoch)[member]
        np.testing.assert_allclose(network.logits(bars.images), logits, atol=1e-5)
        accuracy = results.curves[member]["valid_accuracy"][epoch - 1]
        assert float(line["valid_accuracy"]) == pytest.approx(accuracy)
    code, _, error = command(f"--out={out}")
    assert code == 2 and "already exists\nChoose another name, or add --force" in error
    assert command(f"--out={out}", "--force")[0] == 0
    assert sorted(path.name for path in out.parent.iterdir()) == ["zoo"]
    (out / "thesis.tex").write_text("years of work")
    code, _, error = command(f"--out={out}", "--force")
    assert code == 2 and "it is not only a zoo" in error and (out / "thesis.tex").exists()


def test_a_network_after_an_epoch_has_its_logits(finished, results, tmp_path, run_command):
    bars = tiny.dataset().test
    for epoch in (1, 3):
        logits = results.logits_of(epoch=epoch)[2]
        for network in (
            results.network(2, epoch=epoch),
            lenet_jax.load(f"{finished}:2@{epoch}"),
            lenet_jax.load(finished, 2, epoch=epoch),
        ):
            np.testing.assert_allclose(network.logits(bars.images), logits, atol=1e-6)
            assert network.source == f"{finished}:2@{epoch}"
            assert [row["epoch"] for row in network.history] == list(range(1, epoch + 1))
            assert not network.summary  # which is of the best epoch
    initial = results.network(1, epoch=0)
    assert initial.history == [] and np.isfinite(initial.logits(bars.images)).all()
    out = tmp_path / "at.safetensors"
    flags = "--format=safetensors", f"--workdir={finished}:2@1", f"--out={out}"
    assert run_command(export.main, *flags)[0] == 0
    first = results.logits_of(epoch=1)[2]
    np.testing.assert_allclose(lenet_jax.load(out).logits(bars.images), first, atol=1e-6)
    for wrong, meaning in (
        (f"{finished}:2@4", r"no weights of member 2 after epoch 4\nIt has .*: 0, 1, 2, 3\n"),
        (f"{finished}:{DIVERGED}@3", "member 0 had diverged or stopped before epoch 3\nChoose"),
        (f"{finished}:{DIVERGED}", "member 0 diverged, so .* no use\nChoose another .*:0@0$"),
        (f"{tmp_path}:2@1", "is not a sweep, so it has no member 2"),
    ):
        with pytest.raises(UserError, match=meaning):
            lenet_jax.load(wrong)
    with pytest.raises(UserError, match="is not a sweep, so it has no weights after epoch 1"):
        lenet_jax.load(out, epoch=1)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_zoo_of_other_networks_loads_one_by_one(config, dtype, tmp_path, run_command):
    mlp = configs.load(
        "configs/notes.py", (tiny.MLP | {"data.name": config.data.name, "seed": 3}).items()
    )
    flags = {"record": "weights", "record_every": 3, "record_dtype": dtype}
    start(tmp_path / "sweep", mlp, sweep("seed", range(2)), **flags)
    command = "--format=zoo", f"--workdir={tmp_path / 'sweep'}", f"--out={tmp_path / 'zoo'}"
    code, said, error = run_command(export.main, *command)
    assert (code, error) == (0, "") and "in Python: lenet_jax.load(FILE)" in said
    lines = list(csv.DictReader((tmp_path / "zoo" / "index.csv").read_text().splitlines()))
    assert {line["module"] for line in lines} == {"mlp"} and len(lines) in (4, 5, 6)
    images, results = tiny.dataset().test.images, lenet_jax.load_sweep(tmp_path / "sweep")
    for line in lines:
        network = lenet_jax.load(tmp_path / "zoo" / line["file"])
        epoch = None if line["selected"] == "1" else int(line["epoch"])
        with (
            contextlib.nullcontext()
            if epoch is None or dtype == "float32"
            else pytest.warns(UserWarning, match="recorded in float16, which rounds")
        ):
            own = results.network(int(line["member"]), epoch=epoch)
        np.testing.assert_array_equal(network.logits(images), own.logits(images))


@pytest.mark.parametrize("every", [None, 3])
def test_a_zoo_has_what_is_left_of_a_chunk_that_diverged(config, every, tmp_path, run_command):
    apart = chain([{"optimizer.learning_rate": 1e30}], [{"optimizer.learning_rate": 0.3}])
    flags = {"record": "weights", "record_every": every, "chunk_size": 1}
    start(tmp_path / "sweep", config, apart, **flags)
    command = "--format=zoo", f"--workdir={tmp_path / 'sweep'}", f"--out={tmp_path / 'zoo'}"
    assert run_command(export.main, *command)[::2] == (0, "")
    lines = list(csv.DictReader((tmp_path / "zoo" / "index.csv").read_text().splitlines()))
    found = [line["epoch"] for line in lines if line["member"] == "0"]
    assert found == ([] if every is None else ["0"])
    assert any(line["member"] == "1" and line["selected"] == "1" for line in lines)
    other = "" if every is None else ", or an epoch before, such as .*:0@0"
    with pytest.raises(UserError, match=f"no use\nChoose another member{other}$"):
        lenet_jax.load(tmp_path / "sweep", 0)


@pytest.mark.torch
def test_a_zoo_is_pytorchs(finished, results, tmp_path, run_command):
    torch = pytest.importorskip("torch")
    code, _, error = run_command(
        export.main, f"--workdir={finished}", "--format=zoo", f"--out={tmp_path / 'zoo'}"
    )
    assert (code, error) == (0, "")
    module = runpy.run_path(str(tmp_path / "zoo" / "lenet.py"))
    pixels = torch.from_numpy(tiny.dataset().test.images.transpose(0, 3, 1, 2).copy())
    for file in (tmp_path / "zoo").glob("member_0001_*"):
        with torch.no_grad():
            logits = module["load"](str(file))(module["normalise"](pixels)).numpy()
        epoch = int(file.stem[-4:])
        if not epoch:
            continue
        is_best = epoch == results.table.best_epoch[1]
        ours = results.logits if is_best else results.logits_of(epoch=epoch)
        np.testing.assert_allclose(logits, ours[1], atol=1e-5)


def test_wrong_zoos_are_short_errors(finished, config, tmp_path, run_command):
    def error(workdir, *flags):
        code, said, text = run_command(
            export.main,
            f"--workdir={workdir}",
            "--format=zoo",
            f"--out={tmp_path / 'a/zoo'}",
            *flags,
        )
        assert (code, said) == (2, "") and len(text.splitlines()) <= 3
        assert not (tmp_path / "a").exists()
        return text

    assert "takes all networks of a sweep as they are: no --member" in error(finished, "--member=1")
    assert "no --pool" in error(finished, "--pool=avg")
    assert "is not a sweep's directory" in error(tmp_path)
    for save in ("best", "none"):
        own = tmp_path / save
        start(own, config, sweep("seed", range(2)), save=save)
        assert "A sweep with --save=all or --record=weights writes" in error(own)
