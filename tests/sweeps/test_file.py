import inspect
import json
from pathlib import Path

import numpy as np
import pytest

from lenet_jax.config import replace
from lenet_jax.errors import UserError
from lenet_jax.sweeps import file
from lenet_jax.sweeps.file import chain, product, share_order, sweep, zipit
from tests.support import tiny

IMPORTS = "from lenet_jax.sweeps.file import chain, product, sweep, zipit\n"


def write(tmp_path, text):
    path = tmp_path / "some.py"
    path.write_text(f"{IMPORTS}def get_sweep(arg=''):\n    return {text}\n")
    return str(path)


def load(tmp_path, text, **settings):
    return file.load(write(tmp_path, text), tiny.config(), **settings)


def test_the_four_combinators():
    a, b = sweep("seed", range(2)), sweep("train.batch_size", (8, 16))
    assert a == [{"seed": 0}, {"seed": 1}]
    assert product(a, b) == [
        {"seed": 0, "train.batch_size": 8},
        {"seed": 0, "train.batch_size": 16},
        {"seed": 1, "train.batch_size": 8},
        {"seed": 1, "train.batch_size": 16},
    ]
    assert zipit(a, b) == [
        {"seed": 0, "train.batch_size": 8},
        {"seed": 1, "train.batch_size": 16},
    ]
    assert chain(a, b) == [*a, *b]
    assert product() == [{}]


def test_values_that_are_one_are_an_error():
    with pytest.raises(UserError, match=r"sweep\('seed', …\): .* must be a list, such as \[3\]"):
        inspect.unwrap(sweep)("seed", 3)  # without the tests' own checks of types


def test_numpy_values_become_python_values():
    drawn = sweep("optimizer.learning_rate", 10 ** np.linspace(-2, -1, 2, dtype=np.float32))
    assert [type(overrides["optimizer.learning_rate"]) for overrides in drawn] == [float, float]
    assert sweep("model.channels", np.asarray([[2, 3]])) == [{"model.channels": (2, 3)}]
    json.dumps(sweep("seed", np.arange(2)))


def test_members_have_their_whole_config(tmp_path):
    members = load(tmp_path, "product(sweep('seed', [3]), sweep('model.channels', [(2, 5)]))")
    assert [member.number for member in members] == [0]
    assert members[0].config.seed == 3
    assert members[0].config.model.channels == (2, 5)
    assert members[0].config.train.batch_size == 16


def test_a_former_name_of_a_key_can_be_swept(tmp_path):
    assert sweep("model.lowering", ["plain"]) == [{"model.backend": "plain"}]
    members = load(tmp_path, "[{'model.lowering': 'plain'}, {'model.backend': 'phase'}]")
    assert [member.overrides for member in members] == [
        {"model.backend": "plain"},
        {"model.backend": "phase"},
    ]
    assert [member.config.model.backend for member in members] == ["plain", "phase"]


def test_the_argument_reaches_get_sweep(tmp_path):
    path = write(tmp_path, "sweep('seed', range(int(arg)))")
    assert len(file.load(f"{path}:7", tiny.config())) == 7
    assert len(file.load(Path(f"{path}:7"), tiny.config())) == 7


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("sweep('lr', [1])", ["unknown key lr", "did you mean optimizer.learning_rate"]),
        ("[]", ["the sweep is empty"]),
        ("sweep('seed', [])", ["the sweep is empty"]),
        ("sweep('checkpoint.keep', [1, 2])", ["checkpoint.keep cannot vary in a sweep"]),
        ("sweep('log.trackers', [('mlflow',), ()])", ["log.trackers cannot vary in a sweep"]),
        ("sweep('seed', [0, -1])", ["member 1", "seed=-1: must be an integer"]),
        ("sweep('seed', [1, 2, 1])", ["members 0 and 2 are the same"]),
        (
            "product(sweep('seed', [1]), sweep('seed', [2]))",
            ["product: seed is set by two of its sweeps"],
        ),
        (
            "zipit(sweep('seed', [1]), sweep('train.batch_size', [8, 16]))",
            ["zipit", "1 and 2 members"],
        ),
        ("{'seed': 1}", ["returns dict, not a list of overrides"]),
        ("1 / 0", ["some.py:3", "ZeroDivisionError"]),
        ("sweep('seeds.order', ['x'])", ["seeds.order=x: must be an integer"]),
        (
            "sweep('train.batch_size', [24, 40, 56, 72])",
            ["member 0", "member 1", "and 2 more mistakes"],
        ),
    ],
)
def test_mistakes_are_reported_briefly(tmp_path, text, phrases):
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert len(message.splitlines()) <= 3
    for phrase in phrases:
        assert phrase in message


def test_a_swept_key_cannot_be_overridden(tmp_path):
    with pytest.raises(UserError, match=r"seed is swept, but also set by --config\.seed"):
        load(tmp_path, "sweep('seed', range(2))", given=["seed"])


def test_trackers_are_refused(tmp_path):
    config = tiny.config(log={"trackers": ("mlflow", "wandb")})
    with pytest.raises(UserError, match=r"log\.trackers=mlflow,wandb is for single runs: a sweep"):
        file.load(write(tmp_path, "sweep('seed', range(2))"), config)


def test_a_missing_sweep_file_suggests_another():
    with pytest.raises(UserError, match=r"no sweep file .*; did you mean configs/sweeps/seeds.py"):
        file.load("configs/sweeps/seed.py", tiny.config())


def test_with_a_shared_order_the_seed_varies_only_initial_weights():
    config = tiny.config()
    config.seed = 5
    shared = share_order(config)
    assert (shared.seeds.order, shared.seeds.augment, shared.seeds.init) == (5, 5, None)


@pytest.mark.parametrize("name", ["seeds", "learning_rate", "batch_and_rate", "width"])
def test_the_included_sweep_files_are_valid(name):
    config = replace(tiny.config(), {"train.micro_batch_size": 32, "train.batch_size": 32})
    members = file.load(f"configs/sweeps/{name}.py:2", config)
    assert (
        len(members) == {"seeds": 2, "learning_rate": 16, "batch_and_rate": 40, "width": 24}[name]
    )


@pytest.mark.parametrize("name", ["sweep", "product", "zipit", "chain"])
def test_a_combinator_that_is_not_imported_names_the_import(name, tmp_path):
    (tmp_path / "a.py").write_text(f"def get_sweep():\n    return {name}()\n")
    with pytest.raises(UserError, match=r"a\.py:2: NameError: ") as caught:
        file.load(str(tmp_path / "a.py"), tiny.config())
    code = str(caught.value).split("\n")[1].partition(": ")[2]
    assert code == f"from lenet_jax.sweeps.file import {name}"
    exec(code)
