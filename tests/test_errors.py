"""Exit codes of every command: by what it raises, and in real processes."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lenet_jax import cli
from lenet_jax.errors import (
    STOPPING,
    UserError,
    WriteError,
    print_error,
    printable,
    run_command,
    show,
    write_error,
)
from tests.support import tiny
from tests.support.root import ROOT

pytestmark = pytest.mark.slow

COMMANDS = ["main", "sweep", "inspect", "predict", "export", "torch_bridge", "graph", "cli"]
NOTES = "--config=configs/notes.py"
SWEEP = "--sweep=configs/sweeps/seeds.py:2"


def full(path=None):
    return OSError(errno.ENOSPC, "No space left on device", path)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("two\nlines"), 2, "two\nlines\n"),
        (
            write_error(PermissionError(13, "Permission denied"), "a"),
            2,
            "a cannot be written: Perm",
        ),
        (WriteError(full(), "a"), 4, "a cannot be written: No space left on device; free disk spa"),
        (full("a"), 4, "a cannot be written: No space left on device; free disk space, then run"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_a_command_raises_decides_its_exit_code(capsys, error, code, message):
    def fail():
        raise error

    assert run_command(fail) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(message) and (message or not err)


def test_what_is_not_the_users_error_is_raised():
    for error in (ZeroDivisionError(), PermissionError(13, "Permission denied"), SystemExit(0)):

        def fail(error=error):
            raise error

        with pytest.raises(type(error)):
            run_command(fail)
    assert run_command(lambda number: number, 3) == 3


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\n b\t", "a b"),
        ("\x1b[31m", "\\x1b[31m"),
        ("x" * 200, "x" * 159 + "…"),
        (SyntaxError("invalid syntax", ("file.py", 3, 1, "x = =")), "invalid syntax"),
    ],
)
def test_printable_text_has_one_line(text, line):
    assert printable(text) == line


def test_a_long_path_keeps_its_end(tmp_path):
    assert show(tmp_path / ("x" * 90 + "end.py")).endswith("xend.py")
    assert show("start" + "x" * 90).startswith("start")
    assert (show(""), show(" a"), show("a\n")) == ("''", "' a'", "'a\\n'")


def run_arguments(folder, workdir, num_epochs=3):
    """The arguments that train a tiny network."""
    values = tiny.MLP | {"data.name": folder}
    values |= {"train.num_epochs": num_epochs, "schedule.name": "constant"}
    return [
        NOTES,
        f"--workdir={workdir}",
        *(f"--config.{path}={value}" for path, value in values.items()),
    ]


def usual_arguments(name, run, folder):
    """Arguments with which a command has something to print."""
    network = f"--workdir={run}"
    return {
        "main": [NOTES, f"--workdir={folder / 'new'}"],
        "sweep": [NOTES, SWEEP, f"--workdir={folder / 'new'}"],
        "inspect": [network, f"--out={folder / 'page'}"],
        "predict": [network, draw_one(folder)],
        "export": [network, "--format=safetensors", f"--out={folder / 'out.safetensors'}"],
        "torch_bridge": ["inspect", run],
        "graph": ["--backend=plain"],
        "cli": ["train", NOTES, f"--workdir={folder / 'new'}"],
    }[name]


def command(*arguments, prefix=(), path=ROOT, **options):
    """Starts `python -m lenet_jax.…`; what fails to be written here must not stay in a cache.

    Packages in the folder `path` come before those that are installed.
    """
    environment = os.environ | {
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(path),
        "PYTHONUNBUFFERED": "",  # argparse hides a failed write, but not a failed flush
    }
    words = [*prefix, sys.executable, "-m", *map(str, arguments)]
    return subprocess.Popen(
        words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, **options
    )


def draw_one(folder):
    pixels = np.zeros((28, 28), np.uint8)
    pixels[5:23, 13:16] = 255
    Image.fromarray(pixels).save(folder / "one.png")
    return folder / "one.png"


@pytest.mark.parametrize("name", ["main", "sweep", "inspect", "export", "torch_bridge"])
def test_a_full_disk_is_4(name, finished, folder, tmp_path):
    """No file may grow beyond a block: what is larger fails as on a full disk."""
    arguments = {
        "main": run_arguments(folder, tmp_path / "out"),
        "sweep": [*run_arguments(folder, tmp_path / "out"), SWEEP],
        "inspect": [f"--workdir={finished.path}", f"--out={tmp_path / 'out'}"],
        "export": [
            f"--workdir={finished.path}",
            "--format=safetensors",
            f"--out={tmp_path / 'out.safetensors'}",
        ],
        "torch_bridge": ["convert", finished.path, tmp_path / "out.safetensors"],
    }[name]
    limit = ["sh", "-c", 'ulimit -f 1 && exec "$@"', "sh"]
    with command(
        f"lenet_jax.{name}", *arguments, prefix=limit, stdout=subprocess.DEVNULL
    ) as process:
        _, error = process.communicate()
    assert process.returncode == 4
    line = error.splitlines()[-1]
    file, _, advice = line.partition(" cannot be written: ")
    assert "/out" in file
    assert advice == (
        "File too large; raise the limit of a file's size (ulimit -f),"
        " then run the same command again"
    )
    assert "Traceback" not in error
    assert not [file for file in tmp_path.rglob("*") if file.name.endswith(".draft")]


@pytest.mark.parametrize("name", ["main", "sweep", "predict", "torch_bridge", "graph"])
def test_output_that_cannot_be_written_is_4(name, finished, folder, tmp_path):
    arguments = {
        "main": run_arguments(folder, tmp_path / "out"),
        "sweep": [*run_arguments(folder, tmp_path / "out"), SWEEP],
        "predict": [f"--workdir={finished.path}", draw_one(tmp_path)],
        "torch_bridge": ["inspect", finished.path],
        "graph": ["--backend=plain"],
    }[name]
    with (
        Path("/dev/full").open("w") as out,
        command(f"lenet_jax.{name}", *arguments, stdout=out) as process,
    ):
        _, error = process.communicate()
    assert process.returncode == 4
    assert error.startswith("the output cannot be written: No space left on device")
    assert len(error.splitlines()) == 1


READING = """import json
decode = json.loads
def decode_slowly(text, **options):
    if '"marked": 1' in str(text):
        open({!r}).read()
    return decode(text, **options)
