"""`lenet_jax.train`: a run from Python."""

import time
from pathlib import Path

from lenet_jax import config as configs
from lenet_jax.errors import UserError
from lenet_jax.main import use_compilation_cache, use_cores
from lenet_jax.network import Trained
from lenet_jax.trained import load


def train(config: configs.Config | str, workdir: str | Path | None = None) -> Trained:
    """Trains a run, as the command does, and gives its network; a finished run is only loaded.

    Args:
      config: from `lenet_jax.config`, or the name of a config file, `FILE.py[:ARG]`, which runs as
        code.
      workdir: the run directory; None: a new one in `runs`, called by the time.

    Raises:
      UserError: the config, the data or the directory is not what it should be, or the run
        diverged.
      KeyboardInterrupt: it was stopped; the same call goes on with it.
    """
    use_compilation_cache()
    use_cores()
    from lenet_jax.run import DIVERGED, DONE, run  # late: JAX reads the environment

    started = time.perf_counter()
    workdir = str(workdir or time.strftime("runs/%Y-%m-%d_%H.%M.%S"))
    checked = configs.load(config) if isinstance(config, str) else configs.replace(config, {})
    command = ["python", "-c", f"import lenet_jax; lenet_jax.train(…, {workdir!r})"]
    code = run(checked, workdir, command, started)
    if code == DIVERGED:
        raise UserError(f"the run in {workdir} diverged: its loss stopped being finite")
    if code != DONE:
        raise KeyboardInterrupt
    return load(workdir)
