"""The command line: `--config`, its overrides, `--workdir`, and help that lists every key."""

import ast
import difflib
import io
import textwrap
import tokenize
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from lenet_jax.config import base
from lenet_jax.config.file import Config, build, run_file
from lenet_jax.config.key import Key
from lenet_jax.config.networks import LENET
from lenet_jax.config.rules import RENAMED
from lenet_jax.config.schema import keys, keys_of, suggestion
from lenet_jax.errors import UserError, printable, show

PROGRAM = "python -m lenet_jax.main"


def make_flags() -> flags.FlagValues:
    """Returns the flags of a command that trains, among them one per config key.

    A command adds its own (`flags.DEFINE_bool(…, flag_values=…)`) and passes them all to `parse`.
    They are separate from absl's global flags, and so from those of imported libraries.
    """
    flag_values = flags.FlagValues()
    flag_values.set_gnu_getopt(True)  # continue past a stray argument, to report all mistakes
    for name, meaning in (
        (
            "config",
            "FILE.py[:ARG], a config file; it runs as code. `:smoke` makes a short run."
            " Or the config.json of a run, to repeat it",
        ),
        ("workdir", "folder of the run; an unfinished run in it is resumed"),
    ):
        flags.DEFINE_string(name, None, meaning, flag_values=flag_values, allow_overwrite=False)
    flags.DEFINE_bool(
        "deterministic", False, "bit-identical results on GPUs too; slower", flag_values
    )
    flags.DEFINE_bool("help", False, "show this and exit", short_name="h", flag_values=flag_values)
    for path in (*keys(), *RENAMED):
        key = keys()[RENAMED.get(path, path)]
        # Values are kept as text, repeated ones too: `config.build` parses them.
        flag = flags.MultiFlag(
            flags.ArgumentParser(),
            flags.ArgumentSerializer(),
            f"config.{path}",
            None,
            "",
            boolean=key.kind is bool,
        )
        flags.DEFINE_flag(flag, flag_values, module_name=__name__)
    return flag_values


def parse(argv: Sequence[str], flag_values: flags.FlagValues, program: str = PROGRAM) -> Config:
    """Parses a command line; writes nothing.

    Args:
      argv: the arguments.
      flag_values: from `make_flags`; receives the values of the other flags.
      program: the program's name, for the help.

    Returns:
      The config, validated and locked.

    Raises:
      UserError: lists all mistakes at once, on at most three lines.
      SystemExit: with code 0, after printing the help for `--help`.
    """
    try:
        _, *rest = flag_values([program, *argv], known_only=True)
    except (flags.Error, ValueError) as error:
        raise UserError(printable(error)) from error
    file, workdir = flag_values["config"].value, flag_values["workdir"].value
    given = dict(overrides(flag_values)).get("model.name")
    if flag_values["help"].value:
        print(help_text(flag_values, program, given or _named_in(file)))
        raise SystemExit(0)
    values = run_file(file) if file else {path: key.default for path, key in keys().items()}
    known = keys_of(values if given is None else values | {"model.name": given})
    own, rest = _own_keys(rest, known)
    mistakes = []
    if not file:
        mistakes.append("missing --config=FILE.py, for example --config=configs/notes.py")
    if not workdir:
        mistakes.append("missing --workdir=DIR, for example --workdir=runs/first")
    mistakes += _unknown_arguments(rest, values, known, flag_values)
    return build(values, [*overrides(flag_values), *own], mistakes)


def overrides(flag_values: flags.FlagValues) -> list[tuple[str, str]]:
    """Returns the config keys set on the parsed command line, each with its value as text."""
    return [
        (RENAMED.get(path, path), text)
        for path in (*keys(), *RENAMED)
        for text in flag_values[f"config.{path}"].value or ()
    ]