json.loads = decode_slowly
"""


@pytest.fixture
def slow_to_read(tmp_path):
    """A folder with a sweep and a config that who reads them can be caught doing so.

    Python imports `sitecustomize` first, which has the reader of the plan wait for a pipe, as the
    config does.
    """
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    (tmp_path / "sitecustomize.py").write_text(READING.format(pipe))
    (tmp_path / "sweep.json").write_text('{"marked": 1}')
    (tmp_path / "config.py").write_text(f"open({pipe!r}).read()")
    return tmp_path


@pytest.mark.parametrize(
    "name", ["main", "sweep", "inspect", "predict", "export", "torch_bridge", "cli"]
)
def test_ctrl_c_is_130(name, slow_to_read):
    config, network = slow_to_read / "config.py", [f"--workdir={slow_to_read}", "--member=0"]
    arguments = {
        "main": [f"--config={config}", "--workdir=new"],
        "sweep": [f"--config={config}", SWEEP, "--workdir=new"],
        "inspect": network,
        "predict": [*network, draw_one(slow_to_read)],
        "export": [*network, "--format=safetensors"],
        "torch_bridge": ["inspect", slow_to_read, "--member=0"],
        "cli": ["train", f"--config={config}", "--workdir=new"],
    }[name]
    options = {"stdout": subprocess.PIPE, "path": slow_to_read}
    with command(f"lenet_jax.{name}", *arguments, **options) as process:
        writer = open_when_read(slow_to_read / "pipe", process)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate()
        os.close(writer)
    assert (process.returncode, out, error) == (130, "", "")


def open_when_read(pipe, process):
    """Waits until the process opens the pipe to read it, or ends."""

    def let_go():
        process.wait()
        os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))

    threading.Thread(target=let_go, daemon=True).start()
    return os.open(pipe, os.O_WRONLY)


@pytest.mark.parametrize(
    ("name", "module", "number"),
    [
        *((name, "jax", signal.SIGINT) for name in COMMANDS),
        *((name, "numpy", signal.SIGINT) for name in COMMANDS),
        *(("main", "absl", number) for number in STOPPING),
        *(("predict", "jax", number) for number in STOPPING[1:]),
    ],
)
def test_a_signal_during_the_imports_is_quiet(name, module, number, finished, tmp_path):
    """A package of the same name is imported first, which waits until it is read."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / module).mkdir()
    (tmp_path / module / "__init__.py").write_text(f"open({str(tmp_path / 'pipe')!r}).read()")
    arguments = usual_arguments(name, finished.path, tmp_path)
    with command(f"lenet_jax.{name}", *arguments, stdout=subprocess.PIPE, path=tmp_path) as process:
        writer = open_when_read(tmp_path / "pipe", process)
        process.send_signal(number)
        out, error = process.communicate()
        os.close(writer)
    assert (process.returncode, out, error) == (128 + number, "", "")


