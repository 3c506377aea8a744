"""Runs `lenet_jax.main` and kills its own process with SIGKILL at a chosen moment.

    python -m experiments.killed save:17:0 --config=configs/notes.py:smoke --workdir=runs/killed

A moment KIND:NTH:MILLISECONDS is that long after the nth event of a kind in this process:

- `compile`: a program is compiled or read from the cache;
- `step`: work is dispatched to the device;
- `write`: the arrays of a checkpoint are encoded;
- `save`, `delete`, `log`, `finish`: a file is opened, created, renamed or removed that belongs to a
  new checkpoint, to an outdated one, to the metrics, or to the results;
- `unsynced`: as `log`, on a disk that never finishes to sync a checkpoint.

`never` lets the run finish. Figures are not drawn: no kill could harm them.
"""

import os
import re
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from lenet_jax import machine, main

FILES = {
    "save": re.compile(r"/checkpoints/\.\d+\.draft"),
    "log": re.compile(r"metrics\.|/tensorboard"),
    "unsynced": re.compile(r"metrics\."),
    "finish": re.compile(r"model\.safetensors|summary\.json"),
}
CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")


class Moment:
    """Counts events of one kind and kills the process after the nth."""

    def __init__(self, text: str):
        kind, nth, milliseconds = text.split(":")
        self.kind, self._left, self._seconds = kind, int(nth), float(milliseconds) / 1000

    def record(self, kind: str) -> None:
        """Counts an event that is about to happen."""
        if kind != self.kind:
            return
        self._left -= 1
        if self._left == 0:
            if self._seconds:
                timer = threading.Timer(self._seconds, os.kill, (os.getpid(), signal.SIGKILL))
                timer.daemon = True
                timer.start()
            else:
                os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """Hooks into every kind of event."""
        import jax  # late: it reads the environment, which names the cache

        from lenet_jax.storage import checkpoint

        def hook(holder: Any, name: str, kind: str) -> None:
            original = getattr(holder, name)

            def record_and_call(*args: Any, **kwargs: Any) -> Any:
                self.record(kind)
                return original(*args, **kwargs)

            setattr(holder, name, record_and_call)

        def listen(event: str, **_: Any) -> None:
            if event == "/jax/compilation_cache/compile_requests_use_cache":
                self.record("compile")

        rmtree, deleting = shutil.rmtree, threading.local()

        def delete(*args: Any, **kwargs: Any) -> None:
            deleting.now = True
            rmtree(*args, **kwargs)
            deleting.now = False

        def audit(event: str, args: tuple[Any, ...]) -> None:
            if event in CHANGES:
                if getattr(deleting, "now", False):
                    self.record("delete")
                for kind, pattern in FILES.items():
                    if pattern.search(str(args[0])):
                        self.record(kind)

        fsync = os.fsync

        def sync(descriptor: int) -> None:
            if FILES["save"].search(str(Path(f"/proc/self/fd/{descriptor}").readlink())):
                threading.Event().wait()
            fsync(descriptor)

        if self.kind == "unsynced":
            os.fsync = sync
        jax.monitoring.register_event_listener(listen)
        hook(jax.stages.Compiled, "__call__", "step")
        hook(checkpoint, "encode", "write")
        shutil.rmtree = delete
        sys.addaudithook(audit)


if __name__ == "__main__":
    machine.use_compilation_cache()
    Moment(sys.argv[1]).watch()
    from lenet_jax.runs import figures as report

    report.draw_figures = lambda *_: []
    sys.exit(main.main(sys.argv[2:]))
