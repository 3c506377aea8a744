"""Every wrong input that we could think of, and the line that it gets.

In each case the command ends with 2, says three lines at most on standard error and nothing on
standard output, shows no traceback, and neither makes nor touches a file.
"""

import contextlib
import gzip
import io
import json
import os
import shutil
import struct
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lenet_jax import export, inspect, main, predict, sweep, torch_bridge
from lenet_jax.errors import run_command
from lenet_jax.storage.checkpoint import ARRAYS
from lenet_jax.storage.sums import MANIFEST, manifest
from tests.support import tiny
from tests.support.root import ROOT
from tests.support.runs import renew_sums

pytestmark = pytest.mark.slow

NOTES = f"--config={ROOT / 'configs' / 'notes.py'}"
NEW = [NOTES, "--workdir=new"]
LR = "did you mean --config.optimizer.learning_rate (now 0.05)?"

# What is wrong with the command line of a new run, and its first line.
FLAGS = [
    ([], "missing --config=FILE.py, for example --config=configs/notes.py"),
    ([NOTES], "missing --workdir=DIR, for example --workdir=runs/first"),
    ([NOTES, "--workdir="], "missing --workdir=DIR"),
    ([*NEW, "--workdir=other"], "flag --workdir=other: already defined as new"),
    ([*NEW, "--wrokdir=x"], "unknown flag --wrokdir; did you mean --workdir?"),
    ([*NEW, "--lr=0.1"], f"unknown flag --lr; {LR}"),
    ([*NEW, "--lr", "0.1"], f"unknown flag --lr; {LR}"),
    ([*NEW, "--bs=32"], "unknown flag --bs; did you mean --config.train.batch_size (now 64)?"),
    ([*NEW, "--epochs=3"], "unknown flag --epochs; did you mean --config.train.num_epochs (now 12"),
    ([*NEW, "--wd=0"], "unknown flag --wd; did you mean --config.optimizer.weight_decay (now 0.0"),
    ([*NEW, "--xyzzy"], "unknown flag --xyzzy; --help lists all keys"),
    ([*NEW, "runs/second"], "unexpected argument runs/second; write --flag=value"),
    ([*NEW, "--help=perhaps"], "flag --help=perhaps: "),
    ([*NEW, "--\x1b[31m"], "unknown flag --'\\x1b[31m'; --help lists all keys"),
]
OVERRIDES = [
    ("optimizer.lr=1", f"unknown flag --config.optimizer.lr; {LR}"),
    ("optimizer.learning_rat=1", f"unknown flag --config.optimizer.learning_rat; {LR}"),
    ("optimizer=adam", "unknown flag --config.optimizer; did you mean --config.optimizer.name (no"),
    ("seed", "Missing value for flag --config.seed"),
    ("seed=abc", "seed=abc: must be an integer of at least 0 and below 2**31"),
    ("seed=", "seed='': must be an integer of at least 0 and below 2**31"),
    ("seed=None", "seed=None: must be an integer of at least 0 and below 2**31"),
    ("seed=1e10", "seed=10000000000: must be an integer of at least 0 and below 2**31"),
    (
        "train.batch_size=-3",
        "train.batch_size=-3: must be an integer of at least 1",
    ),
    ("train.batch_size=1.5", "train.batch_size=1.5: must be an integer of at least 1"),
    ("train.batch_size=100", "train.batch_size=100, train.micro_batch_size=32: the batch must be"),
    ("train.num_epochs=0", "train.num_epochs=0: must be an integer of at least 1"),
    ("train.num_epochs=many", "train.num_epochs=many: must be an integer of at least 1"),
    ("optimizer.learning_rate=nan", "optimizer.learning_rate=nan: must be a number above 0 and"),
    ("optimizer.learning_rate=inf", "optimizer.learning_rate=inf: must be a number above 0 and"),
    ("optimizer.learning_rate=-1", "optimizer.learning_rate=-1.0: must be a number above 0 and"),
    ("optimizer.learning_rate=0,1", "optimizer.learning_rate=0,1: must be a number above 0 and"),
    ("optimizer.momentum=1", "optimizer.momentum=1.0: must be a number in [0, 1)"),
    ("optimizer.nesterov=maybe", "optimizer.nesterov=maybe: must be true or false"),
    ("optimizer.name=SGD", "optimizer.name=SGD: must be one of sgd, adam, adamw, diagonal_lm"),
    ("model.channels=6", "model.channels=(6,): must be a tuple of 2 integers of at least 1"),
    ("model.channels=6,b", "model.channels=6,b: must be a tuple of 2 integers of at least 1"),
    ("model.backend=fast", "model.backend=fast: must be one of auto, native, pallas, phase, plain"),
    ("data.image_size=30", "data.image_size=30, model.padding=0: size + 2 · padding must be a mul"),
    ("schedule.warmup_epochs=1", "schedule.warmup_epochs=1.0, schedule.name=one_cycle: one_cycle"),
    ("augment.shift=40", "augment.shift=40.0, data.image_size=32: the shift must leave some of"),
    (
        "train.loss=mae",
        "train.loss=mae: must be one of cross_entropy, mse, squashed_mse, map, FILE.py:func",
    ),
    ("train.loss=absent.py:f", "no loss file absent.py"),
    ("train.measurements=f", "train.measurements=f: must be FILE.py:function or package.module:f"),
    ("train.measurements=absent.py:f", "no measurement file absent.py"),
    ("train.measurements=a.py:f,a.py:f", "must be a tuple of different names"),
    ("train.measurements=a.py:f,b.py:f", "the names of the functions must differ"),
    ("train.measurements=a.py:loss", "accuracy, examples, loss, mistakes and ema_… are names of"),
    ("log.trackers=mlflow,comet", "must be a tuple of different ones of mlflow, wandb"),
    ("train.ema_decay=1", "train.ema_decay=1.0: must be a number in (0, 1) or None"),
    ("train.patience=0", "train.patience=0: must be an integer of at least 1 and below 2**31 or N"),
    ("checkpoint.keep=0", "checkpoint.keep=0: must be an integer of at least 1"),
    ("checkpoint.every_epochs=0", "checkpoint.every_epochs=0: must be an integer of at least 1"),
    ("model.num_classes=7", "config.model.num_classes is 7, but the data 'mnist' has 10"),
    ("model.in_channels=3", "config.model.in_channels is 3, but the data 'mnist' has 1"),
    (
        "data.valid_examples=60000",
        "data.valid_examples is 60000; it must be 0 to 59999, fewer than",
    ),
    ("data.train_examples=60000", "data.train_examples is 60000; it must be 1 to 55000, the"),
    ("data.image_size=16", "images of 28×28 cannot be padded to data.image_size=16; try data.fit"),
    ("data.name=", "data.name='': must be a non-empty string"),
    ("data.name=./absent", "data.name: there is no file or folder absent"),
    ("data.name=~no-such-user/x", "~no-such-user/x: Could not determine home directory."),
    ("data.name=MNIST", "no TFDS dataset 'MNIST'; did you mean data.name=mnist?"),
    ("data.name=ylecun/mnist", "no TFDS dataset 'ylecun/mnist'; did you mean data.name=mnist?"),
    ("data.name=fashion-mnist", "TFDS dataset; did you mean data.name=fashion_mnist?"),
    ("data.name=/dev/null", "/dev/null is neither a file nor a folder, but a pipe, socket or de"),
    ("data.name=fine.py", "data.name: fine.py is a file of a kind that is not read; datasets are"),
    ("model.channels=1000000000,1000000000", "the network would have more than 2,147,483,647 par"),
    ("model.features=2147483647,9", "the network would have more than 2,147,483,647 parameters"),
    ("data.image_size=2147483644", "the network would have more than 2,147,483,647 parameters"),
    ("data.image_size=20000", "the network would have more than 2,147,483,647 parameters"),
    (
        "train.eval_batch_size=2147483647",
        "the network, with batches of 2,147,483,647 images, needs",
    ),
    ("train.num_epochs=2147483647", "2,147,483,647 epochs are too many: with 860 steps in each"),
    ("train.num_epochs=1" + 18 * "0", "must be an integer of at least 1 and below 2**31"),
    ("train.batch_size=1" + 5000 * "0", "train.batch_size=1000"),
    ("data.name=./" + 5000 * "x", "File name too long"),
    ("data.name=what is this?", "data.name: 'what is this?' is neither a folder nor the name of a"),
]
SOURCE = """from lenet_jax.config import base
def get_config(arg=""):
    config = base.get_config(arg)
    {}
    return config
"""
PIPE = object()  # a file of this content is one
CONFIGS = {
    "absent.py": (None, "no config file absent.py"),
    "fine.py:smok": (SOURCE.format(""), "unknown config argument 'smok'; the only one is smoke"),
    "syntax.py": ("x = = 2", "syntax.py:1: SyntaxError: invalid syntax"),
    "raises.py": ("\n1 / 0", "raises.py:2: ZeroDivisionError: division by zero"),
    "imports.py": ("import absent_module", "imports.py:1: ModuleNotFoundError: No module named"),
    "binary.py": ("\0\1\2", "binary.py"),
    "nothing.py": ("x = 1", "nothing.py has no function get_config"),
    "dict.py": ("def get_config(): return {}", "dict.py: its get_config returns dict, not a Conf"),
    "typo.py": (SOURCE.format("config.optimizer.lr = 1"), "unknown key optimizer.lr; did you mean"),
    "range.py": (SOURCE.format("config.seed = -1"), "seed=-1: must be an integer of at least 0"),
    "type.py": (SOURCE.format("config.seed = 'x'"), "type.py:4: TypeError: Could not override"),
    "missing.py": (SOURCE.format("del config.seed"), "missing keys: seed"),
    "exit.py": ("exit()", "exit.py:1: SystemExit: None"),
    "exit_0.py": ("import sys\nsys.exit(0)", "exit_0.py:2: SystemExit: 0"),
    "base.py": ("class Odd(BaseException): pass\nraise Odd('!')", "base.py:2: Odd: !"),
    "in_circle.py": (SOURCE.format("config.seed = config"), "in_circle.py:4: "),
    "pipe.py": (PIPE, "cannot read config file pipe.py: it is a pipe, not a file"),
    "several.py": (
        SOURCE.format("config.seed = -1; config.train.num_epochs = 0"),
        "seed=-1: must be an integer of at least 0 and below 2**31\ntrain.num_epochs=0: must be",
    ),
}


