import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import lenet_jax
from lenet_jax import cli
from tests.support.root import ROOT


def test_alone_it_lists_its_commands(capsys):
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^  ([\w-]+) ", out, re.MULTILINE) == list(cli.COMMANDS)
    assert cli.main(["--help"]) == 0
    assert capsys.readouterr().out == out


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"lenet-jax {lenet_jax.__version__}\n"


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("sweeep", "did you mean sweep?"),
        ("torch_bridge", "did you mean torch-bridge?"),
        ("--versoin", "did you mean --version?"),
        ("qqq", f"the commands: {', '.join(cli.COMMANDS)}"),
    ],
)
def test_an_unknown_command_is_a_short_error(capsys, word, hint):
    assert cli.main([word, "--workdir=x"]) == 2
    out, error = capsys.readouterr()
    assert (out, error) == ("", f"unknown command {word!r}; {hint}\n")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_names_the_program_as_it_was_started(capsys, name):
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    assert f"lenet-jax {name}" in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize("module", [module for module, _ in cli.COMMANDS.values()])
def test_each_is_a_module_too(capsys, monkeypatch, module):
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    monkeypatch.delitem(sys.modules, f"lenet_jax.{module}", raising=False)
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"lenet_jax.{module}", run_name="__main__")
    assert end.value.code == 0
    assert f"python -m lenet_jax.{module}" in capsys.readouterr().out.splitlines()[0]


def test_a_user_s_mistake_in_a_command_is_its_exit_code(capsys):
    assert cli.main(["predict", "a.png"]) == 2
    assert capsys.readouterr().err.startswith("missing --workdir=DIR")


def test_the_help_does_not_wait_for_jax():
    program = "import sys; from lenet_jax import cli; cli.main([]); sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("program", "package"), [("-m", "experiments"), ("lenet-jax", "lenet_jax")]
)
def test_commands_are_quiet_under_signals_from_the_first_import_on(program, package):
    code = (
        f"import sys; sys.argv = [{program!r}]; import {package}, signal;"
        " print(signal.getsignal(signal.SIGINT).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("_end_at_once\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_help_that_cannot_be_written_fails(monkeypatch, capfd):
    with Path("/dev/full").open("w", buffering=1) as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert cli.main(["predict", "--help"]) == 4
