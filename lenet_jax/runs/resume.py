"""What a run directory holds of an earlier process, and whether a run may resume it."""

from collections.abc import Mapping
from typing import Any

from lenet_jax import config as configs
from lenet_jax import data
from lenet_jax.errors import UserError
from lenet_jax.storage.run_dir import CONFIG, RECORD, SUMMARY, RunDir

# What the bits of a run depend on beside its config and data, by its name in `run.json`.
ENVELOPE = (
    *("versions", "processor", "xla_flags", "jax_backend", "devices_sharing_a_batch"),
    *("backend", "native_code"),
)


def look_back(
    directory: RunDir, config: configs.Config, dataset: data.Dataset
) -> tuple[str | None, dict[str, Any] | None]:
    """Checks that a run may resume what the directory holds.

    Returns:
      How the config extends the existing run, if it does; and the summary of that run, if it is
      finished.

    Raises:
      UserError: the existing run has another config or other data, or is damaged.
    """
    file, previous = directory.path / CONFIG, directory.read_json(RECORD)
    if previous is None or not file.exists():
        if directory.has_checkpoints():
            missing = RECORD if previous is None else file.name
            raise UserError(
                f"{directory.path} has checkpoints, but no {missing} that says what they belong to\n"
                "Restore a backup, or choose another --workdir to start over."
            )
        return None, None
    if not {"status", "data_fingerprint"} <= previous.keys():
        raise UserError(
            f"{directory.path / RECORD} is not what a run wrote\n"
            "Restore a backup, or choose another --workdir to start over."
        )
    old = configs.load_json(file)
    different = configs.differing_keys(old, config)
    extended = [key for key in different if key.startswith("train.num_epochs:")]
    if different != extended or config.train.num_epochs < old.train.num_epochs:
        raise UserError(
            f"{directory.path} holds a run of another config: {'; '.join(different)}\n"
            "Use the same config to resume it, or choose another --workdir to start over."
        )
    if previous["data_fingerprint"] != dataset.fingerprint:
        raise UserError(
            f"the data {dataset.name!r} changed since {directory.path} was started\n"
            "Restore the old data, or choose another --workdir to start over."
        )
    if extended:
        return extended[0], None
    return None, directory.read_json(SUMMARY) if previous["status"] == "done" else None


def what_changed(previous: Mapping[str, Any], record: Mapping[str, Any]) -> str | None:
    """The differences of two `run.json` that the bits of a run depend on, in a line, or None."""
    if "jax_backend" not in previous:  # both keys had other names once
        former = {"backend": "jax_backend", "lowering": "backend"}
        previous = {former.get(key, key): value for key, value in previous.items()}
    changed = []
    for key in ENVELOPE:
        was, now = previous.get(key), record[key]
        if isinstance(was, Mapping):  # of the versions, those that differ
            changed += [f"{k} {was[k]} → {now[k]}" for k in now if was.get(k, now[k]) != now[k]]
        elif key in previous and was != now:
            changed.append(f"{key} {was} → {now}")
    return "; ".join(changed) or None