def idx(values, code=8):
    return struct.pack(f">2xBB{values.ndim}I", code, values.ndim, *values.shape) + values.tobytes()


TRAIN, LABELS, TEST = "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"

# Which file of a folder of idx files is replaced by what.
# Files given as data; the tables of tests/data have the others of each format.
FILES = {
    "ragged.csv": (b"3,0,1,2,3\n4,0,1,2\n", "ragged.csv, line 2: 4 cells, the first line has 5"),
    "huge.csv": (b"3,0,1,2," + b"9" * 6000, "huge.csv, line 1, column 5: 99999"),
    "nul.csv": (b"3,0,1,2,\0\n", "nul.csv, line 1 has a null character"),
    "words.csv": (b"label,a,b,c,d\n3,0,1,2,x", "words.csv, line 2, column 5: x is no number"),
    "bytes.parquet": (b"PAR1" + bytes(9) + b"PAR1", "bytes.parquet is damaged, or no Parquet"),
    "ids.csv": (b"id,label\n1.png,3\n", "ids.csv has 0 columns beside the label"),
}
FOLDERS = {
    "empty": (TRAIN, None, "has no file train-images-idx3-ubyte, plain or with .gz"),
    "no_labels": (LABELS, None, "has no file train-labels-idx1-ubyte, plain or with .gz"),
    "no_test": (TEST, None, "has no file t10k-images-idx3-ubyte or test-images-idx3-ubyte"),
    "nothing": (TRAIN, b"", "is not an idx file: it starts with nothing"),
    "png": (TRAIN, b"\x89PNG\r\n\x1a\n", "is not an idx file: it starts with 89 50 4e 47"),
    "huge": (
        TRAIN,
        struct.pack(">2xBB3I", 8, 3, 2**31, 1, 1)[:10],
        "is truncated: it ends inside its header",
    ),
    "claims": (
        LABELS,
        struct.pack(">2xBBI", 8, 1, 2**31) + b"xx",
        "is truncated: its header claims 2147483648 bytes, more than it can hold",
    ),
    "type": (TRAIN, idx(np.zeros((90, 16, 16), np.uint8), 10), "has idx type 0x0a; the format"),
    "floats": (TRAIN, idx(np.full((90, 16, 16), -1, ">f4"), 13), "has pixels of -1 to -1; suppor"),
    "one_class": (LABELS, idx(np.zeros(90, np.uint8)), "-labels-idx1-ubyte has label 5; the lar"),
    "flat": (
        TRAIN,
        idx(np.zeros((90, 256), np.uint8)),
        "has shape (90, 256); images are (n, h,",
    ),
    "few": (LABELS, idx(np.zeros(89, np.uint8)), "has 89 labels for the 90 images of"),
    "other": (TEST, idx(np.zeros((33, 8, 8), np.uint8)), "has images of 8×8×1"),
    "gzip": (TRAIN, gzip.compress(b"x" * 999, mtime=0)[:-9], "is not an idx file: it starts with"),
    "cut": (TRAIN, gzip.compress(idx(np.zeros((90, 16, 16), np.uint8)), mtime=0)[:-9], "truncated"),
}


