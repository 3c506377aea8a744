import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from lenet_jax import config
from lenet_jax.config.rules import ALIASES, JOINT_RULES, RULES
from lenet_jax.config.schema import find_mistakes, keys, nearest_keys
from lenet_jax.errors import UserError
from tests.support.root import ROOT

FILES = sorted(file.name for file in (ROOT / "configs").glob("[!_]*.py"))


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", FILES)
def test_config_files_are_valid_and_smoke_changes_only_sizes(name: str) -> None:
    whole = config.load(f"configs/{name}")
    smoke = config.load(f"configs/{name}:smoke")
    assert {line.partition(":")[0] for line in config.differing_keys(whole, smoke)} == {
        "data.train_examples",
        "data.valid_examples",
        "train.num_epochs",
    }


@pytest.mark.parametrize("name", [name for name in FILES if name != "base.py"])
def test_config_docstrings_give_their_command(name: str) -> None:
    text = (ROOT / "configs" / name).read_text(encoding="utf-8")
    assert f"python -m lenet_jax.main --config=configs/{name} --workdir=" in text
    assert "\nExpect: " in text


def test_a_config_is_locked() -> None:
    with pytest.raises(AttributeError):
        config.load("configs/notes.py").learning_rate = 1.0


def test_a_file_anywhere_can_start_from_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from lenet_jax.config import base\n"
        "def get_config():\n"
        "    config = base.get_config()\n"
        "    config.train.max_grad_norm = 1\n"
        "    config.model.features = (12, 8)\n"
        "    return config\n"
    )
    monkeypatch.chdir(tmp_path)
    loaded = config.load("mine.py")
    assert loaded.model.features == (12, 8)
    assert type(loaded.train.max_grad_norm) is float
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


def changed(line: str) -> str:
    return f"""from lenet_jax.config import base
def get_config(arg=""):
    config = base.get_config(arg)
    {line}
    return config
"""


@pytest.mark.parametrize(
    ("source", "arg", "message"),
    [
        ("x = 1", "", "mine.py has no function get_config"),
        ("get_config = 3", "", "mine.py has no function get_config"),
        ("x = 1\nx = = 2", "", "mine.py:2: SyntaxError: invalid syntax"),
        ("def f():\nreturn", "", "mine.py:2: IndentationError: expected an indented block"),
        ("import absent_module", "", "mine.py:1: ModuleNotFoundError: No module named"),
        ("x = 1\n\nx / 0", "", "mine.py:3: ZeroDivisionError: division by zero"),
        ("raise ValueError('a\\nb' * 900)", "", "mine.py:1: ValueError: a ba ba b"),
        (b"\xff\xfe", "", "mine.py:1: SyntaxError: (unicode error) 'utf-8' codec"),
        (b"\0", "", "mine.py: "),
        ("def get_config(): return 3", "", "mine.py: its get_config returns int, not a ConfigDict"),
        ("def get_config(): pass", "a", "mine.py: its get_config takes no argument, not a"),
        ("def get_config(x): pass", "", "mine.py: its get_config needs an argument: FILE.py:ARG"),
        (
            "def get_config(arg=''):\n    return {}[arg]",
            "a",
            "mine.py:2: KeyError: 'a'",
        ),
        (changed(""), "smok", "unknown config argument 'smok'; the only one is smoke"),
        (
            changed("config.train.batch_size = 'many'"),
            "",
            "mine.py:4: TypeError: Could not override field 'batch_size'",
        ),
        (changed("config.train.batch_size = -3"), "", "train.batch_size=-3: must be an integer"),
        (
            changed("config.optimizer.lr = 0.1"),
            "",
            "unknown key optimizer.lr; did you mean optimizer.learning_rate (now 0.05)?",
        ),
        (changed("del config.seed"), "", "missing keys: seed"),
        (
            changed("config.train = 3"),
            "",
            "mine.py:4: TypeError",
        ),
        (
            changed("config = type(config)({'seed': True, 'data': {'fit': 3}})"),
            "",
            "missing keys: augment.elastic_alpha, augment.elastic_sigma",
        ),
        (
            changed("config.optimizer.learning_rate = float('nan')"),
            "",
            "optimizer.learning_rate=nan: must be a number above 0",
        ),
        (
            changed("config.augment.shift = 10 ** 400"),
            "",
            "mine.py:4: OverflowError: int too large to convert to float",
        ),
    ],
)
def test_a_bad_file_is_reported_in_one_line(
    source: str | bytes, arg: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = source.encode() if isinstance(source, str) else source
    (tmp_path / "mine.py").write_bytes(data)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        config.load(f"mine.py:{arg}" if arg else "mine.py")
    assert str(caught.value).startswith(message)
    assert len(str(caught.value).splitlines()) <= 3
    assert max(map(len, str(caught.value).splitlines())) < 250


def test_ctrl_c_while_a_file_runs_is_no_mistake_of_the_file(tmp_path: Path) -> None:
    """As a notebook raises it: a loop that goes on after a UserError must end."""
    file = tmp_path / "slow.py"
    file.write_text("def get_config():\n    raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        config.load(str(file))


def test_where_there_are_no_configs_the_message_says_how_to_write_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no config file configs/notes\.py\n") as caught:
        config.load("configs/notes.py")
    (tmp_path / "mine.py").write_text(str(caught.value).splitlines()[-1])
    assert config.load("mine.py").seed == 0


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("configs/note.py", "no config file configs/note.py; did you mean configs/notes.py?"),
        ("configs/notes", "no config file configs/notes; did you mean configs/notes.py?"),
        ("lenet5.py:smoke", "no config file lenet5.py; did you mean configs/lenet5.py?"),
        ("nowhere/at_all", "no config file nowhere/at_all"),
        ("configs", "cannot read config file configs: "),
        ("a\0b", "cannot read config file 'a\\x00b': its name has a null character"),
    ],
)
def test_a_missing_file_suggests_one(path: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        config.load(path)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("path", "value", "valid"),
    [
        ("data.image_size", 16, True),
        ("data.image_size", 15, False),
        ("data.image_size", 18, False),
        ("data.image_size", 28, True),
        ("seed", 2**31 - 1, True),
        ("seed", 2**31, False),
        ("seed", True, False),
        ("seed", 1.0, False),
        ("optimizer.nesterov", 1, False),
        ("optimizer.momentum", 0, True),
        ("optimizer.dampening", 1, True),
        ("optimizer.eps", 10**400, False),
        ("schedule.step_scale", 1.0, True),
        ("schedule.pct_start", 1.0, False),
        ("model.channels", [6, 16], True),
        ("model.channels", (6, 16.0), False),
        ("model.channels", (6, True), False),
        ("model.channels", (6, 16, 32), False),
        ("data.name", 3, False),
        ("data.data_dir", None, True),
        ("data.name", None, False),
        ("train.micro_batch_size", 512, True),
        ("train.batch_size", 128, True),
        ("train.batch_size", 80, False),
    ],
)
def test_values_at_the_edges(path: str, value: object, valid: bool) -> None:
    notes = config.load("configs/notes.py")
    if valid:
        config.validate(config.replace(notes, {path: value}))
    else:
        with pytest.raises(UserError, match=path):
            config.replace(notes, {path: value})


