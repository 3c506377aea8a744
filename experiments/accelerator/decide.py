"""The row of `lenet_jax.device_defaults` that the results of a device imply."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from experiments.accelerator.populations import BACKENDS
from lenet_jax.device_defaults import Defaults, defaults_of

NOISE = 1.05  # what is faster by less counts as equally fast
FIELDS = ("members", "form", "strategy", "micro_batch_size", "precision")
FAST = {"gpu": "tensorfloat32", "tpu": "bfloat16"}  # what JAX's default precision is there
Speeds = dict[Any, float]


def decide(results: Mapping[str, Any], file: str) -> Defaults:
    """The row for the device of some results; what they do not show is as in the present row."""
    stages = {name: stage.get("results", {}) for name, stage in results["stages"].items()}
    variants = stages.get("populations", {}).get("variants", [])
    rows = [row for row in variants if "error" not in row and not row["shared_data_order"]]
    own = [row for row in rows if row["form"] in BACKENDS]
    changes: dict[str, Any] = {}
    if forms := _speeds(own, "form"):
        form = max(forms, key=lambda name: forms[name])
        changes["backends"] = (form,)
        own = [row for row in own if row["form"] == form]
    if strategies := _speeds(own, "strategy"):
        changes["strategy"] = max(strategies, key=lambda name: strategies[name])
    if sizes := _speeds(own, "members"):
        fastest = max(sizes.values())
        changes["members"] = min(n for n, speed in sizes.items() if NOISE * speed > fastest)
    if runs := stages.get("single", {}).get("runs"):
        speeds = {
            run["micro_batch_size"]: run["images_per_second"]
            for run in runs
            if run["backend"] == runs[0]["backend"]
        }
        changes["whole_batches"] = _is_faster(speeds, max(speeds), min(speeds))
    device = _device(results)
    for row in stages.get("precision", {}).get("precisions", []):
        if row["precision"] == "default" and device.platform in FAST:
            error = row["difference_from_highest_standard_error"]
            equal = abs(row["difference_from_highest_mean"]) <= 2 * error
            faster = _is_faster(_speeds(own, "precision"), "default", "highest")
            changes["fast_precision"] = FAST[device.platform] if equal and faster else ""
    networks: dict[str, Speeds] = {}
    for row in stages.get("modules", {}).get("rows", []):
        if "error" not in row:
            networks.setdefault(row["config"], {})[row["rewrites"]] = row["images_per_second"]
    if networks:
        changes["rewrites"] = all(_is_faster(own, True, False) for own in networks.values())
    changes |= {"platform": device.platform, "kind": device.device_kind, "results": file}
    return dataclasses.replace(defaults_of(device), **changes)


def lines(results: Mapping[str, Any], file: Path) -> list[str]:
    """The row as it is written in the table, and what it changes of the present one."""
    if "environment" not in results:
        return [f"{file} has no results of a device"]
    new, old = decide(results, f"results/{file.name}"), defaults_of(_device(results))
    values = dataclasses.asdict(new)
    written = {
        field.name: values[field.name]
        for field in dataclasses.fields(new)
        if field.default is dataclasses.MISSING or values[field.name] != field.default
    }
    text = ["the row of lenet_jax/device_defaults.py that these results imply:"]
    text.append(f"Defaults({', '.join(f'{name}={value!r}' for name, value in written.items())})")
    before = dataclasses.asdict(old)
    text += [
        f"  {name}: {before[name]!r} → {value!r}"
        for name, value in values.items()
        if value != before[name]
    ] or ["  which is the present one"]
    return text + _memory_remarks(results)


def _memory_remarks(results: Mapping[str, Any]) -> list[str]:
    """The populations that need more memory than a sweep expects, a line each."""
    variants = results["stages"].get("populations", {}).get("results", {}).get("variants", [])
    text = []
    for row in variants:
        if "error" not in row and row["form"] in BACKENDS:
            parts, expected = row["memory_planned_by_xla"], row["memory_estimated_for_sweeps"]
            need = parts["temp"] + parts["argument"] + parts["output"] - parts["alias"]
            if need > expected:
                text.append(
                    f"  {row['members']:,} members need {need / 1e9:.1f} GB, a sweep expects"
                    f" {expected / 1e9:.1f} GB: raise windows_held"
                )
    return text


def _speeds(rows: Sequence[Mapping[str, Any]], field: str) -> Speeds:
    """Images a second by the values of a field, all else equal, in the largest population.

    By the number of members, of the variants that were measured with the most.
    """
    groups: dict[tuple[Any, ...], Speeds] = {}
    for row in rows:
        others = tuple(row[name] for name in FIELDS if name != field)
        groups.setdefault(others, {})[row[field]] = row["images_per_second"]
    several = [(others, speeds) for others, speeds in groups.items() if len(speeds) > 1]
    if field == "members":
        return max((speeds for _, speeds in several), key=len, default={})
    return max(several, key=lambda item: item[0], default=((), {}))[1]


def _is_faster(speeds: Speeds, one: Any, other: Any) -> bool:
    return one in speeds and other in speeds and speeds[one] > NOISE * speeds[other]


def _device(results: Mapping[str, Any]) -> Any:
    environment = results["environment"]
    platform = environment.get("jax_backend", "gpu")  # which the first results lack
    return SimpleNamespace(platform=platform, device_kind=environment["devices"][0])