def rewrite(file, change):
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def reseal(path):
    (path / MANIFEST).write_text(manifest(path))


def each_checkpoint(change):
    return lambda run: [change(step) for step in (run / "checkpoints").iterdir()]


# What happened to the directory of a finished run, before someone asks for another epoch.
RUNS = {
    "manifest_gone": (
        each_checkpoint(lambda step: (step / MANIFEST).unlink()),
        "has no intact checkpoint: checkpoint 10 is damaged (it has no SHA256SUMS), checkpoint 5",
    ),
    "all_flipped": (
        each_checkpoint(lambda step: (step / "notes.json").write_text("{}")),
        "checkpoint 10 is damaged (notes.json differs from SHA256SUMS)",
    ),
    "folders_emptied": (
        each_checkpoint(lambda step: (shutil.rmtree(step), step.mkdir())),
        "has no intact checkpoint: checkpoint 10 is damaged (it has no SHA256SUMS)",
    ),
    "all_gone": (
        lambda run: shutil.rmtree(run / "checkpoints") or (run / "checkpoints").mkdir(),
        "logged 2 epochs, but its checkpoints are gone",
    ),
    "foreign": (
        each_checkpoint(lambda step: ((step / ARRAYS).write_text("[]"), reseal(step))),
        "is intact, but cannot be read here",
    ),
    "foreign_notes": (
        each_checkpoint(lambda step: ((step / "notes.json").write_text("[]"), reseal(step))),
        "is intact, but cannot be read here",
    ),
    "foreign_words": (
        each_checkpoint(
            lambda step: (
                (step / "notes.json").write_text('{"run": null, "rows": []}'),
                reseal(step),
            )
        ),
        "is of another version of lenet-jax",
    ),
    "older": (
        each_checkpoint(lambda step: ((step / "notes.json").write_text("{}"), reseal(step))),
        "is of another version of lenet-jax",
    ),
    "another_network": (
        lambda run: (
            rewrite(run / "config.json", lambda c: c["model"].update(channels=[2, 4])),
            renew_sums(run),
        ),
        "holds a run of another config: model.channels: (2, 4) → (2, 3)",
    ),
    "config_gone": (
        lambda run: (run / "config.json").unlink(),
        "has checkpoints, but no config.json that says what they belong to",
    ),
    "config_no_json": (
        lambda run: (run / "config.json").write_text("import os"),
        "config.json is not JSON: Expecting value: line 1 column 1 (char 0)",
    ),
    "config_typo": (
        lambda run: rewrite(run / "config.json", lambda c: c.update(lr=c.pop("seed"))),
        "config.json: unknown key lr; did you mean optimizer.learning_rate (now 0.05)?",
    ),
    "record_gone": (
        lambda run: (run / "run.json").unlink(),
        "has checkpoints, but no run.json that says what they belong to",
    ),
    "record_no_object": (
        lambda run: (run / "run.json").write_text("[]"),
        "run.json: expected `object`, got `array`",
    ),
    "other_data": (
        lambda run: rewrite(run / "run.json", lambda r: r.update(data_fingerprint="0")),
        "the data './bars' changed since",
    ),
    "in_use": (None, "another process is running in"),
}