def help_text(flag_values: flags.FlagValues, program: str = PROGRAM, network: str = LENET) -> str:
    """Returns the usage, the command's flags, and every config key; at most 80 columns wide.

    Args:
      flag_values: the command's.
      program: its name.
      network: whose keys are listed under `model`.
    """
    comments = _key_comments(Path(base.__file__).read_text(encoding="utf-8"))
    flag_rows = [(f"--{name}", flag_values[name].help) for name in _own_flags(flag_values)]
    key_rows = [
        (
            path,
            "any" if key.kind is object else key.kind.__name__,
            "required" if key.required else show(key.default),
            comments[path] if key is keys().get(path) else f"an argument of {show(network)}",
        )
        for path, key in sorted(keys(network).items(), key=lambda item: _place(item[0], comments))
    ]
    sweep = "--sweep=FILE.py[:ARG] " if "sweep" in flag_values else ""
    return "\n".join(
        [
            f"{program} --config=FILE.py[:ARG] --workdir=DIR",
            f"    {sweep}[--config.KEY=VALUE ...]",
            "",
            *_table(flag_rows),
            "",
            "Each KEY with its type, its default, and its meaning:",
            "",
            *_table(key_rows),
        ]
    )


def _place(path: str, comments: Mapping[str, str]) -> tuple[int, bool]:
    """Where the help lists a key: as `base.py` does, a network's own after `model.name`."""
    order = list(comments)
    return (order.index(path), False) if path in comments else (order.index("model.name"), True)


def _own_flags(flag_values: flags.FlagValues) -> list[str]:
    """Returns the names of the flags that are not config keys, without short names."""
    return [name for name in flag_values if not name.startswith("config.") and len(name) > 1]


def _named_in(file: str | None) -> str:
    """The network of a config file; LeNet if there is no such file, for the help."""
    try:
        return str(run_file(file).get("model.name", LENET)) if file else LENET
    except UserError:
        return LENET


def _own_keys(
    rest: Sequence[str], known: Mapping[str, Key]
) -> tuple[list[tuple[str, str]], list[str]]:
    """The overrides of a network's own keys among unknown arguments, and the others.

    Flags are defined for the keys of LeNet, before the config says which network it has.
    """
    own, others, flag = [], [], None
    for argument in rest:
        name, equals, value = argument.lstrip("-").partition("=")
        path = name.removeprefix("config.")
        if flag is not None and not argument.startswith("--"):
            own.append((flag, argument))
            flag = None
        elif argument.startswith("-") and name != path and path in known:
            is_switch = not equals and known[path].kind is bool
            flag = None if equals or is_switch else path
            own += [(path, "true" if is_switch else value)] if flag is None else []
        else:
            others.append(argument)
    return own, others


def _unknown_arguments(
    rest: Sequence[str],
    values: Mapping[str, Any],
    known: Mapping[str, Key],
    flag_values: flags.FlagValues,
) -> list[str]:
    mistakes = []
    is_value = False  # whether the next argument is an unknown flag's value
    for argument in rest:
        name, equals, _ = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name:
            own = difflib.get_close_matches(name, _own_flags(flag_values), n=1, cutoff=0.7)
            if own and not name.startswith("config."):
                hint = f"did you mean --{own[0]}?"
            else:
                hint = suggestion(name.removeprefix("config."), values, known, "--config.")
            mistakes.append(f"unknown flag --{show(name)}; {hint}")
            is_value = not equals
        else:
            if not is_value:
                mistakes.append(f"unexpected argument {show(argument)}; write --flag=value")
            is_value = False
    return mistakes


def _key_comments(source: str) -> dict[str, str]:
    """Returns the comment after each `config.key = …`, by the key's path, in the file's order."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    by_line = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokens
        if token.type == tokenize.COMMENT
    }
    comments = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign):
            path = ast.unparse(node.targets[0]).removeprefix("config.")
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                if line in by_line:
                    comments.setdefault(path, by_line[line])
    return comments


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligns columns; the last one wraps at 80 characters."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    lines = []
    for *cells, last in rows:
        start = "  " + "".join(
            f"{cell:<{width + 2}}" for cell, width in zip(cells, widths, strict=True)
        )
        indent = " " * len(start)
        lines += textwrap.wrap(last, 80, initial_indent=start, subsequent_indent=indent)
    return lines
