"""The results of a device as a few lines for people."""

from typing import Any


def lines(results: dict[str, Any]) -> list[str]:
    """A line for each stage, and for each of its main results."""
    stages, text = results["stages"], []
    environment = results.get("environment", {})
    versions = environment.get("versions", {})
    text.append(f"{', '.join(environment.get('devices', []))}; jax {versions.get('jax')}")
    for name, stage in stages.items():
        seconds = stage.get("seconds")
        took = "" if seconds is None else f" ({seconds:.0f} s)"
        text.append(f"{name}: {stage.get('status')}{took}")
        text += [f"  {line}" for line in DETAILS[name](stage.get("results", {}))]
    return text


def _correctness(results: dict[str, Any]) -> list[str]:
    text = []
    for name, checks in results.get("checks", {}).items():
        errors = [e["relative"] for check in checks.values() for e in check["errors"].values()]
        ties = sum(check.get("ties", 0) for check in checks.values())
        moved = sum(check.get("ties_moved", 0) for check in checks.values())
        text.append(f"{name}: error {max(errors):.1e}; {moved:,} of {ties:,} ties moved")
    return [
        *text,
        *(f"{name}: refused, {error[:80]}" for name, error in results.get("refused", {}).items()),
        f"{len(results.get('violations', []))} violations",
    ]


def _single(results: dict[str, Any]) -> list[str]:
    text = [
        f"{run['backend']}, {run['micro_batch_size']} images a gradient:"
        f" {100 * run['test_accuracy']:.2f} % after {run['epochs']} epochs and"
        f" {run['train_seconds']:.1f} s, {run['images_per_second']:,.0f} images/s,"
        f" {100 * run['target']:.0f} % after {_or_never(run['seconds_to_target'])},"
        f" compiled in {run['compile_seconds']:.1f} s"
        for run in results.get("runs", [])
    ]
    if "segments" in results:
        speed = results["segments"]["images_per_second"]
        text.append(f"the first of these in a run's own loop: {speed:,.0f} images/s")
    return text


def _populations(results: dict[str, Any]) -> list[str]:
    text = []
    for row in results.get("variants", []):
        name = f"{row['members']:>5} {row['form']}, {row['strategy']}, {row['micro_batch_size']}"
        name += ", shared order" * row["shared_data_order"] + f", {row['precision']}"
        if "error" in row:
            text.append(f"{name}: {row['error'].splitlines()[0][:80]}")
            continue
        planned = sum(row["memory_planned_by_xla"][part] for part in ("temp", "argument", "output"))
        peak = row["memory_of_process"]["peak_bytes_in_use"]
        text.append(
            f"{name}: {row['images_per_second']:,.0f} model-images/s; planned"
            f" {planned / 1e9:.1f} GB, peak {'?' if peak is None else f'{peak / 1e9:.1f}'} GB;"
            f" compiled in {row['compile_seconds']:.0f} s"
        )
    return text


def _thousand(results: dict[str, Any]) -> list[str]:
    return [
        f"{name}: {run['networks']:,} × {run['epochs']} epochs in {run['seconds']:.1f} s"
        f" ({run['seconds_extrapolated']:.1f} s for {run['epochs_asked_for']});"
        f" {100 * run['test_accuracy_mean']:.2f} ± {100 * run['test_accuracy_sd']:.2f} % (sd)"
        for name, run in results.items()
    ]


def _determinism(results: dict[str, Any]) -> list[str]:
    return [
        f"{name} flags: {'the same' if run['same_bits'] else 'other'} bits"
        for name, run in results.items()
    ]


def _profile(results: dict[str, Any]) -> list[str]:
    rates = {name: f"{rate:.2e}" for name, rate in results.get("peaks", {}).items()}
    text = [f"peak of {name}: {rate} a second" for name, rate in rates.items()]
    if "seconds_a_step" in results:
        text.append(
            f"a step: {1e3 * results['seconds_a_step']:.2f} ms,"
            f" {results['dense_flops_per_second']:.2e} dense FLOP/s,"
            f" {results['xla_bytes_per_second']:.2e} bytes/s"
        )
    for row in results.get("operations", [])[:8]:
        text.append(f"  {100 * row['share']:4.1f} %  {row['operation'][:80]}")
    return text


def _precision(results: dict[str, Any]) -> list[str]:
    return [
        f"{row['precision']}: {100 * row['test_accuracy_mean']:.3f} ±"
        f" {100 * row['test_accuracy_sd']:.3f} % (sd, {row['seeds']} seeds);"
        f" {100 * row['difference_from_highest_mean']:+.3f} ±"
        f" {100 * row['difference_from_highest_standard_error']:.3f} (standard error) of highest"
        for row in results.get("precisions", [])
    ]


def _modules(results: dict[str, Any]) -> list[str]:
    return [
        f"{row['config']}, {'fast forms' if row['rewrites'] else 'as written'}: "
        + (f"{row['images_per_second']:,.0f} model-images/s" if "error" not in row else "refused")
        for row in results.get("rows", [])
    ]


def _resume(results: dict[str, Any]) -> list[str]:
    if "same_table" not in results:
        return [f"left out: {results.get('left_out')}"]
    table = "the same" if results["same_table"] else "another"
    return [f"killed after {len(results['chunks_when_killed'])} of 3 chunks: {table} table"]


def _or_never(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f} s"


DETAILS = {
    "correctness": _correctness,
    "single": _single,
    "populations": _populations,
    "thousand": _thousand,
    "determinism": _determinism,
    "profile": _profile,
    "precision": _precision,
    "modules": _modules,
    "resume": _resume,
}