# What is written over a file of a finished run, and what is said of it.
DAMAGED = [
    ("config.json", b"[" * 100_000, " is not JSON: maximum recursion depth"),
    ("config.json", b'{"a":' * 900 + b"1" + b"}" * 900, ": expected `bool | int"),
    ("config.json", "{'ä': 1}".encode("latin-1"), " is not JSON: 'utf-8' codec"),
    ("config.json", b'{"seed": 1, "seed": 2}', " is not JSON: seed occurs twice"),
    ("config.json", b'{"seed": ' + b"9" * 5000 + b"}", " is not JSON: Exceeds the limit"),
    ("config.json", b'{"' + b"x" * 5000 + b'": 1}', ": unknown key xxx"),
    ("config.json", b"", " is not JSON: Expecting value"),
    ("config.json", b'{"train": [{}]}', ": expected `bool | int | float | str`, got `object`"),
    ("summary.json", b'{"epochs": "\\u001b[31m"}', ": expected `int`, got `str` - at `$.epochs`"),
    ("run.json", b'{"status": "done", "data_fingerprint": 3}', ": expected `str`, got `int`"),
    ("metrics.jsonl", b'{"epoch": 1}\n{"epoch": null}\n', ", line 2: expected `int | float`"),
    ("metrics.jsonl", b'{"loss": NaN}\n', ", line 1: there is no epoch"),
    ("metrics.jsonl", b"\xff\xfe\n", ", line 1 is not JSON"),
]