@pytest.mark.parametrize("name", ["predict", "inspect", "export", "torch_bridge", "graph"])
def test_a_closed_pipe_ends_a_command_quietly(name, finished, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    arguments = usual_arguments(name, finished.path, tmp_path)
    with command(f"lenet_jax.{name}", *arguments, stdout=writer) as process:
        os.close(writer)
        _, error = process.communicate()
    assert (process.returncode, error) == (141, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_into_a_closed_pipe_is_quiet(name):
    reader, writer = os.pipe()
    os.close(reader)
    with command(f"lenet_jax.{name}", "--help", stdout=writer) as process:
        os.close(writer)
        _, error = process.communicate()
    assert (process.returncode, error) == (141, "")


def test_a_closed_pipe_stops_a_run_and_what_it_trained_is_saved(folder, tmp_path):
    arguments = run_arguments(folder, tmp_path / "run", num_epochs=100_000)
    with command("lenet_jax.main", *arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith("epoch "))
        process.stdout.close()
        assert process.stderr is not None
        (line,) = process.stderr.read().splitlines()
    assert line.startswith("warning: stopped by SIGPIPE; to resume: ")
    assert process.returncode == 141
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["exit_reason"]) == ("interrupted", "stopped by SIGPIPE")
    epochs = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    steps = max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert steps >= 5 * epochs > 0


@pytest.mark.parametrize("redirected", ["", "2>&1"])
@pytest.mark.parametrize("name", ["main", "sweep"])
def test_head_stops_a_run_or_a_sweep(name, redirected, folder, tmp_path):
    """As typed into a shell: `main … | head -2`, and with standard error in the same pipe."""
    arguments = run_arguments(folder, tmp_path / "run", num_epochs=50)
    if name == "sweep":
        arguments += ["--sweep=configs/sweeps/seeds.py:40", "--chunk_size=1"]
    script = f'{{ "$@" {redirected}; echo $? > "$status"; }} | head -n 1'
    status = tmp_path / "status"
    with command(
        f"lenet_jax.{name}",
        *arguments,
        prefix=["env", f"status={status}", "sh", "-c", script, "sh"],
        stdout=subprocess.PIPE,
    ) as process:
        out, error = process.communicate()
    assert status.read_text() == "141\n"
    assert len(out.splitlines()) == 1
    if redirected:
        assert error == ""
    else:
        (line,) = error.splitlines()
        assert line.startswith("warning: stopped by SIGPIPE; to resume: ")
    if name != "sweep":
        record = json.loads((tmp_path / "run" / "run.json").read_text())
        assert (record["status"], record["exit_reason"]) == ("interrupted", "stopped by SIGPIPE")


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", f"--workdir={'a' * 300}", "digit.png"),
        ("predict", "--workdir=~nobody-of-this-name/run", "digit.png"),
        ("inspect", f"--workdir={'a' * 300}"),
        ("inspect", "--compare=~nobody-of-this-name/run,other"),
        ("export", "--workdir=~nobody-of-this-name/run", "--format=safetensors"),
        ("torch-bridge", "inspect", "~nobody-of-this-name/run"),
        ("train", "--config=configs/notes.py:smoke", f"--workdir={'a' * 300}"),
        ("sweep", "--config=configs/notes.py:smoke", "--workdir=x", f"--worker=1/{'9' * 5000}"),
    ],
)
def test_a_path_or_number_that_cannot_be_is_a_short_error(arguments, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert 1 <= len(error.splitlines()) <= 3
    assert max(map(len, error.splitlines())) <= 200


def test_a_message_on_a_terminal_is_broken_between_words(monkeypatch):
    for is_terminal, lines in (
        (True, ["there is no key", "optimizer.learning_rates"]),
        (False, None),
    ):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda shown=is_terminal: shown)
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("COLUMNS", "30")
        message = "there is no key optimizer.learning_rates"
        print_error(message)
        assert stream.getvalue().splitlines() == (lines or [message])


PROGRAM = """
import sys
from lenet_jax.errors import UserError, begin_program, run_program
begin_program()
import atexit
atexit.register(print, "imported")

def main(words):
    atexit.register(print, "left")
    print("done", end=" ")
    if words == ["wrong"]:
        raise UserError("it is wrong")
    if words == ["fault"]:
        raise ZeroDivisionError
    if words == ["help"]:
        raise SystemExit(0)
    return int(words[0])

class Module:
    def __del__(self):
        print("taken apart")

module = Module()
run_program(main, sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("word", "code", "error"),
    [("0", 0, ""), ("3", 3, ""), ("wrong", 2, "it is wrong\n"), ("help", 0, "")],
)
def test_a_program_ends_with_its_code_after_all_that_was_registered(word, code, error):
    command = [sys.executable, "-c", PROGRAM, word]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    taken_apart = "taken apart\n" if word == "help" else ""  # as any other `SystemExit`
    assert process.stdout == "done left\nimported\n" + taken_apart
    assert (process.returncode, process.stderr) == (code, error)


def test_a_fault_of_a_program_keeps_its_traceback():
    command = [sys.executable, "-c", PROGRAM, "fault"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 1 and "ZeroDivisionError" in process.stderr
