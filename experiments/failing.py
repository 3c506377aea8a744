"""Commands on a disk of which one operation fails: the nth open, write, fsync, rename, ….

`Disk` takes the place of what Python changes files with, below one folder, and fails what it is
asked to. `try_command` runs a command so, and says what was wrong: an exit code other than 4 (a
disk fault) or 2 (any other), a traceback, more than three lines, a half-written file under its
name, or other results once the command is repeated on a disk that works.
"""

import builtins
import contextlib
import errno
import io
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from lenet_jax.errors import DISK_FAULTS, ExitCode, run_command

# How each kind of operation fails here; a full disk is met by the first three.
ERRORS = {
    "open": (errno.ENOSPC, errno.EACCES, errno.EIO),
    "write": (errno.ENOSPC, errno.EIO, errno.EDQUOT),
    "fsync": (errno.EIO, errno.ENOSPC),
    "mkdir": (errno.ENOSPC, errno.EACCES),
    "rename": (errno.EIO, errno.EROFS, errno.EACCES),
    "unlink": (errno.EIO, errno.EROFS),
}
FUNCTIONS = {
    "mkdir": ("mkdir",),
    "rename": ("rename", "replace"),
    "unlink": ("unlink", "remove", "rmdir"),
}
# A network that is trained in a second.
SMALL = {
    "data.train_examples": 200,
    "data.valid_examples": 50,
    "model.channels": (2, 3),
    "model.features": (8, 6),
    "model.backend": "plain",
    "train.num_epochs": 2,
}
TIMES = re.compile(rb'"(\w*seconds\w*|images_per_second)": [\d.e+-]+')
# What no two runs have in common: records of a process, and sums of files with times in them.
RECORDS = re.compile(r"(.*/)?(run\.json|environment\.json|notes\.json|SHA256SUMS|tensorboard/.*)")


class Fault(NamedTuple):
    """The nth operation of a kind, from 1, fails with an error number."""

    kind: str
    nth: int
    number: int