def with_header(text, numbers=b""):
    return struct.pack("<Q", len(text)) + text + numbers


# A weights file derived from a run's, and the error for it.
WEIGHTS = {
    "empty": (lambda _: b"", "is not a valid safetensors file: "),
    "pickle": (lambda _: b"cbuiltins\nprint\n(S'run'\ntR.", "is not a valid safetensors file: "),
    "claims": (lambda _: struct.pack("<Q", 2**63) + b"{}", "is not a valid safetensors file: "),
    "header": (
        lambda _: with_header(b"{" + b" " * (1 << 24) + b"}"),
        "its header claims 16,777,218",
    ),
    "huge": (
        lambda _: with_header(
            b'{"conv1.bias":{"dtype":"F32","shape":[1000000000,1000000000],'
            b'"data_offsets":[0,4000000000000000000]}}'
        ),
        "is not a valid safetensors file: ",
    ),
    "hollow": (lambda _: with_header(b"{}"), "does not fit the network"),
    "cut": (lambda whole: whole[:-1], "is not a valid safetensors file: "),
    "long": (lambda whole: whole + b"\0", "is not a valid safetensors file: "),
}
TENSORS = {
    "missing": (lambda d: d.pop("fc1.weight"), "is not a LeNet, which has two 5×5"),
    "more": (lambda d: d.update(more=d["fc1.bias"] + 1), "is not a LeNet: it has more (8,) beside"),
    "integers": (
        lambda d: d.update({"fc1.bias": d["fc1.bias"].astype(np.int32)}),
        "wrong dtype: fc1.bias int32, not float32",
    ),
    "shape": (
        lambda d: d.update({"fc3.bias": np.zeros(7, np.float32)}),
        "misshapen: fc3.bias (7), not (6)",
    ),
    "nan": (
        lambda d: d.update({"fc3.bias": np.full(6, np.nan, np.float32)}),
        "has NaN or infinite values in fc3.bias",
    ),
}


TOOLS = [
    (
        torch_bridge.main,
        ["inspect", "absent.safetensors"],
        "absent.safetensors cannot be read:",
    ),
    (
        torch_bridge.main,
        ["inspect", "bars"],
        "bars/model.safetensors cannot be read: No su",
    ),
    (torch_bridge.main, ["inspect", "fine.py"], "fine.py is not a weights file: it is neither"),
    (torch_bridge.main, ["inspct", "x"], "argument COMMAND: invalid choice: 'inspct'"),
    (
        torch_bridge.main,
        ["evaluate", "run", "--data=./absent"],
        "data.name: there is no file or folder",
    ),
    (torch_bridge.main, ["convert", "run", "no/x.safetensors"], "no/x.safetensors cannot be wr"),
    (predict.main, ["digit.png"], "missing --workdir=DIR or --weights=FILE, for example"),
    (predict.main, ["digit.png", "--workdir=absent"], "absent does not exist"),
    (
        predict.main,
        ["digit.png", "--workdir=bars"],
        "bars is not a run directory: it has no config.json",
    ),
]


