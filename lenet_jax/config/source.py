"""Python files that users name: a config, a sweep, a network, a loss. They run as code."""

import difflib
import functools
import hashlib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from lenet_jax.config.imports import files_of
from lenet_jax.errors import UserError, printable, show
from lenet_jax.reading import read_bytes

COMBINATORS = ("sweep", "product", "zipit", "chain")  # of `sweeps.file`
_copies: dict[str, str] = {}


def call_file(path_with_arg: str, function: str, kind: str) -> Any:
    """Runs `FILE.py[:ARG]` and calls one of its functions, with the argument if given.

    Args:
      path_with_arg: the file and the argument.
      function: the function's name.
      kind: `config` or `sweep`, for error messages.

    Raises:
      UserError: the file is missing, fails (with the line), or has no such function.
    """
    name, arg = split(path_with_arg)
    path = Path(name)
    source = read_source(path, kind)
    return guarded(path, lambda: _call(run_source(source, path), path, function, arg))


def read_source(path: Path, kind: str) -> bytes:
    """The text of a file; for `kind` see `call_file`.

    Raises:
      UserError: it is missing, or cannot be read.
    """
    try:
        return read_bytes(path)
    except FileNotFoundError as error:
        raise UserError(f"no {kind} file {show(path)}{_similar_file(path, kind)}") from error
    except OSError as error:
        raise UserError(f"cannot read {kind} file {show(path)}: {error.strerror}") from error


def run_source(source: bytes, path: Path, name: str | None = None) -> ModuleType:
    """Runs a file's text as a module, which is not imported: that would write bytecode beside it.

    Args:
      source: the text.
      path: of the file, for error messages.
      name: under which classes of the file find their module again; None: it has none.
    """
    module = ModuleType(name or path.stem)
    module.__file__ = str(path)
    if name is not None:
        sys.modules[name] = module
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module


def find_attribute(name: str, key: str, kind: str) -> Any:
    """What `FILE.py:NAME` or `package.module:NAME` names, which runs; None if it has no such name.

    Args:
      name: the file or module, and the name in it.
      key: the config key that has it, for error messages.
      kind: `network` or `loss`, likewise.

    Raises:
      UserError: there is no such file or module, or it fails.
    """
    where, attribute = _locate(name)
    if not where.endswith(".py"):
        return getattr(_import(where, key, attribute), attribute, None)
    path = Path(where)
    beside = code_of(name, kind) or b""  # edited, they have the file run again
    return getattr(_run_once(path, read_source(path, kind), kind, beside), attribute, None)


def text_of(name: str, kind: str) -> bytes | None:
    """The text of the file in `FILE.py:NAME`; None if the name has none.

    Raises:
      UserError: it cannot be read.
    """
    where, _ = _locate(name)
    return read_source(Path(where), kind) if where.endswith(".py") else None


def code_of(name: str, kind: str) -> bytes | None:
    """The texts of all files that the code in `FILE.py:NAME` or `package.module:NAME` is in.

    Returns:
      One after the other, see `files_of`; None if there is no file.

    Raises:
      UserError: one cannot be read.
    """
    where, attribute = _locate(name)
    files = files_of(where) if attribute else ()  # else it is built in
    return b"".join(read_source(path, kind) for path in files) or None


def files_text(name: str) -> str:
    """What the files of `code_of` are called in messages."""
    where, _ = split(name)
    others = [path.name for path in files_of(where)][1:]
    return f"{show(where)}{' or a file that it imports' if others else ''}"


def use_copies(copies: Mapping[str, str]) -> None:
    """Has files of the user read from elsewhere, on a machine that has only copies of them.

    Args:
      copies: where, by the names of the files as configs have them.
    """
    _copies.update(copies)


def located(name: str) -> str:
    """Where a file of the user is read from, see `use_copies`."""
    return _copies.get(name, name)


