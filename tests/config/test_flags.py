import subprocess
import sys
import time

import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st

from lenet_jax import config
from lenet_jax.config.file import Config
from lenet_jax.config.flags import help_text, make_flags
from lenet_jax.config.flags import parse as parse_flags
from lenet_jax.config.schema import keys
from lenet_jax.errors import UserError
from tests.support.root import ROOT


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def parse(*arguments: str) -> Config:
    return parse_flags(arguments, make_flags())


def parse_overrides(*overrides: str) -> Config:
    return parse("--config=configs/notes.py", "--workdir=runs/x", *overrides)


def get(values: Config, path: str) -> object:
    for name in path.split("."):
        values = values[name]
    return values


@pytest.mark.parametrize(
    ("overrides", "path", "value"),
    [
        (["--config.train.batch_size=32"], "train.batch_size", 32),
        (["--config.train.batch_size", "32"], "train.batch_size", 32),
        (["-config.train.batch_size=32"], "train.batch_size", 32),
        (["--config.data.train_examples=1e3"], "data.train_examples", 1000),
        (["--config.data.train_examples=None"], "data.train_examples", None),
        (["--config.train.max_grad_norm=1"], "train.max_grad_norm", 1.0),
        (["--config.optimizer.learning_rate=1"], "optimizer.learning_rate", 1.0),
        (["--config.optimizer.learning_rate=1e-3"], "optimizer.learning_rate", 0.001),
        (["--config.optimizer.nesterov"], "optimizer.nesterov", True),
        (["--config.optimizer.nesterov=true"], "optimizer.nesterov", True),
        (["--noconfig.optimizer.nesterov"], "optimizer.nesterov", False),
        (["--config.optimizer.nesterov=False"], "optimizer.nesterov", False),
        (["--config.model.channels=(6,16)"], "model.channels", (6, 16)),
        (["--config.model.channels=6,16"], "model.channels", (6, 16)),
        (["--config.model.channels", "[6, 16,]"], "model.channels", (6, 16)),
        (["--config.model.num_classes=47"], "model.num_classes", 47),
        (["--config.data.name=/some where/idx=1"], "data.name", "/some where/idx=1"),
        (["--config.data.data_dir=prepared"], "data.data_dir", "prepared"),
        (["--config.seed=2147483647"], "seed", 2147483647),
    ],
)
def test_override(overrides: list[str], path: str, value: object) -> None:
    parsed = parse_overrides(*overrides)
    assert get(parsed, path) == value
    assert type(get(parsed, path)) is type(value)


def test_the_argument_reaches_the_file_and_overrides_come_last() -> None:
    parsed = parse("--config.seed", "3", "--config", "configs/notes.py:smoke", "--workdir", "runs")
    assert (parsed.train.num_epochs, parsed.seed) == (2, 3)


def test_a_former_name_of_a_key_sets_it() -> None:
    assert parse_overrides("--config.model.lowering=phase").model.backend == "phase"
    with pytest.raises(UserError, match=r"--config\.model\.backend is given more than once"):
        parse_overrides("--config.model.lowering=phase", "--config.model.backend=plain")
    with pytest.raises(UserError, match=r"^model\.backend=fast: must be one of auto, native, "):
        parse_overrides("--config.model.lowering=fast")


def test_a_value_has_other_spellings() -> None:
    assert parse_overrides("--config.train.precision=tf32").train.precision == "tensorfloat32"


def test_a_command_has_flags_of_its_own() -> None:
    flag_values = make_flags()
    flags.DEFINE_bool("profile", False, "record a trace", flag_values=flag_values)
    argv = ["--config=configs/notes.py", "--workdir=runs/x", "--profile"]
    parse_flags(argv, flag_values)
    assert (flag_values["workdir"].value, flag_values["profile"].value) == ("runs/x", True)
    assert "  --profile        record a trace" in help_text(flag_values).splitlines()
    with pytest.raises(UserError, match=r"unknown flag --profil; did you mean --profile\?"):
        parse_flags(["--profil"], flag_values)