# What is not a file, wherever one is named: no command waits for it.
PLACES = ["pipe.py", "/dev/zero", "bars", "name" + 5000 * "x", "~no-such-user/x", "nu\0ll"]
NAMING = {
    "sweep": (sweep.main, [NOTES, "--workdir=new", "--sweep={}"]),
    "config": (sweep.main, ["--config={}", "--workdir=new"]),
    "weights": (torch_bridge.main, ["inspect", "{}"]),
    "initial_weights": (main.main, [*NEW, "--config.train.initial_weights={}"]),
    "image": (predict.main, ["{}", "--workdir=run"]),
    "followed": (inspect.main, ["--workdir=run", "--image={}"]),
    "network": (predict.main, ["digit.png", "--weights={}"]),
    "out": (inspect.main, ["--workdir=run", "--out={}/train-labels-idx1-ubyte"]),
    "export": (
        export.main,
        ["--workdir=run", "--format=safetensors", "--out={}/train-labels-idx1-ubyte/x.safetensors"],
    ),
}


SWEEP = "from lenet_jax.sweeps.file import *\ndef get_sweep():\n    return {}\n"
SWEEPS = {
    "none": (None, "missing --sweep=FILE.py, for example --sweep=configs/sweeps/seeds.py"),
    "empty": (SWEEP.format("[]"), "sweep_empty.py: the sweep is empty"),
    "number": (SWEEP.format("3"), "sweep_number.py: its get_sweep returns int, not a list of ov"),
    "alias": (
        SWEEP.format("sweep('lr', [0.1])"),
        "did you mean optimizer.learning_rate (now 0.05)?",
    ),
    "value": (SWEEP.format("sweep('seed', [-1])"), "seed=-1: must be an integer of at least 0"),
    "syntax": ("x = = 2", "sweep_syntax.py:1: SyntaxError: invalid syntax"),
}