def test_validate_reports_all_mistakes_on_three_lines() -> None:
    bad = config.load("configs/notes.py").copy_and_resolve_references().unlock()
    bad.train.batch_size = -3
    bad.train.num_epochs = 0
    bad.optimizer.momentum = 2.0
    bad.seed = -1
    bad.lr = 0.1
    with pytest.raises(UserError) as caught:
        config.validate(bad)
    lines = str(caught.value).splitlines()
    assert lines[0] == "unknown key lr; did you mean optimizer.learning_rate (now 0.05)?"
    assert len(lines) == 3
    for path in ("train.batch_size=-3", "train.num_epochs=0", "optimizer.momentum=2.0", "seed=-1"):
        assert path in str(caught.value)


def test_replace_does_not_change_the_original() -> None:
    notes = config.load("configs/notes.py")
    assert config.replace(notes, {"train.num_epochs": 20, "seed": "7"}).seed == 7
    assert notes == config.load("configs/notes.py")
    with pytest.raises(UserError, match=r"unknown key --config\.epochs"):
        config.replace(notes, {"epochs": 20})


@pytest.mark.parametrize(
    "change",
    [
        "config.model.lowering = 'phase'",
        "config.model.update(lowering='phase')",
        "config.update_from_flattened_dict({'model.lowering': 'phase'})",
    ],
)
def test_a_file_may_set_a_key_by_its_former_name(change: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from lenet_jax.config import base\n\n\ndef get_config():\n"
        f"    config = base.get_config()\n    {change}\n    return config\n"
    )
    loaded = config.load(str(file))
    assert loaded.model.backend == "phase"
    assert loaded == config.load("configs/notes.py", [("model.backend", "phase")])
    assert config.load(str(file), [("model.backend", "plain")]).model.backend == "plain"


def test_a_json_file_may_have_the_former_name_of_a_key(tmp_path: Path) -> None:
    whole = config.load("configs/notes.py", [("model.backend", "phase")])
    values = config.to_dict(whole)
    values["model"]["lowering"] = values["model"].pop("backend")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    assert config.load_json(path) == whole