def guarded(path: Path, call: Callable[[], Any]) -> Any:
    """What `call` returns, which runs code of a file.

    Raises:
      UserError: it fails; the message has the line.
      KeyboardInterrupt: it was stopped.
    """
    try:
        return call()
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a file may call exit(), too
        message = f"{type(error).__name__}: {printable(error)}"
        if isinstance(error, NameError) and error.name in COMBINATORS:
            message += f"\nTo import it: from lenet_jax.sweeps.file import {error.name}"
        if isinstance(error, ValueError) and "assigned to static attribute" in message:  # of Flax
            message = f"{message[:120]}…\nPut layers into nnx.List([…]) or nnx.Dict({{…}})."
        raise UserError(f"{_line_in(path, error)}: {message}") from error


def split(path_with_arg: str) -> tuple[str, str]:
    """The path and the argument; the colon after a drive of Windows belongs to the path."""
    drive, rest = os.path.splitdrive(path_with_arg)
    name, _, arg = rest.partition(":")
    return drive + name, arg


def _locate(name: str) -> tuple[str, str]:
    """As `split`, with the path of the copy."""
    where, attribute = split(name)
    return located(where), attribute


def _call(module: ModuleType, path: Path, name: str, arg: str) -> Any:
    function = module.__dict__.get(name)
    if not callable(function):
        raise UserError(f"{show(path)} has no function {name}")
    arguments = [arg] if arg else []
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        needs = f"takes no argument, not {show(arg)}" if arg else "needs an argument: FILE.py:ARG"
        raise UserError(f"{show(path)}: its {name} {needs}") from error
    result = function(*arguments)
    if inspect.iscoroutine(result):
        result.close()  # which is never awaited
        raise UserError(f"{show(path)}: its {name} is async; take `async` away")
    return result


@functools.lru_cache(maxsize=16)
def _run_once(path: Path, source: bytes, kind: str, code: bytes) -> ModuleType:
    """Runs a file once for each of its contents, so that what it defines stays the same.

    Args:
      path: of the file.
      source: its text.
      kind: see `find_attribute`.
      code: its text and those of the files that it imports from beside it.
    """
    name = f"{kind}_{path.stem}_{hashlib.sha256(code).hexdigest()[:8]}"

    def run() -> ModuleType:
        beside = {module.partition(".")[0] for module in files_of(str(path)).values()}
        for module in [each for each in sys.modules if each.partition(".")[0] in beside]:
            del sys.modules[module]  # of an earlier text, or of another folder
        sys.path.insert(0, str(path.parent))  # for what it imports from beside it
        try:
            return run_source(source, path, name)
        finally:
            sys.path.remove(str(path.parent))

    return guarded(path, run)


def _import(name: str, key: str, attribute: str) -> ModuleType:
    def load() -> ModuleType:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            missing = error.name or name
            raise UserError(
                f"{key}: no module {show(missing)}"
                f"{'' if missing == name else f', which {show(name)} needs'}\n"
                f"Install it, or name a file: FILE.py:{show(attribute)}."
            ) from error

    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"{key}: {show(name)} is neither a module nor a file that ends in .py")
    return guarded(Path(name), load)


def _similar_file(path: Path, kind: str) -> str:
    """The end of a message about a file that does not exist: what there is instead."""
    folders = dict.fromkeys((path.parent, Path("configs"), Path("configs/sweeps")))
    files = [str(file) for folder in folders for file in sorted(folder.glob("[!_]*.py"))]
    near = difflib.get_close_matches(str(path), files, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    if Path("configs").is_dir() or kind != "config":
        return ""
    return (
        "\nconfigs/ is in the repository: run the command there; or write a file of your own with"
        "\nfrom lenet_jax.config.base import get_config"
    )


def _line_in(path: Path, error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{show(error.filename)}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    files = str(path), located(str(path))
    lines = [frame.lineno for frame in frames if frame.filename in files]
    return f"{show(path)}:{lines[-1]}" if lines else show(path)
