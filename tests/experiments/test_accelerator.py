"""The experiment of accelerators in its short form, on the CPU."""

import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.accelerator import __main__ as command
from experiments.accelerator import correctness, forms, populations, record
from lenet_jax.nn import ops

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory, pytestconfig):
    """The results file of two stages, or with --long of all."""
    folder = tmp_path_factory.mktemp("results")
    arguments = ["--short", "--minutes=20", f"--results={folder}"]
    if not pytestconfig.getoption("long"):
        arguments.append("--stages=correctness,thousand")
    assert command.main(arguments) == 0
    return folder / "accelerator_cpu_short.json"


def test_every_stage_writes_its_results(results, pytestconfig):
    content = json.loads(results.read_text())
    stages = {name: stage["results"] for name, stage in content["stages"].items()}
    assert {stage["status"] for stage in content["stages"].values()} == {"done"}
    assert content["environment"]["devices"][0] == "cpu"
    assert content["environment"]["versions"]["jax"] == jax.__version__
    thousand = stages["thousand"]["own_orders"]
    assert (thousand["networks"], thousand["epochs"]) == (4, 10)
    assert thousand["test_accuracy_mean"] > 0.3
    assert (stages["correctness"]["violations"], stages["correctness"]["refused"]) == ([], {})
    constant = stages["correctness"]["checks"]["phase, highest"]["conv1: constant"]
    assert constant["ties"] == constant["pools"] > 0
    if pytestconfig.getoption("long"):
        (run,) = stages["single"]["runs"]
        assert (run["epochs"], len(run["per_epoch"])) == (2, 2)
        assert stages["single"]["segments"]["images_per_second"] > 0
        assert [row["form"] for row in stages["populations"]["variants"]] == ["phase", "im2col"]
        assert stages["populations"]["best"] == stages["populations"]["variants"][0]
        assert stages["profile"]["xla_flops_a_step"] > stages["profile"]["dense_flops_a_step"] > 0
        assert stages["determinism"]["deterministic"]["same_bits"]
        assert stages["precision"]["precisions"][0]["seeds"] == 2
        assert [row["rewrites"] for row in stages["modules"]["rows"]] == [False, True]
        assert stages["resume"]["same_table"]


def test_a_finished_stage_is_skipped(results, capfd):
    before = results.read_bytes()
    assert command.main(["--short", "--stages=thousand", f"--results={results.parent}"]) == 0
    assert "thousand: done already" in capfd.readouterr().out
    assert results.read_bytes() == before


def test_a_stage_that_fails_is_recorded_and_the_next_one_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "SECONDS", {"first": 60, "second": 60})
    monkeypatch.setattr(command.table, "DETAILS", {}.fromkeys(("first", "second"), lambda _: []))
    monkeypatch.setattr(command.device, "find_name", lambda: "none")
    assert command.main([f"--results={tmp_path}"]) == 1
    stages = record.read(tmp_path / "accelerator_none.json")["stages"]
    assert [stage["status"] for stage in stages.values()] == ["failed", "failed"]
    assert "No module named 'experiments.accelerator.first'" in stages["first"]["error"]


def test_a_stage_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "SECONDS", {"correctness": 60})
    file = tmp_path / "results.json"
    command.run_in_process("correctness", file, 0.1, 0.1, short=True)
    assert record.read(file)["stages"]["correctness"]["status"] == "out of time"


def test_a_bare_machine_has_what_the_stages_need():
    """Beside what JAX, Flax and optax bring: jaxtyping and ml_collections."""
    blocked = ("filelock", "jinja2", "matplotlib", "msgspec", "PIL", "requests", "safetensors")
    blocked += ("tensorboardX", "tensorflow_datasets", "torch")
    script = f"""
import importlib, sys
sys.modules.update(dict.fromkeys({blocked}))  # whose import then fails
for name in ("__main__", *{tuple(command.SECONDS)}):
    importlib.import_module(f"experiments.accelerator.{{name}}")
from experiments.accelerator.populations import Variant, estimated_memory, make_variant_spec
estimated_memory(Variant(64), make_variant_spec(Variant(64)))
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_stages_take_seven_minutes_together():
    assert sum(command.SECONDS.values()) <= 7 * 60


def test_an_unknown_stage_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["--stages=corectness"])
    assert "no stage corectness; there are correctness," in capsys.readouterr().err


def test_other_files_imply_no_row(tmp_path, capfd):
    file = tmp_path / "other.json"
    file.write_text("{}")
    assert command.main([f"--decide={file}"]) == 2
    assert capfd.readouterr().out.endswith("other.json has no results of this script\n")


def last_maximum(right, x, kernel, bias, **how):
    """The last of equal maxima receives the gradient."""
    turned = right(x[:, ::-1, ::-1], kernel[::-1, ::-1], bias, **how)
    return turned[:, ::-1, ::-1]


def too_large(right, *arrays, **how):
    """Everything is 0.1 % too large."""
    return 1.001 * right(*arrays, **how)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (None, None),
        (last_maximum, "conv2: constant: 600 of 600 ties moved"),
        (too_large, "conv2: integers: output: relative error 1.0e-03"),
    ],
)
def test_a_wrong_layer_is_found(monkeypatch, layer, message):
    every = correctness.make_cases(2)
    cases = {name: every[name] for name in ("conv2: constant", "conv2: integers")}
    expected = correctness.expect(cases)
    if layer is not None:
        wrong = functools.partial(layer, ops.conv_pool_relu)
        monkeypatch.setattr(ops, "conv_pool_relu", wrong)
    values = jax.jit(functools.partial(correctness.compute_layers, "plain", "float32"))(cases)
    checks = correctness.compare(jax.tree.map(np.asarray, values), expected, cases)
    violations = correctness.find_violations(checks, 1e-5)
    assert (message in violations) if message else violations == []


@pytest.mark.parametrize("form", forms.FORMS)
def test_the_other_forms_are_right(form):
    rng = np.random.default_rng(0)
    x, kernel, bias = (
        jnp.asarray(rng.standard_normal(shape, np.float32))
        for shape in ((3, 12, 12, 2), (5, 5, 2, 4), (4,))
    )
    expected = ops.conv_pool_relu(x, kernel, bias, backend="plain")
    with forms.use(form):
        actual = ops.conv_pool_relu(x, kernel, bias, backend="plain")
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_the_fastest_variant_of_a_backend_is_the_best():
    rows = [
        {"form": form, "precision": "default", "shared_data_order": shared, "images_per_second": v}
        for form, shared, v in (("phase", False, 1), ("plain", False, 2), ("im2col", False, 3))
    ]
    assert populations.best([*rows, {"error": "out of memory"}]) == rows[1]
    assert populations.best(rows, shared=True) is None
