import os
from unittest import mock

import pytest
import tiny

from lenet_jax import run
from lenet_jax.main import main, use_compilation_cache
from lenet_jax.schema import ROOT
from lenet_jax.workdir import Workdir

CONFIG = f"--config={ROOT / 'configs' / 'notes.py'}"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Starts in an empty folder, and puts the environment back."""
    monkeypatch.chdir(tmp_path)
    with mock.patch.dict(os.environ):
        yield


def tiny_arguments(folder):
    values = tiny.CONFIG | {"data.name": folder}
    return [CONFIG, *(f"--config.{path}={value}" for path, value in values.items())]


@pytest.fixture
def arguments(tmp_path_factory):
    """A command line without mistakes; the data is real."""
    return tiny_arguments(tiny.write_idx_folder(tmp_path_factory.mktemp("data") / "bars"))


def assert_mistake(capsys, arguments, words):
    assert main(["main", *arguments]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert words in error
    assert 1 <= len(error.splitlines()) <= 3
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "missing --config=FILE.py"),
        ([CONFIG], "missing --workdir=DIR"),
        (["--config=note.py", "--workdir=run"], "no config file note.py"),
        ([f"{CONFIG}:smok", "--workdir=run"], "unknown config argument 'smok'"),
        ([CONFIG, "--workdir=run", "--config.optimizer.lr=1"], "optimizer.learning_rate"),
        ([CONFIG, "--workdir=run", "--config.train.batch_size=-3"], "train.batch_size=-3"),
        ([CONFIG, "--workdir=run", "--config.optimizer.learning_rate=nan"], "learning_rate=nan"),
        ([CONFIG, "--workdir=run", "--config.train.num_epochs=many"], "num_epochs=many"),
        ([CONFIG, "--workdir=run", "--config.data.name=./absent"], "there is no folder absent"),
        (
            [CONFIG, "--workdir=run", "--config.model.num_classes=7"],
            "config.model.num_classes is 7",
        ),
        ([CONFIG, "--workdir=run", "--config.data.valid_examples=60000"], "0 to 59999"),
    ],
)
def test_a_mistake_is_told_in_three_lines_and_nothing_written(capsys, tmp_path, arguments, words):
    assert_mistake(capsys, arguments, words)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_of_the_directory_is_told(capsys, tmp_path, arguments):
    (tmp_path / "file").write_text("mine")
    words = "--workdir=file/run cannot be written: Not a directory"
    assert_mistake(capsys, [*arguments, "--workdir=file/run"], words)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_directory_in_use_is_told(capsys, tmp_path, arguments):
    with Workdir(tmp_path / "run") as directory:
        assert_mistake(capsys, [*arguments, "--workdir=run"], "another process is running in")
        assert directory.files() == []


@pytest.mark.parametrize("code", [0, 3, 143])
def test_the_run_decides_the_exit_code(monkeypatch, code):
    calls = []

    def record(*args):
        calls.append(args)
        return code

    monkeypatch.setattr(run, "run", record)
    arguments = [f"{CONFIG}:smoke", "--workdir=a folder", "--config.seed=3"]
    assert main(["main", *arguments]) == code
    ((config, workdir, command, started),) = calls
    assert (config.seed, config.train.num_epochs) == (3, 2)
    assert workdir == "a folder"
    assert command == ["python", "-m", "lenet_jax.main", *arguments]
    assert started > 0


def test_ctrl_c_before_training_is_no_traceback(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", interrupt)
    assert main(["main", CONFIG, "--workdir=run"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("environment", "cache"),
    [
        ({"XDG_CACHE_HOME": "/cache"}, "/cache/lenet_jax"),
        ({"XDG_CACHE_HOME": "", "HOME": "/home/me"}, "/home/me/.cache/lenet_jax"),
        ({"JAX_COMPILATION_CACHE_DIR": "/mine", "XDG_CACHE_HOME": "/cache"}, "/mine"),
    ],
)
def test_compiled_programs_are_kept_where_the_user_wants_them(environment, cache):
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    os.environ.update(environment)
    use_compilation_cache()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == cache