def contents(path):
    return {
        file: (file.stat().st_mtime_ns, file.is_file() and file.read_bytes())
        for file in path.rglob("*")
        if not str(file).startswith(str(path / ".cache"))
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data, configs, and a finished run of two epochs."""
    path = tmp_path_factory.mktemp("place")
    tiny.write_idx_folder(path / "bars")
    for name, (text, _) in CONFIGS.items():
        if text is PIPE:
            os.mkfifo(path / name)
        elif text is not None:
            (path / name.partition(":")[0]).write_text(text)
    with mock.patch.dict(os.environ), contextlib.chdir(path):  # noqa: SIM117
        with contextlib.redirect_stdout(io.StringIO()):
            assert main.main(run_arguments("run", 2)) == 0
    return path


def run_arguments(workdir, num_epochs):
    values = tiny.CONFIG | {"data.name": "./bars", "model.backend": "plain"}
    values |= {"train.num_epochs": num_epochs, "schedule.name": "constant"}
    return [
        NOTES,
        f"--workdir={workdir}",
        *(f"--config.{path}={value}" for path, value in values.items()),
    ]


@pytest.fixture(autouse=True)
def in_place(place, monkeypatch):
    monkeypatch.chdir(place)
    with mock.patch.dict(os.environ):
        yield


def check(capsys, function, arguments, line):
    """Runs a command that must refuse, with a first line that contains `line`."""
    capsys.readouterr()
    before = contents(Path())
    assert run_command(function, arguments) == 2
    out, error = capsys.readouterr()
    assert line in error
    assert 1 <= len(error.splitlines()) <= 3
    assert "Traceback" not in error
    assert error.isprintable() or set(error) - {"\n"} <= {c for c in error if c.isprintable()}
    assert max(map(len, error.splitlines())) <= 200
    assert out == ""
    assert contents(Path()) == before


@pytest.mark.parametrize(("arguments", "line"), FLAGS)
def test_flags(capsys, arguments, line):
    check(capsys, main.main, arguments, line)


@pytest.mark.parametrize(("override", "line"), OVERRIDES)
def test_overrides(capsys, override, line):
    check(capsys, main.main, [*NEW, f"--config.{override}"], line)


@pytest.mark.parametrize("name", CONFIGS)
def test_configs(capsys, name):
    check(capsys, main.main, [f"--config={name}", "--workdir=new"], CONFIGS[name][1])


@pytest.mark.parametrize("name", FOLDERS)
def test_data(capsys, name):
    file, content, line = FOLDERS[name]
    folder = Path(f"data_{name}")
    shutil.copytree("bars", folder)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    check(capsys, main.main, [*NEW, f"--config.data.name=./{folder}"], line)


@pytest.mark.parametrize("name", FILES)
def test_data_files(capsys, name, tmp_path):
    content, line = FILES[name]
    (tmp_path / name).write_bytes(content)
    check(capsys, main.main, [*NEW, f"--config.data.name={tmp_path / name}"], line)


@pytest.mark.parametrize(
    ("workdir", "line"),
    [
        ("fine.py", "--workdir=fine.py cannot be written: File exists ("),
        ("fine.py/run", "--workdir=fine.py/run cannot be written: Not a directory"),
        ("~no-such-user/run", "--workdir=~no-such-user/run: Could not determine home directory."),
    ],
)
def test_workdirs(capsys, workdir, line):
    check(capsys, main.main, run_arguments(workdir, 2), line)


@pytest.mark.parametrize("name", RUNS)
def test_runs_and_checkpoints(capsys, name):
    change, line = RUNS[name]
    run = Path(f"run_{name}")
    shutil.copytree("run", run)
    if change is None:
        from lenet_jax.storage.run_dir import RunDir

        with RunDir(run):
            check(capsys, main.main, run_arguments(run, 3), line)
    else:
        change(run)
        check(capsys, main.main, run_arguments(run, 3), line)


@pytest.mark.parametrize("key", ["num_epochs", "batch_size"])
def test_another_config_than_the_runs(capsys, key):
    arguments = [a for a in run_arguments("run", 2) if not a.startswith(f"--config.train.{key}")]
    line = f"holds a run of another config: train.{key}: {2 if key == 'num_epochs' else 16} → "
    value = {"num_epochs": 1, "batch_size": 32}[key]
    check(capsys, main.main, [*arguments, f"--config.train.{key}={value}"], f"{line}{value}")


@pytest.mark.parametrize("name", [*WEIGHTS, *TENSORS])
def test_weights(capsys, name):
    file = Path(f"{name}.safetensors")
    if name in WEIGHTS:
        make, line = WEIGHTS[name]
        file.write_bytes(make(Path("run/model.safetensors").read_bytes()))
    else:
        change, line = TENSORS[name]
        tensors = load_file("run/model.safetensors")
        change(tensors)
        save_file(tensors, file)
    check(capsys, torch_bridge.main, ["inspect", str(file)], line)


@pytest.mark.parametrize(("function", "arguments", "line"), TOOLS)
def test_tools(capsys, function, arguments, line):
    check(capsys, function, arguments, line)


@pytest.mark.parametrize("command", NAMING)
def test_what_is_no_file(capsys, command):
    function, arguments = NAMING[command]
    for place in PLACES:
        check(capsys, function, [argument.format(place) for argument in arguments], "")


@pytest.mark.parametrize(("file", "content", "line"), DAMAGED)
def test_damaged_json(capsys, file, content, line):
    """A damaged file of a finished run, whose sums match it, is an error of one line."""
    run = Path("run_damaged")
    shutil.copytree("run", run)
    (run / file).write_bytes(content)
    renew_sums(run)
    try:
        check(capsys, inspect.main, [f"--workdir={run}"], f"{file}{line}")
        if file == "config.json":
            check(capsys, main.main, [f"--config={run}", "--workdir=new"], f"{file}{line}")
    finally:
        shutil.rmtree(run)


@pytest.mark.parametrize("name", SWEEPS)
def test_sweep_files(capsys, name):
    text, line = SWEEPS[name]
    arguments = list(NEW)
    if text is not None:
        Path(f"sweep_{name}.py").write_text(text)
        arguments.append(f"--sweep=sweep_{name}.py")
    check(capsys, sweep.main, arguments, line)