def test_json_round_trip_preserves_the_config(tmp_path: Path) -> None:
    overrides = [("data.train_examples", "100"), ("train.max_grad_norm", "1")]
    whole = config.load("configs/cifar10.py:smoke", overrides)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_dict(whole), allow_nan=False))
    again = config.load_json(path)
    assert again == whole
    assert again.model.channels == (6, 16)
    assert again.model.num_classes is None
    assert config.replace(again, {"model.num_classes": 10}).model.num_classes == 10
    assert json.loads(path.read_text()) == config.to_dict(again)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "expected `object`, got `array`"),
        ("{}", "missing keys"),
        ('{"seed": NaN}', "seed=nan: must be an integer"),
        ('{"train": 3}', "unknown key train"),
    ],
)
def test_a_bad_json_file_is_reported(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        config.load_json(path)


def test_a_missing_json_file_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the message shortens a long path
    with pytest.raises(UserError, match=r"cannot read config.json: No such file"):
        config.load_json(Path("config.json"))


def test_differing_keys() -> None:
    notes = config.load("configs/notes.py")
    other = config.replace(notes, {"train.num_epochs": 20, "data.data_dir": "a b"})
    assert config.differing_keys(notes, notes) == []
    assert config.differing_keys(notes, other) == [
        "data.data_dir: None → a b",
        "train.num_epochs: 12 → 20",
    ]
    assert config.differing_keys(ConfigDict({"a": 1}), ConfigDict({"b": {"c": 2}})) == [
        "a: 1 → absent",
        "b.c: absent → 2",
    ]


def test_every_number_has_an_interval_and_every_rule_a_key() -> None:
    numbers = int, float, tuple
    ruled = {path for path, key in keys().items() if key.kind in numbers and key.default != ()}
    # The tuples of any length, of numbers.
    ruled |= {"schedule.boundaries", "schedule.factors", "data.class_weights"}
    assert {path for path, rule in RULES.items() if isinstance(rule, str)} == ruled
    assert {path for paths, _, _ in JOINT_RULES for path in paths} | RULES.keys() <= keys().keys()


@settings(max_examples=60)
@example("optimizer.b1", 1.0, 1e-8, -1)
@example("schedule.pct_start", 0.0, 1e-39, 1)
@example("optimizer.learning_rate", np.inf, 0.0, 1)
@given(
    st.sampled_from([path for path, key in keys().items() if key.kind is float]),
    st.sampled_from((0.0, 1.0, 90.0, 180.0, 3.4028235e38, 1e300)),
    st.floats(0.0, 1.0),
    st.sampled_from((-1, 1)),
)
def test_a_number_that_is_accepted_is_in_its_range_in_float32(
    path: str, near: float, share: float, side: int
) -> None:
    """XLA takes 0 for the smallest numbers."""
    value = near + side * share**8 if near < 1e38 else near
    interval = str(RULES[path])
    low, high = map(float, interval[1:-1].split(","))
    with np.errstate(over="ignore"):
        number = float(np.float32(value))
    number = number if abs(number) >= np.finfo(np.float32).tiny else 0.0
    inside = low <= number < high or (number == high and interval[-1] == "]")
    inside &= number > low or interval[0] == "["
    mistakes = find_mistakes(
        {path: key.default for path, key in keys().items()} | {path: value}, keys()
    )
    own = [
        mistake for mistake in mistakes if mistake.startswith(f"{path}=") and "must be" in mistake
    ]
    assert inside or own, value


def test_rules_for_several_keys_hold_in_float32_too() -> None:
    for changes, message in (
        ({"augment.shift": 31.9999999}, "leave some of the image in view"),
        ({"optimizer.nesterov": True, "optimizer.momentum": 1e-50}, "needs momentum above 0"),
    ):
        with pytest.raises(UserError, match=message):
            config.load("configs/notes.py", changes.items())


def test_aliases_name_keys_and_hide_none() -> None:
    assert set(ALIASES.values()) <= keys().keys()
    assert {path.rpartition(".")[2] for path in keys()}.isdisjoint(ALIASES)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("lr", ["optimizer.learning_rate"]),
        ("momentun", ["optimizer.momentum"]),
        ("optimizer.epsilon", ["optimizer.eps"]),
        ("data.name_", ["data.name"]),
        ("checkpoint", ["checkpoint.every_epochs", "checkpoint.keep"]),
        ("@", []),
    ],
)
def test_nearest_keys(name: str, nearest: list[str]) -> None:
    assert nearest_keys(name, keys()) == nearest


def test_an_ambiguous_name_gives_every_key_it_may_be() -> None:
    names = {"data.name", "model.name", "optimizer.name", "schedule.name"}
    assert set(nearest_keys("name", keys())) == names


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("c = base.get_config(); c.seed = 10**5000; return c", "seed=<int that cannot be shown>: "),
        ("c = base.get_config(); c.unlock(); c.me = c; return c", "contains itself"),
        ("return ConfigDict({1: 2, 'a': 3})", "a key that is no text"),
        ("raise Silent", "Silent: <Silent that cannot be shown>"),
    ],
)
def test_what_cannot_be_shown_is_a_short_error(tmp_path, body, message):
    file = tmp_path / "odd.py"
    lines = (
        "from lenet_jax.config import base",
        "from ml_collections import ConfigDict",
        "class Silent(Exception):\n    def __str__(self): raise KeyError",
        f"def get_config():\n    {body}",
    )
    file.write_text("\n".join(lines))
    with pytest.raises(UserError) as caught:
        config.load(str(file))
    assert message in str(caught.value) and len(str(caught.value).splitlines()) <= 3
    file.write_text("async def get_config(): pass")
    with pytest.raises(UserError, match="its get_config is async"):
        config.load(str(file))
