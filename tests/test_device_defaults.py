"""The table of what suits each kind of device: complete, measured where it says so, documented."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from experiments.accelerator import decide, populations
from lenet_jax import config as configs
from lenet_jax.config import schema
from lenet_jax.device_defaults import TABLE, Defaults, defaults_of
from lenet_jax.nn import native, ops
from lenet_jax.storage.columns import Columns
from lenet_jax.sweeps import plan
from lenet_jax.sweeps.members import Members
from lenet_jax.training import parallel
from lenet_jax.training.population import choose_strategy
from lenet_jax.training.spec import make_spec
from tests.support import tiny

H200 = Path("results/accelerator_nvidia_h200.json")


def device_of(row):
    return SimpleNamespace(
        platform=row.platform or "metal", device_kind=row.kind or "X", memory_stats=dict
    )


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.platform} {row.kind}".strip())
def test_every_choice_is_the_rows(row, monkeypatch):
    device = device_of(row)
    assert defaults_of(device) is row
    assert choose_strategy("auto", device) == row.strategy
    assert choose_strategy("map", device) == "map"
    assert ops.compiler_options(device) == dict(row.compiler_options + row.lenet_options)
    monkeypatch.setattr(native, "missing", lambda: None)
    assert ops.choose_backend("auto", device) == row.backends[0]
    monkeypatch.setattr(native, "missing", lambda: "no C++ compiler")
    assert ops.choose_backend("auto", device) == row.backends[-1] != "native"
    assert ops.choose_backend("plain", device) == "plain"
    monkeypatch.setattr(parallel.machine, "devices", lambda: [device] * 2)
    assert parallel.count_sharing(64, 32) == (2 if row.shares_batches else 1)
    members = Members(tiny.config(), Columns.of([{"seed": seed} for seed in range(2000)]))
    group = plan.Group(make_spec(tiny.config(), tiny.dataset()), tiny.dataset(), members)
    assert plan.chunk_size(group, [device], row.strategy, 10**12) == row.members
    need = plan.memory_needed(group, [device], row.members, row.strategy)
    enough = round(need / row.share_of_memory) + 1
    assert plan.chunk_size(group, [device], row.strategy, enough) == row.members
    assert plan.chunk_size(group, [device], row.strategy, enough - 10) == row.members // 2
    for asked in (1, 3, 5000):
        assert plan.chunk_size(group, [device] * 2, row.strategy, 10**12, asked) == asked
    assert plan.chunk_size(group, [device], row.strategy, enough - 10, row.members) < row.members
    assert not row.results or Path(row.results).is_file()


def test_no_device_changes_what_a_config_says():
    config = configs.load("configs/notes.py")
    assert (config.train.precision, config.train.micro_batch_size) == ("float32", 32)
    precisions = schema.RULES["train.precision"]
    for row in TABLE:
        assert row.fast_precision in ("", *precisions) and row.fast_precision != "float32"
    (h200,) = (row for row in TABLE if row.kind == "NVIDIA H200")
    assert h200.faster(config) == (
        "faster on this device: --config.train.micro_batch_size=64"
        " --config.train.precision=tensorfloat32"
    )
    assert defaults_of(jax.devices()[0]).faster(config) is None
    changes = {"train.micro_batch_size": 64, "train.precision": "bfloat16"}
    assert h200.faster(configs.replace(config, changes)) is None


def test_the_row_of_a_measured_device_is_what_its_results_imply():
    results = json.loads(H200.read_text())
    (row,) = (row for row in TABLE if row.results == str(H200))
    assert decide.decide(results, str(H200)) == row
    for speeds, faster in (((1e5, 5e5), True), ((5e5, 1e5), False)):
        modules = [
            {"config": "mine", "rewrites": rewrites, "images_per_second": speed}
            for rewrites, speed in zip((False, True), speeds, strict=True)
        ]
        results["stages"]["modules"] = {"results": {"rows": modules}}
        assert decide.decide(results, str(H200)).rewrites == faster
    rows = results["stages"]["populations"]["results"]["variants"]
    (largest,) = (row for row in rows if row["members"] == 4096)
    rows.append(largest | {"form": "plain", "images_per_second": 1e8})  # slower at 64 members
    results["environment"]["devices"] = ["NVIDIA B200"]
    text = decide.lines(results, H200)
    assert text[1].startswith("Defaults(platform='gpu', kind='NVIDIA B200', backends=('plain',),")
    assert "  backends: ('phase',) → ('plain',)" in text


def test_a_sweep_expects_at_least_the_memory_that_was_planned_on_a_gpu():
    """By XLA, for populations of `configs/notes.py` that train side by side."""
    device = device_of(next(row for row in TABLE if row.kind == "NVIDIA H200"))
    members = Members(tiny.config(), Columns.of([{}]))
    variants = json.loads(H200.read_text())["stages"]["populations"]["results"]["variants"]
    ratios = []
    for row in variants:
        if row["members"] >= 64 and row["form"] == "phase":
            fields = ("members", "form", "strategy", "micro_batch_size")
            variant = populations.Variant(**{name: row[name] for name in fields})
            planned = row["memory_planned_by_xla"]
            need = planned["temp"] + planned["argument"] + planned["output"] - planned["alias"]
            spec = populations.make_variant_spec(variant)
            group = plan.Group(spec, populations.load_data(), members)
            expected = plan.memory_needed(group, [device], row["members"], row["strategy"])
            ratios.append(expected / need)
    assert len(ratios) == 6 and min(ratios) > 1.5 and max(ratios) < 5


def test_the_documentation_has_the_table():
    text = Path("docs/accelerators.md").read_text()
    for row in TABLE:
        assert line(row) in text


def line(row: Defaults) -> str:
    """A row as docs/accelerators.md has it."""
    names = {"cpu": "CPU", "gpu": "other GPUs", "tpu": "TPU", "": "others"}
    backend = f"`{row.backends[0]}`" + "".join(f", else `{name}`" for name in row.backends[1:])
    faster = ["whole batches"] * row.whole_batches + [f"`{row.fast_precision}`"] * bool(
        row.fast_precision
    )
    file = row.results
    cells = (
        row.kind or names[row.platform],
        backend,
        f"`{row.strategy}`, {row.members:,}",
        f"{row.share_of_memory:.0%}",
        "the devices" if row.shares_batches else "one device",
        "in fast forms" if row.rewrites else "as written",
        ", ".join(faster) or "–",
        f"[{Path(file).name}](../{file})" if file else "not measured",
    )
    return f"| {' | '.join(cells)} |"
