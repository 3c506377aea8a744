"""A run repeated from its `config.json`, which is read and never run."""

import json
import ntpath
import os

import pytest

from lenet_jax import config, main, sweep
from lenet_jax.errors import UserError, show
from tests.support.root import ROOT
from tests.support.runs import Run, assert_same_end


@pytest.fixture
def run(tmp_path):
    """The directory of a run with a config of its own."""
    whole = config.load(f"{ROOT / 'configs' / 'notes.py'}:smoke", [("seed", "7")])
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict(whole)))
    return tmp_path


@pytest.mark.parametrize("name", ["config.json", ""])
def test_a_saved_config_is_taken_like_a_file(name, run):
    path = str(run / name)
    assert config.load(path).seed == 7
    assert config.load(path).train.num_epochs == 2
    assert config.load(path, [("train.num_epochs", "3")]).train.num_epochs == 3
    assert config.saved_config(path) == run / "config.json"
    assert config.saved_config(f"{ROOT / 'configs' / 'notes.py'}:smoke") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import os\n", "is not JSON"),
        ("[1, 2]", "expected `object`, got `array`"),
        ("", "is not JSON"),
        ('{"seed": 1}', "missing keys: "),
    ],
)
def test_what_is_no_config_is_refused_and_not_run(content, message, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        config.load(str(path))
    assert show(path) in str(caught.value)


@pytest.mark.parametrize("name", ["summary.json", "run.json", "model.safetensors"])
def test_another_file_of_a_run_names_its_run(name, run):
    (run / name).write_bytes(b"{}")
    with pytest.raises(UserError) as caught:
        config.load(str(run / name))
    assert str(caught.value) == (
        f"{show(run / name)} is no config; give its run: --config={show(run)}"
    )


def test_values_are_not_converted(run):
    values = json.loads((run / "config.json").read_text())
    values["train"]["num_epochs"] = "3"
    (run / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"train\.num_epochs=3: must be an integer"):
        config.load(str(run))


@pytest.mark.parametrize("path", ["{}/config.json:smoke", "{}:smoke"])
def test_it_takes_no_argument(path, run):
    with pytest.raises(UserError, match=r"config\.json takes no argument, not smoke"):
        config.load(path.format(run))


def test_the_colon_after_a_drive_is_part_of_the_path(monkeypatch):
    monkeypatch.setattr(os.path, "splitdrive", ntpath.splitdrive)
    with pytest.raises(UserError, match=r"no config file (\./)?C:/runs/mine\.py"):
        config.load("C:/runs/mine.py:smoke")


def test_a_repeated_run_is_the_same_and_says_what_is_not(
    finished, tmp_path, run_command, monkeypatch, no_figures
):
    monkeypatch.setattr("lenet_jax.machine.use_cores", lambda: None)
    monkeypatch.setattr("lenet_jax.main.require_device", lambda: None)
    source = finished.path / "config.json"
    arguments = f"--config={source}", f"--workdir={tmp_path / 'again'}"
    code, out, _ = run_command(main.main, *arguments)
    assert code == 0
    assert "results may differ" not in out
    assert_same_end(Run(tmp_path / "again", finished.config, 0, ""), finished)

    record = finished.read("run.json")
    record["versions"]["jax"] = "0.1"
    record["has_sums"] = False  # as an older version left it
    record["data_fingerprint"] = "0"
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_bytes(source.read_bytes())
    (other / "run.json").write_text(json.dumps(record))
    arguments = f"--config={other}", f"--workdir={tmp_path / 'third'}"
    code, out, _ = run_command(main.main, *arguments, "--config.train.num_epochs=1")
    assert code == 0
    (line,) = [line for line in out.splitlines() if "results may differ" in line]
    assert line.startswith(
        f"warning: results may differ from those of the run in {other}: jax 0.1 →"
    )
    assert line.endswith("the data changed")


def test_a_sweep_starts_from_it(finished, tmp_path, run_command, monkeypatch):
    monkeypatch.setattr("lenet_jax.machine.use_cores", lambda: None)
    code, out, _ = run_command(
        sweep.main,
        f"--config={finished.path}",
        f"--sweep={ROOT / 'configs' / 'sweeps' / 'seeds.py'}:2",
        f"--workdir={tmp_path / 'sweep'}",
        "--dry_run",
    )
    assert code == 0
    assert "2 members" in out
