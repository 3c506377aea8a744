"""The flags of executors, and the executor that they ask for."""

from concurrent.futures import Executor
from typing import Any

from absl import flags

from lenet_jax.errors import UserError, show

# Options of sbatch, of which a script for `--print_sbatch` takes the same.
SBATCH = {
    "partition": "of the jobs; default: the site's",
    "time": "minutes that a job may take",
    "gres": "for each job, such as gpu:1",
    "cpus_per_task": "cores of a job",
    "mem": "memory of a job, such as 8G",
    "account": "to charge",
    "qos": "quality of service",
    "constraint": "features of nodes",
    "setup": "a command of the shell to begin with, such as `module load cuda`",
}
INTEGERS = ("time", "cpus_per_task")


def define_flags(values: flags.FlagValues) -> None:
    """Defines --executor, and those of each executor."""
    flags.DEFINE_string(
        "executor",
        "local",
        "what trains the chunks: local (this process), ray[:HOST:PORT], or slurm",
        values,
    )
    flags.DEFINE_integer(
        "attempts", 3, "how often a chunk is tried; default: 3", lower_bound=1, flag_values=values
    )
    flags.DEFINE_float("ray.num_cpus", 1, "cores of a chunk", lower_bound=0, flag_values=values)
    flags.DEFINE_float(
        "ray.num_gpus",
        None,
        "GPUs of a chunk, less than 1 to share one; default: 1 if the cluster has any",
        lower_bound=0,
        flag_values=values,
    )
    for name, meaning in SBATCH.items():
        if name in INTEGERS:
            flags.DEFINE_integer(f"slurm.{name}", None, meaning, 1, flag_values=values)
        else:
            flags.DEFINE_string(f"slurm.{name}", None, meaning, values)
    for name, default, meaning in (
        ("jobs", 100, "jobs in the queue at once"),
        ("chunks_per_job", 1, "chunks that a job trains, one after the other"),
    ):
        flags.DEFINE_integer(f"slurm.{name}", default, meaning, 1, flag_values=values)


def make_executor(values: flags.FlagValues, folder: str) -> Executor | None:
    """The executor that flags ask for; None: this process.

    Args:
      values: of `define_flags`.
      folder: where Slurm's jobs leave their results and logs.

    Raises:
      UserError: there is none of that name, what it needs is missing, or a flag is another's.
    """
    executor: str = _value(values, "executor")
    name, _, address = executor.partition(":")
    for flag in values:
        prefix, dot, _ = flag.partition(".")
        if dot and prefix in ("ray", "slurm") and values[flag].present and prefix != name:
            raise UserError(f"--{flag} needs --executor={prefix}, or for slurm --print_sbatch")
    if name == "ray":
        from lenet_jax.executors.ray_cluster import RayExecutor

        cpus, gpus = _value(values, "ray.num_cpus"), _value(values, "ray.num_gpus")
        return RayExecutor(address or None, cpus, gpus)
    if executor == "slurm":
        from lenet_jax.executors.slurm import SlurmExecutor

        jobs, chunks = (_value(values, f"slurm.{key}") for key in ("jobs", "chunks_per_job"))
        options = sbatch_options(values)
        if "mem" in options:  # which submitit takes as gigabytes
            options["additional_parameters"] = {"mem": options.pop("mem")}
        if "setup" in options:
            options["setup"] = [options.pop("setup")]
        return SlurmExecutor(folder, jobs=jobs, tasks_per_job=chunks, **options)
    if executor != "local":
        known = "local, ray, ray:HOST:PORT or slurm"
        raise UserError(f"--executor={show(values['executor'].value)}: must be {known}")
    return None


def sbatch_options(values: flags.FlagValues) -> dict[str, Any]:
    """The options of sbatch that are given."""
    given = {name: _value(values, f"slurm.{name}") for name in SBATCH}
    return {name: value for name, value in given.items() if value is not None}


def _value(values: flags.FlagValues, name: str) -> Any:
    return values[name].value