LEARNING_RATE = "did you mean --config.optimizer.learning_rate (now 0.05)?"
BATCH_SIZE = "did you mean --config.train.batch_size (now 64)?"
POSITIVE = "must be an integer of at least 1 and below 2**31"
NATURAL = "must be an integer of at least 0 and below 2**31"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        # Names
        ("--learning_rate=1", f"unknown flag --learning_rate; {LEARNING_RATE}"),
        ("--lr=1", f"unknown flag --lr; {LEARNING_RATE}"),
        ("--config.lr=1", f"unknown flag --config.lr; {LEARNING_RATE}"),
        ("--config.learning_rate=1", f"unknown flag --config.learning_rate; {LEARNING_RATE}"),
        ("--config.train.lr=1", f"unknown flag --config.train.lr; {LEARNING_RATE}"),
        (
            "--config.optimizer.learning_rat=1",
            f"unknown flag --config.optimizer.learning_rat; {LEARNING_RATE}",
        ),
        ("--config.Optimizer.LR=1", f"unknown flag --config.Optimizer.LR; {LEARNING_RATE}"),
        ("--bs=1", f"unknown flag --bs; {BATCH_SIZE}"),
        ("--batch-size=1", f"unknown flag --batch-size; {BATCH_SIZE}"),
        ("--config.train.batchsize=1", f"unknown flag --config.train.batchsize; {BATCH_SIZE}"),
        (
            "--epochs=1",
            "unknown flag --epochs; did you mean --config.train.num_epochs (now 12)?",
        ),
        (
            "--wd=1",
            "unknown flag --wd; did you mean --config.optimizer.weight_decay (now 0.0005)?",
        ),
        (
            "--nesterov",
            "unknown flag --nesterov; did you mean --config.optimizer.nesterov (now False)?",
        ),
        (
            "--config.optimizer=adam",
            "unknown flag --config.optimizer; did you mean --config.optimizer.name (now sgd)?",
        ),
        (
            "--config.optimizer.schedule=constant",
            "unknown flag --config.optimizer.schedule; did you mean --config.schedule.name"
            " (now one_cycle)?",
        ),
        (
            "--config.optimiser.nam=adam",
            "unknown flag --config.optimiser.nam; did you mean --config.optimizer.name (now sgd)?",
        ),
        (
            "--noconfig.seed",
            "unknown flag --noconfig.seed; did you mean --config.seed (now 0)?",
        ),
        ("--work_dir=x", "unknown flag --work_dir; did you mean --workdir?"),
        ("--xyzzy=1", "unknown flag --xyzzy; --help lists all keys"),
        ("--\n=1", "unknown flag --'\\n'; --help lists all keys"),
        ("runs/second", "unexpected argument runs/second; write --flag=value"),
        ("-", "unexpected argument -; write --flag=value"),
        ("--workdir=y", "flag --workdir=y: already defined as runs/x"),
        ("--config.seed", "Missing value for flag --config.seed"),
        ("--help=maybe", "flag --help=maybe: ('Non-boolean argument to boolean flag', 'maybe')"),
        # Types
        ("--config.seed=abc", f"seed=abc: {NATURAL}"),
        ("--config.seed=", f"seed='': {NATURAL}"),
        ("--config.seed=None", f"seed=None: {NATURAL}"),
        ("--config.train.batch_size=1.5", f"train.batch_size=1.5: {POSITIVE}"),
        ("--config.train.batch_size=inf", f"train.batch_size=inf: {POSITIVE}"),
        ("--config.data.train_examples=x", f"data.train_examples=x: {POSITIVE} or None"),
        (
            "--config.optimizer.learning_rate=fast",
            "optimizer.learning_rate=fast: must be a number above 0 and finite",
        ),
        ("--config.optimizer.nesterov=maybe", "optimizer.nesterov=maybe: must be true or false"),
        (
            "--config.model.channels=6,b",
            "model.channels=6,b: must be a tuple of 2 integers of at least 1 and below 2**31",
        ),
        (
            "--config.model.channels=()",
            "model.channels=(): must be a tuple of 2 integers of at least 1 and below 2**31",
        ),
        ("--config.data.name=", "data.name='': must be a non-empty string"),
        # Ranges
        ("--config.seed=-1", f"seed=-1: {NATURAL}"),
        ("--config.seed=1e10", f"seed=10000000000: {NATURAL}"),
        ("--config.train.batch_size=-3", f"train.batch_size=-3: {POSITIVE}"),
        ("--config.train.num_epochs=0", f"train.num_epochs=0: {POSITIVE}"),
        ("--config.checkpoint.keep=0", f"checkpoint.keep=0: {POSITIVE}"),
        (
            "--config.optimizer.learning_rate=nan",
            "optimizer.learning_rate=nan: must be a number above 0 and finite",
        ),
        (
            "--config.optimizer.learning_rate=inf",
            "optimizer.learning_rate=inf: must be a number above 0 and finite",
        ),
        (
            "--config.optimizer.learning_rate=0",
            "optimizer.learning_rate=0.0: must be a number above 0 and finite",
        ),
        (
            "--config.optimizer.momentum=1",
            "optimizer.momentum=1.0: must be a number in [0, 1)",
        ),
        (
            "--config.optimizer.weight_decay=-1e-4",
            "optimizer.weight_decay=-0.0001: must be a number of at least 0 and finite",
        ),
        (
            "--config.train.label_smoothing=1",
            "train.label_smoothing=1.0: must be a number in [0, 1)",
        ),
        (
            "--config.train.max_grad_norm=0",
            "train.max_grad_norm=0.0: must be a number above 0 and finite or None",
        ),
        (
            "--config.schedule.pct_start=0",
            "schedule.pct_start=0.0: must be a number in (0, 1)",
        ),
        (
            "--config.optimizer.b2=0.99999999",
            "optimizer.b2=0.99999999, which is 1 in float32: must be a number in [0, 1)",
        ),
        (
            "--config.optimizer.eps=1e-40",
            "optimizer.eps=1e-40, which is 0 in float32: must be a number above 0 and finite",
        ),
        (
            "--config.optimizer.weight_decay=1e39",
            "optimizer.weight_decay=1e+39, which is inf in float32: must be a number of at least 0"
            " and finite",
        ),
        ("--config.augment.scale=1", "augment.scale=1.0: must be a number in [0, 1)"),
        (
            "--config.model.channels=6",
            "model.channels=(6,): must be a tuple of 2 integers of at least 1 and below 2**31",
        ),
        (
            "--config.model.channels=6,0",
            "model.channels=(6, 0): must be a tuple of 2 integers of at least 1 and below 2**31",
        ),
        (
            "--config.model.num_classes=1",
            "model.num_classes=1: must be an integer of at least 2 and below 2**31 or None",
        ),
        (
            "--config.data.image_size=12",
            "data.image_size=12: must be an integer of at least 16 and below 2**31",
        ),
        # Words
        ("--config.data.fit=crop", "data.fit=crop: must be one of pad, resize"),
        ("--config.model.init=keras", "model.init=keras: must be one of torch, flax, lecun_1998"),
        (
            "--config.model.backend=fast",
            "model.backend=fast: must be one of auto, native, pallas, phase, plain",
        ),
        (
            "--config.train.precision=float16",
            "train.precision=float16: must be one of float32, tensorfloat32, bfloat16",
        ),
        (
            "--config.optimizer.name=SGD",
            "optimizer.name=SGD: must be one of sgd, adam, adamw, diagonal_lm",
        ),
        (
            "--config.schedule.name=exp",
            "schedule.name=exp: must be one of constant, cosine, step, piecewise, one_cycle,"
            " linear",
        ),
        # Together
        (
            "--config.data.image_size=30",
            "data.image_size=30, model.padding=0: "
            "size + 2 · padding must be a multiple of 4, "
            "for two 5×5 convolutions, each followed by 2×2 pooling",
        ),
        (
            "--config.train.batch_size=100",
            "train.batch_size=100, train.micro_batch_size=32: "
            "the batch must be at most one micro-batch, or a multiple of it",
        ),
        (
            "--config.schedule.warmup_epochs=1",
            "schedule.warmup_epochs=1.0, schedule.name=one_cycle: "
            "one_cycle warms up by itself, see schedule.pct_start",
        ),
        (
            "--config.augment.shift=32",
            "augment.shift=32.0, data.image_size=32: "
            "the shift must leave some of the image in view",
        ),
    ],
)
def test_one_mistake_is_one_line(override: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_overrides(override)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--config.seed=1", "--config.seed=2"], "--config.seed is given more than once"),
        (
            ["--config.optimizer.nesterov", "--noconfig.optimizer.nesterov"],
            "--config.optimizer.nesterov is given more than once",
        ),
        (
            ["runs/second", "--config.seed=x"],
            f"unexpected argument runs/second; write --flag=value\nseed=x: {NATURAL}",
        ),
        (["--lr", "0.1"], f"unknown flag --lr; {LEARNING_RATE}"),
        (
            ["--config.optimizer.nesterov", "true"],
            "unexpected argument true; write --flag=value",
        ),
        (
            ["--config.optimizer.nesterov", "--config.optimizer.dampening=0.5"],
            "optimizer.nesterov=True, optimizer.momentum=0.9, optimizer.dampening=0.5: "
            "Nesterov momentum needs momentum above 0 and no dampening",
        ),
        (
            ["--config.optimizer.nesterov", "--config.optimizer.momentum=0"],
            "optimizer.nesterov=True, optimizer.momentum=0.0, optimizer.dampening=0.0: "
            "Nesterov momentum needs momentum above 0 and no dampening",
        ),
        (
            ["--config.optimizer.nesterov", "--config.optimizer.name=adam"],
            "optimizer.nesterov=True, optimizer.name=adam: Nesterov momentum is for sgd",
        ),
        (
            ["--config.schedule.name=cosine", "--config.schedule.warmup_epochs=13"],
            "schedule.warmup_epochs=13.0, train.num_epochs=12: the warm-up must end within the run",
        ),
        (
            ["--config.data.class_weights=0,1e-40"],
            "data.class_weights=(0, 1e-40): the largest must be 1e-30 to 1e30,"
            " so that the weights of a batch have a sum in float32",
        ),
        (
            ["--config.schedule.name=piecewise"],
            "schedule.name=piecewise, schedule.boundaries=(): piecewise needs the epochs after"
            " which the rate changes, and a factor for each",
        ),
        (
            [
                "--lr=0.1",
                "--config.seed=x",
                "--config.data.fit=crop",
                "--config.data.image_size=30",
            ],
            f"unknown flag --lr; {LEARNING_RATE}\n"
            "data.fit=crop: must be one of pad, resize\n"
            f"seed=x: {NATURAL}; data.image_size=30, model.padding=0: "
            "size + 2 · padding must be a multiple of 4, "
            "for two 5×5 convolutions, each followed by 2×2 pooling",
        ),
    ],
)
def test_mistakes_are_reported_together(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_overrides(*overrides)
    assert str(caught.value) == message


def test_a_bare_command_says_what_is_missing() -> None:
    with pytest.raises(UserError) as caught:
        parse()
    assert str(caught.value) == (
        "missing --config=FILE.py, for example --config=configs/notes.py\n"
        "missing --workdir=DIR, for example --workdir=runs/first"
    )


def test_a_suggestion_shows_the_current_value() -> None:
    with pytest.raises(UserError, match=r"did you mean --config.train.num_epochs \(now 2\)"):
        parse("--config=configs/notes.py:smoke", "--workdir=x", "--epochs=3")


NUMBERS = st.one_of(st.integers(), st.floats(), st.tuples(st.integers(), st.integers()))


@given(
    st.sampled_from(sorted(keys())),
    st.one_of(st.text(), NUMBERS.map(str), st.sampled_from(["true", "None", "sgd", "resize"])),
)
def test_any_text_gives_a_valid_config_or_a_short_error(path: str, text: str) -> None:
    try:
        parsed = parse_overrides(f"--config.{path}={text}")
    except UserError as error:
        assert 1 <= len(str(error).splitlines()) <= 3
    else:
        config.validate(parsed)


@given(st.lists(st.one_of(st.text(), st.text().map(lambda text: f"--{text}")), max_size=4))
def test_any_arguments_give_a_short_error_or_help(arguments: list[str]) -> None:
    try:
        parse_overrides(*arguments)
    except UserError as error:
        assert 1 <= len(str(error).splitlines()) <= 3
    except SystemExit as end:  # `-h`
        assert end.code == 0


def test_help_names_every_key_within_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help", "--lr=3", "--config=absent.py")
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    for path, key in keys().items():
        assert listed.count(path) == 1, path
        row = next(line for line in lines if line.split()[:1] == [path])
        assert row.split()[1] == key.kind.__name__
        assert str(key.default) in row
    assert listed.index("seed") < listed.index("data.name") < listed.index("checkpoint.keep")
    assert "  optimizer.learning_rate    float  0.05           peak learning rate" in lines
    assert {"--config", "--workdir", "--help"} <= set(listed)
    assert "model.lowering" not in "\n".join(lines)


def test_parsing_is_quick_and_leaves_jax_alone() -> None:
    start = time.process_time()
    parse_overrides("--config.seed=3")
    assert time.process_time() - start < 0.05
    code = "import sys, lenet_jax.config.flags; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
