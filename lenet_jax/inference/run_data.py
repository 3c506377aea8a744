"""The data that a network was trained on, found from any folder, and whether they are the same."""

from pathlib import Path

from lenet_jax import data
from lenet_jax.config import Config
from lenet_jax.data.dataset import GIVEN
from lenet_jax.data.paths import resolve
from lenet_jax.errors import UserError, show
from lenet_jax.inference.torch_names import Say
from lenet_jax.reading import read_json
from lenet_jax.storage.formats import RunRecord
from lenet_jax.storage.run_dir import RECORD
from lenet_jax.storage.sweep_dir import SweepDir, is_sweep


def load_data(config: Config, folder: Path, source: str, say: Say) -> data.Dataset:
    """Loads the data of a run, or of a sweep's member.

    Args:
      config: of the run or the member.
      folder: of the run or the sweep.
      source: its name, for people.
      say: is given a remark if the data are not those that it was trained on.

    Raises:
      UserError: they cannot be read.
    """
    if config.data.name == GIVEN:
        raise UserError(
            f"the data of {show(source)} were {GIVEN}, and are not stored\n"
            "Write them with lenet_jax.data.write_idx(FOLDER, …), and train with data.name=FOLDER."
        )
    working_directory, fingerprints = _recorded(folder)
    values = dict(config.data)
    if working_directory is not None:
        values["name"] = resolve(values["name"], Path(working_directory))
        if values["data_dir"] is not None:
            values["data_dir"] = str(Path(working_directory, values["data_dir"]).expanduser())
    dataset = data.load_section(values)
    if fingerprints and dataset.fingerprint not in fingerprints:
        say(
            f"the data {show(dataset.name)} are not those that {show(source)} was trained"
            " on: they, or how they are read, changed since"
        )
    return dataset


def _recorded(folder: Path) -> tuple[str | None, list[str]]:
    """Where a run or a sweep was started, if it says so, and the fingerprints of its data."""
    if is_sweep(folder):
        sweep = SweepDir(folder)
        plan = sweep.plan()
        fingerprints = plan["data_fingerprints"] if plan else []
        started_in = sweep.environment().get("working_directory")
        return started_in if isinstance(started_in, str) else None, fingerprints
    record = read_json(folder / RECORD, RunRecord)
    if record is None:
        return None, []
    return record.get("working_directory"), [record["data_fingerprint"]]
