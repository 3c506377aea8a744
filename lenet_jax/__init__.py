"""LeNet-class networks in JAX: trained, swept and understood.

    network = lenet_jax.train("configs/notes.py", workdir="runs/first")
    network = lenet_jax.load("runs/first")
    network.predict(images), network.features(images), network.plot()

Importing the package costs nothing: JAX is imported with the first call.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

# What starts `python -m lenet_jax.…` and the console script, which are quiet under Ctrl-C at once.
COMMANDS = ("-m", "lenet-jax", "lenet-jax.exe", "lenet-jax-script.py")

if sys.argv and os.path.basename(sys.argv[0]) in COMMANDS:  # noqa: PTH119
    from lenet_jax.errors import begin_program

    begin_program()

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Executor
    from pathlib import Path
    from typing import Any

    from lenet_jax.config import Config
    from lenet_jax.data import Dataset
    from lenet_jax.inference.network import Network
    from lenet_jax.sweeps.collected import SweepResults

__all__ = ["__version__", "load", "load_sweep", "train", "train_sweep"]

__version__ = "0.1.0"


def train(
    config: Config | str | Path,
    workdir: str | Path | None = None,
    *,
    data: Dataset | Sequence[Any] | None = None,
    hooks: Sequence[Any] = (),
) -> Network:
    """Trains a run, as the command does, and returns its network; a finished run is only loaded.

    In a script, Ctrl-C and SIGTERM save a checkpoint first. In a thread, a notebook or an event
    loop, signals are left alone, and the run resumes from its last checkpoint.

    Args:
      config: from `lenet_jax.config`, or the name of a config file, `FILE.py[:ARG]`, which runs as
        code; or a run directory, to repeat it.
      workdir: the run directory; None: a new one in `runs`, named after the time.
      data: instead of what `config.data.name` names: (x, y) or (x, y, x_test, y_test), see
        `lenet_jax.data.from_arrays`, which the other keys of `config.data` fit and split; or a
        `lenet_jax.data.Dataset`. The run does not store them: a resume needs the same again.
      hooks: objects that the run calls, and whose answers it ignores. Each has one or more of
        `on_start(workdir, config, epoch)`: before training, with the folder, the config as nested
          dicts, and the complete epochs, 0 of a new run;
        `on_epoch(row, network)`: after each epoch, with its metrics as in `metrics.jsonl`, and a
          function that returns the network as it is then;
        `on_end(status, summary)`: at the end, with `done`, `interrupted` or `diverged`, and the
          content of `summary.json`, empty unless the run is done.
        They change no bit of the run; they are called while the next epoch trains, and count as
        training if they take longer. A hook that fails ends the run after a checkpoint is saved,
        and `on_end` is not called; nor is any hook of a run that was finished before.

    Raises:
      UserError: the config, the data or the directory is not valid, the run diverged, or a hook
        failed; the same call resumes the run then, unless it is finished.
      KeyboardInterrupt: the run was stopped; the same call resumes it.
    """
    import time

    started = time.perf_counter()
    from lenet_jax import config as configs
    from lenet_jax.config.networks import is_code
    from lenet_jax.errors import IF_DIVERGED, ExitCode, UserError

    checked = _prepare(config, data)
    from lenet_jax.runs.run import run  # JAX reads the environment

    workdir = str(workdir or time.strftime("runs/%Y-%m-%d_%H.%M.%S"))
    dataset, more = None, ""
    if data is not None:
        from lenet_jax.data.arrays import given

        dataset, more = given(data, **checked.data), ", data=…"
    command = ["python", "-c", f"import lenet_jax; lenet_jax.train(…, {workdir!r}{more})"]
    is_name = isinstance(config, str | os.PathLike)
    repeats = configs.saved_config(os.fspath(config)) if is_name else None
    code = run(checked, workdir, command, started, repeats=repeats, dataset=dataset, hooks=hooks)
    if code == ExitCode.DIVERGED:
        raise UserError(
            f"the run in {workdir} diverged: its loss stopped being finite\n{IF_DIVERGED}"
        )
    if code != ExitCode.DONE:
        raise KeyboardInterrupt
    name = checked.model.name  # of a file that ran just now, so it may again
    return load(workdir, **({"model": name} if is_code(name) else {}))


def train_sweep(
    config: Config | str | Path,
    sweep: str | Path | Sequence[Mapping[str, Any]],
    workdir: str | Path | None = None,
    *,
    data: Dataset | Sequence[Any] | None = None,
    executor: Executor | None = None,
    **options: Any,
) -> SweepResults:
    """Trains a sweep, as the command does; of one that is there, the members that are missing.

        rates = sweep("optimizer.learning_rate", [0.01, 0.1])  # of lenet_jax.sweeps.file
        results = lenet_jax.train_sweep("configs/notes.py", rates, "runs/rates", data=(x, y))
        results.rows, results.plot(), results.network(member=1)

    Args:
      config: as for `train`; members override it.
      sweep: the overrides of each member, which `lenet_jax.sweeps.file` combines; or the name of a
        sweep file, `FILE.py[:ARG]`, which runs as code.
      workdir: as for `train`; or a URL, such as `s3://bucket/folder`.
      data: as for `train`; members may vary how arrays are fitted and split.
      executor: what trains the chunks, each a task: any `concurrent.futures.Executor`, such as a
        process pool that spawns its processes, those of Dask or mpi4py, or of
        `lenet_jax.executors`. None: this process. Results do not depend on it.
      **options: `save`, `record`, `record_every`, `record_split`, `record_dtype`, `corruptions`,
        `shared_data_order`, `strategy` and `chunk_size`, as the command's flags.

    Returns:
      The results, as `load_sweep`.

    Raises:
      TypeError: an option is none of these.
      UserError: the config, an option, the sweep, the data or the directory is not valid.
      KeyboardInterrupt: the sweep was stopped; the same call resumes it.
    """
    import time

    from lenet_jax.errors import ExitCode, UserError, writing
    from lenet_jax.sweeps import file

    checked = _prepare(config, data)
    from lenet_jax.sweeps.options import make_options
    from lenet_jax.sweeps.run import load_with, run  # JAX reads the environment

    workdir = str(workdir or time.strftime("runs/%Y-%m-%d_%H.%M.%S"))
    chosen = make_options(workdir, **options)
    if chosen.shared_data_order:
        checked = file.share_order(checked)
    members = file.load(sweep, checked)
    more = "" if data is None else ", data=…"
    command = ["python", "-c", f"import lenet_jax; lenet_jax.train_sweep(…, {workdir!r}{more})"]
    load_data = load_with(data, members)
    with writing(workdir):
        code = run(checked, members, chosen, command, load_data, executor)
    if code == ExitCode.LOST:
        raise UserError(f"chunks of {workdir} failed on all tries; the same call tries again")
    if code not in (ExitCode.DONE, ExitCode.DIVERGED):
        raise KeyboardInterrupt
    return load_sweep(workdir)


def _prepare(config: Config | str | Path, data: Any) -> Config:
    """Sets JAX up, before it is imported, and checks a config, which `data` may give the data."""
    from lenet_jax import config as configs
    from lenet_jax import machine
    from lenet_jax.device import require_device
    from lenet_jax.errors import UserError, show

    machine.use_compilation_cache()
    machine.use_cores()
    require_device()
    if isinstance(config, str | os.PathLike):
        checked = configs.load(os.fspath(config))
    elif hasattr(config, "items"):
        checked = configs.replace(config, {})
    else:
        kind = show(type(config).__name__)
        raise UserError(f"config must be a config, or the name of a file or a run, not {kind}")
    if data is None:
        return checked
    from lenet_jax.data.arrays import GIVEN

    return configs.replace(checked, {"data.name": GIVEN})


def load(
    path: str | Path, member: int | None = None, *, epoch: int | None = None, **description: Any
) -> Network:
    """Loads a trained network.

    Args:
      path: a run directory; a file of weights, of safetensors or PyTorch; or, with `member`, a
        sweep directory, which is also `SWEEP:7`, and after epoch 3 `SWEEP:7@3`.
      member: the number of a sweep's member.
      epoch: of a member: after which, if it is recorded; 0: before the first; None: the best.
      **description: what a file of weights does not say: `activation`, `pool`, `padding`, `mean`,
        `std`, `fit`, `layers` (or `map`), or `model`, the class of a network of one's own; see
        `lenet_jax.inference.description.Description`.

    Raises:
      TypeError: a keyword is none of these.
      UserError: the path does not exist, or what it holds is damaged or unfinished.
    """
    from lenet_jax.device import require_device

    require_device()
    from dataclasses import fields

    from lenet_jax.inference.description import Description
    from lenet_jax.inference.load import load

    if "map" in description:  # as the flag is called
        description["layers"] = description.pop("map")
    names = [field.name for field in fields(Description)]
    if unknown := ", ".join(name for name in description if name not in names):
        raise TypeError(f"lenet_jax.load takes {', '.join(names)}; not {unknown}")
    return load(path, member, Description(**description), epoch=epoch)


def load_sweep(path: str | Path) -> SweepResults:
    """Loads the results of a sweep: its table, its figure, its networks, and what it recorded.

        results = lenet_jax.load_sweep("runs/rates")
        results.table  # a DataFrame, a row a member
        results.logits, results.weights(epoch=3)  # arrays of all members, on the disk
        results.network(member=1)

    While the sweep runs, or after it was stopped, they are of the chunks that are finished. From a
    URL, such as `s3://bucket/folder`, the sweep is copied to the cache folder first.

    Raises:
      UserError: there are none, or they are damaged.
    """
    from lenet_jax.device import require_device

    require_device()
    from lenet_jax.sweeps.collected import load_results

    return load_results(path)
