"""A Slurm of its own on one machine: munged, slurmctld and slurmd, as root, in a folder."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1
MaxArraySize=4
KillWait=2
ReturnToService=2
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{second}] CPUs={cpus}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why Slurm cannot be started here; None if it can."""
    for name in ("munged", "slurmctld", "slurmd", "sbatch", "srun"):
        if shutil.which(name) is None:
            return f"{name} is not installed"
    return None if os.geteuid() == 0 else "Slurm is started as root"


@contextlib.contextmanager
def cluster(folder: Path, cpus: int = 1) -> Iterator[Path]:
    """Starts a cluster of two nodes; yields its configuration for `SLURM_CONF`.

    Args:
      folder: an empty one.
      cpus: the cores that each node has in Slurm's books; all nodes are this machine.
    """
    (folder / "state").mkdir()
    host = socket.gethostname().partition(".")[0]
    controller, first = _free_ports()
    config = folder / "slurm.conf"
    ports = {"controller": controller, "first": first, "second": first + 1}
    config.write_text(CONFIG.format(host=host, folder=folder, cpus=cpus, **ports))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    environment = os.environ | {"SLURM_CONF": str(config)}
    files = {name: f"--{name}-file={folder / 'munge'}.{name}" for name in ("pid", "log", "seed")}
    munge = ["munged", "--foreground", "--force", f"--key-file={key}", *files.values()]
    munge += [f"--socket={folder / 'munge.socket'}"]
    commands = [munge, ["slurmctld", "-D", "-c"], *(["slurmd", "-D", "-N", n] for n in NODES)]
    with contextlib.ExitStack() as running, (folder / "output").open("w") as output:
        for command in commands:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            running.callback(process.wait)
            running.callback(process.terminate)
        deadline = time.monotonic() + 60
        while _idle(environment) < len(NODES):
            if time.monotonic() > deadline:
                raise TimeoutError((folder / "output").read_text())
            time.sleep(0.2)
        yield config


NODES = ("n1", "n2")


def _idle(environment: dict[str, str]) -> int:
    """How many nodes take jobs."""
    command = ["sinfo", "--noheader", "--Node", "-o%t"]
    listed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return listed.stdout.split().count("idle")


def _free_ports() -> tuple[int, int]:
    """Two ports, the second with a free one after it."""
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(2)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        one, other = (each.getsockname()[1] for each in sockets)
        return one, other
