"""What a run directory holds of an earlier process, and whether a run may go on with it."""

from collections.abc import Mapping
from typing import Any

from lenet_jax import config as configs
from lenet_jax import data
from lenet_jax.errors import UserError
from lenet_jax.storage.run_dir import RunDir

# What the bits of a run depend on beside its config and data, by its name in `run.json`.
ENVELOPE = (
    *("versions", "processor", "xla_flags", "jax_backend", "devices_sharing_a_batch"),
    *("backend", "native_code"),
)


def look_back(
    directory: RunDir, config: configs.Config, dataset: data.Dataset
) -> tuple[str | None, dict[str, Any] | None]:
    """Checks that a run may go on in the directory.

    Returns:
      By what the config extends the run that is there, if it does; and the summary of that run, if
      it is finished.

    Raises:
      UserError: the run is of another config or other data, or damaged.
    """
    file, previous = directory.path / "config.json", directory.read_json("run.json")
    if previous is None or not file.exists():
        if directory.has_checkpoints():
            lost = "run.json" if previous is None else file.name
            raise UserError(
                f"{directory.path} has checkpoints, but no {lost} that tells what they are of\n"
                "Bring it back, or take another --workdir to start anew."
            )
        return None, None
    if not {"status", "data_fingerprint"} <= previous.keys():
        raise UserError(
            f"{directory.path / 'run.json'} is not what a run wrote\n"
            "Bring it back, or take another --workdir to start anew."
        )
    old = configs.load_json(file)
    different = configs.differing_keys(old, config)
    extended = [key for key in different if key.startswith("train.num_epochs:")]
    if different != extended or config.train.num_epochs < old.train.num_epochs:
        raise UserError(
            f"{directory.path} holds a run of another config: {'; '.join(different)}\n"
            "Take the same config to go on with it, or another --workdir to start anew."
        )
    if previous["data_fingerprint"] != dataset.fingerprint:
        raise UserError(
            f"the data {dataset.name!r} changed since {directory.path} was begun\n"
            "Bring the old data back, or take another --workdir to start anew."
        )
    if extended:
        return extended[0], None
    return None, directory.read_json("summary.json") if previous["status"] == "done" else None


def what_changed(previous: Mapping[str, Any], record: Mapping[str, Any]) -> str | None:
    """What bits depend on and is not as it was, of two `run.json`, in a line; None: all is."""
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