class Disk:
    """Counts the operations that change files below a folder, and fails one of them.

    Attributes:
      counts: how many operations there were of each kind.
      failed: the path of the operation that failed; None: none did.
    """

    def __init__(self, folder: Path, fault: Fault | None = None):
        self._folder, self._fault = str(folder), fault
        self.counts: Counter[str] = Counter()
        self.failed: str | None = None

    @contextlib.contextmanager
    def watch(self) -> Iterator["Disk"]:
        """Takes the place of `open` and of functions of `os`, in all threads."""
        with contextlib.ExitStack() as patches:

            def patch(module: Any, name: str, function: Callable[..., Any]) -> None:
                patches.enter_context(mock.patch.object(module, name, function))

            original = io.open

            def open_file(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
                if not set(mode) & set("wxa+") or not self._has(file):
                    return original(file, mode, *arguments, **options)
                self.happen("open", os.fspath(file))
                return self._open(file, mode, *arguments, **options)

            for module in (io, builtins):
                patch(module, "open", open_file)
            for kind, names in FUNCTIONS.items():
                for name in names:
                    patch(os, name, self._wrap(kind, getattr(os, name)))
            fsync = os.fsync

            def sync(descriptor: int) -> None:
                if self._has(path := _path_of(descriptor)):
                    self.happen("fsync", path, named=False)
                fsync(descriptor)

            patch(os, "fsync", sync)
            yield self

    def happen(self, kind: str, path: str, *, named: bool = True) -> None:
        """Counts an operation; raises OSError, which has the path if it is named, if it fails."""
        self.counts[kind] += 1
        if self._fault is not None and (kind, self.counts[kind]) == self._fault[:2]:
            self.failed = path
            number = self._fault.number
            raise OSError(number, os.strerror(number), *([path] if named else []))

    def _has(self, path: Any) -> bool:
        if isinstance(path, int):  # a descriptor
            return False
        return os.fspath(Path(path).absolute()).startswith(self._folder)

    def _wrap(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            folder = options.get("dir_fd")
            whole = os.fspath(path) if folder is None else f"{_path_of(folder)}/{path}"
            if self._has(whole):
                self.happen(kind, whole)
            return function(path, *arguments, **options)

        return call

    def _open(
        self,
        file: Any,
        mode: str,
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        raw = _File(self, file, mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        buffer = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline)


class _File(io.FileIO):
    """A file of which a write that fails has written half, as on a disk that is full."""

    def __init__(self, disk: Disk, file: Any, mode: str):
        super().__init__(file, mode)
        self._disk = disk

    def write(self, data: Any, /) -> int:
        try:
            self._disk.happen("write", str(self.name), named=False)
        except OSError:
            super().write(memoryview(data)[: len(data) // 2])
            raise
        return super().write(data)


class Command(NamedTuple):
    """A command and its arguments, given the folder that it writes to.

    Attributes:
      name: in messages.
      main: takes the arguments, and returns the exit code.
      arguments: of the folder.
      before: what the folder has from the start; None: it does not exist.
    """

    name: str
    main: Callable[[Sequence[str]], int]
    arguments: Callable[[Path], list[str]]
    before: Path | None = None

    def run(self, folder: Path, fault: Fault | None = None) -> tuple[int, str, Disk]:
        """Runs it: the exit code, what it printed to standard error, and the disk."""
        disk, error = Disk(folder, fault), io.StringIO()
        arguments = self.arguments(folder)
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(error),
            disk.watch(),
        ):
            code = run_command(self.main, arguments)
        return code, error.getvalue(), disk

    def prepare(self, folder: Path) -> None:
        """Brings the folder to its state before the command."""
        shutil.rmtree(folder, ignore_errors=True)
        if self.before is not None:
            shutil.copytree(self.before, folder)


def undisturbed(command: Command, folder: Path) -> tuple[dict[str, bytes], Counter[str]]:
    """The results of a command on a disk that works, and the operations of each kind.

    Raises:
      RuntimeError: the command fails.
    """
    command.prepare(folder)
    code, error, disk = command.run(folder)
    if code:
        raise RuntimeError(f"{command.name}: exit code {code}\n{error}")
    return results(folder), disk.counts


def faults(counts: Counter[str], step: int = 1) -> list[Fault]:
    """Each operation of each kind, or every `step`th, with the errors in turn."""
    return [
        Fault(kind, nth, errors[nth // step % len(errors)])
        for kind, errors in ERRORS.items()
        for nth in range(min(step, max(1, counts[kind])), counts[kind] + 1, step)
    ]


def try_command(
    command: Command, folder: Path, fault: Fault, expected: dict[str, bytes]
) -> list[str]:
    """What is wrong with a command of which one operation fails; empty: nothing.

    Args:
      command: the command.
      folder: to write to; what is there is deleted.
      fault: the operation that fails.
      expected: the results of the undisturbed command.
    """
    command.prepare(folder)
    code, error, disk = command.run(folder, fault)
    if disk.failed is None:  # threads do not always come to the same number of operations
        return []
    place = f"{command.name}, {fault.kind} {fault.nth} of {Path(disk.failed).name}"
    wrong = [f"half-written: {name}" for name in half_written(folder, expected)]
    allowed = ExitCode.DISK if fault.number in DISK_FAULTS else ExitCode.USAGE
    if code not in (allowed, ExitCode.DONE):
        wrong.append(f"exit code {code} of {os.strerror(fault.number)}: {error}")
    if code and not 1 <= len(error.splitlines()) <= 3:
        wrong.append(f"{len(error.splitlines())} lines: {error}")
    if code:
        code, error, _ = command.run(folder)
        if code:
            wrong.append(f"repeated, exit code {code}: {error}")
    actual = results(folder)
    names = [name for name in actual | expected if actual.get(name) != expected.get(name)]
    if names:
        wrong.append(f"other results: {', '.join(names)}")
    return [f"{place}: {line}" for line in wrong]


def results(folder: Path) -> dict[str, bytes]:
    """The files below a folder that two undisturbed commands have in common, without times."""
    found = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in Path(name).parts)
        if file.is_dir() or hidden or RECORDS.fullmatch(name):
            continue
        content = file.read_bytes()
        if file.suffix in (".json", ".jsonl"):
            content = TIMES.sub(b"", content)
        if file.suffix == ".csv":  # whose last column is of times
            content = re.sub(rb",[^,\n]*$", b"", content, flags=re.MULTILINE)
        if file.suffix == ".html":  # which may have these lines as lists
            content = re.sub(rb", [0-9.e-]+\]", b"]", content)
        found[name] = content
    return found


def half_written(folder: Path, expected: dict[str, bytes]) -> list[str]:
    """The files below a folder of which there is only a beginning."""
    half = []
    for name, content in results(folder).items():
        whole = expected.get(name, b"")
        if name.endswith((".csv", ".jsonl")):
            complete = not content or content.endswith(b"\n")
        else:
            complete = len(content) >= len(whole) or not whole.startswith(content)
        half += [] if complete else [name]
    return half


def commands(base: Path) -> list[Command]:
    """All commands that write files, for a small network, which is trained first.

    Args:
      base: a folder for the network and a sweep.
    """
    from lenet_jax import export, inspect, main, sweep, torch_bridge  # late: JAX

    train = [f"--config.{key}={value}" for key, value in SMALL.items()]
    train.insert(0, "--config=configs/notes.py")
    train_all = [*train, "--sweep=configs/sweeps/seeds.py:4", "--chunk_size=2"]
    network, swept = base / "network", base / "swept"

    def exported(kind: str) -> Command:
        return Command(
            f"export {kind}",
            export.main,
            lambda out: [
                f"--workdir={network}",
                f"--format={kind}",
                f"--out={out / 'net.safetensors'}",
            ],
        )

    def swept_by(name: str, *flags: str, before: Path | None = None) -> Command:
        return Command(
            name, sweep.main, lambda out: [*train_all, f"--workdir={out}", *flags], before
        )

    run = Command("main", main.main, lambda out: [*train, f"--workdir={out}"])
    undisturbed(run, network)
    undisturbed(swept_by("sweep"), swept)
    return [
        run,
        swept_by("sweep"),
        swept_by("collect", "--collect", before=swept),
        exported("safetensors"),
        exported("torch"),
        Command(
            "convert",
            torch_bridge.main,
            lambda out: ["convert", str(network), str(out / "net.safetensors")],
            base / "network" / "checkpoints",
        ),
        Command("inspect", inspect.main, lambda out: [f"--workdir={network}", f"--out={out}"]),
    ]


def try_all(step: int) -> dict[str, Any]:
    """Fails every `step`th operation of every command: how many each, and what was wrong."""
    tried, wrong = {}, []
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        for command in commands(base):
            expected, counts = undisturbed(command, base / "out")
            chosen = faults(counts, step)
            for fault in chosen:
                wrong += try_command(command, base / "out", fault, expected)
            tried[command.name] = {"operations": counts.total(), "failed": len(chosen)}
            print(f"{command.name}: {tried[command.name]}, wrong: {wrong}", flush=True)
    return {"tried": tried, "wrong": wrong}


def _path_of(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115  `Path` would count
